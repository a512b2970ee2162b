"""What `send` says and does when nobody answers, somebody else does, or the server has no time."""

from __future__ import annotations

import contextlib
import gc
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING

import pytest
from hostile.certificates import make_ca, make_leaf
from hostile.listeners import HOST, Listener, TlsListener, answer_all, read_exactly, refuse, reset
from lab import SECUREXFER, Lab, environment

from securexfer import client
from securexfer.client import connecting
from securexfer.errors import SecurexferError
from securexfer.net.tls import client_context
from securexfer.wire import framing

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

RETRYING = re.compile(r"; trying again in ([0-9.]+) s\n")
SPEED = 20
FASTER = ("faketime", "-f", f"+0 x{SPEED}")  # before a command: lets a minute of waiting pass in seconds
needs_faketime = pytest.mark.skipif(not shutil.which("faketime"), reason="needs the package faketime")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("connections"), lab_source)
    (made.home / "file").write_bytes(b"what is sent")
    yield made
    made.close()


def command(place: Lab, port: int, host: str = HOST) -> list[str]:
    return [
        SECUREXFER, "send", str(place.home / "file"), f"ana@{host}:{port}", "--ca", str(place.home / "ca.pem"),
        "--password-file", str(place.password_file),
    ]  # fmt: skip


def send(place: Lab, port: int, host: str = HOST) -> subprocess.CompletedProcess[str]:
    return place.run(*command(place, port, host)[1:])


def start(place: Lab, port: int, *before: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, *command(place, port)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(SECUREXFER_CONFIG=str(place.config)),
    )  # fmt: skip


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A port whose queue of connections is full, so that a further one gets no answer, as behind a firewall."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server((HOST, 0), backlog=0))
        port = listener.getsockname()[1]
        while True:
            filler = held.enter_context(socket.socket())
            filler.settimeout(0.5)
            try:
                filler.connect((HOST, port))
            except TimeoutError:
                break
        yield port


