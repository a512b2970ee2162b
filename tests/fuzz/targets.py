"""What the fuzzer feeds: names, framing, a whole session, what scripts leave: each held to a promise for any bytes.

A target takes bytes and returns, or fails an assertion, or lets out an exception that is none of ours.
`tests/test_fuzz.py` runs them over the vectors and over examples of hypothesis, `tests/fuzz/run.py` with a fuzzer that
watches which code they reach.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import socket
import ssl
import struct
import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import leaving, sending, speaking
from vectors.loading import load_all

from securexfer import certificates
from securexfer.errors import LimitExceededError, ProtocolError, SecurexferError, TruncatedError, UnsafeNameError
from securexfer.names import STAGING_NAME, Name, NamePolicy
from securexfer.net.connection import Connection
from securexfer.net.tls import client_context, server_context
from securexfer.opening.opener import Opener, Whose
from securexfer.opening.rules import Rules as OpeningRules
from securexfer.storage.local import Inbox, Rules
from securexfer.transfer.classroom.receiver import Receiver
from securexfer.transfer.session import Session
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
LARGEST_FILE = 4096
SERVERS_OWN = {".securexfer-lock", ".securexfer-index", ".securexfer-index-wal"}
MAX_BYTES = 16 << 10  # of a session: it has to fit into the buffer of a socket that nobody reads yet

# What names are attacked with, for the fuzzer to put in: one character among a million is not found by chance.
TOKENS = [*"\\/.\0\n\x1b\x7f\x9b\ufeff\u2028\u2029\u061c\u200e\u200f\U000e0041", "..", "../", STAGING_NAME]
TOKENS += [
    character for character in map(chr, range(0x2000, 0x2100)) if unicodedata.bidirectional(character) in BIDI_CONTROLS
]

MENDED, IN_ORDER = 1, 2  # bits of a session's first byte


def names(data: bytes) -> None:
    """Hold that any bytes are a name that spells them and stays inside the root, or are refused with our own error."""
    parsed = {}
    for policy in NamePolicy:
        with contextlib.suppress(UnsafeNameError):
            parsed[policy] = name = Name.decode(data, policy)
            text = str(name)
            assert text.encode() == data
            assert os.path.normpath(f"/root/{text}") == f"/root/{text}"
            assert text.split("/") == list(name.parts)
            assert not {".", "..", ""} & set(name.parts)
            assert max(len(part.encode()) for part in name.parts) <= 255
            assert not {unicodedata.category(character) for character in text} & {"Cc", "Cs", "Zl", "Zp"}
            assert not {unicodedata.bidirectional(character) for character in text} & BIDI_CONTROLS
            assert "\\" not in text
            assert name.parts[0].casefold() != STAGING_NAME
    assert NamePolicy.PORTABLE not in parsed or NamePolicy.NATIVE in parsed


def framed(data: bytes) -> None:
    """Hold that what decodes encodes to the same bytes, and that the rest is refused with our own error."""
    login = data[: framing.LOGIN_SIZE].ljust(framing.LOGIN_SIZE, b" ")
    with contextlib.suppress(ProtocolError):
        assert framing.Login.decode(login).encode() == login
    count = data[: framing.COUNT_SIZE].ljust(framing.COUNT_SIZE, b"\0")
    number = framing.decode_count(count)
    assert number > framing.MAX_COUNT or framing.encode_count(number) == count
    raw = data[: framing.HEADER_SIZE].ljust(framing.HEADER_SIZE, b" ")
    header = framing.FileHeader.decode(raw)
    assert header.encode() == raw
    for policy in NamePolicy:
        with contextlib.suppress(UnsafeNameError):
            assert framing.FileHeader.of(str(header.name(policy)), header.size).encode() == raw


class Sessions:
    """A receiver with everything real behind and before it: TLS through a pair of sockets, an inbox on a disk."""

    def __init__(self, place: Path) -> None:
        certificates.initialise(place / "certs", [], force=False)
        found = certificates.load(place / "certs")
        self._server = server_context(found.certificate, found.key, [framing.ALPN])
        self._client = client_context(found.ca_pem.read_text(), [framing.ALPN])
        self._path = place / "inbox"
        self._inbox = Inbox(self._path, Rules())

    def close(self) -> None:
        self._inbox.close()

    def run(self, data: bytes) -> None:
        """Hold that a session after its login gets the answers, and leaves the files, that the specification says.

        The first byte says whether all digests are made right, which no fuzzer finds out by itself, and how the client
        leaves when it has said the rest. Whatever comes, the receiver ends with one of our own errors or with none.
        """
        flags, stream = (data[:1] or b"\0")[0], data[1:MAX_BYTES]
        stream = mended(stream) if flags & MENDED else stream
        answers, stored, ending = expected(stream)
        user = self._path / "ana"
        if user.exists():
            shutil.rmtree(user)
        with contextlib.ExitStack() as stack:
            client, server = self._pair(stack)
            if stream:
                client.write(stream)
            with contextlib.suppress(ssl.SSLWantReadError):
                if flags & IN_ORDER:
                    client.unwrap()
            socket.socket.shutdown(client, socket.SHUT_WR)
            connection = Connection(server)
            assert self._receive(connection) is ending
            connection.finish()
            heard = heard_by(client)
            # After an end without close_notify the server may be unable to say anything (section 9).
            assert heard == answers or (not flags & IN_ORDER and ending is TruncatedError and answers.startswith(heard))
        found = {path.relative_to(user).as_posix(): path.read_bytes() for path in user.rglob("*") if path.is_file()}
        assert found == stored
        assert not list((self._path / STAGING_NAME).iterdir())
        assert {path.name for path in self._path.iterdir()} <= {"ana", STAGING_NAME, *SERVERS_OWN}

    def _receive(self, connection: Connection) -> type[SecurexferError] | None:
        opener = Opener(OpeningRules(), {}, lambda _: False, lambda _: None, on=False, works=False)
        open_send = functools.partial(opener.for_send, Whose(1, "127.0.0.1", "ana"))
        session = Session(1, "127.0.0.1", "ana", LARGEST_FILE, 30.0, 1024, NamePolicy.NATIVE, lambda _: None, open_send)
        openings = open_send(lambda: self._inbox.new_bundle("ana"))
        with contextlib.closing(self._inbox.for_user("ana")) as storage:
            try:
                Receiver(connection, storage, session, lambda: False, openings).run()
            except SecurexferError as error:
                return type(error)
        return None

    def _pair(self, stack: contextlib.ExitStack) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        """Return two ends of a TLS connection, shaken hands; nothing of it waits, so one thread serves both."""
        plain = socket.socketpair()
        for sock in plain:
            sock.setblocking(False)
        client = self._client.wrap_socket(
            plain[0], server_hostname="localhost", do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        server = self._server.wrap_socket(
            plain[1], server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        for end in (client, server):
            stack.callback(end.close)
        for end in (client, server) * 3:  # one round more where the server asks for another key share
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
        return client, server


def heard_by(client: ssl.SSLSocket) -> bytes:
    """Return what has been said to a client."""
    heard = b""
    with contextlib.suppress(ssl.SSLError):
        while more := client.read(4096):
            heard += more
    return heard


def mended(stream: bytes) -> bytes:
    """Return the stream with the digest of each file that is there as a whole made right."""
    made = bytearray(stream)
    place = framing.COUNT_SIZE
    while place + framing.HEADER_SIZE <= len(made):
        (size,) = struct.unpack_from(">Q", made, place + framing.TEXT_SIZE)
        start = place + framing.HEADER_SIZE
        place = start + size + framing.DIGEST_SIZE
        if place <= len(made):
            made[start + size : place] = hashlib.sha256(made[start : start + size]).digest()
    return bytes(made)


def expected(stream: bytes) -> tuple[bytes, dict[str, bytes], type[SecurexferError] | None]:
    """Return the answers, the stored files and the error at the end, as docs/PROTOCOL.md has them, byte by byte."""
    answers = b""
    stored: dict[str, bytes] = {}
    if len(stream) < framing.COUNT_SIZE:
        return answers, stored, TruncatedError
    (count,) = struct.unpack_from(">I", stream)
    if count > framing.MAX_COUNT:
        return answers, stored, LimitExceededError
    left = stream[framing.COUNT_SIZE :]
    for _ in range(count):
        if len(left) < framing.HEADER_SIZE:
            return answers, stored, TruncatedError
        field, size = left[: framing.TEXT_SIZE], int.from_bytes(left[framing.TEXT_SIZE : framing.HEADER_SIZE], "big")
        if size > LARGEST_FILE:
            return answers + framing.REFUSED, stored, LimitExceededError
        content, trailer = left[framing.HEADER_SIZE :][:size], left[framing.HEADER_SIZE + size :][: framing.DIGEST_SIZE]
        left = left[framing.HEADER_SIZE + size + framing.DIGEST_SIZE :]
        if len(trailer) < framing.DIGEST_SIZE:
            return answers, stored, TruncatedError
        name = spelled(field)
        right = trailer == hashlib.sha256(content).digest()
        if name is not None and right and fits(name, content, stored):
            stored[name] = content
            answers += framing.ACCEPTED
        else:
            answers += framing.REFUSED
    return answers, stored, None


def spelled(field: bytes) -> str | None:
    """Return the safe name that a field spells, if it does. (That a name is safe is the promise of `names`.)"""
    with contextlib.suppress(SecurexferError, ValueError):
        raw = field.rstrip(b" ")
        if raw and not raw.startswith(b" "):
            return str(Name.parse(raw.decode()))
    return None


def fits(name: str, content: bytes, stored: dict[str, bytes]) -> bool:
    """Whether a name is free beside those that are stored, or holds this content already."""
    if name in stored:
        return stored[name] == content
    above = {str(parent) for parent in Path(name).parents}
    return not above & set(stored) and not any(other.startswith(f"{name}/") for other in stored)


@contextlib.contextmanager
def sessions() -> Iterator[Sessions]:
    """Yield a `Sessions` in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="securexfer-fuzz-") as directory:
        made = Sessions(Path(directory))
        try:
            yield made
        finally:
            made.close()


