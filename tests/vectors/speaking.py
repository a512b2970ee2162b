"""Loads the vectors of protocol 2. README.md gives their format; what is not in there is an error here.

The messages are spelled out once more here, as docs/PROTOCOL.md has them, so that the code under test is not asked
what is right.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "protocol-2"

# Of each message: its kind, and its fields with the code of each in `struct`; "t" is a text.
MESSAGES = {
    "Authenticate": (0x01, "features:I user:t secret:t agent:t"),
    "Welcome": (0x02, "features:I server:t"),
    "Put": (0x10, "send_id:16s on_conflict:B opening:B files:Q bytes:Q directory:t"),
    "Ready": (0x11, "window:I eager:I largest_file:Q bytes_left:Q files_left:Q names:B opening:B"),
    "Totals": (0x12, "files:Q bytes:Q"),
    "Offer": (0x20, "flags:B size:Q mtime_ns:q name:t"),
    "Accept": (0x21, "offset:Q nonce:16s"),
    "Start": (0x22, "offset:Q proof:32s"),
    "Data": (0x23, ""),
    "Trailer": (0x24, "digest:32s"),
    "Committed": (0x25, "outcome:B opened:B stored_as:t"),
    "Abort": (0x26, "reason:t"),
    "Refuse": (0x27, "retry_after:I reason:t detail:t"),
    "Opened": (0x29, "action:B how:B cut:B code:I milliseconds:I detail:t"),
    "Claim": (0x2A, "executable:B size:Q mtime_ns:q digest:32s name:t"),
    "Result": (0x2B, "size:Q digest:32s name:t"),
    "Finish": (0x30, ""),
    "Summary": (0x31, "files:Q bytes:Q"),
    "Alive": (0x3F, ""),
}
KINDS = {kind: name for name, (kind, _) in MESSAGES.items()}
WORDS = {
    "on_conflict": ("default", "refuse", "rename", "replace", "skip"),
    "outcome": ("stored", "renamed", "replaced", "unchanged"),
    "names": ("native", "portable"),
    "opening": ("unasked", "yes", "off", "denied", "unavailable"),  # of a Ready; that of a Put is a number
    "action": ("show", "run"),
}
FLAGS = {"EAGER": 1, "FRESH": 2, "DIRECTORY": 4, "EXECUTABLE": 8}
_VALUE = re.compile(r'(\w+)=((?:\w*\()?"(?:[^"\\]|\\.)*"\)?|\S+)\s*|("(?:[^"\\]|\\.)*")\s*')


@dataclass
class Step:
    """One message that is said or heard; or bytes that are none."""

    heard: bool
    message: str = ""
    transfer: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    raw: bytes = b""

    def frame(self, nonces: dict[int, bytes]) -> bytes:
        """Return what is said; `nonces` are those of the server's last Accepts."""
        if not self.message:
            return self.raw
        kind, layout = MESSAGES[self.message]
        body = self.payload
        for name, code in (part.split(":") for part in layout.split()):
            value = self.fields.get(name, "" if code == "t" else 0)
            if code == "t":
                body += struct.pack(">H", len(value.encode())) + value.encode()
            elif code.endswith("s"):
                size = int(code[:-1])
                body += value(nonces.get(self.transfer, bytes(16))) if callable(value) else value or bytes(size)
            else:
                body += struct.pack(f">{code}", value)
        return struct.pack(">II", kind << 24 | len(body), self.transfer) + body


@dataclass
class Scenario:
    """What a client says and must hear, in this order, and all that must come of it."""

    name: str
    promise: str = ""
    account: tuple[str, str] = ("ana", "lab password 1")
    options: tuple[str, ...] = ()
    stands: dict[str, bytes] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    reading: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def stream(self) -> bytes:
        """All that the client says, to a server whose nonces are zeros."""
        return b"".join(step.frame({}) for step in self.steps if not step.heard)


def fields_of(message: str, body: bytes) -> dict[str, Any]:
    """Return the fields of a message by name."""
    found: dict[str, Any] = {}
    for name, code in (part.split(":") for part in MESSAGES[message][1].split()):
        size = 2 if code == "t" else struct.calcsize(f">{code}")
        if code == "t":
            size += int.from_bytes(body[:2], "big")
            found[name] = body[2:size].decode()
        else:
            (found[name],) = struct.unpack(f">{code}", body[:size])
        body = body[size:]
    if body:
        raise ValueError(f"{len(body)} bytes are left over")
    return found


