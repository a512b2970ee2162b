"""A client that speaks protocol 2 wrongly: in its first message, in its request, in what follows, and by leaving.

Each line of the tables says what is sent, and what has to come of it. In WRONG, a good file is offered first, so that
each line also shows that what was complete is committed before a session ends for what came after it.
"""

# ruff: noqa: ARG005, RUF001 - every line of a table gets the same arguments

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostile import speaking
from hostile.speaking import (
    ALIVE,
    FINISH,
    abort,
    claim,
    data,
    directory,
    eager,
    offer,
    offer_raw,
    put,
    raw,
    start,
    trailer,
)
from securexfer.wire import messages
from securexfer.wire.messages import DATA, DIRECTORY, EAGER, MAX_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostile.speaking import Speaker

LARGEST = 1 << 30  # bytes of the largest file where these are run
WINDOW = 2048
EAGER_LIMIT = 256 << 10
GOOD = b"good"


# -- the first message -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """What is sent instead of a login, and the reason that is said and that the log has."""

    says: Callable[[str, str], bytes]
    reason: str = "PROTO"


def _login(user: bytes, secret: bytes, features: int = 0, agent: bytes = b"x") -> bytes:
    texts = b"".join(struct.pack(">H", len(text)) + text for text in (user, secret, agent))
    return raw(0x01, 0, struct.pack(">I", features) + texts)


def _good(user: str, password: str) -> bytes:
    return _login(user.encode(), password.encode())


