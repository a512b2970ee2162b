"""A script in the sandbox: what it can do, what it may use up, what comes of it, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import boxes
import pytest
from boxes import holds, needs_bubblewrap, reachable, run, running
from lab import wait_until

from securexfer.errors import ConfigurationError, SandboxError
from securexfer.opening import interpreters, proving
from securexfer.opening.limits import Limits

pytestmark = needs_bubblewrap

SLEEP = "/usr/bin/sleep"


def marker() -> str:
    """Return a number of seconds, long enough, that no other process sleeps."""
    return f"86{time.monotonic_ns() % 10**9:09}.{os.getpid()}"


# -- what an honest script can do ----------------------------------------------------------------------------------


def test_H27_threads_and_processes_and_files_work() -> None:
    box = holds(
        """
        import concurrent.futures, hashlib, json, tempfile, threading
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda number: number * number, range(100))) == 328350
        said = subprocess.run([sys.executable, "-I", "-S", "-c", "print(6 * 7)"], capture_output=True, check=True)
        assert said.stdout == b"42\\n", said
        with tempfile.TemporaryFile() as file:
            file.write(bytes(1 << 20))
            assert file.tell() == 1 << 20 and os.path.realpath(tempfile.gettempdir()) == "/tmp"
        open("/out/megabyte", "wb").write(b"x" * (1 << 20))
        ours, theirs = socket.socketpair()
        ours.send(b"1")
        assert theirs.recv(1) == b"1"
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        assert os.nice(0) == 10 and os.cpu_count()
        print(sorted(os.environ.items()), os.getcwd(), sys.stdin.read() == "", flush=True)
        print("last", file=sys.stderr)
        """
    )
    assert box.lines == ["[('HOME', '/tmp'), ('LANG', 'C.UTF-8'), ('PATH', '/usr/bin')] /data True", "last"]
    assert box.results == {"megabyte": b"x" * (1 << 20)}
    assert (box.cut, box.detail) == (False, "")
    assert 0 < box.seconds < 30


def test_H03_other_bytes_than_those_that_were_verified_are_not_run() -> None:
    box = run("open('/out/x', 'w')", digest="00" * 32)
    assert (box.error, box.message) == ("DigestMismatchError", "the script is not what was verified")


def test_a_script_that_is_too_large_is_not_run() -> None:
    assert run(b"#" * 101, limits={"script": 100}).error == "LimitExceededError"
    assert run(b"#" * 100, limits={"script": 100}).exit_code == 0


def test_data_is_what_is_there_and_can_only_be_read() -> None:
    with reachable() as directory:
        (directory / "in").mkdir()
        (directory / "in/a.csv").write_text("1,2")
        (directory / "in/a.csv").chmod(0o666)  # the file itself would not keep anybody from it
        (directory / "b.csv").symlink_to("/etc/passwd")
        directory.chmod(0o777)
        box = holds(
            """
            print(sorted(os.listdir()), open("in/a.csv").read())
            print(told(open, "new", "w"), told(open, "in/a.csv", "a"), told(os.unlink, "in/a.csv"), told(open, "b.csv"))
            """,
            data=directory,
        )
        assert box.lines == ["['b.csv', 'in'] 1,2", "EROFS EROFS EROFS ENOENT"]
        assert sorted(path.name for path in directory.rglob("*")) == ["a.csv", "b.csv", "in"]


def test_without_data_there_is_an_empty_directory() -> None:
    assert holds("print(os.listdir('/data'), told(open, '/data/x', 'w'))").lines == ["[] EROFS"]


def test_a_virtual_environments_packages_can_be_imported() -> None:
    with reachable() as directory:
        environment = directory / "environment"
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(environment)], check=True)
        (packages,) = environment.glob("lib/python3*/site-packages")
        (packages / "notlikely.py").write_text("answer = 42")
        text = "import notlikely, sys; print(notlikely.answer, sys.prefix != sys.base_prefix, sys.flags.isolated)"
        for python in (environment, environment / "bin/python"):
            box = run(text, python=python)
            assert box.lines == ["42 True 1"], box
        assert b"ModuleNotFoundError" in run(text).output
        assert holds("print(os.listdir('/tmp'), told(open, '/tmp/x', 'w'))").lines == ["[] done"]


def test_a_python_that_was_installed_elsewhere_is_found_with_all_it_needs() -> None:
    """It has its own prefix, and the way to its program is a link through another directory."""
    version = subprocess.check_output(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    name = f"python{version.decode().strip()}"
    with reachable() as directory:
        for path in ("built/bin", "built/lib", "links"):
            (directory / path).mkdir(parents=True)
        (directory / f"built/bin/{name}").write_bytes(Path("/usr/bin/python3").read_bytes())
        (directory / f"built/bin/{name}").chmod(0o755)
        (directory / f"built/lib/{name}").symlink_to(f"/usr/lib/{name}")
        (directory / "links/python").symlink_to(f"../built/bin/{name}")
        (directory / "links/secret").write_text("canary")
        environment = directory / "environment"
        subprocess.run(
            [str(directory / f"built/bin/{name}"), "-m", "venv", "--without-pip", str(environment)], check=True
        )
        (environment / "bin/python").unlink()
        (environment / "bin/python").symlink_to(directory / "links/python")
        text = f"import json, os, sys; print(sys.base_prefix, os.path.exists('{directory}/links/secret'))"
        for python in (directory / "links/python", environment):
            box = run(text, python=python)
            assert box.lines == [f"{directory}/built False"], box


@pytest.mark.parametrize("place", ["data", "home"])
def test_a_python_where_something_else_is_meant_to_be_is_an_error(place: str, tmp_path: Path) -> None:
    """What stands for it here says of itself that it is there."""
    (tmp_path / "python").write_text(f"""#!/bin/sh\necho '["/{place}/x", "/{place}/x", "/usr", "/usr"]'\n""")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(ConfigurationError) as error:
        interpreters.find(tmp_path / "python")
    assert f"needs /{place}/x, which cannot be shown" in error.value.message


