"""Untrusted names: what is safe is kept to the letter, everything else is refused, and what is shown is harmless."""

from __future__ import annotations

import os.path
import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from securexfer.errors import UnsafeNameError
from securexfer.names import MAX_COMPONENTS, STAGING_NAME, Name, NamePolicy, folded, show

patient = settings(deadline=None)  # other work on the machine must not fail a test

# Text as it comes, and text made of the pieces that names are attacked with.
PIECES = ["..", ".", "/", "//", "\\", "a", "A", " ", "~", "\0", "\n", "\x1b", "\x9b", "\u202e", "\ufeff", "\ud800"]
PIECES += [
    STAGING_NAME,
    STAGING_NAME.upper(),
    "con",
    "NUL",
    "COM¹",
    ":",
    "\uff0e",
    "\uff0f",
    "\u2044",
    "é",
    "e\u0301",
    "👩\u200d🔬",
]
hostile = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
names = st.one_of(st.text(), hostile)


def parsed(text: str, policy: NamePolicy) -> Name | None:
    try:
        return Name.parse(text, policy)
    except UnsafeNameError:
        return None


# -- any text -------------------------------------------------------------------------------------------------


@patient
@given(names)
@example("a/" * (MAX_COMPONENTS - 1) + "a")
@example("é" * 127 + "a")
def test_P26_any_text_is_kept_to_the_letter_inside_the_root_or_refused(text: str) -> None:
    name = parsed(text, NamePolicy.NATIVE)
    if name is None:
        return
    assert str(name) == text
    assert os.path.normpath(f"/root/{text}") == f"/root/{text}"
    assert len(name.parts) <= MAX_COMPONENTS
    for part in name.parts:
        assert part not in {"", ".", ".."}
        assert len(part.encode()) <= 255
        assert not {unicodedata.category(character) for character in part} & {"Cc", "Cs", "Zl", "Zp"}
        assert not {unicodedata.bidirectional(character) for character in part} & BIDI_CONTROLS
    assert name.parts[0].casefold() != STAGING_NAME


def test_P06_P07_no_control_and_no_separator_of_unicode_gets_into_a_name() -> None:
    """One by one, since what turns the text around is a dozen characters among a million."""
    every = [chr(number) for number in range(0x110000)]
    dangerous = [
        character
        for character in every
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in BIDI_CONTROLS
        or character in "\u061c\u200e\u200f\ufeff"
        or 0xE0000 <= ord(character) <= 0xE007F
    ]
    assert len(dangerous) > 2200
    assert [character for character in dangerous if parsed(f"a{character}b", NamePolicy.NATIVE)] == []
    letters = [character for character in every if unicodedata.category(character).startswith(("L", "N"))]
    assert [character for character in letters if not parsed(character, NamePolicy.NATIVE)] == []


BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@patient
@given(st.one_of(st.binary(), names.map(lambda text: text.encode(errors="surrogatepass"))))
@example(b"..\xc0\xafx")
@example(b"\xed\xa0\x80")
@example(b"a\xc3")
def test_P26_any_bytes_are_a_name_that_encodes_to_them_or_refused(raw: bytes) -> None:
    try:
        name = Name.decode(raw)
    except UnsafeNameError:
        return
    assert str(name).encode() == raw


@patient
@given(names)
def test_what_is_portable_is_native_and_survives_normalisation(text: str) -> None:
    name = parsed(text, NamePolicy.PORTABLE)
    if name is None:
        return
    assert parsed(text, NamePolicy.NATIVE) == name
    for form in ("NFC", "NFKC"):
        assert len(unicodedata.normalize(form, text).split("/")) == len(name.parts)
        assert ".." not in unicodedata.normalize(form, text).split("/")


@patient
@given(names, st.sampled_from(NamePolicy))
def test_a_refusal_says_why_on_one_printable_line(text: str, policy: NamePolicy) -> None:
    assume(parsed(text, policy) is None)
    with pytest.raises(UnsafeNameError, match="is refused: it ") as caught:
        Name.parse(text, policy)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 3000
    assert caught.value.exit_code == 5


@patient
@given(st.text())
@example("\x1b]0;title\x07\r\n")
@example("x" * 1000)
@example("\ud800\u202e")
@example("a\\x1b")
def test_P06_what_is_shown_is_printable_and_on_one_line(text: str) -> None:
    shown = show(text)
    assert shown.isprintable()
    assert not {"\n", "\r", "\x1b"} & set(shown)
    assert len(show(text, limit=10)) <= 10 * len("\\U0001f52c") + 1
    if text.isprintable() and "\\" not in text and len(text) <= 200:
        assert shown == text
    else:
        assert shown != text