LOGINS = {
    # not a login
    "a request": Login(lambda u, p: put()),
    "an offer": Login(lambda u, p: offer(1, "x", 1)),
    "payload": Login(lambda u, p: data(1, b"x")),
    "a sign of life": Login(lambda u, p: ALIVE),
    "the end": Login(lambda u, p: FINISH),
    "a welcome": Login(lambda u, p: messages.encode(messages.Welcome(0, "me"))),
    "a refusal": Login(lambda u, p: messages.encode(messages.Refuse(0, "AUTH", ""))),
    "a request of the web": Login(lambda u, p: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a login of protocol 1": Login(lambda u, p: u.encode().ljust(128) + p.encode().ljust(128)),
    "nothing but zeros": Login(lambda u, p: bytes(64)),
    "nothing but ones": Login(lambda u, p: b"\xff" * 64),
    # a login that is none
    "one about a transfer": Login(lambda u, p: raw(0x01, 1, _good(u, p)[8:])),
    "an empty one": Login(lambda u, p: raw(0x01, 0)),
    "16 MiB announced": Login(lambda u, p: raw(0x01, 0, length=0xFFFFFF)),
    "1 MiB announced": Login(lambda u, p: raw(0x01, 0, length=1 << 20)),
    "a byte more": Login(lambda u, p: raw(0x01, 0, _good(u, p)[8:] + b"\0")),
    "a text that is longer than it": Login(lambda u, p: raw(0x01, 0, bytes(4) + b"\xff\xff" + bytes(8))),
    "a user of 129 bytes": Login(lambda u, p: _login(b"a" * 129, p.encode())),
    "a secret of 1025 bytes": Login(lambda u, p: _login(u.encode(), b"p" * 1025)),
    "a user that is not UTF-8": Login(lambda u, p: _login(b"\xff" + u.encode(), p.encode())),
    "a lone surrogate": Login(lambda u, p: _login(u.encode(), b"\xed\xa0\x80" * 4)),
    "an overlong form": Login(lambda u, p: _login(u.encode() + b"\xc0\xaf", p.encode())),
    # a wrong login: all of them get the same bytes
    "a wrong password": Login(lambda u, p: _login(u.encode(), p.encode()[:-1] + b"x"), "AUTH"),
    "nobody's name": Login(lambda u, p: _login(b"nobody", p.encode()), "AUTH"),
    "a disabled user": Login(lambda u, p: _login(b"disabled", p.encode()), "AUTH"),
    "no password": Login(lambda u, p: _login(u.encode(), b""), "AUTH"),
    "no user": Login(lambda u, p: _login(b"", p.encode()), "AUTH"),
    "NUL behind the user": Login(lambda u, p: _login(u.encode() + b"\0x", p.encode()), "AUTH"),
    "NUL behind the password": Login(lambda u, p: _login(u.encode(), p.encode() + b"\0"), "AUTH"),
    "a line feed behind the user": Login(lambda u, p: _login(u.encode() + b"\n", p.encode()), "AUTH"),
    "a space behind the user": Login(lambda u, p: _login(u.encode() + b" ", p.encode()), "AUTH"),
    "in capitals": Login(lambda u, p: _login(u.upper().encode(), p.encode()), "AUTH"),
    "a bidirectional control": Login(lambda u, p: _login(f"{u}\u202e".encode(), p.encode()), "AUTH"),
    "a C1 control": Login(lambda u, p: _login(f"{u}\x9b31m".encode(), p.encode()), "AUTH"),
    "a line of the log": Login(lambda u, p: _login(b'", "event": "auth.ok', p.encode()), "AUTH"),
    "a secret of 129 bytes": Login(lambda u, p: _login(u.encode(), (p * 9).encode()[:129]), "AUTH"),
    "a secret of 1024 bytes": Login(lambda u, p: _login(u.encode(), b"p" * 1024), "AUTH"),
    "wrong, then right": Login(lambda u, p: _login(u.encode(), b"wrong password") + _good(u, p), "AUTH"),
    "right, then once more": Login(lambda u, p: _good(u, p) + _good(u, p)),
    "right, then wrong": Login(lambda u, p: _good(u, p) + _login(u.encode(), b"wrong password")),
}


# -- the request -------------------------------------------------------------------------------------------------


def _put(
    policy: int = 0, opening: int = 0, name: bytes = b"", send_id: bytes = speaking.SEND_ID, more: bytes = b""
) -> bytes:
    body = send_id + struct.pack(">BBQQH", policy, opening, 0, 0, len(name)) + name + more
    return raw(0x10, 0, body)


REQUESTS = {
    "none, but an offer": (offer(1, "x", 1), "PROTO"),
    "none, but a sign of life": (ALIVE, "PROTO"),
    "none, but totals": (messages.encode(messages.Totals(0, 0)), "PROTO"),
    "none, but the end": (FINISH, "PROTO"),
    "a policy without a word": (_put(policy=5), "PROTO"),
    "a flag of 4": (_put(opening=4), "PROTO"),
    "a byte more": (_put(more=b"\0"), "PROTO"),
    "a directory of 4097 bytes": (_put(name=b"a/" * 2048 + b"b"), "PROTO"),
    "a directory that is not UTF-8": (_put(name=b"\xff"), "PROTO"),
    "a directory above": (_put(name=b"../bruno"), "NAME"),
    "an absolute directory": (_put(name=b"/etc"), "NAME"),
    "a directory of the server's own": (_put(name=b".securexfer-staging"), "NAME"),
    "a directory with an escape": (_put(name=b"a\x1b]0;t\x07"), "NAME"),
}


# -- what ends a session -----------------------------------------------------------------------------------------
# Said behind Ready and an eager file, transfer 1.


def _small(number: int, size: int) -> bytes:
    return offer(number, "x", size, EAGER)


WRONG = {
    # frames that cannot be
    "kind 00": raw(0x00, 0),
    "kind 13, which is reserved": raw(0x13, 0),
    "kind 28, which is reserved": raw(0x28, 2),
    "kind 29, which is reserved": raw(0x29, 2),
    "kind ff": raw(0xFF, 0xFFFFFFFF),
    "16 MiB of offer announced": raw(0x20, 2, length=0xFFFFFF),
    "16 MiB of payload announced": _small(2, 5) + raw(DATA, 2, length=0xFFFFFF),
    "a byte of payload too many announced": _small(2, 5) + raw(DATA, 2, length=MAX_DATA + 1),
    "payload of no bytes": _small(2, 5) + raw(DATA, 2),
    "payload of the connection": raw(DATA, 0, b"x"),
    "a finish with a body": raw(0x30, 0, b"\0"),
    "a trailer of 31 bytes": _small(2, 1) + data(2, b"x") + raw(0x24, 2, bytes(31)),
    "a trailer of 33 bytes": _small(2, 1) + data(2, b"x") + raw(0x24, 2, bytes(33)),
    "an offer of the connection": raw(0x20, 0, offer(2, "x", 1)[8:]),
    "a finish of a transfer": raw(0x30, 2),
    "a flag without a meaning": offer_raw(2, b"x", 1, flags=0x10),
    "an offer with a byte more": raw(0x20, 2, offer(2, "x", 1)[8:] + b"\0"),
    "a name that is longer than it": raw(0x20, 2, struct.pack(">BQqH", 0, 1, 0, 4) + b"abc"),
    "a name of 4097 bytes": offer_raw(2, b"a" * 4097),
    "a name that is not UTF-8": offer_raw(2, b"a\xff"),
    "a claim of the connection": raw(0x2A, 0, claim(2, "good", GOOD)[8:]),
    "a claim with a flag of 2": raw(0x2A, 2, b"\2" + claim(2, "good", GOOD)[9:]),
    "a claim with a byte more": raw(0x2A, 2, claim(2, "good", GOOD)[8:] + b"\0"),
    "a claim with a byte less": raw(0x2A, 2, claim(2, "good", GOOD)[8:-1]),
    "a claim whose digest is cut": raw(0x2A, 2, claim(2, "good", GOOD)[8:56]),
    "a claim of a name that is not UTF-8": raw(0x2A, 2, claim(2, "x", GOOD)[8:-1] + b"\xff"),
    "16 MiB of claim announced": raw(0x2A, 2, length=0xFFFFFF),
    "a claim of a number left out": claim(3, "good", GOOD),
    "a claim of a number again": claim(2, "good", GOOD) * 2,
    "a claim of what is closed": claim(1, "good", GOOD),
    "a trailer of a claim": claim(2, "y", b"y") + trailer(2, b"y"),
    "content of a claim": claim(2, "y", b"y") + data(2, b"y"),
    "a name with a lone surrogate": offer_raw(2, b"\xed\xa0\x80"),
    "an overlong slash": offer_raw(2, b"..\xc0\xafx"),
    # words that are not a client's, or not now
    "a second login": messages.encode(messages.Authenticate(0, "ana", "secret", "")),
    "a welcome": messages.encode(messages.Welcome(0, "me")),
    "a ready": messages.encode(messages.Ready(1, 1, 1, 1, 1, "native", "unasked")),
    "an accept": messages.encode(messages.Accept(0, bytes(16)), 1),
    "a commit": messages.encode(messages.Committed("stored", 0, ""), 1),
    "a refusal": messages.encode(messages.Refuse(0, "IO", "")),
    "a refusal of a transfer": offer(2, "x", 1) + messages.encode(messages.Refuse(0, "IO", ""), 2),
    "a summary": messages.encode(messages.Summary(1, 1)),
    "a second request": put(),
    "totals twice": messages.encode(messages.Totals(1, 1)) * 2,
    "finish twice": FINISH * 2,
    "finish with a transfer open": offer(2, "x", 1) + FINISH,
    "finish in a file": _small(2, 5) + data(2, b"x") + FINISH,
    # numbers
    "a number left out": offer(3, "x", 1),
    "a number again": offer(2, "x", 1) + offer(2, "y", 1),
    "the number of what is closed": offer(1, "x", 1),
    "the largest number": offer(0xFFFFFFFF, "x", 1),
    "an end of what was never offered": trailer(2, b""),
    "an abort of what was never offered": abort(2),
    "a start of what was never offered": start(2),
    "an abort of what is complete": abort(1),
    "a trailer of what is complete": trailer(1, GOOD),
    "payload of what is complete": data(1, b"x"),
    "payload of what was never offered": data(7, b"x"),
    # the order in a transfer
    "an eager directory": offer(2, "x", 0, EAGER | DIRECTORY),
    "payload of a directory": directory(2, "d") + data(2, b"x"),
    "an abort of a directory": directory(2, "d") + abort(2),
    "payload without a start": offer(2, "x", 1) + data(2, b"x"),
    "a trailer without a start": offer(2, "x", 0) + trailer(2, b""),
    "a start that was not asked for": _small(2, 5) + start(2),
    "two files at once": _small(2, 5) + _small(3, 5),
    "payload of another file": offer(2, "y", 5) + _small(3, 5) + data(2, b"x"),
    # sizes
    "a byte more than was offered": _small(2, 1) + data(2, b"xy"),
    "a byte more than none": _small(2, 0) + data(2, b"x"),
    "a byte less than was offered": _small(2, 2) + data(2, b"x") + trailer(2, b"x"),
    "nothing of what was offered": _small(2, 2) + trailer(2, b""),
    "eager over the limit": offer(2, "x", EAGER_LIMIT + 1, EAGER),
    "the largest number of bytes, eagerly": offer(2, "x", LARGEST, EAGER),
}
BEHIND_A_DIRECTORY = {"payload of a directory", "an abort of a directory"}  # which is complete by then
OVER_THE_WINDOW = {
    "window": b"".join(offer(number, f"many/{number}", 1) for number in range(2, WINDOW + 3)),
    "window of claims": b"".join(claim(number, f"many/{number}", b"x") for number in range(2, WINDOW + 3)),
}


def lies_about_the_offset(speaker: Speaker) -> None:
    """Say that bytes are there that the receiver has not."""
    speaker.say(offer(2, "x", 2000))
    accept = speaker.until(messages.Accept)
    assert accept.offset == 0
    speaker.say(start(2, bytes(1000), accept.nonce))


def starts_twice(speaker: Speaker) -> None:
    speaker.say(offer(2, "x", 2000))
    accept = speaker.until(messages.Accept)
    speaker.say(start(2, b"", accept.nonce), start(2, b"", accept.nonce))


def talks_after_the_summary(speaker: Speaker) -> None:
    speaker.say(FINISH)
    speaker.until(messages.Summary)
    speaker.say(eager(2, "late", b"late"))


def is_alive_after_the_summary(speaker: Speaker) -> None:
    speaker.say(FINISH)
    speaker.until(messages.Summary)
    speaker.say(ALIVE)


def is_noise_after_the_summary(speaker: Speaker) -> None:
    speaker.say(FINISH)
    speaker.until(messages.Summary)
    speaker.say(b"\xfe" * 4096)


WRONG_IN_TURN = {
    act.__name__.replace("_", " "): act
    for act in (
        lies_about_the_offset,
        starts_twice,
        talks_after_the_summary,
        is_alive_after_the_summary,
        is_noise_after_the_summary,
    )
}


# -- what costs one file alone -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """Said as transfer 2; it is refused for this reason, and the next one is stored."""

    says: bytes
    reason: str


def _name(name: str) -> Refused:
    return Refused(eager(2, name, b"x"), "NAME")


REFUSED = {
    "a digest with a bit flipped": Refused(_small(2, 1) + data(2, b"x") + trailer(2, b"y"), "DIGEST"),
    "the digest of nothing": Refused(_small(2, 1) + data(2, b"x") + trailer(2, b""), "DIGEST"),
    "a digest of zeros": Refused(_small(2, 1) + data(2, b"x") + raw(0x24, 2, bytes(32)), "DIGEST"),
    "an empty file with another's digest": Refused(_small(2, 0) + trailer(2, b"x"), "DIGEST"),
    "aborted in the middle": Refused(_small(2, 5) + data(2, b"x") + abort(2), "ABORTED"),
    "aborted before it began": Refused(offer(2, "x", 1) + abort(2), "ABORTED"),
    "an abort with an escape": Refused(_small(2, 5) + abort(2, "\x1b]0;title\x07"), "ABORTED"),
    "a byte over the largest": Refused(offer(2, "x", LARGEST + 1) + abort(2), "LIMIT"),
    "the largest number of bytes": Refused(offer(2, "x", 2**64 - 1) + abort(2), "LIMIT"),
    "a claim over the largest": Refused(
        messages.encode(messages.Claim(0, LARGEST + 1, 0, bytes(32), "x"), 2) + abort(2), "LIMIT"
    ),
    "a claim of another size": Refused(claim(2, "good", GOOD + b"x") + abort(2), "EXISTS"),
    "a claim below a file": Refused(claim(2, "good/x", GOOD) + abort(2), "EXISTS"),
    "a claim of a climbing name": Refused(claim(2, "../good", GOOD) + abort(2), "NAME"),
    "a claim of a name with an escape": Refused(claim(2, "a\x1b]0;t\x07b", GOOD) + abort(2), "NAME"),
    "a claim with the digest of something else": Refused(claim(2, "good", GOOD, bytes(32)) + abort(2), "ABORTED"),
    "a directory where a file is": Refused(directory(2, "good"), "EXISTS"),
    "a file below a file": Refused(eager(2, "good/x", b"x"), "EXISTS"),
    "other content under a name": Refused(eager(2, "good", b"evil"), "EXISTS"),
    "a climbing directory": Refused(directory(2, "../x"), "NAME"),
    **{
        f"the name {name!r}": _name(name)
        for name in (
            "", ".", "..", "../x", "a/../../x", "a/./b", "a//b", "/etc/passwd", "//x", "a/", "..\\x", "a\\b", "a\0b",
            "a.txt\0", "a\nb", "a\x1b]0;t\x07b", "a\rb", "a\x7f", "a\x9b31m", "abc\u202egpj.exe", "a\u2028b", "\ufeffa",
            "a\U000e0041", "a" * 256, "é" * 128, "/".join("d" * 65), ".securexfer-staging/1", ".SECUREXFER-staging/x",
            ".securexfer-staging",
        )
    },
}  # fmt: skip

STORED = (
    "a:b", "a::$DATA", "CON", "nul.txt", "COM¹", "x.", "x ", " x", "...", "x\u00a0", "．．", "a／b", "café",
    "cafe\u0301", "README", "readme", "straße", "STRASSE", ".bashrc", ".ssh/authorized_keys", ".git/config", "-rf",
    "--help", "~root", "$HOME", "`id`", "%s%n", "{0.__class__}", "👩‍👩‍👧", "a" * 255, "é" * 127 + "a", "€" * 85,
    "/".join("d" * 60),
)  # fmt: skip
UNPORTABLE = (
    "C:x", "a:b", "a::$DATA", "a*", "a?b", 'a"b', "<a>", "a|b", "CON", "nul.txt", "com1", "LPT9.log", "COM¹", "CONIN$",
    "x.", "x ", "...", "．．", "a／b",
)  # fmt: skip
COLLIDING = (("café", "cafe\u0301"), ("README", "readme"), ("straße", "STRASSE"))
