"""`serve --open`: what users send is shown or run if three switches agree, and nothing else ever is.

Here: who has files opened, when, which of them, and on which bytes. What comes back is in test_opening_results.py, who
means harm in test_hostile_openings.py, the sandbox itself in test_sandbox.py.
"""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boxes
import lab as lab_module
import pytest
from boxes import needs_bubblewrap
from desks import IS_ROOT, events, handled, opened
from fuzz.sending import Silent
from hostile.chaos import Detour
from lab import PASSWORD, wait_until

from securexfer import client
from securexfer.net.tls import client_context
from securexfer.transfer import outflow
from securexfer.transfer.items import Item
from securexfer.transfer.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from desks import Desk

    from securexfer.transfer.returned import Opened

pytestmark = needs_bubblewrap
HELLO = "print('hello')\n"
DENIED = "the user may not have files opened: securexfer user allow NAME open"
OFF = "this server opens nothing: it was started without --open"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def classroom(desk: Desk) -> list[Path]:
    """Return the demonstration's two files."""
    return [desk.file("teste1.txt", "Olá, turma!\n"), desk.file("script.py", "print('2 + 2 =', 2 + 2)\n")]


# -- three switches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["1", "2"])
@pytest.mark.parametrize("on", [True, False])
def test_H03_the_classrooms_demonstration(desk: Desk, protocol: str, on: bool) -> None:
    """A text is shown and a script is run, in the server's log; with the switch off neither."""
    desk.allow("ana")
    server = desk.serve(opening=on)
    files = classroom(desk)
    sent = desk.send(server, *files, "--protocol", protocol)
    assert sent.returncode == 0, sent.stderr
    assert desk.stored() == {path.name: path.read_bytes() for path in files}
    if not on:
        wait_until(lambda: len(handled(server)) == 2)
        assert [(event["event"], event["name"], event["reason"], event["detail"]) for event in handled(server)] == [
            ("handler.refused", path.name, "off", OFF) for path in files
        ]
        assert "Olá" not in sent.stdout + server.log_path.read_text()
        return
    server.wait_for("handler.run", 2)
    found = {event["name"]: event for event in handled(server)}
    shown, ran = found["teste1.txt"], found["script.py"]
    assert (shown["action"], shown["how"], shown["shown"]) == ("show", "shown", ["│ Olá, turma!"])
    assert (ran["action"], ran["how"], ran["code"], ran["shown"]) == ("run", "exit", 0, ["│ 2 + 2 = 4"])
    assert (ran["user"], ran["sha256"]) == ("ana", hashlib.sha256(files[1].read_bytes()).hexdigest())
    assert ran["seconds"] > 0
    assert len(handled(server)) == 2
    if protocol == "2":
        assert "teste1.txt: shown\n│ Olá, turma!\n" in sent.stdout
        assert re.search(r"script\.py: ran, exit code 0, \d+\.\d s\n│ 2 \+ 2 = 4\n", sent.stdout)
    else:
        assert "│" not in sent.stdout


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_H01_by_default_nothing_is_run_shown_or_said(desk: Desk, protocol: str) -> None:
    server = desk.serve(opening=False)
    sent = desk.send(server, *classroom(desk), "--protocol", protocol)
    assert sent.returncode == 0, sent.stderr
    assert set(desk.stored()) == {"teste1.txt", "script.py"}
    assert server.stop() == 0
    assert not handled(server)
    assert "│" not in sent.stdout + server.log_path.read_text()
    assert "open" not in sent.stdout + sent.stderr


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_H02_the_servers_switch_without_the_users_permission(desk: Desk, protocol: str) -> None:
    desk.allow("bruno")
    server = desk.serve()
    script = desk.file("x.py", HELLO)
    sent = desk.send(server, script, "--protocol", protocol)
    assert sent.returncode == 0, sent.stderr
    refused = server.wait_for("handler.refused")
    assert (refused["user"], refused["name"], refused["reason"], refused["detail"]) == ("ana", "x.py", "denied", DENIED)
    assert desk.stored() == {"x.py": HELLO.encode()}
    assert len(handled(server)) == 1