# -- by example -----------------------------------------------------------------------------------------------

DANGEROUS = {
    "P01": ["", ".", "..", "../x", "a/..", "a/../../x", "a/./b", "./a", "a//b", "a/", "/", "/etc/passwd", "//x"],
    "P02": ["..\\x", "a\\b", "\\\\srv\\s\\x"],
    "P06": ["a\0b", "a\nb", "a\rb", "\x1b]0;x\x07", "a\x7f", "\x9b1m", "a\x85b", "\t"],
    "P07": [
        "abc\u202egpj.exe",
        "a\u2066b",
        "a\u061cb",
        "a\u200eb",
        "a\u200fb",
        "a\u2028b",
        "a\u2029b",
        "\ufeffa",
        "a\U000e0041",
    ],
    "P11": [STAGING_NAME, f"{STAGING_NAME}/1", ".SecureXfer-STAGING/1", ".\u017fecurexfer-\u017ftaging"],
    "P12": ["lone \ud800 surrogate"],
    "P13": ["x" * 256, "é" * 128, "a/" * 64 + "a", "x/" * 2048 + "x"],
}
UNPORTABLE = {
    "P02": ["C:x"],
    "P03": ["a:b", "a::$DATA", "12:30.log"],
    "P04": ["CON", "nul.txt", "com1", "LPT9.log", "COM¹", "CONIN$", "aux .c", "dir/prn"],
    "P05": ["x.", "x ", " x", "...", "x\u00a0", "a /b", "a./b"],
    "P08": ["\uff0e\uff0e", "a\uff0fb", "a\u2044b", "a\u2215b", "a\uff3cb", "a\uff1ab"],
    "more": ["what?", "*", '"a"', "<a>", "a|b"],
}
FINE = {
    "P07": ["👩\u200d🔬.txt", "naïve/日本語/العربية", "a\u200bb"],
    "P11": [".bashrc", ".ssh/authorized_keys", ".git/config", f"a/{STAGING_NAME}"],
    "P12": ["-rf", "--help", "~root", "$HOME", "`id`", "%s%n", "{0.__class__}"],
    "P13": ["x" * 255, "é" * 127 + "a", "測" * 85, "a/" * 63 + "a"],
    "more": ["a", "a b", "concert", "nullify.txt", "com10", "a.b.c", "console/log"],
}


def rows(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(row, name) for row, texts in table.items() for name in texts]


@pytest.mark.parametrize(("row", "text"), rows(DANGEROUS), ids=ascii)
@pytest.mark.parametrize("policy", NamePolicy)
def test_P01_P02_P06_P07_P11_P12_P13_what_is_dangerous_anywhere_is_refused_under_both_policies(
    row: str, text: str, policy: NamePolicy
) -> None:
    assert parsed(text, policy) is None


@pytest.mark.parametrize(("row", "text"), rows(UNPORTABLE), ids=ascii)
def test_P02_P03_P04_P05_P08_what_only_other_systems_mind_is_native_and_not_portable(row: str, text: str) -> None:
    assert str(Name.parse(text)) == text
    assert parsed(text, NamePolicy.PORTABLE) is None


@pytest.mark.parametrize(("row", "text"), rows(FINE), ids=ascii)
@pytest.mark.parametrize("policy", NamePolicy)
def test_P07_P11_P12_P13_what_is_merely_odd_is_kept_under_both_policies(
    row: str, text: str, policy: NamePolicy
) -> None:
    assert str(Name.parse(text, policy)) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README", "readme"),
        ("straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("\uff21", "a"),
        ("ﬁle", "FILE"),
        ("K", "\u212a"),
    ],
    ids=ascii,
)
def test_P09_P10_names_that_another_system_cannot_tell_apart_fold_to_the_same(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("cafe", "café"), ("a.b", "a_b"), ("ss", "s")])
def test_P09_P10_names_that_any_system_can_tell_apart_fold_differently(one: str, other: str) -> None:
    assert folded(one) != folded(other)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\\x1b", "a\\\\x1b"),
        ("a\nb", "a\\nb"),
        ("\u202e", "\\u202e"),
        ("x" * 201, "x" * 200 + "…"),
    ],
)
def test_P06_what_is_dangerous_is_shown_escaped_and_what_is_long_is_cut_with_a_mark(text: str, shown: str) -> None:
    assert show(text) == shown
