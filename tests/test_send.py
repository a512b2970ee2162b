"""`securexfer send` as people and scripts meet it: what it stores, prints and leaves with.

Every exit code of the contract is produced by at least one test that has C01 in its name, here or in test_send_*.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hostile.certificates import make_ca, make_leaf
from hostile.chaos import Detour
from hostile.listeners import HOST, TlsListener, answer_all
from lab import PASSWORD, SECUREXFER, Lab, Server, environment, wait_until

from securexfer import client
from securexfer.cli.amounts import parse_rate
from securexfer.cli.report import Report
from securexfer.cli.tally import Selection
from securexfer.net.tls import client_context
from securexfer.transfer.items import Item
from securexfer.transfer.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_KEYS = ["event", "name", "status", "size", "sha256", "stored_as", "reason"]
SUMMARY_KEYS = [
    "event", "files", "bytes", "stored", "refused", "failed", "seconds", "unchanged", "skipped", "resumed",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    """A lab for the whole module: each test sends to a directory of its own."""
    made = Lab(tmp_path_factory.mktemp("send"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


@pytest.fixture
def there(request: pytest.FixtureRequest) -> str:
    """A directory in the inbox that only this test sends to."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:8]


def stored(place: Lab, there: str) -> dict[str, bytes]:
    """Return what stands below `there`."""
    return {name.removeprefix(f"{there}/"): data for name, data in place.stored().items() if name.startswith(there)}


def make(directory: Path, **contents: bytes) -> list[Path]:
    """Write files; an underscore in a keyword is a dot in the name."""
    paths = []
    for name, content in contents.items():
        path = directory / name.replace("_", ".")
        path.write_bytes(content)
        paths.append(path)
    return paths


def lines_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# -- what is stored, and what is said ----------------------------------------------------------------------------


def test_C01_several_files_are_stored_and_the_result_is_on_stdout(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    """Exit 0. Data on stdout, everything else on stderr."""
    paths = make(tmp_path, a_txt=b"one", b_bin=os.urandom(300_000), empty=b"")
    result = place.send(server, *paths, target=f"/{there}")
    assert result.returncode == 0, result.stderr
    assert stored(place, there) == {path.name: path.read_bytes() for path in paths}
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"3 files, 300.0 kB, stored and verified on localhost:{server.port} in ")
    assert f"Sending to localhost:{server.port} as ana\n" in result.stderr
    one = place.send(server, paths[0], target=f"/{there}")
    assert one.stdout.startswith("1 file, 3 B, stored and verified on ")


