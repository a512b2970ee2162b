"""Passwords: what a new one must be, and the Argon2id hash that is kept instead of it.

The only module that imports argon2. Rules it keeps:

* A password is normalised (NFC) once, here, on every way in; it is never cut.
* A stored hash is parsed and bounded before anything is computed, so that no row of a database decides how
  much memory a login takes.
* Every check costs one computation: where there is no hash to compare with, `NOBODY` stands in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import secrets
import sys
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from argon2.low_level import Type, core, error_to_str, ffi

from securexfer.errors import BusyError, UsageError

MIN_BYTES = 8  # NIST SP 800-63B-4, section 3.1.1.2: never less than eight
MAX_BYTES = 128  # what a login of protocol 1 holds; the same password must serve both protocols
SHORT = 15  # characters; NIST SP 800-63B-4 asks for 15 where a password is the only factor

# The most common passwords that are long enough, from the lists every guessing program starts with.
_COMMON = frozenset(
    """
    00000000 11111111 12341234 12345678 123123123 123456789 1234567890 1q2w3e4r 1q2w3e4r5t 1qaz2wsx 87654321
    abc12345 abcd1234 abcdefgh administrator asdfasdf asdfghjk asdfghjkl baseball changeme charlie1 computer
    football iloveyou internet jennifer letmein1 michelle p@ssw0rd p@ssword passpass passw0rd password password1
    password12 password123 princess qazwsxedc qwer1234 qwertyui qwertyuiop qwerty12 qwerty123 starwars sunshine
    superman trustno1 welcome1 welcome123 whatever zaq12wsx zxcvbnm1 zxcvbnmm
    """.split()  # noqa: SIM905 - a block of words reads better than a wall of quotes
)

_HASH = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,8})\$([A-Za-z0-9+/]{1,128})\$([A-Za-z0-9+/]{1,128})"
)
_VERSION = 0x13  # the 19 above: Argon2 1.3, RFC 9106
_SALT_BYTES = 16
_TAG_BYTES = 32


class Profile(NamedTuple):
    """Argon2id's parameters: memory in KiB, passes over it, lanes that can be computed side by side."""

    memory: int
    passes: int
    lanes: int


# RFC 9106, section 4, the second recommended option; with a tag of 32 bytes and a salt of 16.
RFC_9106_LOW_MEMORY = Profile(memory=64 * 1024, passes=3, lanes=4)
CURRENT = RFC_9106_LOW_MEMORY
# A stored hash may ask for this much: room for a stronger profile, and no way to exhaust the server.
LARGEST = Profile(memory=256 * 1024, passes=16, lanes=16)


class BadHashError(ValueError):
    """A stored hash is not one that this program made, or asks for more than it allows. Says what is wrong with it."""


