"""`securexfer user`: real processes, a real database, a real terminal for the prompt."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import select
import shlex
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from securexfer.accounts.database import Accounts
from securexfer.accounts.passwords import PasswordHash
from securexfer.accounts.users import Permission

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct horse battery"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "SECUREXFER_HOME"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "lab home"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def users(home: Path) -> Path:
    """Return a database with alice and bob, who cannot log in: most commands do not look at the hash."""
    with Accounts.create(home / "users.db") as accounts:
        accounts.add_all({"alice": "x", "bob": "y"})
    return home / "users.db"


def user(home: Path, *words: str, stdin: str | bytes = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `securexfer user WORDS` in `home`; the exit code must be `code`, and no traceback may be seen."""
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    run = subprocess.run(
        [sys.executable, "-m", "securexfer", "user", *words],
        cwd=home,
        env=ENVIRONMENT,
        input=raw,
        capture_output=True,
        check=False,
    )
    done = subprocess.CompletedProcess(run.args, run.returncode, run.stdout.decode(), run.stderr.decode())
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "inside securexfer" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done


def held(path: Path) -> dict[str, str | None]:
    with Accounts.open(path) as accounts:
        return {each.name: each.hash for each in accounts.all()}


def logs_in(path: Path, name: str, password: str) -> bool:
    return PasswordHash.parse(held(path)[name] or "").matches(password)


def test_add_makes_the_database_and_says_what_comes_next(home: Path) -> None:
    done = user(home, "add", "alice", "--password-stdin", stdin=PASSWORD + "\n")
    assert "alice can log in now" in done.stderr
    assert str(home / "users.db") in done.stderr
    assert "Next: securexfer serve" in done.stderr
    assert done.stdout == ""
    assert stat.S_IMODE((home / "users.db").stat().st_mode) == 0o600
    assert logs_in(home / "users.db", "alice", PASSWORD)


def test_the_database_is_where_home_or_users_say(home: Path, tmp_path: Path) -> None:
    """Each hint names the same place, so that it works as it stands."""
    elsewhere = tmp_path / "other one"
    elsewhere.mkdir(mode=0o700)
    done = user(elsewhere, "list", "--home", str(home), code=2)
    assert str(home) in done.stderr
    hint = shlex.split(done.stderr.splitlines()[-1].partition("securexfer user ")[2].replace("NAME", "alice"))
    user(elsewhere, *hint, "--password-stdin", stdin=PASSWORD)
    assert not list(elsewhere.iterdir())
    assert held(home / "users.db").keys() == {"alice"}
    done = user(elsewhere, "add", "alice", "--users", str(home / "users.db"), "--password-stdin", code=2)
    hint = shlex.split(done.stderr.splitlines()[-1].partition("securexfer user ")[2])
    assert hint[:2] == ["passwd", "alice"]
    user(elsewhere, *hint, "--password-stdin", stdin="another passphrase")
    assert logs_in(home / "users.db", "alice", "another passphrase")
    done = user(
        elsewhere, "add", "bob", "--home", str(elsewhere / "nowhere"), "--password-stdin", stdin=PASSWORD, code=2
    )
    subprocess.run(shlex.split(done.stderr.splitlines()[-1].partition(": ")[2]), check=True)
    done = user(elsewhere, "add", "bob", "--home", str(elsewhere / "nowhere"), "--password-stdin", stdin=PASSWORD)
    assert f"Next: securexfer serve --home {shlex.quote(str(elsewhere / 'nowhere'))}" in done.stderr


def test_passwd_sets_the_new_password_alone(home: Path, users: Path) -> None:
    secret = home / "secret"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    assert "alice has a new password" in user(home, "passwd", "alice", "--password-file", "secret").stderr
    assert logs_in(users, "alice", PASSWORD)
    assert held(users)["bob"] == "y"
    secret.chmod(0o644)
    assert "others can read" in user(home, "passwd", "bob", "--password-file", "secret", code=2).stderr
    assert held(users)["bob"] == "y"


def test_remove_disable_and_enable_say_what_they_did(home: Path, users: Path) -> None:
    done = user(home, "disable", "alice")
    assert "alice can log in no more" in done.stderr
    undo = shlex.split(done.stderr.strip().rpartition("securexfer user ")[2])
    with Accounts.open(users) as accounts:
        assert [each.disabled for each in accounts.all()] == [True, False]
    assert "alice can log in again" in user(home, *undo).stderr
    with Accounts.open(users) as accounts:
        assert [each.disabled for each in accounts.all()] == [False, False]
    assert "bob is removed" in user(home, "remove", "bob").stderr
    assert held(users).keys() == {"alice"}