def load_all(directory: Path = DIRECTORY) -> list[Scenario]:
    """Return every scenario in a directory; raise ValueError if there is none, or for what is wrong with one."""
    scenarios = [load(path.stem, path.read_text(encoding="ascii")) for path in sorted(directory.glob("*.txt"))]
    if not scenarios:
        raise ValueError(f"there are no vectors in {directory}")
    return scenarios


def load(name: str, text: str) -> Scenario:
    """Return the scenario that `text` spells; raise ValueError, which names the line."""
    scenario = Scenario(name)
    for number, line in enumerate(text.splitlines(), 1):
        keyword, _, rest = line.partition(" ")
        try:
            if keyword:
                _take(scenario, keyword, rest)
        except (ValueError, KeyError, struct.error) as error:
            raise ValueError(f"{name}, line {number}: {error}") from error
    if not scenario.promise or not scenario.steps or not scenario.reading:
        raise ValueError(f"{name} needs the lines promise, say and read")
    return scenario


def _take(scenario: Scenario, keyword: str, rest: str) -> None:
    match keyword:
        case "promise":
            scenario.promise = rest
        case "account":
            user, password = _strings(rest)
            scenario.account = user, password
        case "serve":
            scenario.options = tuple(rest.split())
        case "stands":
            name, content = _strings(rest)
            scenario.stands[name] = content.encode()
        case "say" | "hear":
            scenario.steps.append(_step(rest, heard=keyword == "hear"))
        case "login":
            user, password = scenario.account
            fields = {"user": user, "secret": password}
            scenario.steps += [Step(heard=False, message="Authenticate", fields=fields), _step("0 Welcome", heard=True)]
        case "put":
            scenario.steps += [_step(f"0 Put {rest}", heard=False), _step("0 Ready", heard=True)]
        case "eager":
            transfer, _, strings = rest.partition(" ")
            scenario.steps += _eager(int(transfer), *_strings(strings))
        case "store":
            name, content = _strings(rest)
            scenario.stored[name] = content.encode()
        case "directory":
            scenario.directories.update(_strings(rest))
        case "read":
            if rest not in {"right", "malformed", "out of order", "cut"}:
                raise ValueError(f"{rest!r} is not in README.md")
            scenario.reading = rest
        case _:
            raise ValueError(f"{keyword!r} is not in README.md")


def _eager(transfer: int, name: str, content: str) -> list[Step]:
    raw = content.encode()
    offer = {"flags": FLAGS["EAGER"], "name": name, "size": len(raw)}
    steps = [Step(heard=False, message="Offer", transfer=transfer, fields=offer)]
    if raw:
        steps.append(Step(heard=False, message="Data", transfer=transfer, payload=raw))
    digest = {"digest": hashlib.sha256(raw).digest()}
    return [*steps, Step(heard=False, message="Trailer", transfer=transfer, fields=digest)]


def _step(text: str, *, heard: bool) -> Step:
    first, _, rest = text.partition(" ")
    if first == "hex" and not heard:
        return Step(heard=False, raw=bytes.fromhex(rest))
    message, _, values = rest.partition(" ")
    step = Step(heard=heard, message=message, transfer=int(first))
    known = [part.partition(":")[0] for part in MESSAGES[message][1].split()]
    place = 0
    while found := _VALUE.match(values, place):
        name, value, payload = found.groups()
        if payload and message == "Data":
            step.payload = json.loads(payload).encode()
        elif name in known:
            step.fields[name] = _value(name, value)
        else:
            raise ValueError(f"a {message} has no {name or payload}")
        place = found.end()
    if place != len(values):
        raise ValueError(f"{values[place:]!r} is not in README.md")
    step.frame({})
    return step


def _value(name: str, text: str) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    if text.startswith("sha256("):
        return hashlib.sha256(json.loads(text[7:-1]).encode()).digest()
    if text.startswith("proof("):
        prefix = hashlib.sha256(json.loads(text[6:-1]).encode()).digest()
        return lambda nonce: hashlib.sha256(nonce + prefix).digest()
    if name in WORDS and text in WORDS[name]:
        return WORDS[name].index(text)
    if name == "flags" and text[0].isalpha():
        return sum(FLAGS[flag] for flag in text.split("|"))
    return int(text)


def _strings(text: str) -> list[str]:
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        string, end = decoder.raw_decode(text)
        found.append(string)
        text = text[end:]
    return found
