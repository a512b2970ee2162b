"""What is opened how: the extension to the letter, limits with a range, and a file of rules that says what is wrong."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.errors import ConfigurationError
from securexfer.opening import rules as module
from securexfer.opening.rules import Action, Limits, Rules, read_rules

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def rules_of(path: Path, text: str | bytes) -> Rules:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return read_rules(path)


def error_of(path: Path, text: str | bytes) -> tuple[str, str]:
    """Return what is said of a wrong file: message and hint, harmless for a terminal, and short."""
    with pytest.raises(ConfigurationError) as caught:
        rules_of(path, text)
    assert caught.value.exit_code == 2
    message, hint = caught.value.message, caught.value.hint
    assert str(path) in message
    assert (message + hint).replace("…", "").isprintable()
    assert len(message) < 700
    return message, hint


# -- which file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("x.py", "run"),
        ("x.txt", "show"),
        ("x.txt.py", "run"),
        ("x.py.txt", "show"),
        ("a/b.c/x.py", "run"),
        ("x..py", "run"),
        ("..x.py", "run"),
        (" .py", "run"),
        ("x.PY", "store"),
        ("x.Py", "store"),
        ("x.TXT", "store"),
        ("x.py ", "store"),
        ("x.py.", "store"),
        ("x.py\u200b", "store"),
        ("x.p\u200by", "store"),
        ("x.\uff50\uff59", "store"),
        ("x.pyw", "store"),
        ("x.pyc", "store"),
        ("x.sh", "store"),
        (".py", "store"),
        ("..py", "store"),
        ("a/.py", "store"),
        (".txt", "store"),
        ("py", "store"),
        ("xpy", "store"),
        ("x.py/x", "store"),
        ("a.py/.txt", "store"),
        ("x.", "store"),
        (".", "store"),
        ("", "store"),
        ("x.py~", "store"),
    ],
)
def test_H20_the_last_extension_decides_to_the_letter(name: str, action: str) -> None:
    assert Rules().action_for(name) == action


@settings(deadline=None)
@given(st.lists(st.sampled_from([".py", ".PY", ".txt", ".", "/", " ", "x", "\u017f", "\u200b", "\u202e"]), max_size=6))
@example(["x", ".py"])
def test_H20_only_a_stored_name_that_ends_so_and_begins_otherwise_is_opened(pieces: list[str]) -> None:
    text = "".join(pieces)
    action = Rules().action_for(text)
    last = text.split("/")[-1]
    for extension, expected in ((".py", "run"), (".txt", "show")):
        named = last.endswith(extension) and bool(last.removesuffix(extension).strip("."))
        assert (action == expected) is named


def test_the_table_of_a_file_replaces_the_other(path: Path) -> None:
    rules = rules_of(path, '[actions]\n".md" = "show"\n".r" = "run"\n".c++" = "store"\n".gz" = "show"\n')
    names = ("x.md", "x.r", "x.c++", "x.tar.gz", "x.py", "x.txt", "x.R")
    assert [rules.action_for(name) for name in names] == ["show", "run", "store", "show", "store", "store", "store"]
    assert rules.limits == Limits()
    assert dict(rules_of(path, "[actions]\n").actions) == {}
    assert rules_of(path, "[actions]\n").action_for("x.py") == "store"


@pytest.mark.parametrize(
    "extension", ["", ".", "py", ".PY", ".Py", "x.py", ".tar.gz", "..py", ".a/b", "/.py", ".a\\b", ". py", ".p\u200by"]
)
def test_what_no_name_would_end_with_is_no_extension(path: Path, extension: str) -> None:
    written = extension.replace("\\", "\\\\")
    message, hint = error_of(path, f'[actions]\n"{written}" = "run"\n')
    assert "which is no extension" in message
    assert '".py"' in hint


@pytest.mark.parametrize("action", ['"launch"', '"RUN"', '""', "1", "true", "[]", '["run"]', "{}", "2026-01-01"])
def test_what_is_no_action_is_told_with_those_there_are(path: Path, action: str) -> None:
    message, hint = error_of(path, f'[actions]\n".py" = {action}\n')
    assert "'.py'" in message
    assert "which is no action" in message
    assert hint == "Allowed: show, run, store."


# -- how much --------------------------------------------------------------------------------------------------------


def test_no_file_and_the_one_that_is_written_down_say_the_same(path: Path) -> None:
    example = (module.__doc__ or "").split("says what holds without one:")[1].split("Whoever")[0]
    written = rules_of(path, textwrap.dedent(example))
    assert written == Rules() == rules_of(path, "")
    assert written.actions == {".txt": "show", ".py": "run"}
    for field in dataclasses.fields(Limits):
        assert f"{field.name} = " in example
    assert (written.limits.seconds, written.limits.memory, written.limits.show) == (30, 1 << 30, 64 << 10)


def test_each_limit_is_set_by_itself(path: Path) -> None:
    default = Limits()
    for line, name, value in [
        ("seconds = 0x3c", "seconds", 60),
        ("seconds = 1.5", "seconds", 1.5),
        ("cpu_seconds = 3600", "cpu_seconds", 3600),
        ('memory = "2Gi"', "memory", 2 << 30),
        ('memory = "512M"', "memory", 512_000_000),
        ("memory = 100_000_000", "memory", 100_000_000),
        ("processes = 2", "processes", 2),
        ('address_space = "1Gi"', "address_space", 1 << 30),
        ("descriptors = 100", "descriptors", 100),
        ('tmp = "1Mi"', "tmp", 1 << 20),
        ("files = 5", "files", 5),
        ("entries = 50", "entries", 50),
        ('script = "2Ki"', "script", 2048),
        ('file_size = "20MB"', "file_size", 20_000_000),
        ('output = "64K"', "output", 64_000),
        ('results = "2Gi"', "results", 2 << 30),
        ('show = "1Ki"', "show", 1024),
        ("queue = 10000", "queue", 10_000),
    ]:
        limits = rules_of(path, f"[limits]\n{line}\n").limits
        assert limits == dataclasses.replace(default, **{name: value})


def test_every_default_is_within_its_range_and_every_limit_has_one() -> None:
    ranges = module._NUMBERS | module._AMOUNTS
    assert set(ranges) == {field.name for field in dataclasses.fields(Limits)}
    for name, (least, most) in ranges.items():
        assert 0 < least < getattr(Limits(), name) < most


NUMBERS = ["seconds", "cpu_seconds", "processes", "descriptors", "files", "entries", "queue"]
HUGE = "0x" + "f" * 5000  # more digits than Python writes
AMOUNTS = ["address_space", "memory", "file_size", "tmp", "output", "results", "script", "show"]


@pytest.mark.parametrize("name", NUMBERS + AMOUNTS)
@pytest.mark.parametrize(
    "value",
    [
        *("0", "-1", "0.5", "1e30", HUGE, "nan", "inf", "-inf", "true", "false"),
        *('""', '"x"', '"-1"', '"1 M"', '"1Zi"', '"99999T"', "[]", "[30]", "{}", "2026-01-01"),
    ],
)
def test_a_limit_that_is_none_is_told_with_its_key_and_its_range(path: Path, name: str, value: str) -> None:
    message, hint = error_of(path, f"[limits]\n{name} = {value}\n")
    assert f"[limits] {name} is " in message
    assert " to " in hint


@pytest.mark.parametrize(
    ("line", "told", "allowed"),
    [
        ("seconds = 3601", "seconds is 3601", "1 to 3600."),
        ('seconds = "30"', "seconds is '30'", "1 to 3600."),
        ("cpu_seconds = 1.5", "cpu_seconds is 1.5", "1 to 3600."),
        ("processes = true", "processes is true", "2 to 4096."),
        ('memory = "1Mi"', "memory is '1Mi'", '64 MiB to 1 TiB, written as "64Ki" or "512M".'),
        ("show = 16777217", "show is 16777217", '1 KiB to 16 MiB, written as "64Ki" or "512M".'),
        ('output = "12 elephants"', "output is '12 elephants'", '1 KiB to 16 MiB, written as "64Ki" or "512M".'),
    ],
)
def test_a_wrong_limit_says_how_it_would_be_right(path: Path, line: str, told: str, allowed: str) -> None:
    message, hint = error_of(path, f"[limits]\n{line}\n")
    assert told in message
    assert hint == f"Allowed: {allowed}"


# -- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what", "allowed"),
    [
        ("[limit]\n", "no section 'limit'", "[actions] and [limits]"),
        ("seconds = 3\n", "no section 'seconds'", "[actions] and [limits]"),
        ("limits = 3\n", "limits is 3, and has to be a section", "[limits]"),
        ("[[actions]]\n", "actions is [{}], and has to be a section", "[actions]"),
        (
            "[limits]\nmemroy = 3\n",
            "'memroy', which is no limit",
            "seconds, cpu_seconds, address_space, memory, processes",
        ),
        ('[limits]\n"\\u001b[2J" = 3\n', "'\\\\x1b[2J', which is no limit", "seconds"),
        ("[limits]\n__class__ = 3\n", "'__class__', which is no limit", "seconds"),
        ("[limits\n", "is not TOML", "toml.io"),
        ("seconds: 3\n", "is not TOML", "toml.io"),
        ("[limits]\nqueue = 1\nqueue = 2\n", "is not TOML", "toml.io"),
        ("[limits]\nqueue = " + "9" * 5000, "is not TOML", "toml.io"),
        (b"[limits] # \xff\n", "is not TOML", "toml.io"),
        (b"\0", "is not TOML", "toml.io"),
        ("a = " + "[" * 100_000, "nested too deeply", "[actions] and [limits]"),
    ],
)
def test_what_is_no_file_of_rules_is_told_with_what_is_allowed(path: Path, text: str, what: str, allowed: str) -> None:
    message, hint = error_of(path, text)
    assert what in message
    assert allowed in hint


def test_a_file_that_is_not_there_or_no_file_is_told(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file") as caught:
        read_rules(path)
    assert str(path) in caught.value.message
    assert "path" in caught.value.hint
    with pytest.raises(ConfigurationError, match="is not a plain file"):
        read_rules(path.parent)
    with pytest.raises(ConfigurationError, match="cannot be read: File name too long"):
        read_rules(path.with_name("x" * 300))


def test_whoever_can_change_the_rules_is_their_owner_alone(path: Path) -> None:
    """They say what is run; anybody may read them."""
    rules_of(path, "")
    path.chmod(0o644)
    read_rules(path)
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="others can change the file of rules") as caught:
        read_rules(path)
    assert caught.value.hint.startswith("chmod go-w ")
    path.chmod(0o600)
    link = path.with_name("link.toml")
    link.symlink_to(path)
    with pytest.raises(ConfigurationError, match="is not a plain file but a link"):
        read_rules(link)
    path.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can change the directory"):
        read_rules(path)


@pytest.mark.ordinary
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_told(path: Path) -> None:
    rules_of(path, "")
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        read_rules(path)


def test_rules_cannot_be_changed_once_they_are_read(path: Path) -> None:
    for rules in (Rules(), rules_of(path, '[actions]\n".py" = "run"\n')):
        with pytest.raises(TypeError):
            rules.actions[".sh"] = Action.RUN  # a mapping has no such thing
        with pytest.raises(dataclasses.FrozenInstanceError):
            rules.limits.seconds = 9
    assert str(Action.RUN) == "run"
