"""Protocol 2 as one says it frame by frame: right where `securexfer.wire` encodes it, and anything else by hand."""

from __future__ import annotations

import hashlib
import ssl
import struct
from typing import TYPE_CHECKING, Any, Self

import stranger_client as stranger

from securexfer.wire import messages
from securexfer.wire.messages import DATA, DIRECTORY, EAGER, HEADER_SIZE, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

SEND_ID = b"sixteen bytes id"
MTIME = 1_700_000_000_000_000_000


def raw(kind: int, transfer: int, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a frame of which nothing need be right; `length` is what its header says of the body."""
    return struct.pack(">II", kind << 24 | (len(body) if length is None else length), transfer) + body


def authenticate(user: str, secret: str) -> bytes:
    return messages.encode(messages.Authenticate(0, user, secret, "hostile"))


def put(directory: str = "", policy: str = "default", send_id: bytes = SEND_ID, opening: int = 0) -> bytes:
    return messages.encode(messages.Put(send_id, policy, opening, UNKNOWN, UNKNOWN, directory))


def offer(number: int, name: str, size: int, flags: int = 0) -> bytes:
    return messages.encode(messages.Offer(flags, size, MTIME, name), number)


def offer_raw(number: int, name: bytes, size: int = 0, flags: int = 0) -> bytes:
    """Return an offer of a name that need not be text."""
    return raw(0x20, number, struct.pack(">BQqH", flags, size, MTIME, len(name)) + name)


def claim(number: int, name: str, content: bytes, digest: bytes = b"", executable: int = 0) -> bytes:
    """Return a claim of a file with this content, or with another digest."""
    digest = digest or hashlib.sha256(content).digest()
    return messages.encode(messages.Claim(executable, len(content), MTIME, digest, name), number)


def start(number: int, prefix: bytes = b"", nonce: bytes = b"", offset: int | None = None) -> bytes:
    """Return a Start with the proof over `prefix`."""
    proof = hashlib.sha256(nonce + hashlib.sha256(prefix).digest()).digest()
    return messages.encode(messages.Start(len(prefix) if offset is None else offset, proof), number)


def data(number: int, payload: bytes) -> bytes:
    """Return payload in as many frames as it takes."""
    size = messages.MAX_DATA
    return b"".join(raw(DATA, number, payload[at : at + size]) for at in range(0, len(payload), size))


def trailer(number: int, content: bytes) -> bytes:
    return messages.encode(messages.Trailer(hashlib.sha256(content).digest()), number)


def abort(number: int, reason: str = "SOURCE") -> bytes:
    return messages.encode(messages.Abort(reason), number)


def eager(number: int, name: str, content: bytes) -> bytes:
    """Return a small file, whole."""
    return offer(number, name, len(content), EAGER) + data(number, content) + trailer(number, content)


def directory(number: int, name: str) -> bytes:
    return offer(number, name, 0, DIRECTORY)


FINISH = messages.encode(messages.Finish())
ALIVE = messages.encode(messages.Alive())


class Speaker:
    """One end of a connection: says bytes, hears messages."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self.heard: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def say(self, *said: bytes) -> None:
        self.tls.sendall(b"".join(said))

    def hear(self) -> tuple[int, Any] | None:
        """Return the next message and its transfer; of a Data its payload. None at an orderly end; else raises."""
        header = self._exactly(HEADER_SIZE)
        if not header:
            return None
        kind, length, transfer = messages.decode_header(header)
        body = self._exactly(length)
        assert len(body) == length, "an end in the middle of a message"
        message = body if kind == DATA else messages.decode(kind, body)
        self.heard.append((transfer, message))
        return transfer, message

    def until(self, *kinds: type) -> Any:
        """Return the next message of one of these kinds, and forget what comes before; the connection's end fails."""
        while heard := self.hear():
            if isinstance(heard[1], kinds):
                return heard[1]
        raise AssertionError(f"no {kinds} came, but {self.heard}")

    def rest(self) -> list[tuple[int, Any]]:
        """Return what comes until the other side ends the connection in order."""
        found = []
        while heard := self.hear():
            found.append(heard)
        return found

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            try:
                more = self.tls.recv(size - len(found))
            except ssl.SSLZeroReturnError:
                more = b""
            if not more:
                break
            found += more
        return found


def connect(port: int, ca: object, source: str = "", **options: Any) -> Speaker:
    """Return a client's end."""
    return Speaker(stranger.connect(port, str(ca), source=source, alpn=messages.ALPN, **options))


def logged_in(port: int, ca: object, user: str, password: str, source: str = "", **options: Any) -> Speaker:
    """Return a client's end after an accepted login."""
    speaker = connect(port, ca, source, **options)
    speaker.say(authenticate(user, password))
    answer = speaker.hear()
    assert answer, "no answer to the login"
    assert isinstance(answer[1], messages.Welcome), answer
    return speaker


def ready(port: int, ca: object, user: str, password: str, source: str = "", **options: Any) -> Speaker:
    """Return a client's end that may offer."""
    speaker = logged_in(port, ca, user, password, source, **options)
    speaker.say(put())
    speaker.until(messages.Ready)
    return speaker


def plain_file(speaker: Speaker, number: int, name: str, content: bytes) -> Any:
    """Send a file as a sender does that waits for each answer; return the receiver's last word."""
    speaker.say(offer(number, name, len(content)))
    accept = speaker.until(messages.Accept, messages.Refuse)
    if isinstance(accept, messages.Refuse):
        speaker.say(abort(number, "REFUSED"))
        return accept
    speaker.say(start(number, b"", accept.nonce), data(number, content), trailer(number, content))
    return speaker.until(messages.Committed, messages.Refuse)


def frames(said: Iterable[bytes]) -> list[bytes]:
    """Return the single frames of which some bytes are made."""
    whole, found = b"".join(said), []
    while whole:
        end = HEADER_SIZE + int.from_bytes(whole[1:4], "big")
        found.append(whole[:end])
        whole = whole[end:]
    return found
