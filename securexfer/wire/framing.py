"""Protocol 1: the classroom framing, to the byte. docs/PROTOCOL.md is the specification.

::

    client -> server   user 128, password 128
    server -> client   1 byte: ACCEPTED, or REFUSED and the end
    client -> server   count u32
    then, count times:
    client -> server   name 128, size u64, content, digest 32 (SHA-256 of the content)
    server -> client   1 byte: ACCEPTED (stored: verified and on disk) or REFUSED (not stored)

Integers are big-endian. Text is UTF-8 padded on the right with spaces; the reader strips trailing spaces
and nothing else. Decoding is strict: what decodes, encodes to the same bytes again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from securexfer.errors import ProtocolError, UnsafeNameError, UsageError
from securexfer.names import Name, NamePolicy, show

ALPN = "securexfer/1"
ACCEPTED = b"\x01"
REFUSED = b"\x00"
MAX_COUNT = 100_000  # the server keeps one byte of answer for each file, and nothing else
TEXT_SIZE = 128
DIGEST_SIZE = 32

_LOGIN = struct.Struct(">128s128s")
_COUNT = struct.Struct(">I")
_HEADER = struct.Struct(">128sQ")
LOGIN_SIZE = _LOGIN.size
COUNT_SIZE = _COUNT.size
HEADER_SIZE = _HEADER.size


@dataclass(frozen=True, slots=True)
class Login:
    """Who wants to send, and the proof. Never logged; `repr` hides the password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"

    def encode(self) -> bytes:
        """Return the 256 bytes; raise UsageError for what does not fit, since cutting would change the secret."""
        return _LOGIN.pack(
            _pad(self.user, UsageError("the user name does not fit protocol 1" + _TEXT_RULE)),
            _pad(self.password, UsageError("the password does not fit protocol 1" + _TEXT_RULE)),
        )

    @classmethod
    def decode(cls, raw: bytes) -> Login:
        """Return the login that these 256 bytes hold; raise ProtocolError for NUL, bad UTF-8 or a leading space."""
        user, password = _LOGIN.unpack(raw)
        try:
            return cls(_strip(user), _strip(password))
        except ValueError as error:
            # The bytes may hold a password: the message must not.
            raise ProtocolError(f"a login field {error}") from None


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What stands before a file's content: its name as the 128 bytes that came, and its size in bytes."""

    field: bytes
    size: int

    @classmethod
    def of(cls, name: str, size: int) -> FileHeader:
        """Return the header for a name; raise UnsafeNameError for one that protocol 1 cannot carry whole."""
        refusal = UnsafeNameError(
            f"the name {show(name)!r} does not fit protocol 1{_TEXT_RULE}",
            hint="Rename the file, or send it to a shorter directory. Nothing is ever cut.",
        )
        return cls(_pad(name, refusal), size)

    def encode(self) -> bytes:
        """Return the 136 bytes."""
        return _HEADER.pack(self.field, self.size)

    @classmethod
    def decode(cls, raw: bytes) -> FileHeader:
        """Return the header that these 136 bytes hold. Any bytes are a header; whether its name is safe is `name`."""
        return cls(*_HEADER.unpack(raw))

    def name(self, policy: NamePolicy = NamePolicy.NATIVE) -> Name:
        """Return the safe name that the field spells; raise UnsafeNameError, which says what is wrong."""
        try:
            return Name.parse(_strip(self.field), policy)
        except ValueError as error:
            shown = show(self.field.rstrip(b" ").decode(errors="backslashreplace"))
            raise UnsafeNameError(f"the name {shown!r} is refused: it {error}") from None


def encode_count(count: int) -> bytes:
    """Return the four bytes that announce how many files follow; raise UsageError over MAX_COUNT."""
    if count > MAX_COUNT:
        raise UsageError(
            f"{count} files are too many for one protocol 1 session (the limit is {MAX_COUNT})",
            hint="Send them in several commands, or as one archive.",
        )
    return _COUNT.pack(count)


def decode_count(raw: bytes) -> int:
    """Return how many files follow, which may be over MAX_COUNT: the server decides what it allows."""
    count: int = _COUNT.unpack(raw)[0]
    return count


_TEXT_RULE = f": at most {TEXT_SIZE} bytes of UTF-8, no NUL, no space at the start or the end, not empty"


def _pad(text: str, refusal: Exception) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise refusal from None
    if not encoded or len(encoded) > TEXT_SIZE or b"\0" in encoded or encoded[:1] == b" " or encoded[-1:] == b" ":
        raise refusal
    return encoded.ljust(TEXT_SIZE)


def _strip(field: bytes) -> str:
    stripped = field.rstrip(b" ")
    if not stripped:
        raise ValueError("is empty")
    if b"\0" in stripped:
        raise ValueError("has a NUL byte")
    if stripped.startswith(b" "):
        raise ValueError("begins with a space")
    try:
        return stripped.decode()
    except UnicodeDecodeError:
        raise ValueError("is not valid UTF-8") from None
