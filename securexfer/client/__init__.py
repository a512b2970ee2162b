"""The client: connect, make sure who the server is, log in, send, and try again where that can help."""

from securexfer.client.connecting import PROTOCOLS, connect, fetch_authority, protocols
from securexfer.client.sending import send
from securexfer.client.target import DEFAULT_PORT, Target, login_name, parse_target

__all__ = [
    "DEFAULT_PORT",
    "PROTOCOLS",
    "Target",
    "connect",
    "fetch_authority",
    "login_name",
    "parse_target",
    "protocols",
    "send",
]
