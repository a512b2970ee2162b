"""What comes of files that a server opened: back to their sender, into the log, and kept where it does that."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from boxes import needs_bubblewrap
from desks import RUN_AS, events, handled, opened
from hostile import chaos
from hostile.chaos import DOWN, UP, Chaos, Fault, Way
from lab import SECUREXFER, Server
from terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from desks import Desk

pytestmark = needs_bubblewrap
ARGON2 = 64 << 10  # KiB that a login takes for a moment
HELLO = "print('hello')\n"
ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202etxt\rover\x1b]52;c;b3duZWQ=\x07"


def leaves(files: dict[str, str]) -> str:
    """Return a script that leaves these files."""
    return f"""\
import os
for name, content in {files!r}.items():
    os.makedirs(os.path.dirname("/out/" + name), exist_ok=True)
    open("/out/" + name, "w").write(content)
print("done")
"""


def tree(directory: Path) -> dict[str, bytes]:
    """Return what is below a directory; nothing in it is but files and directories."""
    found = [path for path in sorted(directory.rglob("*")) if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


# -- back to the sender ----------------------------------------------------------------------------------------


def test_what_a_script_leaves_comes_back_with_what_it_printed(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    left = {"result.csv": "1;2\n", "plots/deep/é ☃.txt": "plot", "empty": "", "x.py": "print('never opened')"}
    script, data = desk.file("x.py", leaves(left)), desk.file("data.csv", "1\n")
    out = desk.files / "out"
    sent = desk.send(server, script, data, "--results", out)
    assert sent.returncode == 0, sent.stderr
    assert tree(out) == {name: content.encode() for name, content in left.items()}
    told = sent.stdout.splitlines()
    at = next(number for number, line in enumerate(told) if line.startswith("x.py: ran, exit code 0, "))
    assert told[at + 1] == "│ done"
    assert set(told[at + 2 : at + 6]) == {f"  {out / name}" for name in left}
    (ran,) = handled(server)
    assert set(ran["results"]) == set(left)
    assert set(desk.stored()) == {"x.py", "data.csv"}, "what comes back is not stored there"


def test_json_says_it_to_programs_and_quiet_says_nothing(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    script = desk.file("x.py", leaves({"a/b.csv": "1\n"}).replace("done", "caf\u00e9 \x1b[31m"))
    note = desk.file("note.txt", "one\ntwo\n")
    sent = desk.send(server, script, note, "--json", "--results", desk.files / "out")
    assert sent.returncode == 0, sent.stderr
    seconds = opened(sent)["x.py"].pop("seconds")
    assert 0 < seconds < 30
    assert opened(sent) == {
        "x.py": {
            "event": "opened", "name": "x.py", "action": "run", "how": "exit", "exit_code": 0, "seconds": seconds,
            "output": "café \x1b[31m\n", "cut": False, "results": ["a/b.csv"], "detail": "",
        },
        "note.txt": {
            "event": "opened", "name": "note.txt", "action": "show", "how": "shown", "exit_code": None,
            "seconds": 0.0, "output": "one\ntwo\n", "cut": False, "results": [], "detail": "",
        },
    }  # fmt: skip
    assert "\x1b" not in sent.stdout + sent.stderr
    assert [entry["status"] for entry in events(sent, "file")] == ["stored", "stored"]
    assert [entry["event"] for entry in events(sent, "summary")] == ["summary"]
    quiet = desk.send(server, script, note, "--quiet", "--results", desk.files / "more")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert tree(desk.files / "more") == {"a/b.csv": b"1\n"}


def test_without_results_only_what_was_printed_comes_back(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    sent = desk.send(server, desk.file("x.py", leaves({"a.csv": "1\n"})), "--json", cwd=desk.files)
    assert sent.returncode == 0, sent.stderr
    assert (opened(sent)["x.py"]["output"], opened(sent)["x.py"]["results"]) == ("done\n", [])
    assert handled(server)[0]["results"] == ["a.csv"]
    assert set(tree(desk.files)) == {"x.py"}


def test_a_name_that_is_taken_stays_what_it_is(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    out = desk.files / "out"
    mine = {"a.csv": "mine\n", "same.csv": "new\n", "d": "a file\n"}
    for name, content in mine.items():
        desk.file(f"out/{name}", content)
    outside = desk.file("outside.csv", "outside\n")
    (out / "link.csv").symlink_to(outside)
    (out / "up").symlink_to(desk.files)
    script = desk.file(
        "x.py", leaves(dict.fromkeys(("a.csv", "same.csv", "link.csv", "up/outside.csv", "d/e.csv"), "new\n"))
    )
    sent = desk.send(server, script, "--json", "--results", out)
    assert sent.returncode != 0, "two of them could not be stored"
    assert "Traceback" not in sent.stderr
    assert outside.read_text() == "outside\n"
    assert (out / "a.csv").read_text() == "mine\n"
    assert (out / "d").read_text() == "a file\n"
    assert set(opened(sent)["x.py"]["results"]) == {"a (1).csv", "same.csv", "link (1).csv"}
    assert (out / "a (1).csv").read_text() == (out / "link (1).csv").read_text() == "new\n"
    assert not (out / "same (1).csv").exists()
    assert "a part of its path is a link, or no directory" in sent.stderr
    assert set(desk.stored()) == {"x.py"}


HOSTILE = """
import os
out = b"/out/"
os.chdir(out)
{body}
print("still printed")
"""


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("open(b'a\\x1b[31mb', 'w')", "nothing of /out was taken: "),
        ("open(b'a\\xff', 'w')", "nothing of /out was taken: "),
        ("open('a\\u202efdp', 'w')", "nothing of /out was taken: "),
        ("open('a\\n', 'w')", "nothing of /out was taken: "),
        ("open('a\\\\b', 'w')", "nothing of /out was taken: "),
        ("for n in range(101): open(str(n), 'w')", "nothing of /out was taken: too many files"),
        ("f = open('big', 'wb'); f.truncate(16 << 20); g = open('one', 'wb'); g.truncate(1)",
         "nothing of /out was taken: files that are too large together"),
        ("os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo')",
         "left out of /out because it is no plain file: 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_dropped_with_the_reason(desk: Desk, body: str, detail: str) -> None:
    desk.allow("ana")
    server = desk.serve()
    script = desk.file("x.py", HOSTILE.format(body=f"open('good', 'w').write('good')\n{body}"))
    out = desk.files / "out"
    sent = desk.send(server, script, "--json", "--results", out)
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)["x.py"]
    assert (found["how"], found["exit_code"], found["output"]) == ("exit", 0, "still printed\n")
    assert found["detail"].startswith(detail)
    assert found["detail"].isprintable()
    assert tree(out) == ({"good": b"good"} if "left out" in detail else {})
    assert handled(server)[0]["detail"] == found["detail"].replace(r"\\", "\\"), "escaped there, and once more here"


def test_results_on_a_full_disk_are_an_error_and_the_files_are_stored(desk: Desk, tmpfs: Callable[[str], Path]) -> None:
    desk.allow("ana")
    server = desk.serve()
    full = tmpfs("size=256k") / "out"
    script = desk.file("x.py", "open('/out/small', 'w').write('x')\nopen('/out/z', 'wb').write(bytes(1 << 20))\n")
    other = desk.file("y.py", HELLO)
    sent = desk.send(server, script, other, "--results", full)
    assert sent.returncode != 0
    assert os.strerror(errno.ENOSPC) in sent.stderr
    assert "Choose a directory that you can write to, on a disk with room" in sent.stderr
    assert "2 files were stored" in sent.stdout or "stored 2 files" in sent.stdout.lower() or "2 files" in sent.stdout
    assert "y.py: ran, exit code 0" in sent.stdout, "what comes after is told as well"
    assert tree(full) == {"small": b"x"}
    assert set(desk.stored()) == {"x.py", "y.py"}


# -- the terminal and the log ----------------------------------------------------------------------------------


FORGED = '{"event": "file.ok", "user": "root"}'


def test_H15_H21_what_is_shown_and_printed_changes_no_terminal(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    text = f"{ESCAPES}\n{FORGED}\n" + "wide ☃ 日本 " * 40 + "\0\n"
    files = [
        desk.file("note.txt", text),
        desk.file("utf16.txt", "fake".encode("utf-16")),
        desk.file("binary.txt", bytes(range(256))),
        desk.file("x.py", f"import sys; sys.stdout.buffer.write({text.encode()!r} + b'\\xff\\xfe')"),
    ]
    with Terminal(
        SECUREXFER, "send", *files, f"ana@localhost:{server.port}", "--ca", desk.ca, "--password-file",
        desk.password_file, SECUREXFER_CONFIG=str(desk.config), columns=100, rows=200,
    ) as terminal:  # fmt: skip
        assert terminal.finish() == 0, terminal.shown
        terminal.check_restored()
        assert terminal.screen.title == ""
        assert terminal.screen.wrapped == 0, "what a terminal wraps by itself begins without a bar"
        shown = terminal.shown
    barred = [line for line in shown.splitlines() if line.startswith("│ ")]
    assert [line for line in shown.splitlines() if FORGED in line] == [f"│ {FORGED}"] * 2
    assert any(r"\x1b]0;owned\x07\x1b[31m\x9b31m\u202etxt\rover" in line for line in barred)
    raw = server.log_path.read_bytes()
    assert not [byte for byte in raw if (byte < 0x20 and byte != 0x0A) or byte > 0x7E]
    assert not [event for event in server.events("file.ok") if event["user"] == "root"]
    for event in handled(server):
        assert all(line.startswith("│ ") and line.isprintable() for line in event["shown"])


def test_H21_the_server_in_a_terminal_shows_it_there_harmlessly(desk: Desk) -> None:
    desk.allow("ana")
    text = f"{ESCAPES}\nserver.stop done\n{'no newline ' * 30}"
    note = desk.file("note.txt", text)
    command = [SECUREXFER, "serve", "--home", desk.home, "--host", "localhost", "--port", "0", "--open", *RUN_AS]
    with Terminal(*command, columns=70, rows=120) as terminal:
        terminal.wait_for("Listening on")
        terminal.wait_for("server.start")
        port = int(terminal.shown.partition("Listening on ")[2].split()[0].rpartition(":")[2].rstrip(","))
        sent = desk.send(port, note, desk.file("x.py", f"print({ESCAPES!r})\n"))
        assert sent.returncode == 0, sent.stderr
        terminal.wait_for("x.py")
        terminal.wait_for("conn.close")
        terminal.process.terminate()
        assert terminal.finish() == 0
        assert terminal.screen.title == ""
        assert not terminal.screen.cursor.hidden
        assert terminal.screen.cursor.attrs == terminal.screen.default_char
        lines = terminal.shown.splitlines()
    assert "│ server.stop done" in lines
    assert [line for line in lines if line.startswith("server.stop done")] == []
    assert b"\x1b]0;owned" not in terminal.raw


def test_H21_a_huge_text_is_shown_in_its_beginning(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    huge = desk.files / "huge.txt"
    with huge.open("wb") as file:
        file.write(b"begin\n")
        file.truncate(64 << 20)
    before = server.status("VmRSS")
    sent = desk.send(server, huge, "--json")
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)["huge.txt"]
    assert found["output"] == "begin\n" + "\0" * (65536 - 6)
    assert found["cut"]
    assert handled(server)[0]["shown"][-1] == "… cut after 64 KiB"
    assert server.status("VmHWM") - before < ARGON2 + (32 << 10)


def test_H14_a_flood_is_kept_in_its_beginning(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    before = server.status("VmRSS")
    sent = desk.send(server, desk.file("flood.py", "while True: print('x' * 65536, end='')"))
    assert sent.returncode == 0, sent.stderr
    told = sent.stdout.splitlines()
    assert any(line.startswith("flood.py: ended: it printed too much") for line in told)
    assert sum(line.count("x") for line in told if line.startswith("│ ")) == 65536
    assert "… cut after 64 KiB" in told
    killed = server.wait_for("handler.killed")
    assert (killed["how"], killed["shown"][-1]) == ("output", "… cut after 64 KiB")
    assert server.status("VmHWM") - before < ARGON2 + (32 << 10)


def test_H22_what_nobody_reads_blocks_nothing(desk: Desk, tmp_path: Path) -> None:
    """A log that leads into a pipe that is full: files are stored, opened and answered for."""
    desk.allow("ana")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    options = ["--log-format", "json", *RUN_AS, "--open"]
    server = Server(desk.home, *options, wait=False, log_path=path)
    try:
        said = b""
        while b'"server.start"' not in said or not said.endswith(b"\n"):
            assert select.select([reading], [], [], 20)[0], "it does not start"
            said += os.read(reading, 65536)
        port = int(said.partition(b'"addresses": ["')[2].split(b'"')[0].rpartition(b":")[2])
        note = desk.file("note.txt", "x" * 100_000)
        for number in range(4):
            sent = desk.send(port, note, desk.file(f"{number}.py", HELLO), "--json")
            assert sent.returncode == 0, sent.stderr
            assert opened(sent)[f"{number}.py"]["output"] == "hello\n"
    finally:
        server.process.kill()
        server.process.wait()
        os.close(reading)


# -- what the server was told ----------------------------------------------------------------------------------


def test_keep_output_stores_it_beside_the_script_and_over_nothing(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve("--keep-output")
    assert desk.send(server, desk.file("x.py.out.txt", "mine\n"), "--no-open").returncode == 0
    script = desk.file("d/x.py", HELLO)
    for text in (HELLO, "print('other')\n"):
        top = desk.file("x.py", text)
        sent = desk.send(server, top, desk.files / "d", desk.file("silent.py", ""), "--on-conflict", "replace")
        assert sent.returncode == 0, sent.stderr
    assert script.read_text() == HELLO
    found = {name: content for name, content in desk.stored().items() if name.endswith(".txt")}
    assert found == {
        "x.py.out.txt": b"mine\n",
        "x.py.out (1).txt": b"hello\n",
        "x.py.out (2).txt": b"other\n",
        "d/x.py.out.txt": b"hello\n",
    }
    assert not [event for event in handled(server) if event["name"].endswith(".out.txt")], "they are not opened"


def test_output_that_the_quota_has_no_room_for_is_not_kept_and_it_is_said(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve("--keep-output", "--quota", "1000")
    sent = desk.send(server, desk.file("x.py", "print('y' * 2000)\n"), "--json")
    assert sent.returncode == 0, sent.stderr
    assert opened(sent)["x.py"]["output"] == "y" * 2000 + "\n"
    refused = server.wait_for("handler.refused")
    assert (refused["name"], refused["reason"]) == ("x.py", "output")
    assert refused["detail"].startswith("what it printed was not kept: ")
    assert len(server.events("handler.run")) == 1
    assert set(desk.stored()) == {"x.py"}


def test_rules_say_what_is_opened_how(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve(
        *desk.rules('[actions]\n".log" = "show"\n".sci" = "run"\n[limits]\nshow = "1Ki"\nseconds = 1\n')
    )
    files = [
        desk.file("x.py", HELLO),
        desk.file("a.log", "x" * 2000),
        desk.file("b.sci", HELLO),
        desk.file("slow.sci", "import time; time.sleep(60)"),
    ]
    sent = desk.send(server, *files, "--json")
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)
    assert set(found) == {"a.log", "b.sci", "slow.sci"}
    assert (len(found["a.log"]["output"]), found["a.log"]["cut"]) == (1024, True)
    assert found["b.sci"]["output"] == "hello\n"
    assert found["slow.sci"]["how"] == "time"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[actions]\n".py" = "execute"\n', "which is no action"),
        ('[limits]\nseconds = "x"\n', "[limits] seconds is 'x'"),
        ("[nonsense]\n", "there is no section 'nonsense'"),
        ("not toml", "it is not TOML"),
    ],
)
def test_wrong_rules_refuse_the_start(desk: Desk, text: str, said: str) -> None:
    serve = ("serve", "--home", desk.home, "--host", "localhost", "--port", "0", *RUN_AS)
    done = desk.run(*serve, "--open", *desk.rules(text), timeout=20)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    (desk.home / "rules.toml").write_text("")
    (desk.home / "rules.toml").chmod(0o666)
    done = desk.run(*serve, "--open", "--open-rules", desk.home / "rules.toml", timeout=20)
    assert (done.returncode, "others can" in done.stderr) == (2, True), done.stderr


def test_options_of_opening_without_it_refuse_the_start(desk: Desk) -> None:
    for option in (["--open-rules", desk.home], ["--open-python", desk.home], ["--keep-output"]):
        done = desk.run("serve", "--home", desk.home, "--port", "0", *RUN_AS, *option, timeout=20)
        assert done.returncode == 2
        assert f"{option[0]} is for a server that opens files" in done.stderr
        assert f"Add --open, or leave {option[0]} out." in done.stderr


def lab_environment(desk: Desk) -> Path:
    """Return a virtual environment with a package of its own."""
    place = desk.home.parent / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "labstats.py").write_text("def mean(values):\n    return sum(values) / len(values)\n")
    return place


def test_the_researchers_story(desk: Desk) -> None:
    """A script with a package, and its data, are sent; what it finds comes back, verified."""
    desk.allow("ana")
    server = desk.serve("--open-python", str(lab_environment(desk)))
    script = desk.file(
        "analysis.py",
        """
        import csv, labstats
        with open("data.csv") as file:
            values = [float(row["value"]) for row in csv.DictReader(file)]
        with open("/out/result.csv", "w") as file:
            file.write(f"count,mean\\n{len(values)},{labstats.mean(values):.3f}\\n")
        print(f"{len(values)} values")
        """,
    )
    data = desk.file("data.csv", "time,value\n" + "".join(f"{n},{n % 7}\n" for n in range(1000)))
    sent = desk.send(server, script, data, "--results", "out/", cwd=desk.files)
    assert sent.returncode == 0, sent.stderr
    assert "│ 1000 values\n" in sent.stdout
    assert "  out/result.csv\n" in sent.stdout
    assert tree(desk.files / "out") == {"result.csv": b"count,mean\n1000,2.997\n"}


def test_without_that_python_its_packages_are_not_there(desk: Desk) -> None:
    desk.allow("ana")
    lab_environment(desk)
    server = desk.serve()
    sent = desk.send(server, desk.file("x.py", "import labstats"), "--json")
    assert "ModuleNotFoundError" in opened(sent)["x.py"]["output"]
    assert server.stop() == 0
    done = desk.run("serve", "--home", desk.home, "--port", "0", *RUN_AS, "--open", "--open-python", desk.files)
    assert done.returncode == 2
    assert "is no Python that works here" in done.stderr


# -- a connection that is lost ---------------------------------------------------------------------------------


SEES = (
    "import os, sys; print(sorted(os.listdir())); sys.stdout.flush(); open('/out/r', 'wb').write(os.urandom(300_000))\n"
)


def several(desk: Desk) -> list[Path]:
    return [desk.file("a.py", SEES), desk.file("b.csv", "x" * 3000), desk.file("c.py", SEES), desk.file("d.txt", "d\n")]


@pytest.mark.parametrize("where", ["before Finish", "in the results"])
def test_after_a_cut_all_of_the_send_is_opened_together(desk: Desk, where: str) -> None:
    desk.allow("ana")
    server = desk.serve()
    files = several(desk)
    with Way(server.port) as way:
        out = desk.files / "out"
        assert desk.send(way.port, *files, "--results", desk.files / "undisturbed").returncode == 0
        passed = way.passed
    assert server.stop() == 0
    subprocess.run(["rm", "-r", desk.inbox], check=True)
    server = desk.serve()
    up = Fault(chaos.cut_by_rst, UP, passed[UP] - 200)
    down = Fault(chaos.cut_by_rst, DOWN, passed[DOWN] - 150_000)
    with Chaos(server.port, up if where == "before Finish" else down) as way:
        sent = desk.send(way.port, *files, "--json", "--results", out)
        assert way.struck.is_set()
        assert way.used == 2
    assert sent.returncode == 0, sent.stderr
    assert sorted(entry["name"] for entry in events(sent, "file")) == ["a.py", "b.csv", "c.py", "d.txt"]
    told = events(sent)
    everything = f"{[path.name for path in files]}\n"
    assert {entry["name"] for entry in told} == {"a.py", "c.py", "d.txt"}
    assert {entry["output"] for entry in told if entry["action"] == "run"} == {everything}
    # In the order in which they were stored: what is known to be there already is answered for before the others.
    assert sorted(entry["name"] for entry in told[-3:]) == ["a.py", "c.py", "d.txt"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "nothing is left of half a result"
    assert all(len(content) == 300_000 for content in tree(out).values())
    assert set(desk.stored()) == {path.name for path in files}


def test_a_cut_that_is_not_mended_is_no_success_for_who_waits_for_results(desk: Desk) -> None:
    """The files are stored; what came of them nobody knows."""
    desk.allow("ana")
    server = desk.serve()
    files = several(desk)
    with Chaos(server.port, Fault(chaos.cut_by_fin, DOWN, 100_000)) as way:
        sent = desk.send(way.port, *files, "--json", "--results", desk.files / "out", "--retries", "0")
        assert way.struck.is_set()
    assert {entry["status"] for entry in events(sent, "file")} == {"stored"}
    assert sent.returncode == 1
    assert "4 of 4 files were stored on localhost" in sent.stderr
    assert "but not all that came of opening them is here" in sent.stderr
    again = desk.send(server, *files, "--json", "--results", desk.files / "out")
    assert again.returncode == 0, "as the hint says"
    assert {entry["status"] for entry in events(again, "file")} == {"unchanged"}


def test_a_large_file_that_is_resumed_is_seen_whole(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    data = os.urandom(8 << 20)
    large = desk.file("data.bin", data)
    script = desk.file("x.py", "import hashlib; print(hashlib.sha256(open('data.bin', 'rb').read()).hexdigest())\n")
    with Chaos(server.port, Fault(chaos.cut_by_rst, UP, 5 << 20)) as way:
        sent = desk.send(way.port, script, large, "--json")
    assert sent.returncode == 0, sent.stderr
    assert next(entry for entry in events(sent, "file") if entry["name"] == "data.bin")["resumed"] > 0
    assert opened(sent)["x.py"]["output"] == hashlib.sha256(data).hexdigest() + "\n"


def test_the_two_lines_of_the_readme_bring_results_back(desk: Desk, tmp_path: Path) -> None:
    """As they stand there, but for the place of the server, who serves, and whom the sender trusts."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- a server that opens, and a sender who wants results -->\n```sh\n")[1].split("```")[0]
    there, here = (line.partition("#")[0].split() for line in block.splitlines())
    allow, serve = there[: there.index("&&")], there[there.index("&&") + 1 :]
    assert allow[:2] == ["securexfer", "user"]
    assert serve[:2] == ["securexfer", "serve"]
    desk.user(*allow[2:])
    server = desk.serve(*serve[2:], opening=False)
    assert here[:2] == ["securexfer", "send"]
    desk.file("analysis.py", "open('/out/result.csv', 'w').write(open('data.csv').read().upper())")
    desk.file("data.csv", "a,b\n")
    paths = {"analysis.py": desk.files / "analysis.py", "data.csv": desk.files / "data.csv", "out/": tmp_path / "out"}
    words = [str(paths.get(word, word)) for word in here[2:] if word != "ana@lab1"]
    sent = desk.send(server, *words)
    assert sent.returncode == 0, sent.stderr
    assert (tmp_path / "out" / "result.csv").read_text() == "A,B\n"
    assert sent.stdout.splitlines()[-1] == "  1 file opened, 1 stored, not opened"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_printed_goes_where_the_output_goes_while_progress_is_drawn(desk: Desk, *, elsewhere: bool) -> None:
    """To a file or a pipe, not to the terminal on which the progress is; and there, not into its lines."""
    desk.allow("ana")
    server = desk.serve()
    slow = desk.file("slow.py", "import time; time.sleep(2); print('here it is')\n")
    out = desk.files / "out.txt"
    command = [
        SECUREXFER, "send", str(slow), f"ana@localhost:{server.port}",
        "--ca", str(desk.ca), "--password-file", str(desk.password_file),
    ]  # fmt: skip
    words = ["/bin/sh", "-c", f'exec "$@" {"> " + str(out) if elsewhere else ""}', "sh", *command]
    with Terminal(*words, SECUREXFER_CONFIG=str(desk.config)) as terminal:
        assert terminal.finish() == 0
        shown = terminal.shown
    assert "Total" in "".join(terminal.frames), "the progress was drawn meanwhile"
    where = out.read_text() if elsewhere else shown
    assert "│ here it is" in where.splitlines()
    assert "here it is" in shown or elsewhere
    assert not (elsewhere and "here it is" in shown)
