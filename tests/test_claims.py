"""A tree that is sent again: what both sides know is said in two messages, and everything else as if it were new."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fuzz.sending import Client, Silent, stream_of
from fuzz.speaking import frames_of
from hostile import speaking
from hostile.chaos import UP, Way
from hostile.speaking import FINISH, claim
from lab import PASSWORD

from securexfer.errors import NameTakenError, ProtocolError
from securexfer.net.frames import Frames
from securexfer.transfer import digests, expecting
from securexfer.transfer.digests import DigestCache, clock_ns
from securexfer.transfer.expecting import ALIKE, FIRST_OFFERS
from securexfer.transfer.items import Item
from securexfer.transfer.sender import Sender
from securexfer.transfer.sending import Sending
from securexfer.transfer.tree import LeftOut, ScanRules, scan
from securexfer.transfer.wishes import Wishes
from securexfer.wire import messages
from securexfer.wire.messages import EAGER, Abort, Claim, Finish, Offer, Start, Totals, Trailer
from securexfer.wire.order import IDLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab import Lab, Server

READY = "0 Ready window=2048 eager=1000"
CONTENT = b"what was measured"
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of digests of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def remember(*paths: Path, digest: bytes | None = None) -> None:
    """Have the cache know files, as if they had been read long after they were written."""
    with DigestCache() as known:
        for path in paths:
            known.add(path.stat(), digest or hashlib.sha256(path.read_bytes()).digest(), clock_ns() + 10**10)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    (place / "x").write_bytes(CONTENT)
    remember(place / "x")
    return place


@pytest.fixture
def pair(tree: Path) -> Path:
    """Return the tree with a file before the other: the first is looked at before the login, and never claimed."""
    (tree / "0").write_bytes(b"0")
    remember(tree / "0")
    return tree


# -- what a sender says -------------------------------------------------------------------------------------------


class Answering(Client):
    """A server that says one thing each time the sender waits for it."""

    def __init__(self, *answers: str | list[str]) -> None:
        super().__init__(b"")
        steps = [[READY], *(answer if isinstance(answer, list) else [answer] for answer in answers), ["0 Summary"]]
        self._steps = [stream_of(step)[: -messages.HEADER_SIZE] for step in steps]  # but for the Alive at its end

    def has_input(self, _seconds: float) -> bool:
        self.stream = memoryview(bytes(self.stream) + self._steps.pop(0))
        return True

    def try_receive_into(self, view: memoryview) -> int | None:
        return super().try_receive_into(view) if len(self.stream) else None


def run(connection: Answering, items: Sequence[Item], **wishes: Any) -> Frames:
    """Let a sender send these items."""
    frames = Frames(connection, server=False)  # type: ignore[arg-type]  # all of it that is used
    frames.conversation.state = IDLE
    with Sending(iter(items), Silent(), "", Wishes(**wishes)) as sending:
        Sender(frames, sending).run()
    return frames


def said(items: Sequence[Item], *answers: str | list[str], **wishes: Any) -> list[messages.Message]:
    """Return what a sender says of items, without Put, to a server whose answers are these."""
    connection = Answering(*answers)
    run(connection, items, **wishes)
    return [message for message, _ in frames_of(bytes(connection.said))][1:]


def found(tree: Path) -> list[Item]:
    """Return the files of a tree, as they are found."""
    return [item for item in scan([tree], ScanRules(), LeftOut()) if not item.directory]


def claim_of(item: Item, digest: bytes = DIGEST) -> Claim:
    return Claim(item.executable, item.size, item.mtime_ns, digest, item.name)


def test_a_file_whose_digest_is_known_is_claimed_and_that_is_all_if_it_is_unchanged(tree: Path) -> None:
    (item,) = found(tree)
    assert said([item], "1 Committed outcome=unchanged") == [claim_of(item), Totals(1, len(CONTENT)), Finish()]
    assert (item.outcome, item.stored_as, item.sha256) == ("unchanged", "tree/x", DIGEST.hex())
    assert (item.sent, item.resumed) == (0, 0)


def test_a_file_whose_digest_is_not_known_is_offered(tree: Path, cache: Path) -> None:
    shutil.rmtree(cache)
    (item,) = found(tree)
    offer, *rest = said([item], f"1 Accept offset={len(CONTENT)}", "1 Committed outcome=unchanged")
    assert offer == Offer(0, len(CONTENT), item.mtime_ns, "tree/x")
    assert [type(message) for message in rest] == [Totals, Start, Trailer, Finish]


def remembered(cache: Path) -> int:
    """Return how many digests are in the cache; raise OperationalError if anybody keeps others from writing there."""
    with contextlib.closing(sqlite3.connect(cache / "securexfer/digests.db", timeout=0)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        return int(connection.execute("SELECT count(*) FROM digests").fetchone()[0])


def test_a_sender_that_waits_keeps_nobody_from_remembering_and_has_written_at_the_end_what_it_read(
    tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may wait long: for a script that the server runs."""
    (tree / "y").write_bytes(b"y")
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    connection = Answering("1 Committed outcome=unchanged", "2 Accept", "2 Committed outcome=stored")
    has_input, rows = connection.has_input, []

    def look(seconds: float) -> bool:
        rows.append(remembered(cache))
        return has_input(seconds)

    connection.has_input = look  # type: ignore[method-assign]
    run(connection, found(tree))
    kinds = [type(message) for message, _ in frames_of(bytes(connection.said))]
    assert kinds == [messages.Put, Claim, Offer, Totals, Start, Trailer, Finish]
    assert rows[0] == 1
    assert rows[-1] == 2


