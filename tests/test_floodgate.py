"""The floodgate in front of the log: what strangers cause is bounded and counted, what users did is all there."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from securexfer.cli import floodgate
from securexfer.cli.floodgate import Floodgate
from securexfer.events import (
    ConnectionClosed,
    ConnectionOpened,
    Event,
    FilesStored,
    KeyNotice,
    LimitHit,
    LoginAccepted,
    LoginFailed,
    LogSuppressed,
    StoreError,
    TlsFailed,
)


class Gate:
    """A floodgate with a clock that is set by hand; `happened` counts what it was told, `lines` is what came out."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        self.lines: list[tuple[float, Event]] = []
        self._gate = Floodgate(lambda moment, event: self.lines.append((moment, event)), lambda: self.now)

    def write(self, *events: Event) -> None:
        for event in events:
            self.happened += 1
            self._gate.write(event)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._gate.report()

    def close(self) -> None:
        self._gate.close()

    def written(self, kind: type[Event] | None = None, address: str | None = None) -> list[Any]:
        """Return the events that were written, all or those of one kind or address."""
        return [
            event
            for _, event in self.lines
            if not isinstance(event, LogSuppressed)
            and (kind is None or isinstance(event, kind))
            and (address is None or getattr(event, "address", None) == address)
        ]

    @property
    def told(self) -> list[LogSuppressed]:
        """What was said about lines that were left out."""
        return [event for _, event in self.lines if isinstance(event, LogSuppressed)]

    @property
    def accounted(self) -> int:
        return len(self.written()) + sum(event.lines for event in self.told)


def failing(number: int, address: str) -> list[Event]:
    """Return what a connection causes that fails at its handshake."""
    return [
        ConnectionOpened(number, address),
        TlsFailed(number, address, "version"),
        ConnectionClosed(number, address, "tls", "", 0.1),
    ]


def session(number: int, address: str, files: int = 1) -> list[Event]:
    """Return what an honest send causes."""
    return [
        ConnectionOpened(number, address),
        LoginAccepted(number, address, "ana", 0.1),
        *(FilesStored(number, address, "ana", [(f"{each}", 1, "", "stored", f"{each}", 0.1)]) for each in range(files)),
        ConnectionClosed(number, address, "done", "", 1.0),
    ]


def test_O02_a_hundred_thousand_failing_connections_of_one_source_are_ten_lines_and_one_a_second() -> None:
    gate = Gate()
    seconds = 100
    for number in range(100_000):
        gate.write(*failing(number, "192.0.2.7"))
        gate.wait(seconds / 100_000)
    assert len(gate.lines) <= 10 + seconds, "the lines that say how many were left out are among them"
    assert len(gate.lines) > seconds / 2
    gate.close()
    assert gate.accounted == gate.happened == 300_000
    kinds: Counter[str] = Counter()
    for event in gate.told:
        assert (event.address, event.sources, event.lines) == ("192.0.2.7", 1, sum(event.kinds.values()))
        kinds.update(event.kinds)
    kinds.update(event.kind for event in gate.written())
    assert kinds == {"conn.open": 100_000, "tls.fail": 100_000, "conn.close": 100_000}