@pytest.mark.parametrize(
    ("python", "said"), [("/nonexistent", "No such file"), ("/usr/bin/true", "no Python"), ("/usr/bin/false", "exit")]
)
def test_what_is_no_python_is_an_error(python: str, said: str) -> None:
    box = run("print(1)", python=python)
    assert box.error == "ConfigurationError"
    assert said in box.message


# -- /out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spooled", [False, True])
def test_plain_files_of_out_come_back_and_nothing_else(spooled: bool) -> None:
    with reachable() as directory:
        directory.chmod(0o777)
        box = holds(
            """
            os.makedirs("/out/a/b/c")
            open("/out/a/b/plot.png", "wb").write(bytes(range(256)) * 1000)
            open("/out/empty", "w")
            open("/out/caf\\u00e9", "w").write("x")
            os.symlink("/etc/passwd", "/out/link")
            os.symlink("/usr", "/out/directory")
            os.mkfifo("/out/a/fifo")
            socket.socket(socket.AF_UNIX).bind("/out/socket")
            os.link("/out/empty", "/out/again")
            print(told(os.mknod, "/out/null", 0o20666, os.makedev(1, 3)))
            """,
            **({"spool": directory} if spooled else {}),
        )
        assert list(directory.iterdir()) == []
    assert box.lines == ["EPERM"]
    plot = bytes(range(256)) * 1000
    assert box.results == {"a/b/plot.png": plot, "empty": b"", "again": b"", "café": b"x"}
    assert box.detail == "left out of /out because it is no plain file: 4"


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("for number in range(101): open(f'/out/{number}', 'w')", "too many files"),
        ("open('/out/a\\nb', 'w')", "has the character U+000A"),
        ("open('/out/a\\x1b[31m', 'w')", "has the character U+001B"),
        ("open(b'/out/\\xff', 'w')", "is not valid UTF-8"),
        ("open('/out/a\\\\b', 'w')", "has the character U+005C"),
        ("os.makedirs('/out' + '/d' * 70); open('/out' + '/d' * 70 + '/x', 'w')", "components"),
        ("[open(f'/out/{number}', 'w').truncate(9 << 20) for number in range(2)]", "too large"),
        ("os.mkdir('/out/d', 0)", "cannot be read"),
        ("os.close(os.open('/out/f', os.O_CREAT, 0))", "cannot be read"),
        ("for number in range(3000): os.mkdir('deep'), os.chdir('deep')", "cannot be read"),
    ],
)
def test_what_cannot_be_taken_is_said_and_nothing_of_it_is(deed: str, why: str) -> None:
    box = holds(f"os.chdir('/out'); open('/out/fine', 'w').write('1')\n{deed}")
    assert box.results == {}
    assert "nothing of /out was taken: " in box.detail
    assert why in box.detail
    assert box.detail.isprintable()


