"""Loads the test vectors beside it. README.md gives their format; what is not in there is an error here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).parent


@dataclass
class Vector:
    """One scenario: what a client sends, and all that must come of it."""

    name: str
    promise: str = ""
    account: tuple[str, str] = ("ana", "lab password 1")
    options: tuple[str, ...] = ()
    stands: dict[str, bytes] = field(default_factory=dict)
    stream: bytes = b""
    leaves: bool = False
    answers: bytes | None = None
    stored: dict[str, bytes] = field(default_factory=dict)
    reading: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name


def load_all(directory: Path = DIRECTORY) -> list[Vector]:
    """Return every vector in a directory; raise ValueError if there is none, or for what is wrong with one."""
    vectors = [load(path.stem, path.read_text(encoding="ascii")) for path in sorted(directory.glob("*.txt"))]
    if not vectors:
        raise ValueError(f"there are no vectors in {directory}")
    return vectors


def load(name: str, text: str) -> Vector:
    """Return the vector that `text` spells; raise ValueError, which names the line."""
    vector = Vector(name)
    for number, line in enumerate(text.splitlines(), 1):
        keyword, _, rest = line.partition(" ")
        try:
            if keyword:
                _take(vector, keyword, rest)
        except (ValueError, KeyError, OverflowError) as error:
            raise ValueError(f"{name}, line {number}: {error}") from error
    if not vector.promise or vector.answers is None or not vector.reading:
        raise ValueError(f"{name} needs the lines promise, answer and read")
    return vector


def _take(vector: Vector, keyword: str, rest: str) -> None:
    match keyword:
        case "promise":
            vector.promise = rest
        case "account":
            user, password = _strings(rest)
            vector.account = (user, password)
        case "serve":
            vector.options = tuple(rest.split())
        case "stands":
            name, content = _file(rest)
            vector.stands[name] = content
        case "send":
            kind, _, arguments = rest.partition(" ")
            vector.stream += _sent(kind, arguments)
        case "leave":
            vector.leaves = True
        case "answer":
            vector.answers = bytes.fromhex(rest)
        case "store":
            name, content = _file(rest)
            vector.stored[name] = content
        case "read":
            vector.reading.append(rest)
        case _:
            raise ValueError(f"{keyword!r} is not in README.md")


def _sent(kind: str, arguments: str) -> bytes:
    match kind:
        case "hex":
            return bytes.fromhex(arguments)
        case "spaces":
            return b" " * int(arguments)
        case "zeros":
            return bytes(int(arguments))
        case "u32":
            return int(arguments).to_bytes(4, "big")
        case "u64":
            return int(arguments).to_bytes(8, "big")
    strings = _strings(arguments)
    match kind, strings:
        case "text", [text]:
            return text.encode()
        case "field", [text]:
            return _field(text)
        case "sha256", [text]:
            return hashlib.sha256(text.encode()).digest()
        case "login", [user, password]:
            return _field(user) + _field(password)
        case "file", [name, text]:
            content = text.encode()
            return _field(name) + len(content).to_bytes(8, "big") + content + hashlib.sha256(content).digest()
    raise ValueError(f"`send {kind}` with {len(strings)} strings is not in README.md")


def _field(text: str) -> bytes:
    if len(text.encode()) > 128:
        raise ValueError(f"{text!r} is longer than a field")
    return text.encode().ljust(128, b" ")


def _file(rest: str) -> tuple[str, bytes]:
    name, end = _string(rest)
    content = rest[end:].strip()
    return name, bytes.fromhex(content[4:]) if content.startswith("hex ") else _strings(content)[0].encode()


def _strings(text: str) -> list[str]:
    found = []
    while text := text.strip():
        string, end = _string(text)
        found.append(string)
        text = text[end:]
    return found


def _string(text: str) -> tuple[str, int]:
    if not text.startswith('"'):
        raise ValueError(f"{text!r} is not a string")
    return json.JSONDecoder().raw_decode(text)
