"""docs/troubleshooting.md is keyed by the real texts of errors: each heading stands in the code, none is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from securexfer import errors

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "troubleshooting.md"

# Rooms whose errors a person meets at the prompt while setting up, trusting and sending: all of them are explained.
EXPLAINED = (
    "client/target.py",
    "client/connecting.py",
    "client/login.py",
    "client/sending.py",
    "transfer/wishes.py",
    "transfer/sources.py",
    "transfer/tree.py",
    "transfer/sender.py",
    "transfer/outflow.py",
    "profiles.py",
    "privileges.py",
    "net/listening.py",
    "net/tls.py",
    "cli/passwords.py",
    "cli/trust.py",
    "cli/send.py",
    "cli/serving_as.py",
)

ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}


def texts_of(node: ast.expr) -> list[str]:
    """Return the messages that an argument may be, with … for what varies."""
    if isinstance(node, ast.IfExp):
        return texts_of(node.body) + texts_of(node.orelse)
    text = text_of(node)
    return [re.sub("…+", "…", text)] if text and " " in text else []


def text_of(node: ast.expr) -> str | None:
    """Return a message with … for what varies, or None if it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def messages(path: Path) -> set[str]:
    """Return the messages of every error made in a file, also of those whose class a server's reason names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            found.update(texts_of(node.args[0]) if node.func.id in ERRORS else [])
            found.update(texts_of(node.args[1]) if node.func.id == "refusal" else [])
    return found


def headings() -> list[str]:
    return re.findall(r"^### `(.+)`$", DOCUMENT.read_text(), re.MULTILINE)


def test_there_are_headings_and_none_twice() -> None:
    assert len(headings()) >= 30
    assert len(set(headings())) == len(headings())


@pytest.mark.parametrize("heading", headings())
def test_every_heading_is_an_error_that_the_code_really_gives(heading: str) -> None:
    known = {message for path in (ROOT / "securexfer").rglob("*.py") for message in messages(path)}
    assert heading in known


@pytest.mark.parametrize("room", EXPLAINED)
def test_every_error_met_while_setting_up_and_sending_is_explained(room: str) -> None:
    missing = messages(ROOT / "securexfer" / room) - set(headings())
    assert not missing, "docs/troubleshooting.md does not explain these"