def test_as_many_and_as_much_as_there_may_be_comes_back() -> None:
    box = holds("for number in range(3): open(f'/out/{number}', 'wb').write(bytes(4096))", limits={"files": 3})
    assert box.results == {str(number): bytes(4096) for number in range(3)}


# -- what it may use up --------------------------------------------------------------------------------------------


def test_H13_a_loop_is_ended_by_its_processor_time() -> None:
    box = run("while True: pass", limits={"cpu_seconds": 1})
    assert (box.how, box.exit_code) == ("cpu", None)
    assert box.seconds < 30


def test_H13_a_loop_that_ignores_the_signal_is_ended_as_well() -> None:
    script = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(script, limits={"cpu_seconds": 1}).how == "cpu"


def test_H13_nothing_is_left_of_a_script_that_waits_for_ever() -> None:
    """It ignores what it can, and has children that left its session and its group."""
    seconds = marker()
    box = run(
        f"""
        import os, signal, subprocess, time
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("here", flush=True)
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv("{SLEEP}", ["{SLEEP}", "{seconds}"])
                os._exit(0)
        time.sleep(1e6)
        """,
        limits={"seconds": 1.5},
    )
    assert (box.how, box.output, box.detail, box.results) == ("time", b"here\n", "", {})
    assert running(seconds) == []


def test_H13_nothing_is_left_of_a_script_that_ended() -> None:
    seconds = marker()
    box = holds(f"subprocess.Popen(['{SLEEP}', '{seconds}'], start_new_session=True); open('/out/x', 'w')")
    assert box.results == {"x": b""}
    assert box.seconds < 20
    assert running(seconds) == []


def test_when_nobody_waits_any_more_it_ends() -> None:
    box = run("import time; print(1, flush=True); time.sleep(1e6)", cancel=0.5)
    assert (box.how, box.exit_code, box.detail) == ("cancelled", None, "")
    assert box.seconds < 20


def test_H14_a_flood_ends_it_and_costs_no_memory() -> None:
    quiet = run("print(1)")
    box = run("import os\nwhile True: os.write(1, b'x' * 65536)")
    assert (box.how, box.cut, len(box.output)) == ("output", True, 64 << 10)
    assert box.peak < quiet.peak + (8 << 20)


def test_H14_less_than_a_flood_is_cut() -> None:
    box = run("import sys; print('o' * 50, flush=True); print('e' * 70, file=sys.stderr)", limits={"output": 100})
    assert (box.how, box.exit_code, box.cut) == ("exit", 0, True)
    assert box.output == b"o" * 50 + b"\n" + b"e" * 49


def test_H15_output_is_kept_as_it_was_written() -> None:
    raw = b"\x1b]8;;http://x\x07\x00\xff\xc3\r" + b"l" * 50000
    assert run(f"import os; os.write(1, {raw!r})").output == raw


def test_H16_each_place_to_write_to_is_small() -> None:
    box = holds(
        """
        def fill(name):
            with open(name, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        for place in ("/tmp", "/out"):
            print(told(fill, f"{place}/1"), told(fill, f"{place}/2"), os.statvfs(place).f_bfree)
            os.unlink(f"{place}/1")
            os.unlink(f"{place}/2")
        """,
        limits={"tmp": 6 << 20, "results": 6 << 20, "file_size": 4 << 20},
    )
    assert box.lines == ["EFBIG ENOSPC 0"] * 2


def test_H16_a_million_empty_files_are_too_many() -> None:
    box = run("for number in range(10**6): open(f'/tmp/{number}', 'w').close()\nprint('done')")
    assert (box.how, box.detail) == ("memory", "more than 10000 files and directories")