def silent(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


@pytest.mark.debian
@needs_faketime
def test_refused_timed_out_silent_and_unknown_are_four_messages_with_four_next_steps(
    place: Lab, context: ssl.SSLContext
) -> None:
    """And none of them is tried again: nobody is there to be busy, or a minute has passed."""
    with Listener(silent) as mute, blackhole() as hole:
        waiting = {"timed out": start(place, hole, *FASTER), "silent": start(place, mute.port, *FASTER)}
        with Listener(silent) as gone:
            pass
        started = time.monotonic()
        refused = send(place, gone.port)
        assert time.monotonic() - started < 5
        unknown = send(place, gone.port, "nosuchhost.invalid")
        ended = {name: (process.communicate(timeout=40)[1], process.returncode) for name, process in waiting.items()}
    said = {**ended, "refused": (refused.stderr, refused.returncode), "unknown": (unknown.stderr, unknown.returncode)}
    expected = {
        "refused": (75, f"{HOST}:{gone.port} refused the connection: nothing listens on that port"),
        "timed out": (75, f"{HOST}:{hole} did not answer within 10 seconds"),
        "silent": (75, f"{HOST}:{mute.port} accepts connections but did not answer as securexfer does"),
        "unknown": (75, "nosuchhost.invalid has no address here: "),
    }
    hints = set()
    for name, (code, message) in expected.items():
        text, returned = said[name]
        assert returned == code, (name, text)
        assert f"securexfer: {message}" in text
        assert not RETRYING.search(text)
        hints.add(text.rpartition(f"securexfer: {message}")[2].partition("\n")[2])
    assert len(hints) == 4
    assert all(hint.startswith("  ") for hint in hints)


def one_of_three(last: Callable[[ssl.SSLSocket, list[bytes]], None]) -> Callable[[ssl.SSLSocket, list[bytes]], None]:
    """Return an answer that ends two sessions without a word, as a busy server does, and leaves the third to `last`."""
    number = 0

    def answer(connection: ssl.SSLSocket, received: list[bytes]) -> None:
        nonlocal number
        number += 1
        if number == 3:
            last(connection, received)
        else:
            received.append(read_exactly(connection, framing.LOGIN_SIZE))
            with contextlib.suppress(OSError):
                connection.unwrap()

    return answer


def test_C04_a_busy_server_is_asked_again_until_it_has_time(place: Lab, context: ssl.SSLContext) -> None:
    """Each time a little later, and with the same identity."""
    with TlsListener(context, one_of_three(answer_all)) as listener:
        result = send(place, listener.port)
    assert result.returncode == 0, result.stderr
    assert listener.count == 3
    first, second = map(float, RETRYING.findall(result.stderr))
    assert 0.2 <= first <= 0.8
    assert 0.5 <= second <= 1.6
    assert "1 file, 12 B, stored and verified" in result.stdout


def test_C04_a_refused_login_is_never_tried_again(place: Lab, context: ssl.SSLContext) -> None:
    with TlsListener(context) as listener:
        assert send(place, listener.port).returncode == 4
        assert listener.count == 1
    with TlsListener(context, one_of_three(refuse)) as listener:
        assert send(place, listener.port).returncode == 4
        assert listener.count == 3


@pytest.mark.parametrize("cut", [True, False])
def test_C04_what_is_left_is_sent_again_after_an_end_in_order_and_not_after_a_cut(
    place: Lab, context: ssl.SSLContext, *, cut: bool
) -> None:
    """The server stores the first of two files, then leaves."""
    (place.home / "second").write_bytes(b"what is left")

    def answer(connection: ssl.SSLSocket, received: list[bytes]) -> None:
        if received:
            answer_all(connection, received)
            return
        received.append(read_exactly(connection, framing.LOGIN_SIZE))
        connection.sendall(framing.ACCEPTED)
        read_exactly(connection, framing.COUNT_SIZE + framing.HEADER_SIZE + 12 + framing.DIGEST_SIZE)
        connection.sendall(framing.ACCEPTED)
        if cut:
            reset(connection)
        else:
            with contextlib.suppress(OSError):
                connection.unwrap()

    with TlsListener(context, answer) as listener:
        program, verb, *rest = command(place, listener.port)
        result = subprocess.run(
            [program, verb, str(place.home / "second"), *rest],
            capture_output=True, text=True, timeout=60, env=environment(), check=False,
        )  # fmt: skip
        assert listener.count == (1 if cut else 2)
    # A reset may overtake the answer before it.
    assert result.returncode in ({6, 7} if cut else {0}), result.stderr


def test_C04_a_server_that_is_not_trusted_is_never_tried_again(
    place: Lab, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Not even if it was busy before: whoever answers next must prove the same."""
    right, wrong = context, make_leaf(make_ca()).context(tmp_path, framing.ALPN)
    contexts = [right, right, wrong]
    received: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        with contexts.pop(0).wrap_socket(sock, server_side=True) as connection:
            received.append(read_exactly(connection, framing.LOGIN_SIZE))
            connection.unwrap()

    with Listener(answer) as listener:
        result = send(place, listener.port)
    assert result.returncode == 3, result.stderr
    assert listener.count == 3
    assert len(received) == 2


@pytest.mark.debian
@needs_faketime
def test_C01_C04_a_server_that_stays_busy_is_given_up_after_a_minute(place: Lab, context: ssl.SSLContext) -> None:
    """Exit 75. With time running faster for the client; resets during the handshake are taken for the same."""
    started = time.monotonic()
    with Listener(reset) as listener:
        process = start(place, listener.port, *FASTER)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 75, err
    assert 40 / SPEED < time.monotonic() - started < 20
    pauses = [float(pause) for pause in RETRYING.findall(err)]
    assert 6 <= len(pauses) <= 20
    assert sum(pauses) <= 60
    assert max(pauses) <= 12
    assert err.count(f"{HOST}:{listener.port} reset the connection") == len(pauses) + 1


def test_an_interrupt_while_waiting_for_a_busy_server(place: Lab, context: ssl.SSLContext) -> None:
    with Listener(reset) as listener:
        default = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
        with start(place, listener.port, sys.executable, "-c", default) as process:
            assert process.stderr
            for line in process.stderr:
                if "trying again" in line:
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "interrupted: 0 of 1 files were stored" in err


@pytest.mark.parametrize("banner", [b"", b"220 mail ESMTP\r\n"])
def test_T22_a_server_that_leaves_before_the_handshake_is_told_in_words(
    place: Lab, context: ssl.SSLContext, banner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A banner and a reset that have come before our side looks: an error of ours, with a next step."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(banner)
        reset(sock)

    reach = connecting._reach

    def late(target: client.Target) -> socket.socket:
        sock = reach(target)
        time.sleep(0.2)  # until the reset has come
        return sock

    monkeypatch.setattr(connecting, "_reach", late)
    trusting = client_context((place.home / "ca.pem").read_text(), client.PROTOCOLS)
    with Listener(answer) as listener, pytest.raises(SecurexferError) as raised:
        client.connect(client.Target("ana", HOST, listener.port, ""), trusting)
    assert raised.value.reason in {"BUSY", "VERSION"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del raised  # `ssl.SSLSocket` leaves its descriptor to the garbage collector when it fails so early
        gc.collect()
