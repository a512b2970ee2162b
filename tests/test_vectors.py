"""The test vectors, fed to the decoder and to a running server; the example of the specification, too."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
import re
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from vectors.loading import Vector, load, load_all
from vectors.serving import serving_vectors

from securexfer.accounts.logins import WAITING
from securexfer.certificates.making import EMBEDDED_CA
from securexfer.client import login
from securexfer.errors import ProtocolError, UnsafeNameError
from securexfer.names import NamePolicy
from securexfer.net.connection import DRAIN_SECONDS
from securexfer.net.payload import MINIMUM_RATE, RATE_GRACE_SECONDS, RATE_WINDOW_SECONDS
from securexfer.server import Limits
from securexfer.transfer.classroom.sender import ANSWER_RATE
from securexfer.transfer.wishes import Wishes
from securexfer.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Lab, Server

VECTORS = load_all()
PROTOCOL = Path(__file__).parent.parent / "docs" / "PROTOCOL.md"
WAYS_TO_LEAVE = (stranger.leave_in_order, stranger.leave_without_a_word, stranger.leave_by_reset)
# In turn, since every one of them is tried in every field by test_stranger.py.
LEAVING = dict(zip((vector.name for vector in VECTORS if vector.leaves), itertools.cycle(WAYS_TO_LEAVE)))


# -- the loader -----------------------------------------------------------------------------------------------


def test_there_are_vectors_for_every_message() -> None:
    assert len(VECTORS) > 60
    kinds = {"login", "count", "file", "name", "size", "digest", "ends"}
    assert {vector.name.partition("-")[0] for vector in VECTORS} == kinds


def test_a_directory_without_vectors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no vectors"):
        load_all(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("promise x\nanswer 01\n", "needs the lines"),
        ("promise x\nread count 0\n", "needs the lines"),
        ("promise x\nanswer 01\nread count 0\nexpect nothing\n", "line 4: 'expect'"),
        ("send u32 4294967296\n", "line 1"),
        ("send u128 1\n", "line 1"),
        ('send field "a" "b"\n', "line 1"),
        (f'send field "{"a" * 129}"\n', "longer than a field"),
        ("answer 0x01\n", "line 1"),
    ],
)
def test_what_a_vector_cannot_say_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load("broken", text)


# -- the decoder ----------------------------------------------------------------------------------------------


class EndsWithinError(Exception):
    """The bytes end before what is being read does."""


class Reader:
    """Reads a session from bytes as README.md of the vectors says, with the decoder under test."""

    def __init__(self, stream: bytes, policy: NamePolicy) -> None:
        self.left = stream
        self.policy = policy

    def run(self) -> Iterator[str]:
        try:
            yield from self._session()
        except EndsWithinError as end:
            yield f"ends within {end}"

    def _session(self) -> Iterator[str]:
        raw = self._take(framing.LOGIN_SIZE, "the login")
        try:
            login = framing.Login.decode(raw)
        except ProtocolError:
            yield "bad login"
            return
        assert login.encode() == raw
        yield f"login {json.dumps(login.user)}"
        raw = self._take(framing.COUNT_SIZE, "the count")
        count = framing.decode_count(raw)
        if count > framing.MAX_COUNT:
            yield f"count {count}, over the limit"
            return
        assert framing.encode_count(count) == raw
        yield f"count {count}"
        for _ in range(count):
            yield self._file()
        if self.left:
            yield f"{len(self.left)} bytes left over"

    def _file(self) -> str:
        raw = self._take(framing.HEADER_SIZE, "a header")
        header = framing.FileHeader.decode(raw)
        assert header.encode() == raw
        try:
            name = str(header.name(self.policy))
        except UnsafeNameError:
            shown = "refused"
        else:
            assert framing.FileHeader.of(name, header.size).encode() == raw
            shown = json.dumps(name)
        content = self._take(header.size, "the content")
        right = self._take(framing.DIGEST_SIZE, "the digest") == hashlib.sha256(content).digest()
        return f"{shown}, {header.size} bytes, digest {'right' if right else 'wrong'}"

    def _take(self, size: int, what: str) -> bytes:
        if len(self.left) < size:
            raise EndsWithinError(what)
        taken, self.left = self.left[:size], self.left[size:]
        return taken


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_the_decoder_reads_what_the_vector_says_and_encodes_it_to_the_same_bytes(vector: Vector) -> None:
    policy = NamePolicy.PORTABLE if "portable" in vector.options else NamePolicy.NATIVE
    assert list(Reader(vector.stream, policy).run()) == vector.reading


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_F13_a_vector_with_random_damage_is_read_or_refused_like_any_other(vector: Vector) -> None:
    """Every byte that is read is accounted for, and nothing but our own errors comes out."""
    dice = random.Random(vector.name)
    for _ in range(200):
        stream = bytearray(vector.stream)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(stream) + 1)
            match dice.randrange(4):
                case 0:
                    del stream[place:]
                case 1:
                    stream[place : place + 1] = dice.randbytes(1)
                case 2:
                    stream[place:place] = dice.randbytes(dice.randrange(9))
                case 3:
                    del stream[place : place + dice.randrange(200)]
        for policy in NamePolicy:
            assert len(list(Reader(bytes(stream), policy).run())) <= 2 + len(stream) // 168 + 2


def test_the_example_in_the_specification_is_right() -> None:
    """Section 12: what the client says decodes to what the text says, and is as long as the text says."""
    text = PROTOCOL.read_text(encoding="utf-8").partition("## 12. ")[2].partition("## 13. ")[0]
    said = {">": b"", "<": b""}
    for speaker, line in re.findall(r"^([<>]) ((?:[0-9a-f]{2}(?:\*[0-9]+)?\s+)+)", text, re.MULTILINE):
        for byte, _, times in (piece.partition("*") for piece in line.split()):
            said[speaker] += bytes.fromhex(byte) * int(times or 1)
    assert list(Reader(said[">"], NamePolicy.NATIVE).run()) == [
        'login "ana"',
        "count 2",
        '"hi.txt", 6 bytes, digest right',
        "refused, 0 bytes, digest right",
    ]
    assert said["<"] == framing.ACCEPTED + framing.ACCEPTED + framing.REFUSED
    assert f" = {len(said['>'])} bytes" in text


def test_the_limits_in_the_specification_are_those_of_the_code() -> None:
    """Section 10, row by row; and the waits that sections 4, 7 and 13 ask of a client."""
    text = PROTOCOL.read_text(encoding="utf-8")
    table = text.partition("## 10. ")[2].partition("## 11. ")[0]
    found = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)[1:])
    limits = Limits()
    assert found == {
        "TLS handshake": f"{limits.handshake_seconds:.0f} s in all",
        "connections that have not handed in a login, or are at their end": (
            f"{limits.handshakes}, and {limits.handshakes_per_source} from one address"
        ),
        "login, both fields": f"{limits.login_seconds:.0f} s in all",
        "logins that wait to be checked": f"{WAITING}",
        "sessions": f"{limits.sessions}, and {limits.sessions_per_user} of one user",
        "text field": f"{framing.TEXT_SIZE} bytes",
        "count": f"{framing.MAX_COUNT:,}".replace(",", " "),
        "count; a name and its size; a digest": f"{limits.idle_seconds:.0f} s each, in all",
        "silence within the content": f"{limits.idle_seconds:.0f} s",
        f"rate within the content, from {RATE_GRACE_SECONDS:.0f} s after its beginning on": (
            f"{MINIMUM_RATE} bytes/s over the last {RATE_WINDOW_SECONDS:.0f} s"
        ),
        "size": f"2^{limits.largest_file.bit_length() - 1} bytes, unless the server was told otherwise",
        "reading on after the end": f"{DRAIN_SECONDS:.0f} s",
    }
    assert limits.largest_file == 1 << 40
    assert f"at least\n{login.LOGIN_SECONDS:.0f} s for this answer" in text
    assert f"at least {Wishes().timeout:.0f} s, and one second more for every {ANSWER_RATE // 10**6} MB" in text
    assert f"Begin to read within {DRAIN_SECONDS:.0f} s after the last byte" in text


def test_the_extension_that_carries_the_ca_is_the_one_in_the_specification() -> None:
    assert f"`{EMBEDDED_CA.dotted_string}`" in PROTOCOL.read_text(encoding="utf-8")


# -- a running server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Callable[..., tuple[Lab, Server]]]:
    """Return a function from options to a lab and its server, started once, with the accounts of all vectors."""
    yield from serving_vectors(tmp_path_factory.mktemp("vectors"), lab_source, dict(v.account for v in VECTORS))


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_A01_A03_F01_F02_F03_F04_F05_F06_F07_F08_F09_F11_F12_P01_P02_P03_P04_P06_P07_a_server_does_what_it_says(
    vector: Vector, serving: Callable[..., tuple[Lab, Server]]
) -> None:
    leave = LEAVING.get(vector.name)
    lab, server = serving(vector.options)
    user = vector.account[0]
    shutil.rmtree(lab.inbox / user, ignore_errors=True)
    for name, content in vector.stands.items():
        path = lab.inbox / user / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    outside = sorted(path.name for path in lab.home.iterdir() if not path.name.startswith("serve-"))

    # An address of its own for each vector, so that failed logins of one cannot slow another down.
    source = f"127.0.{zlib.crc32(vector.name.encode()) % 250 + 1}.1" if sys.platform == "linux" else ""
    closed = len(server.events("conn.close"))
    with stranger.connect(server.port, str(lab.ca), source=source) as tls:
        tls.sendall(vector.stream)
        assert stranger.answers(tls, len(vector.answers or b"")) == vector.answers
        if leave:
            leave(tls)
        # To somebody who left without a word, the server may be unable to say anything, its own end included.
        if leave is not stranger.leave_by_reset:
            with contextlib.suppress(*([OSError] if leave is stranger.leave_without_a_word else [])):
                assert stranger.rest(tls) == b""
    server.wait_for("conn.close", closed + 1)

    assert lab.stored(user) == vector.stored
    parents = {parent for name in vector.stored for parent in Path(name).parents if parent.name}
    root = lab.inbox / user
    assert {path.relative_to(root) for path in root.rglob("*") if path.is_dir()} == parents
    users = {vector.account[0] for vector in VECTORS}
    assert {path.name for path in lab.inbox.iterdir() if not path.name.startswith(".securexfer-")} <= users
    assert outside == sorted(path.name for path in lab.home.iterdir() if not path.name.startswith("serve-"))
