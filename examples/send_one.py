"""Send one file over protocol 2: python send_one.py HOST PORT CA.pem USER FILE [DIRECTORY]."""

import hashlib
import os
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from getpass import getpass
from pathlib import Path
from select import select
from socket import create_connection
from typing import BinaryIO

AUTHENTICATE, WELCOME, PUT, READY, OFFER, ACCEPT, START, DATA = 0x01, 0x02, 0x10, 0x11, 0x20, 0x21, 0x22, 0x23
TRAILER, COMMITTED, ABORT, REFUSE, FINISH, SUMMARY, ALIVE = 0x24, 0x25, 0x26, 0x27, 0x30, 0x31, 0x3F
FRESH, EXECUTABLE = 2, 8  # flags of an Offer
OUTCOMES = ("stored", "renamed", "replaced", "unchanged")
PIECE = 1 << 20  # the most that one Data may have


class RefusedError(Exception):
    """The server does not want it; `reason` is its word for why."""

    def __init__(self, transfer: int, reason: str, detail: str) -> None:
        super().__init__(f"refused: {reason} {detail!a}")
        self.transfer, self.reason = transfer, reason


def text(value: str) -> bytes:
    """Return a text as it is written (section 18)."""
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def texts(body: bytes) -> list[str]:
    """Return the texts at the end of a body."""
    size = 2 + int.from_bytes(body[:2], "big")
    return [body[2:size].decode(), *texts(body[size:])] if body else []


class Line:
    """Frames over TLS (section 18)."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self.said = time.monotonic()
        self.owing = False  # our last word about the file that was offered

    def say(self, kind: int, body: bytes = b"", transfer: int = 0) -> None:
        """Say a message."""
        self.tls.sendall(struct.pack(">II", kind << 24 | len(body), transfer) + body)
        self.said = time.monotonic()
        self.owing = kind == OFFER or (self.owing and kind not in {TRAILER, ABORT})

    def hear(self, *expected: int) -> tuple[int, bytes]:
        """Return the next message that is no sign of life, or raise RefusedError."""
        kind, body = self.next(*expected, ALIVE)
        return (kind, body) if kind != ALIVE else self.hear(*expected)

    def next(self, *expected: int) -> tuple[int, bytes]:
        """Return the next message, or raise RefusedError."""
        word, transfer = struct.unpack(">II", self._exactly(8))
        kind, body = word >> 24, self._exactly(word & 0xFFFFFF)
        if kind == REFUSE:
            raise RefusedError(transfer, *texts(body[4:]))
        if kind not in expected:
            sys.exit(f"the server said {kind:#04x}, which has no place here")
        return kind, body

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.tls.recv(size - len(data))
            if not more:
                sys.exit("the connection ended early: nothing is certain, send it again")
            data += more
        return data


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield so many bytes, in what one Data can hold."""
    while size:
        if not (piece := file.read(min(PIECE, size))):
            sys.exit("the file has become shorter")
        yield piece
        size -= len(piece)


def put(line: Line, transfer: int, path: Path, flags: int) -> str:
    """Hand over one file (section 23); return what became of it, or raise RefusedError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        flags |= EXECUTABLE if found.st_mode & 0o100 else 0
        line.say(OFFER, struct.pack(">BQq", flags, found.st_size, found.st_mtime_ns) + text(path.name), transfer)
        offset, nonce = struct.unpack(">Q16s", line.hear(ACCEPT)[1])
        digest = hashlib.sha256()
        for piece in pieces(file, offset):  # so much may be there: prove that it is ours
            digest.update(piece)
            if time.monotonic() - line.said >= 5:
                line.say(ALIVE)
        line.say(START, struct.pack(">Q", offset) + hashlib.sha256(nonce + digest.digest()).digest(), transfer)
        for piece in pieces(file, found.st_size - offset):
            line.say(DATA, piece, transfer)
            digest.update(piece)
            while line.tls.pending() or select([line.tls], [], [], 0)[0]:
                line.next(ALIVE)  # before our last word there is nothing else to hear, but for a refusal
        line.say(TRAILER, digest.digest(), transfer)
    body = line.hear(COMMITTED)[1]
    (stored_as,) = texts(body[2:])
    return f"{OUTCOMES[body[0]]} {stored_as or path.name!a}, {offset} of {found.st_size} bytes were there"


if len(sys.argv) not in {6, 7}:
    sys.exit(__doc__)
sys.excepthook = lambda kind, problem, _: print(f"{kind.__name__}: {problem}", file=sys.stderr)
host, port, ca, user, name, directory = (*sys.argv[1:], "")[:6]
password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate, and that it is this host's
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_verify_locations(ca)
context.set_alpn_protocols(["securexfer/2"])
with context.wrap_socket(create_connection((host, int(port))), server_hostname=host) as tls:
    if tls.selected_alpn_protocol() != "securexfer/2":
        sys.exit(f"{host} does not speak securexfer/2")
    line = Line(tls)
    line.say(AUTHENTICATE, bytes(4) + text(user) + text(password) + text("send_one"))
    line.hear(WELCOME)
    line.say(PUT, os.urandom(16) + bytes(2) + b"\xff" * 16 + text(directory))
    line.hear(READY)
    problem = ""
    for transfer, flags in ((1, 0), (2, FRESH)):
        try:
            print(put(line, transfer, Path(name), flags))
            break
        except RefusedError as refused:
            if not refused.transfer:
                raise
            if line.owing:
                line.say(ABORT, text("REFUSED"), transfer)
            if refused.reason != "CHANGED":  # if it is, something else is there: once more, from the start
                problem = str(refused)
                break
    line.say(FINISH)
    line.hear(SUMMARY)
sys.exit(problem or 0)