def test_a_directory_of_the_target_is_made_with_its_parents(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    (path,) = make(tmp_path, a=b"x")
    assert place.send(server, path, target=f"/{there}/2026/março/").returncode == 0
    assert stored(place, there) == {"2026/março/a": b"x"}


def test_C01_json_has_the_keys_of_the_contract(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """One object a line: each file, then the summary. A failure has `detail` besides. Nothing else is on stdout."""
    good, taken = make(tmp_path, good=b"good", taken=b"first")
    assert place.send(server, taken, target=f"/{there}").returncode == 0
    taken.write_bytes(b"second")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = place.send(server, "--json", good, taken, pipe, target=f"/{there}")
    assert result.returncode == 7, result.stderr
    *files, summary = lines_of(result)
    by_name = {entry["name"]: entry for entry in files}
    first = by_name[f"{there}/good"]
    assert list(first) == FILE_KEYS
    assert first == {
        "event": "file",
        "name": f"{there}/good",
        "status": "stored",
        "size": 4,
        "sha256": hashlib.sha256(b"good").hexdigest(),
        "stored_as": f"{there}/good",
        "reason": None,
    }
    refused, failed = by_name[f"{there}/taken"], by_name[f"{there}/pipe"]
    for entry, status, reason in ((refused, "refused", "EXISTS"), (failed, "failed", "SOURCE")):
        assert list(entry) == [*FILE_KEYS, "detail"]
        assert (entry["status"], entry["reason"], entry["stored_as"]) == (status, reason, None)
        assert entry["detail"]
    assert list(summary) == SUMMARY_KEYS
    assert {**summary, "seconds": 0} == {
        "event": "summary", "files": 3, "bytes": 4, "stored": 1, "refused": 1, "failed": 1, "seconds": 0,
        "unchanged": 0, "skipped": 0, "resumed": 0,
    }  # fmt: skip
    assert 0 <= summary["seconds"] < 10


def test_json_tells_of_every_file_also_when_no_server_answers(place: Lab, tmp_path: Path, closed_port: int) -> None:
    paths = make(tmp_path, a=b"x", b=b"y")
    result = place.send(closed_port, "--json", *paths)
    *files, summary = lines_of(result)
    assert [(entry["name"], entry["status"], entry["reason"]) for entry in files] == [
        ("a", "failed", "UNREACHABLE"),
        ("b", "failed", "UNREACHABLE"),
    ]
    assert (summary["files"], summary["failed"], summary["stored"]) == (2, 2, 0)


def test_quiet_prints_errors_only(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    (path,) = make(tmp_path, a=b"x")
    result = place.send(server, "-q", path, target=f"/{there}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    path.write_bytes(b"other")
    result = place.send(server, "--quiet", path, target=f"/{there}")
    assert (result.returncode, result.stdout) == (5, "")
    assert result.stderr.startswith(f"securexfer: the server did not store '{there}/a': ")


def test_each_failure_is_named_and_each_reason_explained_once(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    (good,) = make(tmp_path, good=b"x")
    directories = [tmp_path / name for name in ("one", "two", "three")]
    for each in directories:
        os.mkfifo(each)
    result = place.send(server, good, *directories, target=f"/{there}")
    assert result.returncode == 7
    for each in directories:
        assert f"securexfer: {each} is a pipe (FIFO), not a file\n" in result.stderr
    assert result.stderr.count("Save its content to a file and send that.") == 1
    assert f"securexfer: 1 of 4 files was stored on localhost:{server.port}\n" in result.stderr


def test_D12_sending_again_is_a_success(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """A lost answer, or a person who is not sure: the same content under the same name stands there and is enough."""
    (path,) = make(tmp_path, a=os.urandom(100_000))
    for outcome in ("stored", "unchanged"):
        result = place.send(server, path, "--json", target=f"/{there}")
        assert result.returncode == 0, result.stderr
        assert lines_of(result)[-1]["stored"] == 1
        assert server.wait_for("file.ok", len(server.events("file.ok")))["outcome"] == outcome
    assert stored(place, there) == {"a": path.read_bytes()}


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
def test_two_files_with_one_name_are_a_mistake_before_connecting(place: Lab, tmp_path: Path, *, missing: bool) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        if name == "one" or not missing:
            (tmp_path / name / "a").write_bytes(name.encode())
    with Detour(1) as nobody:
        result = place.send(nobody.port, tmp_path / "one" / "a", tmp_path / "two" / "a", target="/x")
        assert result.returncode == 2
        assert "would both be stored as x/a" in result.stderr
        assert not nobody.used


BAD_NAMES = {
    "129 bytes": "n" * 129,
    "129 bytes of UTF-8": "é" * 64 + "n",
    "a space at its start": " x",
    "a space at its end": "x ",
    "a line feed": "a\nb",
    "an escape": "a\x1b[2Jb",
    "a C1 control": "a\x9bb",
    "a bidi control": "gpj\u202eexe",
    "a backslash": "a\\b",
    "the staging name": ".securexfer-staging",
}


def test_C01_P05_P27_names_that_cannot_be_sent_whole_are_refused_here(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    """Exit 5, nothing is cut, nothing is asked of the server, and the terminal sees them escaped; other files go on."""
    bad = [tmp_path / name for name in BAD_NAMES.values()]
    for path in bad:
        path.write_bytes(b"x")
    before = len(server.events("conn.open"))
    alone = place.send(server, "--protocol", "1", bad[0])
    assert alone.returncode == 5, alone.stderr
    result = place.send(server, "--protocol", "1", "--json", *bad)
    assert result.returncode == 5, result.stderr
    assert [(entry["status"], entry["reason"]) for entry in lines_of(result)[:-1]] == [("refused", "NAME")] * len(bad)
    assert all(character.isprintable() or character == "\n" for character in result.stderr + result.stdout)
    assert result.stderr.count("securexfer: the name ") == len(bad)
    assert len(server.events("conn.open")) == before
    (good,) = make(tmp_path, **{there: b"y"})
    result = place.send(server, "--protocol", "1", *bad, good)  # (below a DIRECTORY two of them would be fine)
    assert result.returncode == 7, result.stderr
    assert stored(place, there) == {there: b"y"}
    assert set(place.stored()).isdisjoint(BAD_NAMES.values())
    assert "NAME" not in {event["reason"] for event in server.events("file.reject")}


def test_a_name_of_128_bytes_is_sent_and_the_directory_counts(place: Lab, server: Server, tmp_path: Path) -> None:
    (path,) = make(tmp_path, **{"n" * 126: b"x"})
    assert place.send(server, "--protocol", "1", path, target="/d").returncode == 0
    assert place.stored()["d/" + "n" * 126] == b"x"
    assert place.send(server, "--protocol", "1", path, target="/dd").returncode == 5


@pytest.mark.parametrize(
    ("target", "says", "hint"),
    [
        ("ana@", "is not a host name", "Give a name"),
        ("@lab1", "has no user before the @", "Write [USER@]HOST"),
        ("ana@lab1:results/", "has 'results' where a port belongs", "For a directory write ana@lab1/results"),
        ("lab1:/data/x", "has no port after :", "For a directory write lab1/data/x"),
        ("lab1:", "has no port after :", "Write lab1"),
        ("lab1:20261122", "has '20261122' where a port belongs", "For a directory write lab1/20261122"),
        ("lab1:99999", "99999 is not a port", "from 1 to 65535"),
        ("lab1:0", "0 is not a port", "from 1 to 65535"),
        ("fe80::1:2", "is not HOST or HOST:PORT", "An IPv6 address goes in brackets: [fe80::1:2]"),
        ("lab1:9090:x", "is not HOST or HOST:PORT", "Write [USER@]HOST[:PORT][/DIRECTORY]"),
        ("[lab1]x", "is not a host name", "Give a name"),
        ("ana@lab1//data", "is an absolute path", "DIRECTORY is one below your inbox"),
        ("ana@lab1/../x", "has the component '..'", "DIRECTORY is one below your inbox"),
        ("lab 1", "is not a host name", "Give a name"),
        ("\x1b[31mlab", "is not a host name", "Give a name"),
    ],
)
def test_C01_C03_a_target_that_is_none_is_told_how_to_write_it(
    place: Lab, tmp_path: Path, target: str, says: str, hint: str
) -> None:
    """Exit 2."""
    (path,) = make(tmp_path, a=b"x")
    result = place.run("send", path, target)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert hint in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("host", "shown"), [("bücher.invalid", "xn--bcher-kva.invalid"), ("\u0430pple.invalid", "xn--pple-43d.invalid")]
)
def test_C03_a_host_with_letters_of_any_script_is_named_as_it_is_looked_up(
    place: Lab, tmp_path: Path, host: str, shown: str
) -> None:
    """The second one looks like apple.invalid, and is not."""
    (path,) = make(tmp_path, a=b"x")
    sent = place.run("send", path, f"ana@{host}", "--ca", place.ca, "--password-file", place.password_file)
    trusted = place.run("trust", host, "--ca-fingerprint", "0" * 64)
    for result in (sent, trusted):
        assert result.returncode == 75
        assert shown in result.stderr
        assert host not in result.stderr + result.stdout


@pytest.mark.parametrize("conflict", ["refuse", "rename", "replace", "skip"])
def test_C01_what_needs_protocol_2_is_refused_with_protocol_1(
    place: Lab, server: Server, tmp_path: Path, conflict: str
) -> None:
    """Exit 2, before connecting; the option is named, and without it all is well."""
    (path,) = make(tmp_path, a=b"x")
    before = len(server.events("conn.open"))
    options = [["--on-conflict", conflict], ["--limit", "1M"], ["--rehash"], ["--dry-run"], ["--exclude", "*.o"]]
    for option in [*options, ["--symlinks", "follow"]]:
        result = place.send(server, path, "--protocol", "1", *option)
        assert result.returncode == 2, result.stderr
        assert option[0] in result.stderr
        assert "protocol 1" in result.stderr
        assert "Leave " in result.stderr
    assert len(server.events("conn.open")) == before


@pytest.mark.parametrize(
    "option",
    [
        ["--protocol", "two"], ["--protocol", "3"], ["--protocol", "0"], ["--on-conflict", "ask"], ["--nonsense"],
        ["--symlinks", "copy"], ["--retries", "-1"], ["--timeout", "0"], ["--timeout", "nan"], ["--limit", "9999"],
        ["--limit", "fast"], ["--limit", "20X"],
    ],
)  # fmt: skip
def test_C01_an_option_that_means_nothing_is_refused(
    place: Lab, server: Server, tmp_path: Path, option: list[str]
) -> None:
    """Exit 2, before connecting."""
    (path,) = make(tmp_path, a=b"x")
    before = len(server.events("conn.open"))
    result = place.send(server, path, *option)
    assert result.returncode == 2, result.stderr
    assert option[0] in result.stderr
    assert len(server.events("conn.open")) == before


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10k", 10_000), ("20M", 20_000_000), ("20MB/s", 20_000_000), ("64Ki", 65_536), ("123456", 123_456)],
)
def test_a_rate_is_written_as_people_write_it(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_a_directory_needs_protocol_2_and_protocol_1_says_what_to_do(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    """Exit 1 if it is all there is, 7 beside a file; never silently the files in it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (path,) = make(tmp_path, a=b"x")
    make(tree, b=b"y")
    for paths, code in (([tree], 1), ([path, tree], 7)):
        result = place.send(server, "--protocol", "1", *paths, target=f"/{there}")
        assert result.returncode == code, result.stderr
        assert f"securexfer: {tree} is a directory, not a file\n" in result.stderr
        assert f"or pack it: tar czf tree.tar.gz {tree}\n" in result.stderr
    assert stored(place, there) == {"a": b"x"}


# -- what would be sent --------------------------------------------------------------------------------------------


def test_a_dry_run_asks_the_server_and_sends_nothing(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """What would be sent is on stdout; what would be refused or cannot be sent is an error as it would be then."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    make(tree, a_csv=b"one", b_o=b"two", c_csv=b"three\n")
    (tree / "link").symlink_to("a.csv")
    command: list[str | Path] = ["--dry-run", "--exclude", "*.o", tree]
    result = place.send(server, *command, target=f"/{there}")
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout.splitlines()
        == [
            f"{there}/tree/a.csv",
            f"{there}/tree/c.csv",
            f"2 files, 9 B, would be sent to localhost:{server.port}",
            "  1 symbolic link skipped (send them with --symlinks follow)",
            "  1 left out by --exclude",
        ]
        or "  1 file unchanged" in result.stdout
    )
    result = place.send(server, *command, "--json", target=f"/{there}")
    *events, summary = lines_of(result)
    assert {event["name"]: event["status"] for event in events} == {
        f"{there}/tree/a.csv": "offered", f"{there}/tree/c.csv": "offered",
    }  # fmt: skip
    assert (summary["files"], summary["stored"], summary["failed"]) == (2, 0, 0)
    os.mkfifo(tree / "pipe")
    result = place.send(server, *command, "--quiet", target=f"/{there}")
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert f"securexfer: {tree}/pipe is a pipe (FIFO), not a file\n" in result.stderr
    assert "securexfer: 1 file cannot be sent\n" in result.stderr
    assert stored(place, there) == {}


# -- the start -----------------------------------------------------------------------------------------------------

NOT_FOR_ONE_FILE = {
    "rich", "json", "sqlite3", "sqlalchemy", "argon2", "cryptography", "logging", "securexfer.transfer.tree",
    "securexfer.cli.progress", "securexfer.cli.pace",
    "securexfer.cli.serve", "securexfer.storage.base",
}  # fmt: skip


def test_C05_one_small_file_is_sent_without_what_it_does_not_need(
    place: Lab, server: Server, tmp_path: Path, there: str
) -> None:
    """Importing is a third of what a small send takes."""
    (path,) = make(tmp_path, small=os.urandom(1024))
    result = subprocess.run(
        [sys.executable, "-X", "importtime", SECUREXFER, "send", path, f"ana@localhost:{server.port}/{there}",
         "--ca", place.ca, "--password-file", place.password_file],
        capture_output=True, text=True, timeout=60, check=False, env=environment(SECUREXFER_CONFIG=str(place.config)),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", result.stderr, re.MULTILINE))
    assert "securexfer.cli.report" in imported, "what is imported was not seen"
    assert imported & NOT_FOR_ONE_FILE == set()


# -- who, and whom to trust ----------------------------------------------------------------------------------------


def test_the_user_is_the_login_name_where_nobody_is_named(place: Lab, server: Server, tmp_path: Path) -> None:
    (path,) = make(tmp_path, login_name=b"x")
    result = place.run(
        "send", path, f"localhost:{server.port}", "--ca", place.ca, "--password-file", place.password_file,
        env={"LOGNAME": "bruno"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"Sending to localhost:{server.port} as bruno\n" in result.stderr
    assert place.stored("bruno") == {"login.name": b"x"}


def test_C01_a_ca_lying_in_the_current_directory_is_not_trusted(place: Lab, server: Server, tmp_path: Path) -> None:
    """Exit 3. Where the home is named, or the server's key beside it is ours, it is; and its fingerprint is shown."""
    (path,) = make(tmp_path, trusted=b"x")
    shared = tmp_path / "shared"
    (shared / "certs").mkdir(parents=True)
    shutil.copy(place.ca, shared / "certs" / "ca.pem")
    to = ["send", path, f"ana@localhost:{server.port}", "--password-file", place.password_file]
    result = place.run(*to, cwd=shared)
    assert result.returncode == 3
    assert "this machine does not know whom to trust as localhost" in result.stderr
    for options, env, where in (
        ([], {"SECUREXFER_HOME": str(shared)}, tmp_path),
        (["--home", shared], {}, tmp_path),
        ([], {}, place.home),
    ):
        result = place.run(*to, *options, env=env, cwd=where)
        assert result.returncode == 0, result.stderr
        assert "Trusting the CA with fingerprint " in result.stderr


@pytest.mark.root
def test_a_ca_beside_somebody_elses_key_is_not_trusted(place: Lab, server: Server, tmp_path: Path) -> None:
    (path,) = make(tmp_path, foreign=b"x")
    theirs = tmp_path / "theirs"
    shutil.copytree(place.home / "certs", theirs / "certs")
    os.chown(theirs / "certs" / "server.key", 65534, 65534)
    result = place.run(
        "send", path, f"ana@localhost:{server.port}", "--password-file", place.password_file, cwd=theirs
    )  # fmt: skip
    assert result.returncode == 3, result.stderr


# -- the other ends ------------------------------------------------------------------------------------------------


def test_C01_a_wrong_password_is_refused(place: Lab, server: Server, tmp_path: Path) -> None:
    """Exit 4."""
    (path,) = make(tmp_path, a=b"x")
    result = place.run(
        "send", path, f"eva@localhost:{server.port}", "--ca", place.ca, "--password-stdin", input="wrong password\n"
    )
    assert result.returncode == 4
    assert f"localhost:{server.port} refused the login of 'eva'" in result.stderr
    assert "securexfer user passwd NAME" in result.stderr


def test_C01_a_taken_name_is_refused(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """Exit 5 for one file and for several; what stands there stays."""
    paths = make(tmp_path, a=b"first", b=b"first")
    assert place.send(server, *paths, target=f"/{there}").returncode == 0
    for path in paths:
        path.write_bytes(b"second")
    assert place.send(server, paths[0], target=f"/{there}").returncode == 5
    result = place.send(server, *paths, target=f"/{there}")
    assert result.returncode == 5
    assert "securexfer: none of the 2 files was stored\n" in result.stderr
    assert set(stored(place, there).values()) == {b"first"}


def test_C01_nothing_stored_for_different_reasons(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """Exit 1."""
    (path,) = make(tmp_path, a=b"first")
    assert place.send(server, path, target=f"/{there}").returncode == 0
    path.write_bytes(b"second")
    result = place.send(server, "--protocol", "1", path, tmp_path, target=f"/{there}")
    assert result.returncode == 1
    assert "no file was stored, for different reasons" in result.stderr


@pytest.fixture
def closed_port() -> int:
    """A port that nothing listens on."""
    with Detour(1) as gone:
        return gone.port


def test_C01_a_file_over_the_servers_limit_ends_nothing_but_itself(place: Lab, tmp_path: Path, there: str) -> None:
    """The server ends the session after its refusal; the rest goes in another. Exit 7, or 5 if it was alone."""
    limited = place.serve("--largest-file", "1M", "--inbox", str(tmp_path / "inbox"))
    first, large, last = make(tmp_path, first=b"1", large=os.urandom(4_000_000), last=b"3")
    result = place.send(limited, "--protocol", "1", "--json", first, large, last)
    assert result.returncode == 7, result.stderr
    assert {path.name for path in (tmp_path / "inbox" / "ana").iterdir()} == {"first", "last"}
    *files, summary = lines_of(result)
    assert {entry["name"]: entry["status"] for entry in files} == {
        "first": "stored", "large": "refused", "last": "stored",
    }  # fmt: skip
    assert (summary["stored"], summary["refused"]) == (2, 1)
    assert len(limited.events("auth.ok")) == 2
    alone = place.send(limited, "--protocol", "1", large)
    assert alone.returncode == 5, alone.stderr
    assert len(limited.events("auth.ok")) == 3
    limited.stop()


@pytest.mark.parametrize("kept", [False, True])
def test_C01_a_server_that_is_killed_in_mid_transfer(tmp_path: Path, lab_source: Path, *, kept: bool) -> None:
    """Exit 6, or 7 if it had acknowledged something; in words, not in a traceback."""
    lab = Lab(tmp_path, lab_source)
    running = lab.serve()
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x")
    with large.open("wb") as file:
        file.truncate(64 << 20)
    files = [small, large] if kept else [large]
    try:
        with Detour(running.port, hold_after=8 << 20) as way, start(lab, way.port, *files) as sending:
            assert way.held.wait(30)
            wait_until(lambda: staged(lab) > 4 << 20)
            wait_until(lambda: len(running.events("file.ok")) == kept)
            time.sleep(0.5)  # for its answer to come back
            way.stop()
            running.process.kill()
            running.process.wait()
            way.release()
            out, err = sending.communicate(timeout=60)
        assert sending.returncode == (7 if kept else 6), err
        assert "Traceback" not in err
        assert ("not sent: large" if kept else "The connection ended early: send again.") in err
        assert out.count("\n") == int(kept)
    finally:
        lab.close()


def test_C01_an_interrupt_says_what_was_stored(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """Exit 130 for SIGINT, at any time; what the server has acknowledged counts."""
    small, large = make(tmp_path, small=b"x", large=b"")
    with large.open("wb") as file:
        file.truncate(64 << 20)
    with (
        Detour(server.port, hold_after=8 << 20) as way,
        start(place, way.port, small, large, target=f"/{there}") as sending,
    ):
        assert way.held.wait(30)
        wait_until(lambda: "small" in stored_now(place, there))
        time.sleep(0.5)  # for its answer to come back
        sending.send_signal(signal.SIGINT)
        _, err = sending.communicate(timeout=30)
    assert sending.returncode == 130, err
    assert f"interrupted: 1 of 2 files was stored on localhost:{way.port}" in err
    assert "Traceback" not in err


def test_an_interrupt_counts_the_answers_that_have_come(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """Also those that nobody has looked at yet: between two looks a mebibyte is sent, by a slow disk perhaps."""
    paths = make(tmp_path, small=b"x", large=bytes(700_000))
    items = [Item(path, f"{there}/{path.name}", path.stat().st_size) for path in paths]

    class Interrupting(Report):
        def sent(self, item: Item, count: int) -> None:
            super().sent(item, count)
            if item.name.endswith("large") and item.sent > 500_000:
                wait_until(lambda: "small" in stored_now(place, there))
                time.sleep(0.5)  # for its answer to come back
                raise KeyboardInterrupt

    target = client.Target("ana", "localhost", server.port, "")
    context = client_context(place.ca.read_text(), client.protocols(1))
    watcher = Interrupting("", Selection(items, lambda: items), as_json=False, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        client.send(target, context, ("ana", PASSWORD), items, watcher, Wishes(protocol=1))
    assert [item.outcome for item in items] == ["stored", None]


@contextlib.contextmanager
def start(lab: Lab, port: int, *paths: Path, target: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start `send` with SIGINT as a terminal would leave it, even if this test runs in the background."""
    default = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", default, SECUREXFER, "send", "--retries", "0", *paths, f"ana@localhost:{port}{target}",
         "--ca", lab.ca, "--password-file", lab.password_file],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(SECUREXFER_CONFIG=str(lab.config)),
    ) as sending:  # fmt: skip
        try:
            yield sending
        finally:
            sending.kill()


def staged(lab: Lab) -> int:
    """Return how many bytes are in unfinished files."""
    total = 0
    for path in (lab.inbox / ".securexfer-staging").rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def stored_now(lab: Lab, there: str) -> list[str]:
    directory = lab.inbox / "ana" / there
    return [path.name for path in directory.iterdir()] if directory.exists() else []


def test_what_is_printed_when_nobody_reads_it(place: Lab, server: Server, tmp_path: Path, there: str) -> None:
    """`send --json ... | head -0`: no traceback."""
    (path,) = make(tmp_path, a=b"x")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        result = subprocess.run(
            [SECUREXFER, "send", "--json", path, f"ana@localhost:{server.port}/{there}", "--ca", place.ca,
             "--password-file", place.password_file],
            stdin=subprocess.DEVNULL, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
            env=environment(SECUREXFER_CONFIG=str(place.config)),
        )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_C01_a_stranger_is_not_trusted(place: Lab, tmp_path: Path) -> None:
    """Exit 3 for one file and for several."""
    paths = make(tmp_path, a=b"x", b=b"y")
    with TlsListener(make_leaf(make_ca()).context(tmp_path, "securexfer/1"), answer_all) as listener:
        for some in (paths[:1], paths):
            result = place.run(
                "send", *some, f"ana@{HOST}:{listener.port}", "--ca", place.ca,
                "--password-file", place.password_file,
            )  # fmt: skip
            assert result.returncode == 3, result.stderr
            assert PASSWORD not in result.stderr
        assert listener.received == []
