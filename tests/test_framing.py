"""Protocol 1's codec: what fits is carried to the letter, what does not is refused, and nothing is ever cut."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.errors import ProtocolError, UnsafeNameError, UsageError
from securexfer.names import Name, NamePolicy
from securexfer.wire import framing

patient = settings(deadline=None)  # other work on the machine must not fail a test

SECRET = "correct horse canary"

# Texts that fit a field, and fields of every kind: right ones, right ones with a bit of damage, and noise.
fitting = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda text: len(text.encode()) <= 128 and text == text.strip(" ")
)
padded = st.text(st.characters(codec="utf-8")).map(lambda text: text.encode()[:128].ljust(128, b" "))
damaged = st.tuples(padded, st.integers(0, 127), st.integers(0, 255)).map(
    lambda parts: parts[0][: parts[1]] + bytes([parts[2]]) + parts[0][parts[1] + 1 :]
)
fields = st.one_of(padded, damaged, st.binary(min_size=128, max_size=128))
sizes = st.integers(0, 2**64 - 1)


# -- any bytes ------------------------------------------------------------------------------------------------


@patient
@given(fields, fields)
@example(b"ana".ljust(128), b" " * 128)
@example(b" " * 128, SECRET.encode().ljust(128))
def test_F13_any_256_bytes_are_one_login_or_a_protocol_error_without_the_password(user: bytes, password: bytes) -> None:
    try:
        login = framing.Login.decode(user + password)
    except ProtocolError as error:
        shown = str(error)
        assert shown in {f"a login field {why}" for why in LOGIN_PROBLEMS}
    else:
        assert login.encode() == user + password


LOGIN_PROBLEMS = {"is empty", "has a NUL byte", "begins with a space", "is not valid UTF-8"}


@patient
@given(fields, sizes)
def test_F13_any_136_bytes_are_one_header_whose_name_is_safe_or_refused(field: bytes, size: int) -> None:
    raw = field + size.to_bytes(8, "big")
    header = framing.FileHeader.decode(raw)
    assert header.size == size
    assert header.encode() == raw
    for policy in NamePolicy:
        try:
            name = header.name(policy)
        except UnsafeNameError:
            continue
        assert framing.FileHeader.of(str(name), size).encode() == raw


@patient
@given(st.integers(0, 2**32 - 1))
@example(framing.MAX_COUNT)
@example(framing.MAX_COUNT + 1)
def test_F02_any_count_is_read_and_one_over_the_limit_is_never_written(count: int) -> None:
    assert framing.decode_count(count.to_bytes(4, "big")) == count
    if count <= framing.MAX_COUNT:
        assert framing.encode_count(count) == count.to_bytes(4, "big")
    else:
        with pytest.raises(UsageError, match="too many"):
            framing.encode_count(count)


# -- any text -------------------------------------------------------------------------------------------------


@patient
@given(fitting, fitting)
@example("é" * 64, "e" * 128)
def test_A04_a_login_that_fits_is_carried_to_the_letter(user: str, password: str) -> None:
    raw = framing.Login(user, password).encode()
    assert len(raw) == framing.LOGIN_SIZE == 256
    assert framing.Login.decode(raw) == framing.Login(user, password)


@patient
@given(st.text())
@example("x" * 129)
@example("é" * 64 + "x")
@example("ends with a lone surrogate \ud800")
def test_F12_a_text_is_carried_whole_or_refused(text: str) -> None:
    try:
        raw = framing.FileHeader.of(text, 0).encode()
    except UnsafeNameError:
        size = len(text.encode(errors="surrogatepass"))
        lone = any(unicodedata.category(character) == "Cs" for character in text)
        assert lone or "\0" in text or not 0 < size <= 128 or text != text.strip(" ")
    else:
        assert raw[:128].rstrip(b" ").decode() == text


UNFIT = {
    "empty": "",
    "129 bytes": "x" * 129,
    "129 bytes of 65 characters": "é" * 64 + "x",
    "a NUL at the end": "ana\0",
    "a NUL inside": "a\0na",
    "a leading space": " ana",
    "a trailing space": "ana ",
    "a lone surrogate": "ana\udcff",
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_A04_F11_F12_what_does_not_fit_is_refused_by_the_writer(text: str) -> None:
    with pytest.raises(UsageError, match="user name does not fit"):
        framing.Login(text, SECRET).encode()
    with pytest.raises(UsageError, match="password does not fit"):
        framing.Login("ana", text).encode()
    with pytest.raises(UnsafeNameError, match="does not fit protocol 1"):
        framing.FileHeader.of(text, 0)


BAD_FIELDS = {
    "empty": (b"", "is empty|empty component"),
    "a NUL inside": (b"a\0na", "has a NUL byte"),
    "a NUL for padding": (b"ana".ljust(128, b"\0"), "has a NUL byte"),
    "a leading space": (b" ana", "begins with a space"),
    "a byte that UTF-8 has not": (b"a\xff", "is not valid UTF-8"),
    "an overlong slash": (b"..\xc0\xafx", "is not valid UTF-8"),
    "a surrogate": (b"\xed\xa0\x80", "is not valid UTF-8"),
    "a character cut at byte 128": (b"a" * 127 + b"\xc3", "is not valid UTF-8"),
}


@pytest.mark.parametrize(("text", "problem"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_A03_F11_F12_a_bad_field_is_refused_by_the_reader(text: bytes, problem: str) -> None:
    bad, good = text.ljust(128, b" "), b"ana".ljust(128, b" ")
    for login in (bad + good, good + bad):
        with pytest.raises(ProtocolError, match=problem):
            framing.Login.decode(login)
    with pytest.raises(UnsafeNameError, match=problem):
        framing.FileHeader.decode(bad + bytes(8)).name()


# -- what it looks like ---------------------------------------------------------------------------------------


def test_a_header_is_the_name_padded_with_spaces_and_the_size_big_endian() -> None:
    raw = framing.FileHeader.of("run 1/dätä.csv", 2**40 + 5).encode()
    assert raw == "run 1/dätä.csv".encode() + b" " * 112 + b"\0\0\1\0\0\0\0\5"
    assert framing.FileHeader.decode(raw).name() == Name(("run 1", "dätä.csv"))


def test_a_count_is_four_bytes_big_endian() -> None:
    assert framing.encode_count(3) == b"\0\0\0\3"
    assert framing.decode_count(b"\xff\xff\xff\xff") == 2**32 - 1


def test_the_digest_has_the_width_of_sha256() -> None:
    assert hashlib.sha256().digest_size == framing.DIGEST_SIZE


def test_A20_a_login_never_shows_its_password() -> None:
    login = framing.Login("ana", SECRET)
    assert SECRET not in f"{login!r} {login}"
    for raw in (login.encode()[:-1] + b"\0", login.encode()[:-1] + b"\xff"):
        with pytest.raises(ProtocolError) as caught:
            framing.Login.decode(raw)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