@pytest.mark.parametrize(
    ("allowed", "on", "why"),
    [
        (True, False, "its server was started without --open"),
        (False, True, "this user may not; whoever runs the server can say: securexfer user allow NAME open"),
        (False, False, "its server was started without --open"),
    ],
)
def test_H02_who_waits_for_results_is_told_why_there_are_none(desk: Desk, allowed: bool, on: bool, why: str) -> None:
    if allowed:
        desk.allow("ana")
    server = desk.serve(opening=on)
    for quiet in ([], ["--quiet"], ["--json"]):
        sent = desk.send(server, desk.file("x.py", HELLO), "--results", desk.files / "out", *quiet)
        assert sent.returncode == 0, sent.stderr
        told = f"nothing is opened on localhost:{server.port}: {why}. What is sent is stored, and nothing comes back."
        assert sent.stderr.count(told) == 1, sent.stderr
    assert not list((desk.files / "out").iterdir())


def test_no_open_stores_and_asks_for_nothing(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    sent = desk.send(server, *classroom(desk), "--no-open")
    assert sent.returncode == 0, sent.stderr
    assert set(desk.stored()) == {"teste1.txt", "script.py"}
    refused = desk.send(server, *classroom(desk), "--no-open", "--results", desk.files)
    assert refused.returncode == 2
    assert "Leave one of them out" in refused.stderr
    assert server.stop() == 0
    assert not handled(server)


@pytest.mark.root
def test_H05_root_opens_nothing_as_root(desk: Desk) -> None:
    done = desk.run("serve", "--home", desk.home, "--host", "localhost", "--port", "0", "--open")
    assert done.returncode == 2
    assert "handlers need a non-root user" in done.stderr
    assert "Start it so: securexfer serve --open --run-as USER" in done.stderr


def hide_bubblewrap(program: Callable[[str], None]) -> None:
    """Have servers started where nothing is under bubblewrap's name: a mount that only they see."""
    if IS_ROOT:
        program(
            "#!/bin/sh\nexec unshare -m sh -c "
            f'\'mount --bind /dev/null "$(command -v bwrap)" && exec {lab_module.SECUREXFER} "$@"\' sh "$@"\n'
        )
    else:
        program(
            '#!/bin/sh\nexec bwrap --dev-bind / / --ro-bind /dev/null "$(command -v bwrap)" '
            f'{lab_module.SECUREXFER} "$@"\n'
        )


def test_H06_without_bubblewrap_files_are_stored_and_it_is_said(
    desk: Desk, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.allow("ana")
    real = lab_module.SECUREXFER
    hide_bubblewrap(program)
    server = desk.serve()
    hidden = subprocess.run(
        [lab_module.SECUREXFER, "doctor", "--home", desk.home], capture_output=True, text=True, check=False
    )
    monkeypatch.setattr(lab_module, "SECUREXFER", real)
    warned = server.wait_for("handler.warn")["detail"]
    assert warned == (
        "nothing is opened: bubblewrap, which makes the sandbox, is not installed (apt install bubblewrap)"
    )
    for protocol in ("1", "2"):
        name = f"x{protocol}.py"
        sent = desk.send(server, desk.file(name, HELLO), "--protocol", protocol)
        assert sent.returncode == 0, sent.stderr
        refused = server.wait_for("handler.refused", int(protocol))
        assert (refused["name"], refused["reason"]) == (name, "unavailable")
        assert refused["detail"] == "there is no sandbox: securexfer doctor says why"
    told = desk.send(server, desk.file("x3.py", HELLO), "--results", desk.files / "out")
    assert told.returncode == 0
    assert "its server has no sandbox that works; `securexfer doctor` there says why" in told.stderr
    assert set(desk.stored()) == {"x1.py", "x2.py", "x3.py"}
    assert not server.events("handler.run")
    assert "no     opening: bubblewrap, which makes the sandbox, is not installed" in hidden.stdout, hidden.stderr
    assert "apt install bubblewrap" in hidden.stdout


# -- which bytes -----------------------------------------------------------------------------------------------


def test_H03_it_is_run_once_after_publication_on_the_verified_bytes(desk: Desk) -> None:
    """Its turn comes when two others are done; before that somebody puts another file under its name."""
    desk.allow("ana", "bruno")
    server = desk.serve()
    gate = desk.files / "gate"
    text = "import time; print('mine')\n"
    slow = [desk.lasting(f"{number}.py", "mark-of-H03", 3) for number in (1, 2)]
    late = desk.file("late.py", text)
    with desk.sending(server, *slow, user="bruno"), ThreadPoolExecutor() as pool:
        wait_until(lambda: len(boxes.running("mark-of-H03")) >= 2)
        sending = pool.submit(desk.send, server, late, "--json")
        server.wait_for("file.ok", 3)
        stored = desk.inbox / "ana" / "late.py"
        assert stored.read_text() == text, "it is there before it is run"
        assert not [event for event in handled(server) if event["user"] == "ana"]
        gate.write_text("print('theirs')\n")
        gate.replace(stored)
        sent = sending.result()
    assert sent.returncode == 0, sent.stderr
    assert opened(sent)["late.py"]["output"] == "mine\n"
    (ran,) = [event for event in handled(server) if event["user"] == "ana"]
    assert (ran["event"], ran["sha256"], ran["how"], ran["code"]) == ("handler.run", digest(text), "exit", 0)
    assert ran["shown"] == ["│ mine"]
    assert ran["seconds"] > 0


def test_H03_what_was_written_into_meanwhile_is_not_run(desk: Desk) -> None:
    """As only who administers the inbox can: then it is not what was verified any more."""
    desk.allow("ana", "bruno")
    server = desk.serve()
    slow = [desk.lasting(f"{number}.py", "mark-of-writing", 3) for number in (1, 2)]
    with desk.sending(server, *slow, user="bruno"), ThreadPoolExecutor() as pool:
        wait_until(lambda: len(boxes.running("mark-of-writing")) >= 2)
        sending = pool.submit(desk.send, server, desk.file("late.py", HELLO), "--json")
        server.wait_for("file.ok", 3)
        (desk.inbox / "ana" / "late.py").write_text("print('theirs')\n")
        sent = sending.result()
    assert sent.returncode == 0, sent.stderr
    told = opened(sent)["late.py"]
    assert (told["how"], told["output"]) == ("failed", "")
    assert told["detail"] == "the script is not what was verified"
    assert "theirs" not in server.log_path.read_text()


def test_H03_nothing_is_opened_before_the_send_is_over(desk: Desk) -> None:
    """A script that is stored waits for what comes after it, however long that takes."""
    desk.allow("ana")
    server = desk.serve()
    script = desk.file("x.py", "import os; print(os.path.getsize('data.bin'))\n")
    data = desk.file("data.bin", bytes(8 << 20))
    with ThreadPoolExecutor() as pool, Detour(server.port, hold_after=5 << 20) as way:
        sending = pool.submit(desk.send, way.port, script, data, "--json")
        assert way.held.wait(30)
        assert server.wait_for("file.ok")["name"] == "x.py"
        time.sleep(1)  # in which it would have been run
        assert not handled(server)
        way.release()
        sent = sending.result()
    assert sent.returncode == 0, sent.stderr
    assert opened(sent)["x.py"]["output"] == f"{8 << 20}\n"
    assert len(handled(server)) == 1


def test_H04_what_was_not_sent_is_never_run(desk: Desk) -> None:
    """Left from before, dropped by somebody, or stored by another send: nothing looks for files."""
    desk.allow("ana")
    inbox = desk.inbox / "ana"
    server = desk.serve(opening=False)
    assert desk.send(server, desk.file("before.py", HELLO)).returncode == 0
    assert server.stop() == 0
    (inbox / "restored.py").write_text(HELLO)
    desk.give(inbox)
    server = desk.serve()
    (inbox / "dropped.py").write_text(HELLO)
    desk.give(inbox)
    assert desk.send(server, desk.file("other.csv", "1\n")).returncode == 0
    assert desk.send(server, desk.file("more.csv", "1\n"), "--protocol", "1").returncode == 0
    assert not handled(server)
    again = desk.send(server, desk.files / "before.py", "--json")
    assert events(again, "file")[0]["status"] == "unchanged"
    assert opened(again)["before.py"]["output"] == "hello\n", "what is sent again is opened again"
    assert server.stop() == 0
    assert [event["name"] for event in handled(server)] == ["before.py"]


def test_H20_the_stored_names_last_extension_decides(desk: Desk) -> None:
    """To the letter; and what a file holds means nothing."""
    desk.allow("ana")
    server = desk.serve()
    stored = ["x.PY", "x.py ", "x.py.", "y.py\u200b", "x.pyw", ".py", "x.py.bak", "x.Txt", "py", "#!.sh"]
    files = [desk.file(name, HELLO) for name in stored]
    files += [desk.file("a.txt.py", HELLO), desk.file("shebang.txt", "#!/usr/bin/python3\nprint(1)\n")]
    files += [desk.file("d.py/file", HELLO)]
    sent = desk.send(server, desk.files, "--json")
    assert sent.returncode == 0, sent.stderr
    assert {event["status"] for event in events(sent, "file")} == {"stored"}
    found = opened(sent)
    assert set(found) == {"files/a.txt.py", "files/shebang.txt"}
    assert found["files/a.txt.py"]["output"] == "hello\n"
    assert (found["files/shebang.txt"]["action"], found["files/shebang.txt"]["output"]) == (
        "show",
        "#!/usr/bin/python3\nprint(1)\n",
    )
    assert {event["name"] for event in handled(server)} == set(found)


# -- what a script sees ----------------------------------------------------------------------------------------


LOOKS = """
    import os
    for above, _, names in os.walk("."):
        for name in names:
            path = os.path.join(above, name)
            print(path[2:], open(path).read().strip())
"""


def lines(text: str) -> list[str]:
    return sorted(text.splitlines())


def test_a_script_sees_what_came_with_it_and_no_more(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    assert desk.send(server, desk.file("earlier.csv", "earlier\n")).returncode == 0
    looks, data = desk.file("looks.py", LOOKS), desk.file("data.csv", "1;2\n")
    sent = desk.send(server, looks, data, "--json")
    content = looks.read_text().strip().splitlines()
    assert lines(opened(sent)["looks.py"]["output"]) == sorted(
        ["data.csv 1;2", *lines("looks.py " + "\n".join(content))]
    )
    unchanged = desk.send(server, looks, data, "--json")
    assert {entry["status"] for entry in events(unchanged, "file")} == {"unchanged"}
    assert opened(unchanged)["looks.py"]["output"] == opened(sent)["looks.py"]["output"]
    alone = desk.send(server, looks, "--json")
    assert "data.csv" not in opened(alone)["looks.py"]["output"]


def test_a_tree_is_seen_as_it_was_sent_also_what_was_renamed(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    for year in ("2024", "2025"):
        desk.file("homework/data/a.csv", f"{year}\n")
        desk.file("homework/main.py", f"# {year}\nprint(open('homework/data/a.csv').read(), end='')\n")
        sent = desk.send(server, desk.files / "homework", "--on-conflict", "rename", "--json", target="/runs")
        assert sent.returncode == 0, sent.stderr
        assert opened(sent)["runs/homework/main.py"]["output"] == f"{year}\n"
    assert sorted(entry["stored_as"] for entry in events(sent, "file")) == [
        "runs/homework/data/a (1).csv",
        "runs/homework/main (1).py",
    ]
    assert [event["name"] for event in handled(server)] == ["runs/homework/main.py", "runs/homework/main (1).py"]


def test_what_is_refused_is_not_opened_and_not_seen(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    first = desk.send(server, desk.file("a.csv", "1\n"), desk.file("x.py", HELLO))
    assert first.returncode == 0
    for policy, code in (("refuse", 5), ("skip", 0)):
        script = desk.file("x.py", "print('other')\n")
        sent = desk.send(server, script, "--on-conflict", policy, "--json")
        assert sent.returncode == code, sent.stderr
        assert not opened(sent)
    looks = desk.file("looks.py", "import os; print(os.listdir())\n")
    sent = desk.send(server, looks, desk.file("a.csv", "other\n"), "--json")
    assert sent.returncode == 7
    assert opened(sent)["looks.py"]["output"] == "['looks.py']\n"


# -- how many at once ------------------------------------------------------------------------------------------


TIMES = "import time; began = time.monotonic(); time.sleep(0.3); print(began, time.monotonic())\n"


def most_at_once(outputs: list[str]) -> int:
    """Return how many of the scripts ran at the same moment; the clock is one for the whole machine."""
    times = [tuple(map(float, output.split())) for output in outputs]
    return max(sum(began <= moment < ended for began, ended in times) for moment, _ in times)


@pytest.mark.parametrize("count", [20, 100])
def test_H19_of_many_scripts_two_run_at_a_time(desk: Desk, count: int) -> None:
    desk.allow("ana")
    server = desk.serve()
    text = TIMES if count <= 20 else TIMES.replace("0.3", "0.01")
    files = [desk.file(f"{number}.py", text) for number in range(count)]
    sent = desk.send(server, *files, "--json", timeout=300)
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)
    assert [entry["how"] for entry in found.values()] == ["exit"] * count
    assert list(found) == [path.name for path in files], "they are told of in their order"
    assert most_at_once([entry["output"] for entry in found.values()]) == 2
    assert len(server.events("handler.run")) == count


def test_H19_more_than_may_wait_are_busy_and_stored(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve(*desk.rules("[limits]\nqueue = 5\n"))
    files = [desk.file(f"{number:02}.py", TIMES) for number in range(20)]
    sent = desk.send(server, *files, "--json")
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)
    assert list(found) == [path.name for path in files]
    ran = [entry for entry in found.values() if entry["how"] == "exit"]
    busy = [name for name, entry in found.items() if entry["how"] == "busy"]
    assert 5 <= len(ran) <= 7, "five wait, and two run"
    assert len(ran) + len(busy) == 20
    assert most_at_once([entry["output"] for entry in ran]) <= 2
    assert {found[name]["detail"] for name in busy} == {"as many wait as are allowed to"}
    refused = [(event["name"], event["reason"]) for event in server.events("handler.refused")]
    assert refused == [(name, "busy") for name in busy]
    assert len(desk.stored()) == 20
    plain = desk.send(server, *files, timeout=60)
    assert ": stored, not opened: the server has too much to do (as many wait as are allowed to)\n" in plain.stdout


@pytest.mark.parametrize("how", ["deny", "disable", "remove"])
def test_H19_the_permission_is_asked_for_again_when_a_scripts_turn_comes(desk: Desk, how: str) -> None:
    desk.allow("ana", "bruno")
    server = desk.serve()
    slow = [desk.lasting(f"{number}.py", f"mark-of-{how}", 4) for number in (1, 2)]
    with desk.sending(server, *slow, user="bruno"), ThreadPoolExecutor() as pool:
        wait_until(lambda: len(boxes.running(f"mark-of-{how}")) >= 2)
        sending = pool.submit(desk.send, server, desk.file("late.py", HELLO), "--json")
        server.wait_for("file.ok", 3)
        desk.user(how, "ana", *(["open"] if how == "deny" else []))
        sent = sending.result()
    assert sent.returncode == 0, sent.stderr
    told = opened(sent)["late.py"]
    assert (told["how"], told["detail"], told["output"]) == ("denied", DENIED, "")
    (refused,) = [event for event in handled(server) if event["user"] == "ana"]
    assert (refused["event"], refused["reason"]) == ("handler.refused", "denied")
    assert (desk.inbox / "ana" / "late.py").read_text() == HELLO


def test_ten_sends_at_once_by_one_user_are_all_answered(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve()
    files = [desk.file(f"{number}.py", f"print({number})\n") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda path: desk.send(server, path, "--json"), files))
    assert [each.returncode for each in done] == [0] * 10, [each.stderr for each in done]
    assert [opened(each)[f"{number}.py"]["output"] for number, each in enumerate(done)] == [
        f"{number}\n" for number in range(10)
    ]
    assert len(server.events("handler.run")) == 10


# -- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_H13_H18_no_script_outlives_its_server(desk: Desk, number: signal.Signals, protocol: str) -> None:
    desk.allow("ana")
    server = desk.serve()
    mark = f"mark-of-{number.name}-{protocol}"
    lasting = desk.lasting("lasting.py", mark)
    with desk.sending(server, lasting, "--protocol", protocol, "--retries", "0") as sending:
        wait_until(lambda: boxes.running(mark))
        server.process.send_signal(number)
        assert server.process.wait(20) == (0 if number is signal.SIGTERM else -number)
        wait_until(lambda: not boxes.running(mark), 10)
        out, err = sending.communicate(timeout=20)
    assert sending.returncode == 0, "it is stored"
    assert "Traceback" not in err + server.log_path.read_text()
    if number is signal.SIGTERM:
        killed = server.events("handler.killed")
        assert [(event["name"], event["how"]) for event in killed] == [("lasting.py", "cancelled")]
        assert not desk.bundles()
        if protocol == "2":
            assert "lasting.py: ended: the server stopped" in out
    else:
        assert desk.bundles()
    assert desk.serve().stop() == 0
    assert desk.stored() == {"lasting.py": lasting.read_bytes()}
    assert not desk.bundles(), "what a server left, the next one removes"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_script_ends_when_its_sender_leaves(desk: Desk, number: signal.Signals) -> None:
    desk.allow("ana")
    server = desk.serve()
    mark = f"mark-of-client-{number.name}"
    files = [desk.lasting("lasting.py", mark), *(desk.file(f"{count}.py", HELLO) for count in range(3))]
    with desk.sending(server, *files) as sending:
        wait_until(lambda: boxes.running(mark))
        sending.send_signal(number)
        _, err = sending.communicate(timeout=20)
        wait_until(lambda: not boxes.running(mark), 10)
    assert "Traceback" not in err
    if number is signal.SIGINT:
        assert sending.returncode == 130
        assert f"interrupted: 4 of 4 files were stored on localhost:{server.port}" in err
    wait_until(lambda: "lasting.py" in {event["name"] for event in server.events("handler.killed")})
    assert {event["how"] for event in server.events("handler.killed")} == {"cancelled"}
    wait_until(lambda: not desk.bundles())
    assert len(desk.stored()) == 4


def test_in_protocol_1_nobody_waits_and_it_goes_on(desk: Desk) -> None:
    """Its client has no answer to wait for; so it is not the one to end it by leaving."""
    desk.allow("ana")
    server = desk.serve()
    sent = desk.send(server, desk.file("x.py", "import time; time.sleep(2); print('late')\n"), "--protocol", "1")
    assert sent.returncode == 0
    assert server.wait_for("handler.run")["shown"] == ["│ late"]


def test_H17_whatever_becomes_of_a_script_the_send_is_a_success(desk: Desk) -> None:
    desk.allow("ana")
    server = desk.serve(*desk.rules("[limits]\nseconds = 8\ncpu_seconds = 1\n"))
    texts = {
        "exits.py": "raise SystemExit(3)",
        "raises.py": "1 / 0",
        "crashes.py": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "sleeps.py": "import time; time.sleep(60)",
        "spins.py": "while True: pass",
        "floods.py": "while True: print('x' * 4096, end='')",
        "empty.py": "",
    }
    files = [desk.file(name, text) for name, text in texts.items()]
    sent = desk.send(server, *files, "--json")
    assert sent.returncode == 0, sent.stderr
    found = opened(sent)
    assert {name: (entry["how"], entry["exit_code"]) for name, entry in found.items()} == {
        "exits.py": ("exit", 3),
        "raises.py": ("exit", 1),
        "crashes.py": ("signal", None),
        "sleeps.py": ("time", None),
        "spins.py": ("cpu", None),
        "floods.py": ("output", None),
        "empty.py": ("exit", 0),
    }
    assert found["crashes.py"]["detail"] == "SIGSEGV"
    assert "ZeroDivisionError" in found["raises.py"]["output"]
    assert found["floods.py"]["output"] == "x" * 65536
    assert found["floods.py"]["cut"]
    assert {event["name"] for event in server.events("handler.killed")} == {"sleeps.py", "spins.py", "floods.py"}
    assert set(desk.stored()) == set(texts)
    assert not list(desk.inbox.rglob("core*"))


def test_a_script_sees_what_had_to_be_offered_twice(desk: Desk) -> None:
    """Other content of the same size stands there: that is known only when the first answer to the last file came."""
    desk.allow("ana")
    server = desk.serve()
    script = desk.file(
        "reads.py", "import os\nprint(open('data.csv').read() if os.path.exists('data.csv') else None)\n"
    )
    for content in ("first", "other"):
        data = desk.file("data.csv", content)
        sent = desk.send(server, script, data, "--on-conflict", "replace", "--json")
        assert sent.returncode == 0, sent.stderr
        assert opened(sent)["reads.py"]["output"] == f"{content}\n"


def test_a_sender_waits_for_a_script_as_long_as_its_server_is_alive(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than it would for a server that has nothing to do but to hash and to sync."""
    desk.allow("ana")
    server = desk.serve()
    monkeypatch.setattr(outflow, "patience", lambda _owed: 0.0)
    path = desk.file("x.py", "import time; time.sleep(8); print('late')\n")
    item, heard = Item(path, "x.py", path.stat().st_size, path.stat().st_mtime_ns), []

    class Hearing(Silent):
        def opened(self, item: Item, opened: Opened) -> None:
            super().opened(item, opened)
            heard.append(opened.output)

    target, wishes = client.Target("ana", "localhost", server.port, ""), Wishes(timeout=6, retries=0)
    context = client_context(desk.ca.read_text(), client.protocols(None))
    client.send(target, context, ("ana", PASSWORD), [item], Hearing(), wishes)
    assert heard == [b"late\n"]
