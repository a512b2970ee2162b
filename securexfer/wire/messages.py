"""Protocol 2: every message, its fields in wire order, their limits. Pure: bytes in, values out, and back.

A frame is a header of 8 bytes (kind u8, length of the body u24, transfer u32) and a body. A message is a named tuple;
the order of its fields is the order on the wire, and each field says in one line what it is called, how it is written
and how large it may be. Numbers are big-endian and come first; texts come last, each as a length (u16) and UTF-8.

Decoding is strict: an unknown kind, a length that the kind cannot have, a bit or a word without a meaning, text that is
not UTF-8, a byte too many are errors, and what decodes encodes to the same bytes again. Lengths are checked before
anything is allocated. Payload is never decoded: a `Data` says how many bytes of it come.
"""

# Without `from __future__ import annotations`: the fields' annotations are the format, and read when this is imported.
import struct
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar

from securexfer.errors import ProtocolError
from securexfer.names import MAX_NAME_BYTES
from securexfer.wire.fields import FLAG, I64, MAX_TRANSFER, U32, U64, Layout, Number, Octets, Text, Word

ALPN: Final = "securexfer/2"

HEADER_SIZE: Final = 8
MAX_DATA: Final = 1 << 20  # of payload in one frame: how much a refusal or a cancel can cost
MAX_BESIDE: Final = 10_000  # files of a send of which some are opened; of a larger one, none are
UNKNOWN: Final = 2**64 - 1  # of a count or an amount: not known yet, or without a limit

# Flags of an Offer.
EAGER: Final = 1  # no Accept is waited for: Data and Trailer follow at once
FRESH: Final = 2  # what the receiver has of it does not count
DIRECTORY: Final = 4  # there is nothing more to come; it is made, and gets its mtime
EXECUTABLE: Final = 8  # the owner's x bit
FLAGS: Final = EAGER | FRESH | DIRECTORY | EXECUTABLE

# What a Put asks for beside storing.
OPEN: Final = 1  # that the files are opened
RETURN: Final = 2  # that what comes of it is sent back

HEADER: Final = struct.Struct(">II")


CONFLICT = Word(("default", "refuse", "rename", "replace", "skip"))
OUTCOME = Word(("stored", "renamed", "replaced", "unchanged"))
NAMES = Word(("native", "portable"))
# Whether files are opened: it was not asked for; yes; no, because the server opens nothing, not for this user, cannot.
OPENING = Word(("unasked", "yes", "off", "denied", "unavailable"))
ACTION = Word(("show", "run"))
# How it went. It was shown; a script ended by itself, or by a signal; or was ended for its time by the clock or of the
# processor, its memory, what it printed, or because nobody waits for it any more; something failed that is not the
# script. Or nothing was begun: too much waits, the user may not any more, or its bytes could not be kept for it.
_ENDS = ("exit", "signal", "time", "cpu", "memory", "output", "cancelled", "failed")
HOW = Word(("shown", *_ENDS, "busy", "denied", "gone"))
MAX_REASON: Final = 32
MAX_DETAIL: Final = 1024

KINDS: dict[int, Layout] = {}
LAYOUTS: dict[type, Layout] = {}
_Message = TypeVar("_Message", bound=type)


def _kind(kind: int, *, transfer: bool | None) -> Callable[[_Message], _Message]:
    """Give a message its kind; `transfer` says whether it is about one (None: it may be)."""

    def register(message: _Message) -> _Message:
        KINDS[kind] = LAYOUTS[message] = Layout(kind, message, about_transfer=transfer)
        return message

    return register


# -- the messages ------------------------------------------------------------------------------------------------


@_kind(0x01, transfer=False)
class Authenticate(NamedTuple):
    """Client: who it is. `features` are bits for what it understands beyond this; none is defined yet."""

    features: Annotated[int, U32]
    user: Annotated[str, Text(128)]
    secret: Annotated[str, Text(1024)]
    agent: Annotated[str, Text(64)]


@_kind(0x02, transfer=False)
class Welcome(NamedTuple):
    """Server: the login was good. What both sides have in `features` is what they may use."""

    features: Annotated[int, U32]
    server: Annotated[str, Text(64)]


@_kind(0x10, transfer=False)
class Put(NamedTuple):
    """Client: files will come. The send id is random, and the same when a send is tried again."""

    send_id: Annotated[bytes, Octets(16)]
    on_conflict: Annotated[str, CONFLICT]
    opening: Annotated[int, Number("B", OPEN | RETURN)]
    files: Annotated[int, U64]
    bytes: Annotated[int, U64]
    directory: Annotated[str, Text(MAX_NAME_BYTES)]


@_kind(0x11, transfer=False)
class Ready(NamedTuple):
    """Server: its limits. Transfers open at a time; sizes in bytes; what is left for this user."""

    window: Annotated[int, U32]
    eager: Annotated[int, U32]
    largest_file: Annotated[int, U64]
    bytes_left: Annotated[int, U64]
    files_left: Annotated[int, U64]
    names: Annotated[str, NAMES]
    opening: Annotated[str, OPENING]


@_kind(0x12, transfer=False)
class Totals(NamedTuple):
    """Client: what it will have offered in all; said once, when it knows."""

    files: Annotated[int, U64]
    bytes: Annotated[int, U64]


@_kind(0x20, transfer=True)
class Offer(NamedTuple):
    """Sender: a file, by name relative to the destination directory, its size and its mtime (ns since 1970)."""

    flags: Annotated[int, Number("B", FLAGS)]
    size: Annotated[int, U64]
    mtime_ns: Annotated[int, I64]
    name: Annotated[str, Text(MAX_NAME_BYTES)]