def test_H02_allow_and_deny_say_what_they_did_and_how_to_undo_it(home: Path, users: Path) -> None:
    def may() -> list[bool]:
        with Accounts.open(users) as accounts:
            return [accounts.may_open("alice"), accounts.may_open("bob")]

    assert may() == [False, False]
    done = user(home, "allow", "alice", "open")
    assert "What alice sends is opened from now on, if the server was started with --open." in done.stderr
    assert done.stdout == ""
    assert may() == [True, False]
    undo = shlex.split(done.stderr.strip().rpartition("securexfer user ")[2])
    assert undo == ["deny", "alice", "open"]
    done = user(home, *undo)
    assert "never opened" in done.stderr
    assert may() == [False, False]
    user(home, *shlex.split(done.stderr.strip().rpartition("securexfer user ")[2]))
    assert may() == [True, False]


@pytest.mark.parametrize("command", ["allow", "deny"])
def test_a_permission_or_a_user_that_is_not_there_is_exit_2_and_says_what_to_type(
    home: Path, users: Path, command: str
) -> None:
    for word in ("run", "Open", "", "open,run", "alice", "\x1b[2J"):
        done = user(home, command, "alice", word, code=2)
        assert "there is no permission" in done.stderr
        assert "\x1b" not in done.stderr
        assert done.stderr.strip().endswith(f"securexfer user {command} NAME open")
    done = user(home, command, "carol", "open", code=2)
    assert "there is no user 'carol'" in done.stderr
    assert done.stderr.strip().endswith("securexfer user list")
    assert "PERMISSION" in user(home, command, "alice", code=2).stderr
    with Accounts.open(users) as accounts:
        assert not accounts.may_open("alice")


@pytest.mark.parametrize("command", ["passwd", "remove", "disable", "enable"])
def test_a_user_who_is_not_there_is_exit_2_and_names_list(home: Path, users: Path, command: str) -> None:
    done = user(home, command, "carol", code=2)
    assert "there is no user 'carol'" in done.stderr
    assert done.stderr.strip().endswith("securexfer user list")


def test_add_of_a_user_who_is_there_is_exit_2_before_any_password(home: Path, users: Path) -> None:
    done = user(home, "add", "alice", code=2)
    assert "securexfer user passwd alice" in done.stderr
    assert held(users)["alice"] == "x"


@pytest.mark.parametrize("name", ["Alice", "../x", "x" * 33, "\x1b[2Jx"])
def test_A25_add_refuses_other_names_before_any_password(home: Path, name: str) -> None:
    done = user(home, "add", name, code=2)
    assert "not an allowed user name" in done.stderr
    assert "\x1b" not in done.stderr
    assert not list(home.iterdir())


def test_A07_a_refused_password_changes_nothing_and_a_short_one_is_warned_of(home: Path) -> None:
    assert "too short" in user(home, "add", "alice", "--password-stdin", stdin="7 chars", code=2).stderr
    assert "UTF-8" in user(home, "add", "alice", "--password-stdin", stdin=b"caf\xe9 au lait", code=2).stderr
    assert not list(home.iterdir())
    done = user(home, "add", "alice", "--password-stdin", stdin="14 characters.")
    assert "Warning: 14 characters are few" in done.stderr
    assert "Warning" not in user(home, "passwd", "alice", "--password-stdin", stdin="15 characters..").stderr


def test_A20_A22_a_password_is_never_an_argument_and_never_prompted_for_without_a_terminal(home: Path) -> None:
    assert "No such option" in user(home, "add", "alice", "--password", "hunter2hunter2", code=2).stderr
    done = user(home, "add", "alice", stdin=f"{PASSWORD}\n{PASSWORD}\n", code=2)
    assert "not a terminal" in done.stderr
    assert "--password-stdin" in done.stderr
    assert not list(home.iterdir())