def test_what_is_taken_back_is_looked_at_again_before_it_is_claimed(tree: Path) -> None:
    (item,) = found(tree)
    assert item.seen
    with Sending(iter([item]), Silent(), "", Wishes()) as sending:
        sending.take_back([one for one in [sending.following()] if one])
        assert sending.following() is item
    assert item.seen is None


def test_what_is_small_goes_with_its_content_behind_a_large_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expecting, "FIRST_OFFERS", ALIKE)
    place = tmp_path / "files"
    place.mkdir()
    sizes = {f"{number}": 10 for number in range(1, ALIKE)} | {"large": messages.MAX_DATA + 1, "small": 10}
    for name, size in sizes.items():
        (place / name).write_bytes(bytes(size))
    items = [Item(place / name, name, size, (place / name).stat().st_mtime_ns) for name, size in sizes.items()]
    numbers = range(1, len(items) + 1)
    heard = said(
        items,
        [f"{number} Accept" for number in numbers[:-1]],
        [f"{number} Committed outcome=stored" for number in numbers],
    )
    offers = [message for message in heard if isinstance(message, Offer)]
    assert [(offer.name, offer.flags) for offer in offers] == [
        *((name, 0) for name in sizes if name != "small"),
        ("small", EAGER),
    ]
    assert [type(message) for message in heard[-5:]] == [Trailer, Offer, Trailer, Totals, Finish]
    assert [item.outcome for item in items] == ["stored"] * len(items)


def test_rehash_claims_nothing_from_memory(tree: Path) -> None:
    """Though every file is known, each is read."""
    remember(tree / "x", digest=bytes(32))
    (item,) = found(tree)
    heard = said([item], f"1 Accept offset={len(CONTENT)}", "1 Committed outcome=unchanged", rehash=True)
    assert [type(message) for message in heard] == [Offer, Totals, Start, Trailer, Finish]
    assert heard[3] == Trailer(DIGEST)