@_kind(0x21, transfer=True)
class Accept(NamedTuple):
    """Receiver: send it; so many of its first bytes may be here already. Prove it over this nonce."""

    offset: Annotated[int, U64]
    nonce: Annotated[bytes, Octets(16)]


@_kind(0x22, transfer=True)
class Start(NamedTuple):
    """Sender: content from `offset` on follows; `proof` is SHA-256(nonce + SHA-256(the bytes before it))."""

    offset: Annotated[int, U64]
    proof: Annotated[bytes, Octets(32)]


class Data(NamedTuple):
    """Sender: so many bytes of payload follow the header."""

    length: int


@_kind(0x24, transfer=True)
class Trailer(NamedTuple):
    """Sender: that was all; SHA-256 of the whole file."""

    digest: Annotated[bytes, Octets(32)]


@_kind(0x25, transfer=True)
class Committed(NamedTuple):
    """Receiver: it is durable, under `stored_as` where that is not the name offered. It may be `opened` yet."""

    outcome: Annotated[str, OUTCOME]
    opened: Annotated[int, FLAG]
    stored_as: Annotated[str, Text(MAX_NAME_BYTES)]


@_kind(0x26, transfer=True)
class Abort(NamedTuple):
    """Sender: it will not come, or not to its end."""

    reason: Annotated[str, Text(MAX_REASON)]


@_kind(0x27, transfer=None)
class Refuse(NamedTuple):
    """Receiver: it is not stored. For transfer 0: the conversation ends. Seconds until it may be tried again, or 0."""

    retry_after: Annotated[int, U32]
    reason: Annotated[str, Text(MAX_REASON)]
    detail: Annotated[str, Text(MAX_DETAIL)]


@_kind(0x29, transfer=True)
class Opened(NamedTuple):
    """Receiver: it was opened, so, in so many milliseconds. `code` is the exit code, if there is one."""

    action: Annotated[str, ACTION]
    how: Annotated[str, HOW]
    cut: Annotated[int, FLAG]
    code: Annotated[int, U32]
    milliseconds: Annotated[int, U32]
    detail: Annotated[str, Text(MAX_DETAIL)]


@_kind(0x2A, transfer=True)
class Claim(NamedTuple):
    """Sender: a file as in an Offer, with its SHA-256: perhaps it is there already, and known to be."""

    executable: Annotated[int, FLAG]
    size: Annotated[int, U64]
    mtime_ns: Annotated[int, I64]
    digest: Annotated[bytes, Octets(32)]
    name: Annotated[str, Text(MAX_NAME_BYTES)]


@_kind(0x2B, transfer=True)
class Result(NamedTuple):
    """Receiver: a file that came of opening, or, without a name, what was printed. Its content follows."""

    size: Annotated[int, U64]
    digest: Annotated[bytes, Octets(32)]
    name: Annotated[str, Text(MAX_NAME_BYTES)]


@_kind(0x30, transfer=False)
class Finish(NamedTuple):
    """Sender: nothing more will be offered."""


@_kind(0x31, transfer=False)
class Summary(NamedTuple):
    """Receiver: so much was acknowledged."""

    files: Annotated[int, U64]
    bytes: Annotated[int, U64]


@_kind(0x3F, transfer=False)
class Alive(NamedTuple):
    """Whoever owes work: it goes on, and takes its time."""


DATA: Final = 0x23
STORED: Final = Committed("stored", 0, "")  # under the name that was offered, as nearly every file is
UNCHANGED: Final = Committed("unchanged", 0, "")  # as every file of a tree that is sent again

Message: TypeAlias = (
    Authenticate
    | Welcome
    | Put
    | Ready
    | Totals
    | Offer
    | Accept
    | Start
    | Trailer
    | Committed
    | Abort
    | Refuse
    | Opened
    | Claim
    | Result
    | Finish
    | Summary
    | Alive
)


# -- frames ------------------------------------------------------------------------------------------------------


def encode(message: Message, transfer: int = 0) -> bytes:
    """Return a whole frame; raise ProtocolError for values and transfers that it cannot be about."""
    layout = LAYOUTS[type(message)]
    body = layout.encode(message)
    layout.check_transfer(transfer)
    return HEADER.pack(layout.kind << 24 | len(body), transfer) + body


def encode_data(transfer: int, length: int) -> bytes:
    """Return the header of a frame of payload; raise ProtocolError for what cannot be."""
    _check_data(transfer, length)
    return HEADER.pack(DATA << 24 | length, transfer)


def decode_header(buffer: bytes | memoryview, start: int = 0) -> tuple[int, int, int]:
    """Return kind, length and transfer of the frame that begins there; raise ProtocolError if none can begin so."""
    word, transfer = HEADER.unpack_from(buffer, start)
    kind, length = word >> 24, word & 0xFFFFFF
    if kind == DATA:
        _check_data(transfer, length)
        return kind, length, transfer
    layout = KINDS.get(kind)
    if layout is None:
        raise ProtocolError(f"a message of the unknown kind {kind:#04x}")
    if not layout.least <= length <= layout.most:
        raise ProtocolError(f"a message {layout.message.__name__} cannot be {length} bytes long")
    layout.check_transfer(transfer)
    return kind, length, transfer


def _check_data(transfer: int, length: int) -> None:
    if not 0 < length <= MAX_DATA or not 0 < transfer <= MAX_TRANSFER:
        raise ProtocolError(f"a frame of {length} bytes of payload for transfer {transfer} cannot be")


def kind_of(kind: int) -> type:
    """Return the class of the messages of a kind that `decode_header` returned."""
    return Data if kind == DATA else KINDS[kind].message


def decode(kind: int, body: bytes | memoryview) -> Message:
    """Return the message in a body whose header was `decode_header`'s; raise ProtocolError."""
    message: Message = KINDS[kind].decode(body)
    return message
