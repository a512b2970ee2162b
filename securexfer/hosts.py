"""What machines are called: the host names and addresses that a certificate can hold, and those of this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket

from securexfer.errors import UsageError
from securexfer.names import show

MAX_HOST_NAME = 253  # RFC 1035, section 2.3.4, without the length octets of the wire

# RFC 1123, section 2.1, and the underscore, which labs have in host names and TLS compares like any other character.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a host name that ends in one is an address to the resolver


def default_names() -> list[str]:
    """Return what this machine can be called: host name, FQDN, localhost, every address but IPv6 link-local ones."""
    import ifaddr  # looks for the C library with a program of its own, 70 ms

    found = [socket.gethostname(), socket.getfqdn(), "localhost"]
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if ip.is_IPv4 or not ipaddress.IPv6Address(address).is_link_local:
                found.append(address)
    names = []
    for text in found:
        with contextlib.suppress(UsageError):  # a host name that no certificate can hold
            names.append(parse_name(text))
    return list(dict.fromkeys(names))


def parse_name(text: str) -> str:
    """Return a host name or an address as a certificate holds it: lower case, A-labels; raise UsageError for others."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text)
        if "%" not in text:  # a zone means something on one machine only
            return str(address)
    try:
        # IDNA 2003, as Python's own TLS and resolver encode a host: client and certificate must agree.
        host = text.encode("idna").decode().lower()
    except UnicodeError:
        host = ""
    labels = host.split(".")
    if len(host) > MAX_HOST_NAME or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        raise UsageError(
            f"{show(text)!r} is not a host name or an address that a certificate can hold",
            hint="Give a name such as lab1.example.org or an address such as 192.0.2.7 or 2001:db8::7: "
            "no port, no brackets, no wildcard.",
        )
    return host


def is_address(name: str) -> bool:
    """Whether a name that `parse_name` returned is an address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def source_of(address: str) -> str:
    """Return what counts as one source for limits: an IPv4 address, or the /64 that an IPv6 host chooses its own in."""
    parsed = ipaddress.ip_address(address)
    return address if parsed.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
