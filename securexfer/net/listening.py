"""Sockets that listen, and what to tell somebody whose port or address is not to be had."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

from securexfer.errors import ConfigurationError

_PORTS_TRIED = 100
BACKLOG = 1024  # connections the kernel holds until they are accepted; more than a server's limits can use


def listen(host: str | None, port: int, command: str) -> list[socket.socket]:
    """Return listening sockets for a host name or address, or for all interfaces where `host` is None.

    `command` is what was typed, for the hint that names a free port.

    Raises ConfigurationError for a port in use, one that needs root, or a host that is not this machine's.
    """
    try:
        if host is None:
            if socket.has_dualstack_ipv6():
                with contextlib.suppress(OSError):
                    return [
                        socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
                    ]
            return [socket.create_server(("", port), backlog=BACKLOG)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets = []
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            port = port or sockets[0].getsockname()[1]
        return sockets
    except OSError as error:
        raise _cannot_listen(host, port, command, error) from error


def _cannot_listen(host: str | None, port: int, command: str, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} is in use on this machine", hint=f"Choose another: {command} --port {_free_port(port)}"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ConfigurationError(
            f"port {port} needs root",
            hint=f"Choose one from 1024 on: {command} --port {_free_port(9089)}\n"
            f"Or start it as root, and let it become another user: sudo {command} --port {port} --run-as USER",
        )
    return ConfigurationError(
        f"cannot listen on {host or 'all interfaces'} port {port}: {error.strerror or error}",
        hint="Give an address of this machine, or leave --host out to listen on all of them.",
    )


def _free_port(after: int) -> int:
    """Return a port that nothing listens on, the next one if possible."""
    for port in range(after + 1, min(after + _PORTS_TRIED, 65536)):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])


def plain_address(address: str) -> str:
    """Return an address as people write it: an IPv4 peer of a dual-stack socket is an IPv4 peer."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
