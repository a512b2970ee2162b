"""A server that the system denies memory or threads: who comes then is sent away, who is there goes on, and it lives.

The limits are the kernel's, put on the running server and taken away again; nothing is injected.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lab as lab_module
import pytest
import stranger_client as stranger
from hostile.oracles import Oracles, settle
from lab import PASSWORD, Lab, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
THREADS = 16
UID = 64_571  # nobody's, so that only the server's threads are counted for it


@contextlib.contextmanager
def limited(server: Server, what: int, most: int) -> Iterator[None]:
    """Let the server have so much and no more, for a while."""
    soft, hard = resource.prlimit(server.process.pid, what)
    resource.prlimit(server.process.pid, what, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, what, (soft, hard))


@contextlib.contextmanager
def upload(lab: Lab, server: Server) -> Iterator[None]:
    """Have a file on its way while the block runs; it must arrive after it."""
    whole = stranger.file("under way", os.urandom(2 * MIB))
    with stranger.connect(server.port, str(lab.ca), source="127.4.0.1") as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(stranger.count(1) + whole[:MIB])
        time.sleep(0.5)  # until the server has it in hand
        yield
        tls.sendall(whole[MIB:])
        assert stranger.answers(tls, 1) == stranger.ACCEPTED


def comes(lab: Lab, server: Server, number: int) -> bytes:
    """Try to log in; return the answer, nothing for none."""
    with (
        contextlib.suppress(OSError),
        stranger.connect(server.port, str(lab.ca), source=f"127.4.1.{number}", timeout=10) as tls,
    ):
        tls.sendall(stranger.login("davi", PASSWORD))
        return stranger.answers(tls, 1)
    return b""


def test_F22_without_memory_one_session_ends_and_the_others_go_on(lab: Lab) -> None:
    """From no page more than it has, to nearly enough for one more login: whatever asks for memory is refused it."""
    server = lab.serve(watched=True)
    oracles = Oracles(lab, server)
    with upload(lab, server):
        for number, spare in enumerate((0, 1, 2, 3, 4, 6, 8, 16, 32, 56), 1):
            with limited(server, resource.RLIMIT_AS, server.status("VmSize") * 1024 + spare * MIB):
                assert comes(lab, server, number) == b""
    said = {event["limit"] for event in server.events("limit.hit")}
    assert said == {"threads", "logins"}, "the limits did not bite where they should"
    oracles.check()
    assert comes(lab, server, 99) == stranger.ACCEPTED


def test_F21_F22_a_large_file_arrives_where_no_thread_is_to_be_had_for_it(lab: Lab) -> None:
    """It is taken by a second thread beside the TLS work; without one it takes longer, that is all."""
    server = lab.serve(watched=True)
    oracles = Oracles(lab, server)
    content = os.urandom(6 * MIB)
    with stranger.connect(server.port, str(lab.ca), source="127.4.0.2") as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(stranger.count(2) + stranger.file("first", b"x"))
        assert stranger.answers(tls, 1) == stranger.ACCEPTED
        with limited(server, resource.RLIMIT_AS, server.status("VmSize") * 1024):
            tls.sendall(stranger.file("large", content))
            assert stranger.answers(tls, 1) == stranger.ACCEPTED
    oracles.check({"ana/first": b"x", "ana/large": content})


@pytest.fixture
def of_a_user(lab_source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab whose servers run as a user of their own, who may read what the interpreter may be hidden behind.

    It stands where such a user can get to: what pytest makes is root's alone.
    """
    who = f"--reuid {UID} --regid {UID} --clear-groups"
    caps = "--inh-caps=-all,+dac_override --ambient-caps=+dac_override"
    command = f"prlimit --nproc={THREADS} setpriv {who} {caps} {lab_module.SECUREXFER}"
    with tempfile.TemporaryDirectory() as place:
        made = Lab(Path(place), lab_source)
        program = Path(place, "program")
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        subprocess.run(["chown", "-R", str(UID), place], check=True)
        monkeypatch.setattr(lab_module, "SECUREXFER", str(program))
        yield made
        made.close()


@pytest.mark.root  # the limit binds a user, not root; and only a user of its own has a count that nobody else moves
def test_F21_at_the_limit_of_threads_who_comes_is_sent_away_and_the_server_lives(of_a_user: Lab) -> None:
    lab = of_a_user
    server = lab.serve()
    oracles = Oracles(lab, server)
    with upload(lab, server):
        with contextlib.ExitStack() as stack:
            for _ in range(2 * THREADS):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10, ("127.4.2.1", 0)))
            assert server.wait_for("limit.hit")["limit"] == "threads"
            assert [comes(lab, server, number) for number in range(1, 6)] == [b""] * 5
        settle(lambda: server.status("Threads") < THREADS // 2, 15)
        assert comes(lab, server, 6) == stranger.ACCEPTED
    oracles.check()