def at_terminal(home: Path, words: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run the command on a terminal, answer each prompt; return the exit code and all that the terminal showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home)
        command = [sys.executable, "-m", "securexfer", "user", *words]
        os.execve(sys.executable, command, ENVIRONMENT)  # noqa: S606 - pty.fork leaves only exec to do
    shown = ""
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):  # EIO: the process has closed its end
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 4096).decode()
            if answers and answers[0][0] in shown:
                os.write(terminal, answers.pop(0)[1].encode() + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_the_prompt_asks_twice_and_shows_nothing(home: Path) -> None:
    words = ["add", "alice"]
    code, shown = at_terminal(
        home, words, [("New password of alice: ", PASSWORD), ("The same again: ", "something else")]
    )
    assert code == 2
    assert "differ" in shown
    assert not (home / "users.db").exists()
    code, shown = at_terminal(home, words, [("New password of alice: ", PASSWORD), ("The same again: ", PASSWORD)])
    assert code == 0
    assert PASSWORD not in shown
    assert logs_in(home / "users.db", "alice", PASSWORD)


def test_list_is_columns_for_programs_json_on_request_and_a_table_for_people(home: Path, users: Path) -> None:
    with Accounts.open(users) as accounts:
        accounts.disable("bob")
        accounts.allow("bob", Permission.OPEN)
    with contextlib.closing(sqlite3.connect(users)) as raw:
        raw.execute("INSERT INTO users VALUES ('\x1b[31mcarol', NULL, 0, 0, 0, 0, 0, 0)")
        raw.commit()
    lines = user(home, "list").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["user", "state"],
        ["\\x1b[31mcarol", "no"],
        ["alice", "active"],
        ["bob", "disabled"],
    ]
    assert re.fullmatch(r"alice +active +\d{4}-\d\d-\d\d \d\d:\d\d  \d{4}-\d\d-\d\d \d\d:\d\d", lines[2])
    assert re.fullmatch(r"bob +disabled +\d{4}-\d\d-\d\d \d\d:\d\d  \d{4}-\d\d-\d\d \d\d:\d\d  open", lines[3])
    records = [json.loads(line) for line in user(home, "list", "--json").stdout.splitlines()]
    assert [(record["user"], record["state"]) for record in records] == [
        ("\x1b[31mcarol", "no password"),
        ("alice", "active"),
        ("bob", "disabled"),
    ]
    assert records[1].keys() == {"user", "state", "permissions", "failures", "created", "changed"}
    assert [record["permissions"] for record in records] == [[], [], ["open"]]
    assert records[0]["created"] == "1970-01-01T00:00:00+00:00"
    code, shown = at_terminal(home, ["list"], [])
    assert code == 0
    assert "┃" in shown
    assert "\\x1b[31mcarol" in shown
    assert "open" in shown


def test_list_of_nobody_says_how_to_add_the_first(home: Path) -> None:
    Accounts.create(home / "users.db").close()
    done = user(home, "list")
    assert done.stdout == ""
    assert "securexfer user add NAME" in done.stderr


def test_A17_users_added_at_once_before_there_is_a_database_are_all_there(home: Path) -> None:
    names = [f"user{number}" for number in range(6)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "securexfer", "user", "add", name, "--password-stdin"],
            cwd=home,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for process in started:
        process.communicate(PASSWORD.encode(), timeout=60)
    assert [process.returncode for process in started] == [0] * 6
    assert sorted(held(home / "users.db")) == names


# -- import ----------------------------------------------------------------------------------------------------


def read(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="") as opened:
        return list(csv.reader(opened, delimiter=delimiter))


def test_import_adds_a_class_and_writes_its_passphrases_once(home: Path, users: Path) -> None:
    """Further columns are copied beside the passphrases; whoever is there already is left alone."""
    (home / "class.csv").write_text(
        '\ufeffName,User,Mail\n"Lovelace, Ada",ada,ada@x\n\nAlice,alice,a@x\nCarol, carol ,c@x\n'
    )
    done = user(home, "import", "class.csv")
    slips = home / "class-passphrases.csv"
    assert "Users added: 2; there already and left as they were: 1." in done.stderr
    assert "class-passphrases.csv" in done.stderr
    assert done.stdout == ""
    assert stat.S_IMODE(slips.stat().st_mode) == 0o600
    header, *rows = read(slips)
    assert header == ["user", "passphrase", "Name", "Mail"]
    assert [[row[0], *row[2:]] for row in rows] == [["ada", "Lovelace, Ada", "ada@x"], ["carol", "Carol", "c@x"]]
    for row in rows:
        assert logs_in(users, row[0], row[1])
        assert row[1] not in done.stderr
    assert held(users)["alice"] == "x"
    assert "Lovelace" not in users.read_bytes().decode(errors="replace")
    before = held(users), slips.read_bytes()
    assert "Users added: 0; there already and left as they were: 3." in user(home, "import", "class.csv").stderr
    assert (held(users), slips.read_bytes()) == before


