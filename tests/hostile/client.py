"""A client that speaks protocol 1 wrongly: at each field, at each point, in each way of leaving.

Three tables. LOGINS are wrong in the login, SESSIONS in what follows an accepted login, POINTS are where somebody may
leave. Each line says what is sent, and what must come of it. Names of files are the same in each line, because each
case has a user of its own, and a source of its own.
"""

# ruff: noqa: ARG005 - every line of a table gets the same arguments

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import stranger_client as stranger

if TYPE_CHECKING:
    from collections.abc import Callable

YES, NO = b"\x01", b"\x00"
LARGEST = 1 << 30  # bytes of the largest file where SESSIONS are run
QUOTA = 4 << 20  # bytes a user may store where QUOTAS are
HEADER = 136  # bytes in front of a file's content
GOOD = stranger.file("good", b"good")
MORE = bytes(1 << 20)  # more than the server wants to read before it answers


def file(name: bytes, content: bytes = b"x", *, size: int | None = None, digest: bytes | None = None) -> bytes:
    """Return a file of which each field may be wrong; a name that is too long for its field shifts all after it."""
    told = len(content) if size is None else size
    return name.ljust(128) + struct.pack(">Q", told) + content + (digest or hashlib.sha256(content).digest())


# -- in the login ------------------------------------------------------------------------------------------------
# Each is made of the two right fields, padded; `NO` is what anything but a right login gets, and no more than that.


@dataclass(frozen=True)
class Login:
    """What is sent instead of a login, what is heard, and the reason with which the log has the connection end."""

    says: Callable[[bytes, bytes], bytes]
    hears: bytes = NO
    ends: str = "AUTH"
    record: int = 1 << 14  # bytes in each TLS record
    stores: tuple[str, ...] = ()


def _put(text: bytes, at: int, what: bytes) -> bytes:
    return text[:at] + what + text[at + len(what) :]


def _user(user: bytes, what: bytes) -> bytes:
    """Return a user's field with something behind the name."""
    name = user.rstrip(b" ")
    return (name + what).ljust(128)[:128]


LOGINS = {
    "nothing": Login(lambda u, p: b"", b"", "TRUNCATED"),
    "one byte": Login(lambda u, p: u[:1], b"", "TRUNCATED"),
    "only a user": Login(lambda u, p: u, b"", "TRUNCATED"),
    "one byte short": Login(lambda u, p: (u + p)[:-1], b"", "TRUNCATED"),
    "not padded": Login(lambda u, p: u.rstrip() + p.rstrip(), b"", "TRUNCATED"),
    "one byte a record": Login(lambda u, p: u + p + stranger.count(0), YES, "done", record=1),
    "one byte a record, wrong": Login(lambda u, p: u + p[::-1], record=1),
    "with a file at once": Login(lambda u, p: u + p + stranger.count(1) + GOOD, YES + YES, "done", stores=("good",)),
    "wrong, with a file at once": Login(lambda u, p: u + p[:-1] + b"x" + stranger.count(1) + GOOD),
    "wrong, with a megabyte at once": Login(lambda u, p: u + p[:-1] + b"x" + MORE),
    "wrong, then right": Login(lambda u, p: u + p[:-1] + b"x" + u + p + stranger.count(1) + GOOD),
    "right, then once more": Login(lambda u, p: u + p + u + p, YES, "LIMIT"),
    "one byte too many in the user": Login(lambda u, p: u + b" " + p),
    "one byte too few in the user": Login(lambda u, p: u[:-1] + p + b" "),
    "the user's name only": Login(lambda u, p: u + bytes(128)),
    "no password": Login(lambda u, p: u + b" " * 128),
    "no user": Login(lambda u, p: b" " * 128 + p),
    "nothing but NUL": Login(lambda u, p: bytes(256)),
    "nothing but 0xFF": Login(lambda u, p: b"\xff" * 256),
    "NUL behind the user": Login(lambda u, p: _user(u, b"\0") + p),
    "NUL and more behind the user": Login(lambda u, p: _user(u, b"\0x") + p),
    "user padded with NUL": Login(lambda u, p: _user(u, bytes(128)) + p),
    "password padded with NUL": Login(lambda u, p: u + p.rstrip().ljust(128, b"\0")),
    "NUL in the password": Login(lambda u, p: u + _put(p, 3, b"\0")),
    "a line feed behind the user": Login(lambda u, p: _user(u, b"\n") + p),
    "a space before the user": Login(lambda u, p: b" " + u[:-1] + p),
    "a space before the password": Login(lambda u, p: u + b" " + p[:-1]),
    "in capitals": Login(lambda u, p: u.upper() + p),
    "a bidirectional control": Login(lambda u, p: _user(u, "\u202e".encode()) + p),
    "a C1 control": Login(lambda u, p: _user(u, "\x9b31m".encode()) + p),
    "an escape sequence": Login(lambda u, p: _user(u, b"\x1b]0;title\x07") + p),
    "a lone surrogate": Login(lambda u, p: _user(u, b"\xed\xa0\x80") + p),
    "an overlong form": Login(lambda u, p: _user(u, b"\xc0\xaf") + p),
    "half a character": Login(lambda u, p: u[:127] + b"\xc3" + p),
    "128 bytes of user": Login(lambda u, p: b"a" * 128 + p),
    "a path": Login(lambda u, p: b"../bruno".ljust(128) + p),
    "SQL": Login(lambda u, p: b"' OR 1=1 --".ljust(128) + p),
    "a line of the log": Login(lambda u, p: b'", "event": "auth.ok", "user": "root'.ljust(128) + p),
}