def test_O02_fifty_thousand_sources_are_a_thousand_lines_and_ten_a_second_and_a_bounded_table() -> None:
    gate = Gate()
    seconds, sources = 50, 50_000
    for number in range(sources):
        gate.write(*failing(number, f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        gate.wait(seconds / sources)
        assert len(gate._gate._sources) <= floodgate.SOURCES
    assert len(gate.lines) <= 1000 + 10 * seconds
    gate.close()
    assert gate.accounted == gate.happened == 3 * sources
    assert not gate._gate._strangers
    rest = [event for event in gate.told if event.address == "*"]
    assert sum(event.sources for event in rest) > sources / 2
    assert len(gate.told) <= 11 * (seconds / floodgate.TELL_SECONDS + 1)


def test_O02_a_connection_is_in_the_log_whole_or_not_at_all() -> None:
    dice = random.Random(2)
    gate = Gate()
    streams = [
        iter((session if number % 5 == 0 else failing)(number, f"192.0.2.{number % 3}")) for number in range(900)
    ]
    while streams:
        stream = dice.choice(streams[:30])  # so many at a time
        event = next(stream, None)
        if event:
            gate.write(event)
            gate.wait(0.01)
        else:
            streams.remove(stream)
    gate.close()
    shown: dict[int, list[str]] = {}
    for event in gate.written():
        shown.setdefault(event.connection, []).append(event.kind)
    whole = (["conn.open", "tls.fail", "conn.close"], ["conn.open", "auth.ok", "file.ok", "conn.close"])
    assert all(kinds in whole for kinds in shown.values())
    assert sum("auth.ok" in kinds for kinds in shown.values()) == 180, "a session was thinned"
    assert 0 < sum("tls.fail" in kinds for kinds in shown.values()) < 720
    assert gate.accounted == gate.happened


def test_O02_sessions_are_all_there_however_many_and_whatever_their_neighbours_do() -> None:
    """A lab behind one address: sixty-four sends at once, again and again, among somebody's broken connections."""
    gate = Gate()
    address, number = "192.0.2.1", 0
    for _ in range(20):
        streams = [session(number + each, address, files=3) for each in range(64)]
        broken = [failing(number + 100 + each, address) for each in range(64)]
        number += 200
        for step in range(6):
            for good, bad in zip(streams, broken, strict=True):
                gate.write(*good[step : step + 1], *bad[step : step + 1])
        gate.wait(1)
    assert len(gate.written(LoginAccepted)) == 20 * 64
    assert len(gate.written(FilesStored)) == 20 * 64 * 3
    good = {event.connection for event in gate.written(LoginAccepted)}
    for kind in (ConnectionOpened, ConnectionClosed):
        assert good <= {event.connection for event in gate.written(kind)}
    gate.close()
    assert gate.accounted == gate.happened


def test_O02_logins_alone_use_up_nothing() -> None:
    """After a busy morning the first failure is in the log like on a quiet one."""
    gate = Gate()
    for number in range(1000):
        gate.write(*session(number, "192.0.2.1"))
    gate.write(*failing(2000, "192.0.2.1"), *failing(2001, "192.0.2.1"), *failing(2002, "192.0.2.1"))
    assert gate.happened == len(gate.lines) == 4009


def test_O02_an_opening_that_was_kept_has_its_own_time_and_stands_before_the_login() -> None:
    gate = Gate()
    for number in range(10):
        gate.write(*failing(number, "192.0.2.1"))
    before = time.time()
    gate.write(ConnectionOpened(50, "192.0.2.1"))
    between = time.time()
    assert 50 not in [event.connection for event in gate.written(ConnectionOpened)]
    gate.write(LoginAccepted(50, "192.0.2.1", "ana", 0.1))
    (when, opening), (later, login) = gate.lines[-2:]
    assert (opening, login.kind) == (ConnectionOpened(50, "192.0.2.1"), "auth.ok")
    assert before <= when <= between <= later


def test_O02_what_was_left_out_is_said_within_seconds_and_at_the_end() -> None:
    gate = Gate()
    for number in range(10):
        gate.write(*failing(number, "192.0.2.1"))
    assert not gate.told
    gate.wait(floodgate.TELL_SECONDS)
    assert gate.told == [LogSuppressed("192.0.2.1", 1, 21, {"conn.close": 7, "conn.open": 7, "tls.fail": 7})]
    gate.wait(100)
    assert len(gate.told) == 1, "it was said twice"
    gate.write(*(event for number in range(11, 16) for event in failing(number, "192.0.2.1")))
    gate.write(ConnectionOpened(17, "192.0.2.1"))
    gate.close()
    assert gate.told[1:] == [LogSuppressed("192.0.2.1", 1, 7, {"conn.close": 2, "conn.open": 3, "tls.fail": 2})]


def test_O02_the_loudest_sources_are_named_and_the_rest_is_one_line() -> None:
    gate = Gate()
    for source in range(30):
        for number in range(10 + source):
            gate.write(*failing(100 * source + number, f"192.0.2.{source}"))
    gate.close()
    assert [event.address for event in gate.told] == [*(f"192.0.2.{source}" for source in range(29, 19, -1)), "*"]
    assert gate.told[-1].sources == 20
    assert gate.accounted == gate.happened


def test_O02_a_limit_before_a_login_is_one_line_a_second_and_one_of_a_session_is_always_written() -> None:
    gate = Gate()
    for _ in range(500):
        gate.write(LimitHit("192.0.2.1", "handshakes", "ended"), LimitHit("192.0.2.1", "count", "too many", "ana"))
        gate.wait(0.1)
    assert 50 <= len([event for event in gate.written(LimitHit) if event.limit == "handshakes"]) <= 60
    assert len([event for event in gate.written(LimitHit) if event.limit == "count"]) == 500
    gate.close()
    assert gate.accounted == gate.happened


def test_O02_the_addresses_that_one_ipv6_host_chooses_itself_are_one_source() -> None:
    gate = Gate()
    for number in range(1000):
        gate.write(*failing(number, f"2001:db8:0:7::{number:x}"))
    assert len(gate.written()) == 9
    gate.write(*failing(2000, "2001:db8:0:8::1"))
    assert len(gate.written()) == 12
    gate.close()
    assert [(event.address, event.lines) for event in gate.told] == [("2001:db8:0:7::/64", 2991)]


def test_O02_limits_that_nobody_in_particular_hit_are_one_source() -> None:
    gate = Gate()
    gate.write(*[LimitHit("", "descriptors", "EMFILE")] * 50)
    gate.close()
    assert (len(gate.written()), [(event.address, event.lines) for event in gate.told]) == (10, [("", 40)])


def test_O02_errors_of_the_server_that_each_login_may_cause_are_bounded() -> None:
    gate = Gate()
    gate.write(*[StoreError("there is no users' database")] * 50)
    gate.close()
    assert (len(gate.written()), [(event.address, event.lines) for event in gate.told]) == (10, [("", 40)])


def test_O02_what_is_nobodys_flood_is_always_written() -> None:
    gate = Gate()
    gate.write(*(event for number in range(100) for event in failing(number, "192.0.2.1")))
    before = len(gate.lines)
    gate.write(*[KeyNotice("ends soon")] * 100)
    gate.write(*failing(200, "198.51.100.1"))
    gate.write(ConnectionOpened(201, "198.51.100.1"), LoginFailed(201, "198.51.100.1", "ana", "wrong", 0.1))
    assert len(gate.lines) == before + 105, "another source pays for the first"
