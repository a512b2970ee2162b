"""Encrypted, verified, durable file transfer between lab machines."""

__version__ = "0.1.0"