# -- in what follows an accepted login ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """What is sent after the login, what is heard, what is stored then, and how the log has the session end."""

    says: bytes
    hears: bytes
    stores: dict[str, bytes] = field(default_factory=dict)
    ends: str = "done"
    aborts: str = ""  # the reason of file.abort, if there is one


def _refused(*names: bytes) -> Session:
    """Each of these names costs its own file alone: the good one behind it is stored."""
    files = b"".join(file(name) for name in names)
    return Session(stranger.count(len(names) + 1) + files + GOOD, NO * len(names) + YES, {"good": b"good"})


def _ended(said: bytes, hears: bytes, ends: str, aborts: str = "") -> Session:
    return Session(stranger.count(2) + GOOD + said, YES + hears, {"good": b"good"}, ends, aborts)


WRONG = (
    bytes([hashlib.sha256(b"x").digest()[0] ^ 1]) + hashlib.sha256(b"x").digest()[1:],
    bytes(32),
    hashlib.sha256(b"").digest(),
    hashlib.sha256(b"x").digest()[::-1],
)

SESSIONS = {
    # the count
    "no count": Session(b"", b"", ends="TRUNCATED"),
    "half a count": Session(b"\0\0", b"", ends="TRUNCATED"),
    "a count of 0": Session(stranger.count(0), b""),
    "a count of 0 and a file": Session(stranger.count(0) + GOOD, b""),
    "the largest count": Session(stranger.count(2**32 - 1) + GOOD, b"", ends="LIMIT"),
    "a count one over the limit": Session(stranger.count(100_001) + GOOD, b"", ends="LIMIT"),
    "a count backwards": Session(struct.pack("<I", 1) + GOOD, b"", ends="LIMIT"),
    "one file more than announced": Session(stranger.count(1) + GOOD * 2, YES, {"good": b"good"}),
    "one byte more than announced": Session(stranger.count(1) + GOOD + b"\0", YES, {"good": b"good"}),
    "a megabyte more than announced": Session(stranger.count(1) + GOOD + MORE, YES, {"good": b"good"}),
    "one file less than announced": _ended(b"", b"", "TRUNCATED", "SHORT-COUNT"),
    # the name
    "NUL in a name": _refused(b"a.txt\0.py", b"a.txt\0", b"\0a.txt", b"a.txt".ljust(128, b"\0")),
    "an empty name": _refused(b"", bytes(128)),
    "a space before a name": _refused(b" a", b" " * 127 + b"a"),
    "a name that is not UTF-8": _refused(b"\xff", b"a\xc0\xaf", b"\xed\xa0\x80", b"\x80", b"\xf5\x80\x80\x80"),
    "an overlong slash": _refused(b"..\xc0\xafx", b"..\xe0\x80\xafx"),
    "half a character at byte 128": _refused(b"a" * 127 + b"\xc3"),
    "a name that climbs": _refused(b"../x", b"..", b"a/../../x", b"/etc/passwd", b"//x", b"a//b", b"./a", b"a/."),
    "a backslash": _refused(b"..\\x", b"a\\b"),
    "a control character": _refused(b"a\nb", b"a\x1b]0;t\x07", b"a\x7f", "a\x9b31m".encode()),
    "a bidirectional control in a name": _refused("abc\u202egpj.exe".encode(), "a\u2028b".encode(), "\ufeffa".encode()),
    "the server's own names": _refused(b".securexfer-staging/1", b".SECUREXFER-staging/x", b".securexfer-staging"),
    "a name one byte too long": _ended(file(b"a" * 129), NO, "LIMIT"),  # its end is taken for the size
    # the size
    "a size of 2^63": _ended(file(b"big", size=2**63), NO, "LIMIT"),
    "the largest size": _ended(file(b"big", size=2**64 - 1), NO, "LIMIT"),
    "a size one over the largest": _ended(file(b"big", size=LARGEST + 1), NO, "LIMIT"),
    "the largest, and nothing of it": _ended(file(b"big", size=LARGEST)[:HEADER], b"", "TRUNCATED", "TRUNCATED"),
    "a size of 0, and content": _ended(file(b"none", b"content", size=0), NO, "done"),
    # the content and the digest
    "9 bytes of 10": _ended(file(b"short", b"9 bytes..", size=10)[: HEADER + 9], b"", "TRUNCATED", "TRUNCATED"),
    "9 bytes of 10, and a digest": _ended(file(b"short", b"9 bytes..", size=10), b"", "TRUNCATED", "TRUNCATED"),
    "a digest without its last byte": _ended(file(b"short")[:-1], b"", "TRUNCATED", "TRUNCATED"),
    "a wrong digest": Session(
        stranger.count(5) + b"".join(file(b"wrong", digest=digest) for digest in WRONG) + GOOD,
        NO * len(WRONG) + YES,
        {"good": b"good"},
    ),
}
QUOTAS = {
    "a size one over the quota": Session(
        stranger.count(2) + file(b"more", bytes(QUOTA + 1)) + GOOD, NO + YES, {"good": b"good"}
    ),
    "the quota, and one byte": Session(
        stranger.count(2) + file(b"all", bytes(QUOTA)) + file(b"more"), YES + NO, {"all": bytes(QUOTA)}
    ),
}
PLANTED = _refused(b"directory/x", b"directory", b"file", b"file/x", b"nowhere", b"nowhere/x")  # all of them links