def test_a_file_that_is_alone_is_offered_without_opening_the_cache(tree: Path) -> None:
    """Of several that were typed, those behind the first are claimed."""
    (tree / "y").write_bytes(b"y")
    remember(tree / "y")
    items = [Item(path, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(tree.iterdir())]
    heard = said(
        items, "2 Committed outcome=unchanged", f"1 Accept offset={len(CONTENT)}", "1 Committed outcome=unchanged"
    )
    assert [type(message) for message in heard] == [Offer, Claim, Totals, Start, Trailer, Finish]
    assert heard[1] == claim_of(items[1], hashlib.sha256(b"y").digest())


def test_a_claim_that_is_accepted_goes_on_as_an_offer(tree: Path) -> None:
    """All of it is there, to be proved; nothing is; the beginning is."""
    for offset, payload in ((len(CONTENT), 0), (0, len(CONTENT)), (5, len(CONTENT) - 5)):
        (item,) = found(tree)
        nonce = bytes(16)
        heard = said([item], f"1 Accept offset={offset}", "1 Committed outcome=stored")
        prefix = hashlib.sha256(CONTENT[:offset]).digest()
        assert heard == [
            claim_of(item),
            Totals(1, len(CONTENT)),
            Start(offset, hashlib.sha256(nonce + prefix).digest()),
            Trailer(DIGEST),
            Finish(),
        ]
        assert (item.outcome, item.resumed, item.sent) == ("stored", offset, len(CONTENT))
        assert payload == item.sent - item.resumed


def test_where_something_else_is_the_file_is_offered_anew(tree: Path) -> None:
    (item,) = found(tree)
    heard = said([item], '1 Refuse reason="CHANGED"', "2 Accept", "2 Committed outcome=replaced", on_conflict="replace")
    assert [type(message) for message in heard] == [Claim, Totals, Abort, Offer, Start, Trailer, Finish]
    assert heard[3] == Offer(messages.FRESH, len(CONTENT), item.mtime_ns, "tree/x")
    assert item.outcome == "replaced"


def test_a_claim_that_is_refused_has_its_error(tree: Path) -> None:
    (item,) = found(tree)
    heard = said([item], '1 Refuse reason="EXISTS"')
    assert [type(message) for message in heard] == [Claim, Totals, Abort, Finish]
    assert isinstance(item.error, NameTakenError)


def test_a_file_that_changed_behind_its_claim_has_no_digest(tree: Path) -> None:
    (item,) = found(tree)
    connection = Answering(f"1 Accept offset={len(CONTENT)}", '1 Refuse reason="ABORTED"')
    has_input = connection.has_input

    def change(seconds: float) -> bool:
        (tree / "x").write_bytes(b"other" if connection.said.count(b"tree/x") else CONTENT)
        return has_input(seconds)

    connection.has_input = change  # type: ignore[method-assign]
    run(connection, [item])
    assert item.error
    assert "changed" in item.error.message
    assert item.sha256 is None


@pytest.mark.parametrize("outcome", ["stored", "renamed", "replaced"])
def test_a_server_that_says_it_has_stored_what_was_only_claimed_is_not_believed(tree: Path, outcome: str) -> None:
    (item,) = found(tree)
    with pytest.raises(ProtocolError, match="which was not sent"):
        said([item], f"1 Committed outcome={outcome}")
    assert item.open


def test_what_would_be_sent_is_asked_by_claims_in_a_dry_run_too(tree: Path) -> None:
    (item,) = found(tree)
    assert said([item], "1 Committed outcome=unchanged", dry_run=True)[0] == claim_of(item)
    assert item.outcome == "unchanged"
    (item,) = found(tree)
    heard = said([item], "1 Accept", '1 Refuse reason="ABORTED"', dry_run=True)
    assert [type(message) for message in heard] == [Claim, Totals, Abort, Finish]
    assert item.outcome == "offered"


def many(tree: Path, count: int, *, known: bool = True) -> list[Item]:
    for number in range(count):
        (tree / f"{number:05}").write_bytes(b"%05d" % number)
    (tree / "x").unlink()
    if known:
        remember(*tree.iterdir())
    return found(tree)


def test_claims_go_ahead_as_offers_do_and_further_with_each_answer(tree: Path) -> None:
    """As if there were a long line: each answer makes room for two more."""
    items = many(tree, 300)
    connection = Answering(*(f"{number} Committed outcome=unchanged" for number in range(1, 301)))
    ahead: list[int] = []
    has_input = connection.has_input

    def waiting(seconds: float) -> bool:
        ahead.append(len([message for message, _ in frames_of(bytes(connection.said)) if isinstance(message, Claim)]))
        return has_input(seconds)

    connection.has_input = waiting  # type: ignore[method-assign]
    run(connection, items)
    assert ahead[:5] == [0, FIRST_OFFERS, FIRST_OFFERS + 2, FIRST_OFFERS + 4, FIRST_OFFERS + 6]
    assert ahead[-1] == 300
    assert {item.outcome for item in items} == {"unchanged"}


def test_when_nothing_is_there_the_next_files_go_eagerly_though_they_are_known(tree: Path) -> None:
    items = many(tree, FIRST_OFFERS + 10)
    accepted = [f"{number} Accept" for number in range(1, FIRST_OFFERS + 1)]
    stored = [f"{number} Committed outcome=stored" for number in range(1, len(items) + 1)]
    heard = said(items, accepted, stored)
    assert len([message for message in heard if isinstance(message, Claim)]) == FIRST_OFFERS
    eager = [message for message in heard if isinstance(message, Offer)]
    assert [message.flags for message in eager] == [messages.EAGER] * 10
    assert FIRST_OFFERS > ALIKE


@pytest.mark.parametrize("rehash", [False, True])
def test_what_is_not_remembered_is_read_for_its_claim_where_the_receiver_had_all_before_it(
    tree: Path, *, rehash: bool
) -> None:
    """As of a tree that was sent as soon as it was written: too young to be remembered."""
    items = many(tree, FIRST_OFFERS + 12, known=False)
    large, gone = items[-2:]
    Path(large.path).write_bytes(bytes(1001))  # more than goes with its offer
    Path(gone.path).unlink()
    there = [f"{number} Accept offset=5" for number in range(1, FIRST_OFFERS + 1)]
    unchanged = [f"{number} Committed outcome=unchanged" for number in range(1, len(items) - 1)]
    last = [f"{len(items) - 1} Accept offset=5", f"{len(items)} Accept offset=5"]
    ended = [f'{number} Refuse reason="ABORTED"' for number in (len(items) - 1, len(items))]
    heard = said(items, there, unchanged, last, ended, rehash=rehash)
    claims = [message for message in heard if isinstance(message, Claim)]
    digests_of = [hashlib.sha256(b"%05d" % number).digest() for number in range(FIRST_OFFERS, FIRST_OFFERS + 10)]
    assert claims == [claim_of(item, digest) for item, digest in zip(items[FIRST_OFFERS:-2], digests_of, strict=True)]
    assert {item.outcome for item in items[:-2]} == {"unchanged"}
    assert "changed" in str(large.error)
    assert "cannot be opened" in str(gone.error)


@pytest.mark.parametrize("before", ["Accept offset=5", "Accept"])
def test_nothing_is_read_for_a_claim_after_an_answer_that_something_is_new(tree: Path, before: str) -> None:
    items = many(tree, FIRST_OFFERS + 4, known=False)
    answers = [f"{number} {before}" for number in range(1, FIRST_OFFERS)] + [f"{FIRST_OFFERS} Accept"]
    outcome = {"Accept": "stored", "Accept offset=5": "unchanged"}[before]
    done = [f"{number} Committed outcome={outcome}" for number in range(1, FIRST_OFFERS + 1)]
    rest = [f"{number} Accept" for number in range(FIRST_OFFERS + 1, len(items) + 1)]
    stored = [f"{number} Committed outcome=stored" for number in range(FIRST_OFFERS + 1, len(items) + 1)]
    heard = said(items, answers, done, *((rest, stored) if before != "Accept" else (stored,)))
    assert not [message for message in heard if isinstance(message, Claim)]
    assert all(item.outcome for item in items)


def test_what_the_scan_saw_is_used_when_a_file_is_first_offered_and_never_again(tree: Path) -> None:
    """Whoever asks later, as for a file that was taken back because the connection is lost, looks at it anew."""
    items = many(tree, FIRST_OFFERS + 10)
    accepted = [f"{number} Accept" for number in range(1, FIRST_OFFERS + 1)]
    said(items, accepted, [f"{number} Committed outcome=stored" for number in range(1, len(items) + 1)])
    assert {item.seen for item in items} == {None}
    (item,) = found(tree / "00000")
    with Sending(iter([item]), Silent(), "", Wishes()) as sending:
        seen = (tree / "00000").lstat()
        digest = hashlib.sha256(b"00000").digest()
        assert sending.known_digest(item, seen) == digest
        (tree / "00000").write_bytes(b"other")
        os.utime(tree / "00000", ns=(item.mtime_ns, item.mtime_ns))
        assert sending.known_digest(item, seen) == digest
        assert sending.known_digest(item) is None


# -- towards a server ----------------------------------------------------------------------------------------------


def outcomes(server: Server, count: int) -> set[str]:
    """Return how the last files of a server's log ended."""
    return {event["outcome"] for event in server.events("file.ok")[-count:]}


def entry(result: subprocess.CompletedProcess[str], name: str = "tree/x") -> dict[str, Any]:
    """Return what `send --json` says of a file."""
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    (found,) = [each for each in entries if each.get("name") == name]
    assert isinstance(found, dict)
    return found


def test_a_tree_that_is_known_costs_a_message_of_each_side(lab: Lab, tree: Path) -> None:
    """Counted on the way: neither an offer with its proof would fit, nor any content."""
    for number in range(400):
        (tree / f"{number:03}").write_bytes(os.urandom(3000))
    remember(*tree.iterdir())
    server = lab.serve()
    assert lab.send(server, tree).returncode == 0
    times = {path: path.stat().st_mtime_ns for path in (lab.inbox / "ana/tree").iterdir()}
    with Way(server.port) as way:
        again = lab.send(way.port, tree)
        assert "401 files unchanged" in again.stdout
        assert way.passed[UP] < 4000 + 401 * (8 + 51 + len("tree/000"))
    assert outcomes(server, 401) == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_tree_that_was_sent_as_soon_as_it_was_written_costs_little_more_the_second_time(lab: Lab, tree: Path) -> None:
    """Nothing of it is remembered; the first files are proved, and all others are read, and claimed."""
    for number in range(400):
        (tree / f"{number:03}").write_bytes(os.urandom(3000))
        os.utime(tree / f"{number:03}", (time.time() + 60, time.time() + 60))  # however slow this machine is
    server = lab.serve()
    assert lab.send(server, tree).returncode == 0
    with Way(server.port) as way:
        again = lab.send(way.port, tree)
        assert "401 files unchanged" in again.stdout
        proved = FIRST_OFFERS + len("tree/000") + 40 + 56 + 48  # offer, start, trailer
        assert way.passed[UP] < 6000 + 401 * (8 + 51 + len("tree/000")) + FIRST_OFFERS * proved
    assert outcomes(server, 401) == {"unchanged"}


def test_a_new_time_of_the_sender_leaves_an_unchanged_file_as_it_is(lab: Lab, pair: Path) -> None:
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    there = (lab.inbox / "ana/tree/x").stat()
    os.utime(pair / "x", ns=(5, 5))
    remember(pair / "x")
    assert "2 files unchanged" in lab.send(server, pair).stdout
    assert (lab.inbox / "ana/tree/x").stat() == there


def spoil(there: Path) -> None:
    before = there.stat()
    there.write_bytes(CONTENT.upper())
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("policy", "status", "code"),
    [("refuse", "refused", 7), ("skip", "skipped", 0), ("replace", "replaced", 0), ("rename", "renamed", 0)],
)
def test_a_byte_that_was_altered_on_the_server_is_noticed_behind_a_claim(
    lab: Lab, pair: Path, policy: str, status: str, code: int
) -> None:
    """With its size and mtime as they were: the server reads it, and the policy decides."""
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    spoil(lab.inbox / "ana/tree/x")
    result = lab.send(server, pair, "--json", "--on-conflict", policy)
    assert (entry(result)["status"], result.returncode) == (status, code), result.stderr
    expected = {"tree/0": b"0", "tree/x": CONTENT if policy == "replace" else CONTENT.upper()}
    assert lab.stored() == expected | ({"tree/x (1)": CONTENT} if policy == "rename" else {})


