"""What a client meets at the login of a running server: every refusal is the same, whatever the reason in the log."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import stranger_client as stranger
from lab import PASSWORD, fresh_source

if TYPE_CHECKING:
    from lab import Lab, Server


def heard(lab: Lab, server: Server, user: str, password: str) -> bytes:
    """Return all that a login is answered, up to an end in order; any other end raises."""
    with stranger.connect(server.port, str(lab.ca), source=fresh_source()) as tls:
        tls.sendall(user.encode().ljust(128) + password.encode().ljust(128))
        return stranger.rest(tls)


def test_A01_every_refused_login_hears_the_same_and_only_the_log_says_why(lab: Lab) -> None:
    assert lab.run("user", "disable", "bruno", "--home", lab.home).returncode == 0
    database = sqlite3.connect(lab.home / "users.db")
    with database:
        database.execute("UPDATE users SET hash = NULL WHERE name = 'carla'")
    database.close()
    server = lab.serve()
    cases = {
        ("ana", PASSWORD + "x"): "wrong",
        ("ana", ""): "malformed",
        ("nobody", PASSWORD): "unknown",
        ("bruno", PASSWORD): "disabled",
        ("carla", PASSWORD): "no-hash",
        ("carla", ""): "malformed",
        ("../ana", PASSWORD): "malformed",
        ("davi\0", PASSWORD): "malformed",
        ("davi", PASSWORD + "\0"): "malformed",
    }
    assert {case: heard(lab, server, *case) for case in cases} == dict.fromkeys(cases, b"\x00")
    assert server.stop() == 0
    assert [event["reason"] for event in server.events("auth.fail")] == list(cases.values())
    assert {(event["reason"], event["detail"]) for event in server.events("conn.close")} == {
        ("AUTH", server.events("conn.close")[0]["detail"])
    }
    assert not server.events("auth.ok")
    assert PASSWORD not in server.log_path.read_text()