# -- leaving -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where somebody leaves: what was said by then, and the answers that were waited for.

    `aborts` is what the log says of the file that was on its way, `ends` what it may say of the connection.
    """

    said: bytes
    hears: bytes
    aborts: str = ""
    stores: tuple[str, ...] = ()
    ends: tuple[str, ...] = ("TRUNCATED",)


WAYS = (stranger.leave_in_order, stranger.leave_without_a_word, stranger.leave_by_reset)
SECOND = file(b"second", b"content " * 1000)

# The fields of a session with two files, in their order. While one is on its way, and after it, the log calls a
# session that ends there so: between two files, or in a header, it is short of a file; later that file was truncated.
FIELDS: dict[str, tuple[int, str, str]] = {  # bytes, reason in it, reason after it
    "user": (128, "", ""),
    "password": (128, "", ""),
    "count": (4, "", "SHORT-COUNT"),
    "first file": (len(GOOD), "TRUNCATED", "SHORT-COUNT"),  # its middle lies in its header
    "name": (128, "TRUNCATED", "TRUNCATED"),
    "size": (8, "TRUNCATED", "TRUNCATED"),
    "content": (8000, "TRUNCATED", "TRUNCATED"),
    "digest": (32, "TRUNCATED", ""),
}


def conversation(user: str, password: str) -> bytes:
    """Return all that a client says in a session of two files."""
    return stranger.login(user, password) + stranger.count(2) + GOOD + SECOND


def field_at(name: str) -> tuple[int, int]:
    """Return where a field begins and ends in that conversation."""
    sizes = {field: size for field, (size, _, _) in FIELDS.items()}
    begin = sum(sizes[field] for field in list(sizes)[: list(sizes).index(name)])
    return begin, begin + sizes[name]


def points(user: str, password: str) -> dict[str, Point]:
    """Return every point of the conversation: in each field, and after it."""
    whole = conversation(user, password)
    found = {"before the user": Point(b"", b""), "before the login's answer": Point(whole[:256], b"")}
    for name, (_, inside, after) in FIELDS.items():
        begin, end = field_at(name)
        for where, position, aborts in (("in", (begin + end) // 2, inside), ("after", end, after)):
            hears = YES * ((position >= 256) + (position >= field_at("first file")[1]))
            stores = ("good",) if len(hears) == 2 else ()
            found[f"{where} the {name}"] = Point(whole[:position], hears, aborts, stores)
    # The answer is not read: whether it is stored is for the log to say, and for the inbox to agree.
    found["after the digest"] = Point(whole, YES + YES, stores=("good",), ends=("done", "TRUNCATED"))
    return found