@pytest.mark.parametrize(
    ("script", "how", "code", "detail"),
    [
        ("raise SystemExit(7)", "exit", 7, ""),
        ("raise ValueError", "exit", 1, ""),
        ("import os; os.kill(os.getpid(), 11)", "signal", None, "SIGSEGV"),
        ("import os; os.abort()", "signal", None, "SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "signal", None, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "signal", None, "signal 40"),
        ("syntax error", "exit", 1, ""),
    ],
)
def test_H17_how_it_ended_is_told(script: str, how: str, code: int | None, detail: str) -> None:
    box = run("open('/out/kept', 'w')\n" + script if "syntax" not in script else script)
    assert (box.how, box.exit_code, box.detail) == (how, code, detail)
    assert box.results == ({"kept": b""} if "syntax" not in script else {})


def test_H17_no_core_is_written() -> None:
    box = holds(
        """
        import resource
        os.chdir("/tmp")
        if os.fork() == 0:
            os.abort()
        print(os.WCOREDUMP(os.wait()[1]), os.listdir("/tmp"), resource.getrlimit(resource.RLIMIT_CORE))
        """
    )
    assert box.lines == ["False [] (1, 1)"]


def test_H11_a_fork_bomb_stops_at_the_limit() -> None:
    box = holds(
        """
        def fork():
            if os.fork() == 0:
                time.sleep(1000)
        said = [told(fork) for _ in range(200)]
        print(set(said[:20]), set(said[32:]))
        """
    )
    assert box.lines == ["{'done'} {'EAGAIN'}"]


def test_H11_a_bomb_of_threads_as_well() -> None:
    box = holds(
        """
        import threading
        count = 0
        try:
            while count < 200:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                count += 1
        except RuntimeError:
            print(10 < count < 32)
        """
    )
    assert box.lines == ["True"]


def test_H12_a_process_has_so_much_memory() -> None:
    box = holds(
        """
        try:
            bytearray(600 << 20)
        except MemoryError:
            print("MemoryError")
        """
    )
    assert box.lines == ["MemoryError"]


def test_H12_all_processes_together_have_so_much_memory() -> None:
    box = run(
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                kept = b"x" * (32 << 20)
                time.sleep(1000)
        time.sleep(1000)
        """,
        limits={"memory": 128 << 20},
    )
    assert (box.how, box.exit_code) == ("memory", None)


# -- whoever is killed, and whoever is many ------------------------------------------------------------------------


@contextlib.contextmanager
def started(seconds: str) -> object:
    """Start a script that sleeps for ever, with children; yield the process that runs it, which has its outcome."""
    script = f"""
    import os, subprocess, time
    for _ in range(2):
        subprocess.Popen(["{SLEEP}", "{seconds}"], start_new_session=True)
    time.sleep(1e6)
    """
    with subprocess.Popen(boxes.arguments(script), stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: len(running(seconds)) == 2)
            yield process
        finally:
            process.kill()
        wait_until(lambda: not running(seconds), 2)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def test_H18_whoever_runs_it_is_killed_and_nothing_is_left() -> None:
    seconds = marker()
    with started(seconds) as process:
        process.kill()
        wait_until(lambda: not running(seconds), 10)


def test_H18_bubblewrap_is_killed_and_nothing_is_left() -> None:
    seconds = marker()
    with started(seconds) as process:
        (bubblewrap,) = children_of(process.pid)
        os.kill(bubblewrap, signal.SIGKILL)
        said, _ = process.communicate(timeout=20)
        assert b'"how": "failed"' in said
        assert b"ended from outside" in said
        assert not running(seconds)


def test_H18_the_first_process_in_there_is_killed_and_nothing_is_left() -> None:
    seconds = marker()
    with started(seconds) as process:
        (bubblewrap,) = children_of(process.pid)
        (supervisor,) = children_of(bubblewrap)
        os.kill(supervisor, signal.SIGKILL)
        said, _ = process.communicate(timeout=20)
        assert b'"how": "failed"' in said
        assert not running(seconds)


# -- where there can be no sandbox ---------------------------------------------------------------------------------


def test_a_sandbox_holds_here() -> None:
    box = run("", check=True)
    assert (box.how, box.error) == ("holds", ""), box


@pytest.mark.root
def test_H05_root_runs_nothing() -> None:
    for wish in ({}, {"check": True}):
        box = run("open('/out/x', 'w')", as_root=True, **wish)
        assert (box.error, box.message) == ("SandboxError", "handlers need a non-root user")
        assert "--run-as USER" in box.hint


@pytest.mark.root
def test_H06_without_bubblewrap_nothing_is_run() -> None:
    hide = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null "$(command -v bwrap)" && exec "$@"', "sh")
    for wish in ({}, {"check": True}):
        box = run("open('/out/x', 'w')", before=hide, **wish)
        assert (box.error, box.hint) == ("SandboxError", "apt install bubblewrap"), box


def test_H06_without_namespaces_nothing_is_run() -> None:
    """The setting is that of a user namespace, made for this: elsewhere it stays as it is."""
    forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --inh-caps -all --ambient-caps -all"
    inside = ("unshare", "--user", "--map-user=1000", "--keep-caps", "sh", "-c", f'{forbid} "$@"', "sh")
    box = run("", before=inside, check=True)
    assert (box.error, box.hint) == ("SandboxError", "sysctl -w user.max_user_namespaces=15000"), box
    assert "no sandbox can be made: bwrap: " in box.message
    box = run("print(1)", before=inside)
    assert (box.how, box.output) == ("failed", b"")


@pytest.mark.parametrize(
    ("setting", "value", "mend"),
    [("_APPARMOR", "1", "bwrap-userns-restrict"), ("_UNPRIVILEGED", "0", "kernel.unprivileged_userns_clone=1")],
)
def test_H06_settings_of_other_systems_have_their_mend(
    setting: str, value: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ubuntu's and Debian's kernels have these; a file stands for them."""
    (tmp_path / "setting").write_text(value + "\n")
    monkeypatch.setattr(proving, setting, tmp_path / "setting")
    ran = proving_ran("bwrap: setting up uid map: Permission denied")
    with pytest.raises(SandboxError) as error:
        proving.judge(ran)
    assert mend in error.value.hint
    assert "setting up uid map" in error.value.message


def proving_ran(detail: str, how: str = "failed", output: bytes = b"") -> object:
    from securexfer.opening.running import Ran

    return Ran(how, 1 if how == "exit" else None, 0.1, output, False, (), detail)


@pytest.mark.parametrize("said", [b"not refused: reach_the_network\n", b"it holds\nit holds\n", b"\x1b[2J", b""])
def test_H06_a_sandbox_that_does_not_hold_is_none(said: bytes) -> None:
    with pytest.raises(SandboxError) as error:
        proving.judge(proving_ran("", "exit", said))
    assert "does not hold" in error.value.message
    assert error.value.message.isprintable()


def test_limits_are_what_was_promised() -> None:
    limits = Limits()
    assert (limits.seconds, limits.cpu_seconds, limits.processes, limits.files) == (30, 10, 32, 100)
    assert (limits.address_space, limits.file_size, limits.output) == (512 << 20, 16 << 20, 64 << 10)
    assert (limits.tmp, limits.results) == (16 << 20, 16 << 20)


def test_several_run_at_once_in_one_program() -> None:
    """Each comes to its end: an end of a pipe that another run had inherited would keep that from being noticed."""
    box = run("import time; time.sleep(0.5); print(1)", at_once=6)
    assert (box.how, box.output) == ("exit", b"1\n" * 6)
    assert box.seconds < 20


def test_H14_a_flood_where_bubblewrap_would_say_what_is_wrong_ends_it_as_well() -> None:
    box = run("import os\nend = os.open('/proc/1/fd/2', os.O_WRONLY)\nwhile True: os.write(end, b'x' * 65536)")
    assert (box.how, box.output, box.detail) == ("output", b"", "")


def test_H11_H13_nothing_is_left_of_a_fork_bomb_that_goes_on() -> None:
    seconds = marker()
    box = run(
        f"""
        import os, subprocess
        subprocess.Popen(["{SLEEP}", "{seconds}"])
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        limits={"seconds": 2},
    )
    assert (box.how, box.detail) == ("time", "")
    assert running(seconds) == []
