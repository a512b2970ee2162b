"""What every test may use: a lab (see lab.py), and skips with a reason for what this machine cannot do."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can import lab.py, whichever way they are collected

import lab as lab_module
from lab import PASSWORD, USERS, Lab

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from desks import Desk

    from securexfer.storage.local import Inbox

SKIPPED_EXIT_CODE = 8  # none of pytest's own
# What takes long, or looks at texts, and says the same with every Python and for every user: CI runs it once.
ONCE = {
    "test_bench",
    "test_cut_conversations",
    "test_hostile_client2",
    "test_hostile_server2",
    "test_layout",
    "test_messages",
    "test_mutants",
    "test_order",
    "test_patience",
    "test_protocol_page",
    "test_readme",
    "test_release",
    "test_second_limits",
    "test_second_names",
    "test_security_page",
    "test_troubleshooting",
    "test_vectors",
    "test_vectors_2",
    "test_wide_area",
}


@pytest.fixture(scope="session")
def lab_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the certificates and the users once; every lab starts from a copy."""
    from securexfer import certificates
    from securexfer.accounts.database import Accounts
    from securexfer.accounts.passwords import PasswordHash

    home = tmp_path_factory.mktemp("lab-source")
    certificates.initialise(home / "certs", [], force=False)
    accounts = Accounts.create(home / "users.db")
    hashed = str(PasswordHash.make(PASSWORD))
    for user in USERS:
        accounts.add(user, hashed)
    accounts.close()
    return home


@pytest.fixture(autouse=True, scope="session")
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests send out of the digests that whoever runs them has remembered."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    """Begin each test with the umask that people have: an inbox that an earlier one opened has set its own."""
    os.umask(0o022)


@pytest.fixture
def make_inbox(tmp_path: Path) -> Iterator[Callable[..., Inbox]]:
    """Open an inbox, by the rules given, in the place of the one that was open before."""
    from securexfer.storage.local import Inbox, Rules

    opened: list[Inbox] = []

    def reopen(**rules: Any) -> Inbox:
        if opened:
            opened.pop().close()
        opened.append(Inbox(tmp_path / "inbox", Rules(**rules)))
        return opened[0]

    yield reopen
    for inbox in opened:
        inbox.close()


@pytest.fixture
def lab(tmp_path: Path, lab_source: Path) -> Iterator[Lab]:
    """Return a fresh lab."""
    made = Lab(tmp_path, lab_source)
    yield made
    made.close()


@pytest.fixture
def desk(lab_source: Path) -> Iterator[Desk]:
    """Return a fresh lab whose server opens files."""
    from boxes import reachable
    from desks import Desk

    with reachable() as directory:
        made = Desk(directory, lab_source)
        yield made
        made.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the lab's servers started by a program of ours, whose text is given."""

    def put(text: str) -> None:
        path = tmp_path / "program"
        path.write_text(text)
        path.chmod(0o700)
        monkeypatch.setattr(lab_module, "SECUREXFER", str(path))

    return put


@pytest.fixture
def bench_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import what the benchmarks are made of."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    return importlib.import_module


@pytest.fixture(scope="module")
def context(place: Lab) -> ssl.SSLContext:
    """Return what somebody else's server shows to a client that trusts `ca.pem` in the home of the module's lab."""
    from hostile.certificates import make_ca, make_leaf

    from securexfer.wire import framing

    ca = make_ca()
    (place.home / "ca.pem").write_bytes(ca.pem)
    return make_leaf(ca).context(place.home, framing.ALPN)


@pytest.fixture(scope="module")
def context2(place: Lab) -> ssl.SSLContext:
    """Return the same for protocol 2."""
    from hostile.certificates import make_ca, make_leaf

    from securexfer.wire import messages

    ca = make_ca()
    (place.home / "ca2.pem").write_bytes(ca.pem)
    return make_leaf(ca).context(place.home, messages.ALPN)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a memory file system with the options given, at a new directory; it goes with the test."""
    with contextlib.ExitStack() as stack:

        def mount(options: str, place: Path | None = None) -> Path:
            place = place or tmp_path / f"tmpfs-{time.monotonic_ns()}"
            place.mkdir()
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
            return place

        yield mount


def pytest_configure() -> None:
    """Take interrupts even where a shell started the tests in the background.

    It then ignores them for all that it starts, and so would the programs that tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs root where there is none; leave out what means nothing to root, or was shown by another run."""
    if os.environ.get("SECUREXFER_ONCE_IS_DONE"):
        _leave_out(config, items, lambda item: item.path.stem in ONCE)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        _leave_out(config, items, lambda item: item.get_closest_marker("ordinary") is not None)
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts, other users"))


def _leave_out(config: pytest.Config, items: list[pytest.Item], is_meant: Callable[[pytest.Item], bool]) -> None:
    left_out = {item for item in items if is_meant(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if tests were skipped where nothing may be: CI installs what they need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("SECUREXFER_NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = SKIPPED_EXIT_CODE
        reporter.write_line("tests were skipped, and SECUREXFER_NO_SKIPS is set", red=True)