@dataclass(frozen=True, slots=True, repr=False)
class PasswordHash:
    """An Argon2id hash: what is stored instead of a password. `parse` and `str` are each other's reverse."""

    profile: Profile
    salt: bytes
    tag: bytes

    @classmethod
    def make(cls, password: str, profile: Profile = CURRENT) -> PasswordHash:
        """Return the hash of a normalised password under a fresh salt."""
        salt = os.urandom(_SALT_BYTES)
        return cls(profile, salt, _compute(password.encode(), salt, _TAG_BYTES, profile))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Return the hash that `text` spells; raise BadHashError for any but Argon2id 1.3 within the bounds."""
        found = _HASH.fullmatch(text)
        if not found:
            raise BadHashError("it is not an Argon2id hash of version 19")
        profile = Profile(*map(int, found.groups()[:3]))
        if profile.lanes < 1 or profile.passes < 1 or profile.memory < 8 * profile.lanes:
            raise BadHashError("its parameters are not those of any Argon2id hash")
        if any(asked > allowed for asked, allowed in zip(profile, LARGEST, strict=True)):
            raise BadHashError(
                f"it asks for {profile.memory} KiB, {profile.passes} passes and {profile.lanes} lanes; "
                f"the limits are {LARGEST.memory} KiB, {LARGEST.passes} and {LARGEST.lanes}"
            )
        made = cls(profile, *map(_from_base64, found.groups()[3:]))
        # The shortest that RFC 9106 section 3.1 allows and that any program makes.
        if len(made.salt) < 8 or len(made.tag) < 16 or str(made) != text:
            raise BadHashError("its salt or its tag is damaged")
        return made

    def __str__(self) -> str:
        """Return the text that every Argon2 library reads."""
        memory, passes, lanes = self.profile
        salt, tag = map(_to_base64, (self.salt, self.tag))
        return f"$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${tag}"

    @property
    def outdated(self) -> bool:
        """Whether a hash made now would have other parameters."""
        return (self.profile, len(self.salt), len(self.tag)) != (CURRENT, _SALT_BYTES, _TAG_BYTES)

    def matches(self, password: str) -> bool:
        """Whether this is the hash of a normalised password. Takes one computation, whatever the answer.

        Raises BusyError if the machine has no memory or thread left for it.
        """
        return hmac.compare_digest(_compute(password.encode(), self.salt, len(self.tag), self.profile), self.tag)


# No password has this hash: checking one against it costs what any check costs, and fails.
NOBODY = PasswordHash(CURRENT, os.urandom(_SALT_BYTES), os.urandom(_TAG_BYTES))


def normalise(password: str) -> str:
    """Return the one form (NFC) of a password, however the keyboard composed its letters.

    Raises ValueError for text that no bytes of UTF-8 spell (lone surrogates).
    """
    normal = unicodedata.normalize("NFC", password)
    normal.encode()
    return normal


def new_password(password: str, user: str) -> str:
    """Return the normalised form of a password that `user` may have; raise UsageError, which says why not.

    Length and a list of the common ones decide; there is no rule about kinds of characters (NIST SP 800-63B-4).
    """
    try:
        normal = normalise(password)
    except ValueError:
        raise _refusal("is not valid Unicode text") from None
    size = len(normal.encode())
    if size < MIN_BYTES:
        raise _refusal(f"is too short: {size} bytes; it needs at least {MIN_BYTES}")
    if size > MAX_BYTES:
        raise _refusal(f"is too long: {size} bytes of UTF-8; at most {MAX_BYTES} fit, and a password is never cut")
    if normal != normal.strip():
        raise _refusal("begins or ends with a space, which logins do not carry")
    if any(unicodedata.category(character) == "Cc" for character in normal):
        raise _refusal("has a control character")
    folded = normal.casefold()
    if folded == user:
        raise _refusal("is the user name")
    if folded == "securexfer":
        raise _refusal("is the name of this program")
    if folded in _COMMON:
        raise _refusal("is one of the most common passwords, which are guessed first")
    return normal


def is_short(password: str) -> bool:
    """Whether a normalised password is so short that whoever chooses it should be told."""
    return len(password) < SHORT


def make_passphrase() -> str:
    """Return a random passphrase of 60 bits that is easy to read and type: five groups of two syllables."""
    return "-".join("".join(secrets.choice(_SYLLABLES) for _ in range(2)) for _ in range(5))


# 64 of them, so six bits each; no letter looks like another or like a digit (no c, l, o, q, x, y).
_SYLLABLES = [consonant + vowel for consonant in "bdfghjkmnprstvwz" for vowel in "aeiu"]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _refusal(why: str) -> UsageError:
    return UsageError(
        f"the password {why}", hint="Choose another: a sentence or a few unrelated words are strong and easy to type."
    )


def _compute(secret: bytes, salt: bytes, tag_bytes: int, profile: Profile) -> bytes:
    """Return Argon2id's tag. Its memory is wiped and given back before this returns; the GIL is free meanwhile.

    Not through `argon2.PasswordHasher`, which starts a thread for each lane: with no more threads than cores the same
    tag was ready a tenth sooner (two cores, medians of 36: 124 ms instead of 137).
    """
    # `context` holds bare pointers into these: they have to outlive the call.
    tag = ffi.new("uint8_t[]", tag_bytes)
    pwd, nonce = ffi.from_buffer("uint8_t[]", secret), ffi.from_buffer("uint8_t[]", salt)
    context = ffi.new(
        "argon2_context *",
        {
            "version": _VERSION,
            "out": tag,
            "outlen": tag_bytes,
            "pwd": pwd,
            "pwdlen": len(secret),
            "salt": nonce,
            "saltlen": len(salt),
            "t_cost": profile.passes,
            "m_cost": profile.memory,
            "lanes": profile.lanes,
            "threads": min(profile.lanes, usable_cores()),
        },
    )
    outcome = core(context, Type.ID.value)
    if outcome:
        raise BusyError(f"no password can be checked at the moment: {error_to_str(outcome)}")
    return bytes(ffi.buffer(tag))


def _to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""
