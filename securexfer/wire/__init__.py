"""Bytes to values and back. Pure: no sockets, files, clocks or threads."""