def test_import_needs_no_header_and_reads_what_spreadsheets_write(home: Path) -> None:
    (home / "a.csv").write_text("ada;Ada\r\nbob;Bob\r\n", newline="")
    user(home, "import", "a.csv", "--out", "slips.csv")
    assert [[row[0], row[2]] for row in read(home / "slips.csv", ";")[1:]] == [["ada", "Ada"], ["bob", "Bob"]]
    assert held(home / "users.db").keys() == {"ada", "bob"}


def test_import_names_every_wrong_line_and_changes_nothing(home: Path, users: Path) -> None:
    before = held(users)
    (home / "class.csv").write_text("user,name\nada,Ada\nBob,Bob\nada,Again\n,Nobody\n../x,X\n")
    done = user(home, "import", "class.csv", code=2)
    assert "4 wrong lines; nothing was changed" in done.stderr
    for problem in ("line 3: 'Bob' is", "line 4: ada is on line 2", "line 5: there is no user", "line 6: '../x'"):
        assert problem in done.stderr
    assert held(users) == before
    assert not (home / "class-passphrases.csv").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), (b"", "names no user"), (b"user\n\n", "names no user"), (b"caf\xe9\n", "not UTF-8")],
)
def test_import_of_something_else_is_exit_2(home: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (home / "class.csv").write_bytes(content)
    assert why in user(home, "import", "class.csv", code=2).stderr
    assert not (home / "users.db").exists()


def test_import_never_overwrites_passphrases(home: Path, users: Path) -> None:
    (home / "class.csv").write_text("ada\n")
    slips = home / "class-passphrases.csv"
    slips.symlink_to(home / "dangling")
    for _ in range(2):
        assert "--out" in user(home, "import", "class.csv", code=2).stderr
        assert held(users).keys() == {"alice", "bob"}
        slips.unlink()
        slips.write_text("precious")
    assert slips.read_text() == "precious"


def test_import_adds_nobody_whose_passphrase_could_not_be_written(home: Path, users: Path) -> None:
    (home / "class.csv").write_text("ada\n")
    done = user(home, "import", "class.csv", "--out", "x" * 300, code=2)
    assert "no user was added" in done.stderr
    assert held(users).keys() == {"alice", "bob"}
    (home / "class.csv").write_text(f"ada,{'x' * 100_000}\n")
    command = shlex.join([sys.executable, "-m", "securexfer", "user", "import", "class.csv"])
    limited = ["sh", "-c", f"ulimit -f 128; exec {command}"]  # 64 KiB a file: a disk that is full for this one
    done = subprocess.run(limited, cwd=home, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no user was added" in done.stderr
    assert not (home / "class-passphrases.csv").exists()
    assert held(users).keys() == {"alice", "bob"}
    assert "no file can be made" in user(home, "import", "class.csv", "--out", "nowhere/slips.csv", code=2).stderr


def test_import_makes_the_passphrases_durable_before_it_commits(home: Path, users: Path) -> None:
    """A kill between the two leaves passphrases without users, never users without passphrases."""
    script = """
        import os, sys
        from pathlib import Path
        import securexfer.files
        real = securexfer.files.create_private
        def last_deed(path, data, mode=0o600):
            real(path, data, mode)
            if "passphrases" in path.name:
                os.kill(os.getpid(), 9)
        securexfer.files.create_private = last_deed
        sys.argv = ["securexfer", "user", "import", "class.csv"]
        from securexfer.cli import main
        main()
        """
    (home / "class.csv").write_text("ada\nbea\n")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=home, env=ENVIRONMENT, check=False)
    assert done.returncode == -9
    assert [row[0] for row in read(home / "class-passphrases.csv")] == ["user", "ada", "bea"]
    assert held(users).keys() == {"alice", "bob"}
    user(home, "import", "class.csv", code=2)
    (home / "class-passphrases.csv").unlink()
    user(home, "import", "class.csv")
    assert held(users).keys() == {"ada", "alice", "bea", "bob"}
