"""A hostile client at a real server: what it is told is true, and after each of its cases all seven oracles hold.

Each case has a user and a source address of its own, so that what one of them is made to wait for, or what the log
leaves out of it, touches no other.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import stranger_client as stranger
from hostile import client as kit
from hostile.client import LOGINS, PLANTED, QUOTAS, SESSIONS, WAYS, Session
from hostile.listeners import HOST
from hostile.site import Site
from lab import PASSWORD, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POINTS = {f"{point}, {way.__name__}": (point, way) for point in kit.points("u0", PASSWORD) for way in WAYS}
HELLOS = {
    f"{size} of a hello, {way.__name__}": (size, way)
    for size in ("nothing", "half", "all")
    for way in (stranger.leave_without_a_word, stranger.leave_by_reset)
}
CASES = [*LOGINS, *SESSIONS, *QUOTAS, *POINTS, *HELLOS, "planted"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Site]:
    lab = Lab(tmp_path_factory.mktemp("hostile"), lab_source)
    yield Site(lab, CASES, "127.1", "--largest-file", str(kit.LARGEST))
    lab.close()


@pytest.mark.parametrize("case", LOGINS)
def test_A01_A03_A14_A23_a_login_that_is_wrong_somewhere(site: Site, case: str) -> None:
    """It gets the one byte that every wrong login gets, or nothing if it never became whole; and nothing is stored."""
    login = LOGINS[case]
    right = stranger.login(site.user(case), PASSWORD)
    said = login.says(right[:128], right[128:])
    with site.connect(case) as tls:
        for start in range(0, len(said), login.record):
            tls.sendall(said[start : start + login.record])
        assert stranger.answers(tls, len(login.hears)) == login.hears
        stranger.leave_in_order(tls)
        assert stranger.rest(tls) == b""
    site.check(case, dict.fromkeys(login.stores, b"good"), (login.ends,))
    assert bool(site.logged("auth.ok", case)) == login.hears.startswith(kit.YES)


def run_session(site: Site, case: str, session: Session) -> None:
    with site.connect(case) as tls:
        assert stranger.log_in(tls, site.user(case), PASSWORD)
        tls.sendall(session.says)
        assert stranger.answers(tls, len(session.hears)) == session.hears
        stranger.leave_in_order(tls)
        assert stranger.rest(tls) == b""
    site.check(case, session.stores, (session.ends,), session.aborts)
    assert len(site.logged("file.ok", case)) == session.hears.count(kit.YES)


@pytest.mark.parametrize("case", SESSIONS)
def test_F01_F02_F03_F04_F06_F08_F09_F11_F12_P01_P06_P07_a_session_that_is_wrong_somewhere(
    site: Site, case: str
) -> None:
    """Each wrong file costs itself, or the rest of the session; what is announced costs nothing before it comes."""
    run_session(site, case, SESSIONS[case])


def test_F06_F07_a_quota_is_kept_to_the_byte(lab: Lab) -> None:
    site = Site(lab, CASES, "127.1", "--quota", str(kit.QUOTA))
    for case, session in QUOTAS.items():
        run_session(site, case, session)


def test_P14_links_in_an_inbox_lead_nowhere(site: Site) -> None:
    """Planted there by somebody who can: to a directory, a file, and nothing, outside."""
    home = site.lab.inbox / site.user("planted")
    home.mkdir(mode=0o700)
    for name, target in (("directory", "directory"), ("file", "plain"), ("nowhere", "no such thing")):
        (home / name).symlink_to(site.oracles.outside / target)
        site.oracles.planted.add(f"{home.name}/{name}")
    run_session(site, "planted", PLANTED)


@pytest.mark.parametrize("case", POINTS)
def test_T19_T20_T21_F08_leaving_at_any_point_leaves_nothing_of_the_file_on_its_way(site: Site, case: str) -> None:
    """By close_notify, by FIN, by RST; in each field and after it, before the login's answer and the last file's."""
    name, leave = POINTS[case]
    point = kit.points(site.user(case), PASSWORD)[name]
    with site.connect(case) as tls:
        tls.sendall(point.said)
        assert stranger.answers(tls, len(point.hears)) == point.hears
        leave(tls)
    site.check(case, dict.fromkeys(point.stores, b"good"), point.ends, point.aborts)


def hello() -> bytes:
    """Return what a client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["securexfer/1"])
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("case", HELLOS)
def test_T22_leaving_in_the_handshake(site: Site, case: str) -> None:
    size, leave = HELLOS[case]
    whole = hello()
    said = {"nothing": b"", "half": whole[: len(whole) // 2], "all": whole}[size]
    with socket.create_connection((HOST, site.server.port), 15, (site.source(case), 0)) as sock:
        sock.sendall(said)
        if size == "all":
            assert sock.recv(1)
        leave(sock)
    site.oracles.check()
    # One that was reset before it was accepted may not even have got a worker.
    assert [event["reason"] for event in site.logged("conn.close", case)] in (["tls"], [])
    assert not site.logged("auth.fail", case)