@pytest.mark.parametrize("lost", ["index", "digests", "both"])
def test_what_is_remembered_may_be_lost_on_either_side(lab: Lab, pair: Path, cache: Path, lost: str) -> None:
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    if lost != "digests":
        assert server.stop() == 0
        for path in lab.inbox.glob(".securexfer-index*"):
            path.unlink()
        server = lab.serve()
    if lost != "index":
        shutil.rmtree(cache)
    result = lab.send(server, pair)
    assert (result.returncode, "2 files unchanged" in result.stdout) == (0, True), result.stderr


@pytest.mark.parametrize("there", ["a directory", "a link", "a file on the way", "nothing"])
def test_what_is_no_file_is_never_unchanged(lab: Lab, pair: Path, there: str) -> None:
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    place = lab.inbox / "ana/tree"
    (place / "x").rename(lab.home / "x")
    if there == "a directory":
        (place / "x").mkdir()
    elif there == "a link":
        (place / "x").symlink_to(lab.home / "x")
    elif there == "a file on the way":
        shutil.rmtree(place)
        place.write_bytes(CONTENT)
    result = lab.send(server, pair, "--json")
    assert entry(result)["status"] == ("stored" if there == "nothing" else "refused"), result.stderr
    assert (lab.home / "x").read_bytes() == CONTENT


