"""A client by a stranger, written from docs/PROTOCOL.md with the standard library alone, against a running server.

It does everything a client may do, and what one should not: after each of these the server still serves others,
and holds exactly the files it has acknowledged.
"""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from lab import PASSWORD, Lab, Server, fresh_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Leave = Callable[[stranger.Tls], None]

WAYS_TO_LEAVE = (stranger.leave_in_order, stranger.leave_without_a_word, stranger.leave_by_reset)
MANY = 50_000 if os.environ.get("SECUREXFER_MANY_FILES") else 3_000  # so many take a minute on a busy disk
LARGE = 9 << 20  # bytes; large enough for everything a server may do otherwise for large files


class Site:
    """A lab, its server, and strangers who connect to it. Each test has a directory of its own there."""

    def __init__(self, lab: Lab, server: Server, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self.server = server
        self._stack = stack

    def connect(self) -> stranger.Tls:
        """Connect from an address of its own, so that what failed before is not held against it."""
        return self._stack.enter_context(stranger.connect(self.server.port, str(self.lab.ca), source=fresh_source()))

    def session(self) -> stranger.Tls:
        """Connect and log in as ana."""
        tls = self.connect()
        assert stranger.log_in(tls, "ana", PASSWORD)
        return tls

    def stored(self, directory: str) -> dict[str, bytes]:
        """Return what of ana's stands in one directory: name there and content."""
        return {
            name.removeprefix(f"{directory}/"): content
            for name, content in self.lab.stored("ana").items()
            if name.startswith(f"{directory}/")
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[tuple[Lab, Server]]:
    """Return a lab and its server, for all tests together."""
    lab = Lab(tmp_path_factory.mktemp("stranger"), lab_source)
    server = lab.serve(watched=True)
    yield lab, server
    lab.close()
    assert not [event for event in server.events() if event["level"] == "error" or event.get("reason") == "error"]
    assert "Traceback" not in server.log_path.read_text()


@pytest.fixture
def site(place: tuple[Lab, Server]) -> Iterator[Site]:
    """Return the site; afterwards an honest client is served, and nothing else has gone wrong."""
    lab, server = place
    quiet(server)
    with contextlib.ExitStack() as stack:
        yield Site(lab, server, stack)
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "bruno", PASSWORD)
        assert stranger.send(tls, [("honest.txt", b"served")]) == [True]
        assert stranger.rest(tls) == b""
    assert server.process.poll() is None
    outside = {path.name for path in lab.home.iterdir() if not path.name.startswith(("serve-", "users.db", "."))}
    assert outside == {"certs", "inbox"}


def quiet(server: Server) -> None:
    """Wait until the server has no connection."""
    settle(lambda: len(server.events("conn.open")) == len(server.events("conn.close")))


def settle(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


# -- as it should be ------------------------------------------------------------------------------------------


def test_the_stranger_knows_the_document_and_the_standard_library_alone() -> None:
    tree = ast.parse(Path(stranger.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= sys.stdlib_module_names
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__"}


def test_ten_files_are_streamed_before_one_answer_is_read(site: Site) -> None:
    files = {f"{number}.dat": os.urandom(1000 * number) for number in range(10)}
    tls = site.session()
    tls.sendall(stranger.count(10))
    for name, content in files.items():
        tls.sendall(stranger.file(f"ten/{name}", content))
    assert stranger.answers(tls, 10) == b"\x01" * 10
    assert stranger.rest(tls) == b""
    assert site.stored("ten") == files


def test_each_answer_comes_at_once_to_a_client_that_waits_for_it(site: Site) -> None:
    tls = site.session()
    tls.sendall(stranger.count(20))
    for number in range(20):
        tls.sendall(stranger.file(f"lockstep/{number}", b"x"))
        assert stranger.answers(tls, 1) == b"\x01"
    assert len(site.stored("lockstep")) == 20


def test_the_large_and_the_small_share_a_session(site: Site) -> None:
    files = {"a": b"small", "b": os.urandom(LARGE), "c": b"", "d": os.urandom(LARGE + 1), "e": b"small, too"}
    tls = site.session()
    assert stranger.send(tls, [(f"mixed/{name}", content) for name, content in files.items()]) == [True] * 5
    assert site.stored("mixed") == files


def test_F01_many_tiny_files_in_one_session_are_answered_and_the_memory_stays_flat(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    """Nothing is read before all is sent. SECUREXFER_MANY_FILES=1 makes it 50 000 files instead of 3 000."""
    server = lab.serve()
    contents = [b"%d" % number for number in range(MANY)]
    stream = stranger.count(MANY) + b"".join(
        stranger.file(f"many/{number // 1000}/{number}", content) for number, content in enumerate(contents)
    )
    with stranger.connect(server.port, str(lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        before = server.status("VmRSS")
        begin = time.monotonic()
        tls.sendall(stream)
        tls.settimeout(120)
        assert stranger.answers(tls, MANY) == b"\x01" * MANY
        record_property("seconds", round(time.monotonic() - begin, 1))
        assert server.status("VmRSS") - before < 8 << 10  # KiB; more if each file kept as much as a page
        assert stranger.rest(tls) == b""
    assert sorted(lab.stored("ana").values()) == sorted(contents)


def test_A23_F15_one_byte_a_record_is_the_same_session(site: Site) -> None:
    tls = site.connect()
    files = stranger.file("bytewise/a", b"hello") + stranger.file("bytewise/b", b"")
    for byte in stranger.login("ana", PASSWORD) + stranger.count(2) + files:
        tls.sendall(bytes([byte]))
        time.sleep(0.001)  # so that they are also read one by one
    assert stranger.answers(tls, 3) == b"\x01\x01\x01"
    assert site.stored("bytewise") == {"a": b"hello", "b": b""}


@contextlib.contextmanager
def narrow(lab: Lab, server: Server) -> Iterator[ssl.SSLSocket]:
    """Return a connection through which little fits at a time, in either direction."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    plain.settimeout(60)
    plain.connect(("127.0.0.1", server.port))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(lab.ca)
    context.set_alpn_protocols(["securexfer/1"])
    with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        yield tls


def test_F15_small_socket_buffers_make_no_difference(site: Site) -> None:
    content = os.urandom(300_000)
    with narrow(site.lab, site.server) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        assert stranger.send(tls, [("narrow/a", content), ("narrow/b", b"x")]) == [True, True]
    assert site.stored("narrow") == {"a": content, "b": b"x"}


def test_the_server_never_waits_for_its_answers_to_be_read(lab: Lab) -> None:
    """More answers than any buffer holds, none of them read before all files are sent: neither side waits."""
    files = 60_000
    with narrow(lab, lab.serve()) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        # A name that is refused, so that no disk takes part.
        tls.sendall(stranger.count(files) + stranger.file("..", b"") * files)
        assert stranger.answers(tls, files) == b"\x00" * files
        assert stranger.rest(tls) == b""


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_how_a_client_closes_after_its_last_answer_does_not_matter(leave: Leave, site: Site) -> None:
    before = len(site.server.events("conn.close"))
    tls = site.session()
    assert stranger.send(tls, [(f"closing/{leave.__name__}", b"x")]) == [True]
    leave(tls)
    site.server.wait_for("conn.close", before + 1)
    assert leave.__name__ in site.stored("closing")


def test_a_client_may_shut_down_its_writing_side_and_read_on(site: Site) -> None:
    tls = site.session()
    with site.server.paused():  # Python's `unwrap` fails if an answer is there already
        tls.sendall(stranger.count(2) + stranger.file("half/a", b"1") + stranger.file("half/b", b"2"))
        stranger.leave_in_order(tls)
    assert stranger.rest(tls) == b"\x01\x01"
    assert site.stored("half") == {"a": b"1", "b": b"2"}


def test_the_same_files_sent_again_are_a_success(site: Site) -> None:
    files = [("again/a", b"one"), ("again/b", os.urandom(LARGE)), ("again/c", b"")]
    for _ in range(2):
        tls = site.session()
        assert stranger.send(tls, files) == [True, True, True]
    assert len(site.stored("again")) == 3


# -- refused --------------------------------------------------------------------------------------------------


def test_A01_a_wrong_password_gets_one_byte_and_an_end_in_order(site: Site) -> None:
    tls = site.connect()
    assert not stranger.log_in(tls, "davi", PASSWORD + "x")
    assert stranger.rest(tls) == b""
    tls = site.connect()
    assert stranger.log_in(tls, "davi", PASSWORD)


def test_A14_a_second_login_in_one_connection_is_never_looked_at(site: Site) -> None:
    """The session ends after the first one that was refused, and is one failure in the log."""
    before = {kind: len(site.server.events(kind)) for kind in ("auth.fail", "auth.ok", "conn.close")}
    tls = site.connect()
    right = stranger.login("davi", PASSWORD) + stranger.count(1) + stranger.file("second.txt", b"x")
    tls.sendall(stranger.login("davi", PASSWORD + "x") + right * 3)
    assert stranger.rest(tls) == b"\x00"
    site.server.wait_for("conn.close", before["conn.close"] + 1)
    assert len(site.server.events("auth.fail")) == before["auth.fail"] + 1
    assert len(site.server.events("auth.ok")) == before["auth.ok"]
    assert site.server.events("conn.close")[-1]["reason"] == "AUTH"
    assert site.lab.stored("davi") == {}


def test_A23_nothing_is_parsed_before_the_login_is_accepted(site: Site) -> None:
    """A session sent at once, in one record, is stored with the right password and does nothing with a wrong one."""
    before = len(site.server.events("file.reject") + site.server.events("file.ok") + site.server.events("limit.hit"))
    for password in (PASSWORD + "x", PASSWORD):
        tls = site.connect()
        tls.sendall(stranger.login("eva", password) + stranger.count(1) + stranger.file("at once.txt", b"all of it"))
        answers = stranger.rest(tls)
        if password != PASSWORD:
            assert answers == b"\x00"
            assert not (site.lab.inbox / "eva").exists()
            assert before == len(
                site.server.events("file.reject") + site.server.events("file.ok") + site.server.events("limit.hit")
            )
        else:
            assert answers == b"\x01\x01"
            assert site.lab.stored("eva") == {"at once.txt": b"all of it"}


@pytest.mark.parametrize("size", [1000, LARGE])
def test_F09_a_flipped_bit_costs_that_file_alone(size: int, site: Site) -> None:
    content = os.urandom(size)
    damaged = bytearray(stranger.file(f"flipped {size}/damaged", content))
    damaged[128 + 8 + size // 2] ^= 1
    tls = site.session()
    tls.sendall(stranger.count(3) + stranger.file(f"flipped {size}/before", content))
    tls.sendall(damaged + stranger.file(f"flipped {size}/after", content))
    assert stranger.answers(tls, 3) == b"\x01\x00\x01"
    assert site.stored(f"flipped {size}") == {"before": content, "after": content}


@pytest.mark.parametrize("size", [5, LARGE])
def test_P01_a_name_that_climbs_gets_0_and_nothing_appears_outside(size: int, site: Site) -> None:
    names = ["../x", "../bruno/x", "climbing/../../../x", "/tmp/securexfer-x", "../.securexfer-staging/x"]
    tls = site.session()
    tls.sendall(stranger.count(len(names) + 1))
    for name in names:
        tls.sendall(stranger.file(name, bytes(size)))
    tls.sendall(stranger.file(f"climbing {size}/ok", b"x"))
    assert stranger.answers(tls, len(names) + 1) == b"\x00" * len(names) + b"\x01"
    assert site.stored(f"climbing {size}") == {"ok": b"x"}
    assert not [path for path in site.lab.home.parent.rglob("x") if path.name == "x" and path.is_file()]
    assert not Path("/tmp/securexfer-x").exists()


def test_T17_without_a_protocol_in_common_the_server_reads_nothing(site: Site) -> None:
    before = len(site.server.events("tls.fail"))
    for alpn in ("securexfer/9", "http/1.1"):
        with stranger.connect(site.server.port, str(site.lab.ca), alpn=alpn, source=fresh_source()) as tls:
            assert tls.selected_alpn_protocol() is None
            with contextlib.suppress(OSError):
                tls.sendall(stranger.login("ana", PASSWORD))
            with pytest.raises(OSError, match=r"EOF|reset|aborted"):
                stranger.rest(tls)
    assert site.server.wait_for("tls.fail", before + 2)["reason"] == "alpn"


# -- cut short ------------------------------------------------------------------------------------------------


def cuts(directory: str, size: int) -> dict[str, bytes]:
    """Return a session's bytes after a login, cut in each field of its second file; the first one is whole."""
    start = stranger.count(2) + stranger.file(f"{directory}/whole", b"whole")
    second = stranger.file(f"{directory}/part", bytes(size))
    places = {
        "before a name": 0,
        "in a name": 40,
        "in a size": 132,
        "before the content": 136,
        "in the content": 136 + size // 2,
        "before the digest": 136 + size,
        "in the digest": 136 + size + 31,
    }
    return {where: start + second[:end] for where, end in places.items()}


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_T19_T20_T21_an_early_end_in_any_field_leaves_nothing_of_the_file_in_flight(leave: Leave, site: Site) -> None:
    for where in cuts("", 0):
        directory = f"{where}, {leave.__name__}"
        size = LARGE if where == "in the content" else 100
        before = len(site.server.events("conn.close"))
        tls = site.session()
        tls.sendall(cuts(directory, size)[where])
        assert stranger.answers(tls, 1) == b"\x01"
        leave(tls)
        site.server.wait_for("conn.close", before + 1)
        assert site.server.events("conn.close")[before]["reason"] == "TRUNCATED", where
        assert site.stored(directory) == {"whole": b"whole"}


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_T19_T20_T21_an_early_end_before_the_first_file_is_no_more_than_that(leave: Leave, site: Site) -> None:
    login = stranger.login("ana", PASSWORD)
    half_a_count = b"\0\0"
    for sent in (b"", login[:3], login[:-1], half_a_count):
        before = len(site.server.events("conn.close"))
        tls = site.connect()
        if sent == half_a_count:
            assert stranger.log_in(tls, "ana", PASSWORD)
        tls.sendall(sent)
        leave(tls)
        site.server.wait_for("conn.close", before + 1)
        assert site.server.events("conn.close")[before]["reason"] == "TRUNCATED", sent


def test_T19_a_cut_is_told_from_an_end_in_order(site: Site) -> None:
    """Neither is a success. But only whoever has the keys can end a session in order, so the log says which it was."""
    said = {
        stranger.leave_in_order: "the connection ended in the middle of a file",
        stranger.leave_without_a_word: "the connection was cut: it ended without a goodbye",
    }
    for leave, detail in said.items():
        before = len(site.server.events("file.abort"))
        tls = site.session()
        tls.sendall(cuts(f"cut {leave.__name__}", 100)["in the content"])
        leave(tls)
        assert site.server.wait_for("file.abort", before + 1)["detail"] == detail


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_F03_of_three_files_announced_the_two_that_came_are_stored_and_in_the_log(leave: Leave, site: Site) -> None:
    """No answer was read, and after a FIN without a word none can be sent: the log has to know all the same."""
    directory = f"short {leave.__name__}"
    before, logged = len(site.server.events("conn.close")), len(site.server.events("file.ok"))
    tls = site.session()
    files = stranger.count(3) + stranger.file(f"{directory}/a", b"1") + stranger.file(f"{directory}/b", b"2")
    if leave is stranger.leave_by_reset:
        tls.sendall(files)
        time.sleep(0.5)  # a reset overtakes what was not read yet
        leave(tls)
    else:
        with site.server.paused():  # Python's `unwrap` fails if an answer is there already
            tls.sendall(files)
            leave(tls)
    if leave is stranger.leave_in_order:
        assert stranger.rest(tls) == b"\x01\x01"
    site.server.wait_for("conn.close", before + 1)
    assert site.server.events("conn.close")[before]["reason"] == "TRUNCATED"
    assert site.stored(directory) == {"a": b"1", "b": b"2"}
    assert [event["name"] for event in site.server.events("file.ok")[logged:]] == [f"{directory}/a", f"{directory}/b"]


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE)
def test_a_client_that_leaves_with_answers_unread_has_what_is_stored_in_the_log(leave: Leave, site: Site) -> None:
    """Files may be lost then, but what is stored and what the log says is stored are the same."""
    directory = f"unread {leave.__name__}"
    before, logged = len(site.server.events("conn.close")), len(site.server.events("file.ok"))
    tls = site.session()
    tls.sendall(stranger.count(1000))
    with contextlib.suppress(OSError):
        for number in range(600):
            tls.sendall(stranger.file(f"{directory}/{number}", b"x"))
    leave(tls)
    tls.close()
    site.server.wait_for("conn.close", before + 1)
    assert {event["name"] for event in site.server.events("file.ok")[logged:]} == {
        f"{directory}/{name}" for name in site.stored(directory)
    }


def test_a_client_that_never_reads_and_never_closes_is_let_go(site: Site) -> None:
    before = len(site.server.events("conn.close"))
    tls = site.session()
    tls.sendall(stranger.count(20))
    for number in range(20):
        tls.sendall(stranger.file(f"deaf/{number}", b"x"))
    site.server.wait_for("conn.close", before + 1)  # 5 s after the last file (section 9)
    assert len(site.stored("deaf")) == 20


# -- beside the rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [PASSWORD, PASSWORD + "x"], ids=["right", "wrong"])
def test_F04_what_nobody_asked_for_is_never_stored_and_costs_no_answer(password: str, site: Site) -> None:
    """Much more comes than the server wants to read; its last answer must not be lost to a reset."""
    user = "ana" if password == PASSWORD else "carla"
    files = stranger.count(1) + stranger.file("surplus/a", b"x") + stranger.file("surplus/b", bytes(8 << 20))
    hits = len(site.server.events("limit.hit"))
    tls = site.connect()
    tls.sendall(stranger.login(user, password) + files)
    if user == "ana":
        assert stranger.rest(tls) == b"\x01\x01"
        assert site.stored("surplus") == {"a": b"x"}
        quiet(site.server)
        assert [event["limit"] for event in site.server.events("limit.hit")[hits:]] == ["count"]
    else:
        assert stranger.rest(tls) == b"\x00"
        assert not (site.lab.inbox / user).exists()


def test_F06_a_size_costs_no_memory_and_no_disk_before_its_bytes_come(site: Site) -> None:
    sizes = [2**63, 2**64 - 1, 2**40 + 1]
    before, aborted = site.server.status("VmRSS"), len(site.server.events("file.abort"))
    for size in sizes:
        tls = site.session()
        tls.sendall(stranger.count(2) + stranger.file("sizes/ok", b"x"))
        tls.sendall(stranger.field("sizes/big") + struct.pack(">Q", size) + b"some of it")
        assert stranger.answers(tls, 2) == b"\x01\x00"
        assert stranger.rest(tls) == b""
    tls = site.session()
    free = os.statvfs(site.lab.inbox).f_bavail * os.statvfs(site.lab.inbox).f_frsize
    tls.sendall(stranger.count(1) + stranger.field("sizes/sparse") + struct.pack(">Q", 10 << 30) + b"some of it")
    time.sleep(0.5)
    after = os.statvfs(site.lab.inbox).f_bavail * os.statvfs(site.lab.inbox).f_frsize
    assert free - after < 5 << 30  # others write here, too, but nobody so much
    assert site.server.status("VmRSS") - before < 32 << 10
    tls.close()
    site.server.wait_for("file.abort", aborted + 1)
    assert site.stored("sizes") == {"ok": b"x"}


@pytest.mark.parametrize("files", [100_000, 100_001, 2**31, 2**32 - 1])
def test_F02_a_count_costs_nothing_before_its_files_come(files: int, site: Site) -> None:
    """One over the limit ends the session without an answer; none is believed before its files are there."""
    before = site.server.status("VmRSS")
    sessions = []
    for _ in range(5):
        sessions.append(site.session())
        sessions[-1].sendall(stranger.count(files))
    for tls in sessions:
        if files > 100_000:
            assert stranger.rest(tls) == b""
        else:
            assert stranger.send(tls, []) == []
    assert site.server.status("VmRSS") - before < 8 << 10


def test_P25_whether_somebody_else_has_a_file_of_that_name_makes_no_difference(site: Site) -> None:
    tls = site.session()
    assert stranger.send(tls, [("private.txt", b"ana's"), ("private/x", b"ana's")]) == [True, True]
    tls = site.connect()
    assert stranger.log_in(tls, "eva", PASSWORD)
    assert stranger.send(tls, [("private.txt", b"eva's"), ("private", b"no directory here")]) == [True, True]
    assert (site.lab.inbox / "ana" / "private.txt").read_bytes() == b"ana's"
    assert (site.lab.inbox / "eva" / "private.txt").read_bytes() == b"eva's"


def test_T22_what_is_not_TLS_gets_no_answer_and_does_no_harm(site: Site) -> None:
    before = len(site.server.events("tls.fail"))
    greetings = [b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", stranger.login("ana", PASSWORD), b""]
    for greeting in greetings:
        with (
            socket.create_connection(("127.0.0.1", site.server.port), 10, (fresh_source(), 0)) as plain,
            contextlib.suppress(OSError),  # reset: as good an end as any other
        ):
            plain.sendall(greeting)
            plain.shutdown(socket.SHUT_WR)
            assert plain.recv(1024)[:1] in {b"", b"\x15"}  # nothing, or an alert of TLS
    site.server.wait_for("tls.fail", before + len(greetings))


def test_a_dozen_sessions_at_once_keep_apart(site: Site) -> None:
    """Each sends in turn a part of its file, so that all of them are open at the same time."""
    sessions = [site.session() for _ in range(12)]
    for tls in sessions:
        tls.sendall(stranger.count(1))
    streams = [stranger.file(f"apart/{number}", b"%d" % number * 5000) for number in range(12)]
    for part in range(4):
        for tls, stream in zip(sessions, streams, strict=True):
            quarter = len(stream) // 4 + 1
            tls.sendall(stream[part * quarter : (part + 1) * quarter])
        time.sleep(0.1)  # so that each part is also read before the next one comes
    for tls in sessions:
        assert stranger.answers(tls, 1) == b"\x01"
    assert site.stored("apart") == {str(number): b"%d" % number * 5000 for number in range(12)}


def test_O4_descriptors_and_threads_go_back_to_where_they_were(site: Site) -> None:
    def held() -> dict[str, int]:
        descriptors = list(Path(f"/proc/{site.server.process.pid}/fd").iterdir())
        return {"descriptors": len(descriptors), "threads": site.server.status("Threads")}

    with stranger.connect(site.server.port, str(site.lab.ca)) as tls:
        assert stranger.log_in(tls, "ana", PASSWORD)
        assert stranger.send(tls, []) == []
    quiet(site.server)
    before = held()
    for leave in WAYS_TO_LEAVE:
        for size in (100, LARGE):
            tls = site.session()
            tls.sendall(cuts("leaks", size)["in the content"])
            leave(tls)
            tls.close()
    settle(lambda: held() == before)
    assert held() == before