def seeds() -> dict[str, list[bytes]]:
    """Return what each target begins with: the vectors, whole and taken apart. No vectors are an error."""
    streams = [vector.stream for vector in load_all()]
    fields = [stream[start : start + 128] for stream in streams for start in (0, 128, 260) if len(stream) > start + 128]
    after_login = [stream[framing.LOGIN_SIZE :] for stream in streams]
    return {
        **speaking.seeds(),
        "sent": sending.seeds(),
        "left": leaving.seeds(),
        "names": [field.rstrip(b" ") for field in fields],
        "framed": [*streams, *(stream[260:] for stream in streams)],
        "session": [
            bytes([flags]) + stream[: MAX_BYTES - 1] for flags in (0, MENDED | IN_ORDER) for stream in after_login
        ],
    }


def target(name: str, stack: contextlib.ExitStack) -> Callable[[bytes], None]:
    """Return a target; what it needs is let go of with `stack`."""
    if name == "session":
        return stack.enter_context(sessions()).run
    if name == "sent":
        return stack.enter_context(sending.senders()).run
    if name == "received":
        stack.enter_context(speaking.without_chance())
    plain = {"names": names, "framed": framed, "spoken": speaking.spoken, "received": speaking.received}
    return {**plain, "left": leaving.left}[name]