def test_a_claim_needs_no_quota_if_the_file_is_there_and_all_of_it_if_it_is_not(lab: Lab, pair: Path) -> None:
    server = lab.serve("--quota", str(1 + len(CONTENT)))
    assert lab.send(server, pair).returncode == 0
    (pair / "y").write_bytes(CONTENT)
    remember(pair / "y")
    result = lab.send(server, pair, "--json")
    assert entry(result)["status"] == "unchanged"
    assert entry(result, "tree/y")["reason"] == "QUOTA"
    result = lab.send(server, pair, "--json", target="/d")
    assert {entry(result, f"d/tree/{name}")["reason"] for name in ("0", "x", "y")} == {"QUOTA"}


def test_a_claim_over_the_limit_is_refused_though_the_file_is_there(lab: Lab, pair: Path) -> None:
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    assert server.stop() == 0
    result = lab.send(lab.serve("--largest-file", str(len(CONTENT) - 1)), pair, "--json")
    assert entry(result)["reason"] == "LIMIT"


def test_a_script_that_was_claimed_and_is_new_gets_its_bit(lab: Lab, tree: Path) -> None:
    (tree / "y").write_bytes(b"#!/bin/sh")
    (tree / "y").chmod(0o700)
    remember(tree / "y")
    assert lab.send(lab.serve(), tree).returncode == 0
    modes = {path.name: path.stat().st_mode & stat.S_IXUSR for path in (lab.inbox / "ana/tree").iterdir()}
    assert modes == {"x": 0, "y": stat.S_IXUSR}


