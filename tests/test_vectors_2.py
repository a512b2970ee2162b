"""The test vectors of protocol 2, fed to the decoder and the order of messages, and to a running server."""

from __future__ import annotations

import random
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stranger_client as stranger
from vectors.serving import serving_vectors
from vectors.speaking import KINDS, MESSAGES, Scenario, Step, fields_of, load, load_all

from securexfer.errors import ProtocolError
from securexfer.wire import messages
from securexfer.wire.order import CLIENT, SERVER, Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab import Lab, Server

SCENARIOS = load_all()
WINDOW = 2048


# -- the loader -----------------------------------------------------------------------------------------------


def test_there_are_vectors_for_every_message_a_client_says() -> None:
    assert len(SCENARIOS) > 70
    kinds = {"login", "kind", "put", "totals", "offer", "eager", "directory", "data", "trailer", "abort", "finish"}
    kinds |= {"alive", "claim", "ends"}
    assert kinds == {scenario.name.partition("-")[0] for scenario in SCENARIOS}
    said = {step.message for scenario in SCENARIOS for step in scenario.steps if not step.heard}
    heard = {step.message for scenario in SCENARIOS for step in scenario.steps if step.heard}
    assert said | heard == set(MESSAGES) | {""}


def test_a_directory_without_vectors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no vectors"):
        load_all(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("promise x\nlogin\n", "needs the lines"),
        ("promise x\nread right\n", "needs the lines"),
        ("promise x\nlogin\nread wrong\n", "line 3"),
        ("promise x\nanswer 01\n", "line 2: 'answer'"),
        ("say 0 Hello\n", "line 1"),
        ('say 1 Offer nam="a"\n', "line 1: a Offer has no nam"),
        ('say 1 Offer name="a" x\n', "line 1: 'x' is not"),
        ("say 1 Offer size=18446744073709551616\n", "line 1"),
        ("hear hex 00\n", "line 1"),
    ],
)
def test_what_a_vector_cannot_say_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load("broken", text)


# -- the decoder ----------------------------------------------------------------------------------------------


def read_frame(conversation: Conversation, speaker: str, frame: bytes) -> str:
    """Return what becomes of a frame; assert that what is understood is encoded to the same bytes."""
    flags = 0
    if len(frame) < messages.HEADER_SIZE:
        return "cut"
    try:
        kind, length, transfer = messages.decode_header(frame[:8])
        if len(frame) < 8 + length:
            return "cut"
        if kind == messages.DATA:
            assert messages.encode_data(transfer, length) == frame[:8]
        else:
            message = messages.decode(kind, frame[8 : 8 + length])
            assert messages.encode(message, transfer) == frame[: 8 + length]
            flags = message.flags if isinstance(message, messages.Offer) else 0
    except ProtocolError:
        return "malformed"
    try:
        conversation.note(speaker, messages.kind_of(kind), transfer, flags)
    except ProtocolError:
        return "out of order"
    return "right"


def read(scenario: Scenario) -> str:
    """Return what becomes of a scenario, up to the server's last word."""
    conversation = Conversation()
    for step in scenario.steps:
        if step.heard and step.message == "Refuse" and not step.transfer:
            break
        reading = read_frame(conversation, SERVER if step.heard else CLIENT, step.frame({}))
        if reading != "right":
            return reading
        if step.message == "Ready":
            conversation.window = WINDOW
    return "right"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_decoder_and_the_order_say_what_the_vector_says(scenario: Scenario) -> None:
    assert read(scenario) == scenario.reading


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_F13_a_vector_with_random_damage_is_read_or_refused_like_any_other(scenario: Scenario) -> None:
    """Nothing but our own errors comes out; what is read is canonical (`read_frame`)."""
    dice = random.Random(scenario.name)
    frames = [step.frame({}) for step in scenario.steps if not step.heard]
    for _ in range(100):
        conversation = Conversation()
        for frame in frames:
            damaged = bytearray(frame)
            if dice.random() < 0.3:
                place = dice.randrange(len(damaged) + 1)
                damaged[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
            if read_frame(conversation, CLIENT, bytes(damaged)) != "right":
                break


# -- a running server -----------------------------------------------------------------------------------------


class Client:
    """One connection on which a scenario is played."""

    def __init__(self, tls: stranger.Tls) -> None:
        self._tls = tls
        self._nonces: dict[int, bytes] = {}

    def play(self, scenario: Scenario) -> None:
        waiting = b""
        for step in scenario.steps:
            if not step.heard:
                waiting += step.frame(self._nonces)
                continue
            self._tls.sendall(waiting)
            waiting = b""
            self._hear(step)
        self._tls.sendall(waiting)

    def _hear(self, step: Step) -> None:
        """Hear what a step has; only signs of life may come before it."""
        while True:
            message, transfer, fields = self._next()
            if message == "Accept":
                self._nonces[transfer] = fields["nonce"]
            if (message, transfer) == (step.message, step.transfer):
                assert fields == fields | step.fields
                return
            assert message == "Alive", f"{message} {transfer} {fields} instead of {step}"

    def _next(self) -> tuple[str, int, dict[str, Any]]:
        header = stranger.answers(self._tls, 8)
        assert len(header) == 8, "the server ended the session"
        kind, length, transfer = header[0], int.from_bytes(header[1:4], "big"), int.from_bytes(header[4:], "big")
        return KINDS[kind], transfer, fields_of(KINDS[kind], stranger.answers(self._tls, length))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Callable[..., tuple[Lab, Server]]]:
    """Return a function from options to a lab and its server, started once, with the accounts of all scenarios."""
    yield from serving_vectors(tmp_path_factory.mktemp("vectors-2"), lab_source, dict(s.account for s in SCENARIOS))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_A01_A03_A14_F02_F04_F05_F06_F07_F08_F09_F12_P01_a_server_does_what_it_says(
    scenario: Scenario, serving: Callable[..., tuple[Lab, Server]]
) -> None:
    lab, server = serving(scenario.options)
    root = lab.inbox / scenario.account[0]
    shutil.rmtree(root, ignore_errors=True)
    for name, content in scenario.stands.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    source = f"127.0.{zlib.crc32(scenario.name.encode()) % 250 + 1}.2" if sys.platform == "linux" else ""
    closed = len(server.events("conn.close"))
    with stranger.connect(server.port, str(lab.ca), source=source, alpn=messages.ALPN) as tls:
        Client(tls).play(scenario)
        last = scenario.steps[-1]
        if (last.message, last.transfer) != ("Refuse", 0):
            stranger.leave_in_order(tls)
        assert stranger.rest(tls) == b"" or scenario.name.startswith("ends")
    server.wait_for("conn.close", closed + 1)
    assert lab.stored(scenario.account[0]) == scenario.stored
    made = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()}
    parents = {str(parent) for name in scenario.stored for parent in Path(name).parents if parent.name}
    assert made == parents | scenario.directories