def test_a_tree_of_which_a_part_is_new_moves_that_part_alone(lab: Lab, tree: Path) -> None:
    for number in range(300):
        (tree / f"{number:03}").write_bytes(os.urandom(3000))
    remember(*tree.iterdir())
    server = lab.serve()
    assert lab.send(server, tree).returncode == 0
    for number in range(0, 300, 10):
        (tree / f"{number:03}-new").write_bytes(os.urandom(3000))
    with Way(server.port) as way:
        result = lab.send(way.port, tree, "--json")
        assert way.passed[UP] < 4000 + 301 * 80 + 30 * 3400
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["unchanged"], summary["stored"]) == (301, 331)
    assert {name.removeprefix("tree/"): content for name, content in lab.stored().items()} == {
        path.name: path.read_bytes() for path in tree.iterdir()
    }


def test_a_dry_run_says_what_is_unchanged_and_what_would_be_sent(lab: Lab, pair: Path) -> None:
    server = lab.serve()
    assert lab.send(server, pair).returncode == 0
    (pair / "y").write_bytes(b"known, and new")
    remember(pair / "y")
    result = lab.send(server, pair, "--dry-run", "--json")
    status = {line["name"]: line["status"] for line in map(json.loads, result.stdout.splitlines()[:-1])}
    assert status == {"tree/0": "unchanged", "tree/x": "unchanged", "tree/y": "offered"}
    assert lab.stored() == {"tree/0": b"0", "tree/x": CONTENT}


def test_what_is_sent_while_somebody_types_the_password_is_looked_at_anew(lab: Lab, tree: Path) -> None:
    """The first file is found before the login: by the time it is claimed, it may be another."""
    server = lab.serve()
    assert lab.send(server, tree).returncode == 0
    arguments = ("send", tree, f"ana@localhost:{server.port}", "--ca", lab.ca, "--json", "--on-conflict", "replace")
    typed = f"sleep 1; printf {'y' * len(CONTENT)} > {tree / 'x'}; cat {lab.password_file}"
    with subprocess.Popen(["sh", "-c", typed], stdout=subprocess.PIPE) as typing:
        result = lab.run(*arguments, "--password-stdin", stdin=typing.stdout)
    assert "changed before it was sent" in json.loads(result.stdout.splitlines()[0])["detail"], result.stdout


def test_claims_that_nobody_follows_up_are_bounded_and_leave_nothing(lab: Lab) -> None:
    """A window of them, each answered with Accept; then silence: the end comes as after offers."""
    server = lab.serve("--idle-timeout", "1")
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        speaker.say(*(claim(number, f"d/{number}", b"x") for number in range(1, 2049)))
        started = time.monotonic()
        heard = speaker.rest()
    assert [type(message) for _, message in heard[:-1]] == [messages.Accept] * 2048
    assert heard[-1][1].reason == "TIMEOUT"
    assert time.monotonic() - started < 10
    assert lab.stored() == {}
    assert server.wait_for("conn.close")["reason"] == "TIMEOUT"


def test_finish_waits_for_the_answers_to_claims(lab: Lab) -> None:
    """The client's own table holds it; a server has answered each claim by the time it reads on."""
    server = lab.serve()
    with speaking.ready(server.port, lab.ca, "ana", PASSWORD) as speaker:
        speaker.say(speaking.eager(1, "x", CONTENT))
        speaker.until(messages.Committed)
        speaker.say(*(claim(number, "x", CONTENT) for number in range(2, 3002)), FINISH)
        assert speaker.until(messages.Summary) == messages.Summary(3001, 3001 * len(CONTENT))
        with contextlib.suppress(OSError):
            speaker.tls.unwrap()
    assert lab.stored() == {"x": CONTENT}
