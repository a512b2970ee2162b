"""The rooms of the package: imports point downwards, and what is dangerous or bound to one room stays out of the rest.

Everything is read from the syntax tree, so comments may speak of what code must not do. Each rule is also shown a
line that breaks it, so that a rule which sees nothing is noticed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "securexfer"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MAX_LINES = 450  # what a person reads in one sitting, and a bit

# Each floor may import from the floors below it: not from its own, not from above. A room is a module or a package
# directly under securexfer/; inside a room, imports are the room's own business.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"server", "client", "identity"},
    {"protocols"},
    {"transfer", "opening"},
    {"net", "storage", "accounts", "certificates", "profiles"},
    {"wire"},
    {"hosts", "files", "privileges", "workers"},
    {"names", "events", "dumps", "amounts"},
    {"errors"},
    {"__init__"},
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}

# Modules of others that only these rooms import.
ONLY_IN = {
    "ssl": {"net", "client", "server", "identity"},
    "argon2": {"accounts"},
    "sqlalchemy": {"accounts"},
    "cryptography": {"certificates"},
    "typer": {"cli"},
    "ctypes": {"dumps", "storage/nameless.py", "storage/syncing.py"},
    "rich": {"cli"},
}
NEVER_IMPORTED = {"random", "_random", "pickle", "_pickle", "marshal", "shelve", "_ssl"}
NEVER_CALLED = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "tempfile.mktemp",
}
ONLY_CLI_CALLS = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "importlib.import_module"}
# The wall clock may jump. When something was changed is told by it; how long something takes never is.
WALL_CLOCK = {"time.time", "time.time_ns", "time.localtime", "time.gmtime"}
# (`transfer/digests.py`: whether a file was changed just before it was read. `storage/partials.py`: when a file was
# written to for the last time, so that it goes away some day. The log: when a line was written.) Rooms, or files.
WALL_CLOCK_ROOMS = {"accounts", "transfer/digests.py", "storage/partials.py", "cli/log.py", "cli/floodgate.py"}
# Neither as a name, nor imported under another, nor as a string, which is how `getattr` would reach it.
NEVER_NAMED = {
    "CERT_NONE",
    "CERT_OPTIONAL",
    "PROTOCOL_TLS",
    "PROTOCOL_SSLv23",
    "create_default_context",
    "_create_unverified_context",
    "_create_default_https_context",
    "_create_stdlib_context",
    "check_hostname",
    "verify_mode",
    "maximum_version",
    "eval",
    "exec",
    "__import__",
    "__builtins__",
}
# What may be set, and to what alone.
ONLY_SET_TO = {"hostname_checks_common_name": {"False"}, "minimum_version": {"ssl.TLSVersion.TLSv1_3"}}
# What has to be said to every call of this name, and what must not be said to any call.
ALWAYS_PASSED = {"wrap_socket": ("suppress_ragged_eofs", "False"), "SSLSocket": ("suppress_ragged_eofs", "False")}
NEVER_PASSED = {"shell": "False", "suppress_ragged_eofs": "False"}  # with any other value

# `==` stops at the first byte that differs, and its time tells how many were right. Words in the names of values
# that are compared by `hmac.compare_digest` instead, and what else may be done with some of them, and why.
SECRET_WORDS = {"digest", "hash", "hashed", "secret", "password", "trailer", "fingerprint", "tag", "token", "hexdigest"}
COMPARED = {
    ("accounts/database.py", "users.c.hash == old"): "SQL; whoever asks has read that hash from there",
    ("accounts/passwords.py", "(self.profile, len(self.salt), len(self.tag)) != (CURRENT, _SALT_BYTES, _TAG_BYTES)"): (
        "of the tag, its length"
    ),
    ("cli/passwords.py", "getpass.getpass('The same again: ', stream=sys.stderr) != password"): (
        "both were typed by the same person, a moment ago"
    ),
    ("profiles.py", "tag == _EXTENSIONS"): "a tag of ASN.1",
    ("profiles.py", "tag == _BOOLEAN"): "a tag of ASN.1",
}


def room_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[str, int]]:
    """Return each module that is imported anywhere, under TYPE_CHECKING and inside functions too, and its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "securexfer":
                found += [(f"securexfer.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((module, node.lineno))
    return found


def import_problems(path: str, tree: ast.AST) -> list[str]:
    room = room_of(path)
    problems = []
    for module, line in imported(tree):
        top, _, below = module.partition(".")
        if top == "securexfer":
            other = below.partition(".")[0]
            if other.startswith("__"):  # securexfer.__version__
                other = "__init__"
            if other not in FLOOR_OF:
                problems.append(f"{path}:{line} imports {other}, which has no place in FLOORS")
            elif other != room and FLOOR_OF[other] <= FLOOR_OF[room]:
                problems.append(f"{path}:{line} imports {module}, which does not lie below {room}")
        elif not top:
            problems.append(f"{path}:{line} imports {module}; absolute imports show the direction")
        elif top in NEVER_IMPORTED:
            problems.append(f"{path}:{line} imports {top}")
        elif not {room, path} & ONLY_IN.get(top, {room}):
            problems.append(f"{path}:{line} imports {top}, which belongs to {', '.join(sorted(ONLY_IN[top]))}")
    return problems


def real_names(tree: ast.AST) -> dict[str, str]:
    """Return what the names that imports bind stand for: `import ssl as s` makes `s` stand for `ssl`."""
    names = {"builtins": ""}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname and alias.name != "builtins"}
            names |= {alias.asname: "" for alias in node.names if alias.asname and alias.name == "builtins"}
        elif isinstance(node, ast.ImportFrom):
            module = "" if node.module == "builtins" else f"{node.module}."
            names |= {alias.asname or alias.name: f"{module}{alias.name}" for alias in node.names}
    return names


def called(function: ast.expr, names: dict[str, str]) -> str:
    """Return the whole name of what is called, whatever it was imported as."""
    first, dot, rest = ast.unparse(function).partition(".")
    return (names.get(first, first) + dot + rest).removeprefix(".")


def call_problems(path: str, tree: ast.AST) -> list[str]:
    problems = []
    names = real_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = called(node.func, names)
            passed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in NEVER_CALLED or (name in ONLY_CLI_CALLS and room_of(path) != "cli"):
                problems.append(f"{path}:{node.lineno} calls {name}")
            if name in WALL_CLOCK and not {room_of(path), path} & WALL_CLOCK_ROOMS:
                problems.append(f"{path}:{node.lineno} looks at the wall clock")
            if name in {"getattr", "setattr", "delattr"} and not isinstance(node.args[1], ast.Constant):
                problems.append(f"{path}:{node.lineno} calls {name} with a name that is computed")
            keyword, value = ALWAYS_PASSED.get(name.rpartition(".")[2], (None, ""))
            if keyword and passed.get(keyword) != value:
                problems.append(f"{path}:{node.lineno} does not pass {keyword}={value}")
            problems += [
                f"{path}:{node.lineno} passes {keyword}={value}"
                for keyword, value in passed.items()
                if keyword in NEVER_PASSED and value != NEVER_PASSED[keyword]
            ]
        elif isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc):
            problems.append(f"{path}:{node.lineno} raises SystemExit")
    return problems


def name_problems(path: str, tree: ast.AST) -> list[str]:
    problems = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=str(word)) | ast.Name(id=str(word)) | ast.Constant(value=str(word)):
                words = {word}
            case ast.alias(name=name):
                words = set(name.split("."))
            case ast.keyword(arg=str(word)):
                words = {word}
            case _:
                continue
        problems += [f"{path}:{node.lineno} names {word}" for word in sorted(words & NEVER_NAMED)]
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in ONLY_SET_TO:
            statement = next((each for each in ast.walk(tree) if node in getattr(each, "targets", ())), None)
            if not isinstance(statement, ast.Assign) or ast.unparse(statement.value) not in ONLY_SET_TO[node.attr]:
                problems.append(f"{path}:{node.lineno} sets {node.attr}")
    return problems


TELLING = ast.Eq | ast.NotEq | ast.In | ast.NotIn


def comparisons_of_secrets(tree: ast.AST) -> list[tuple[str, int]]:
    """Return each `==`, `!=` and `in` with a value whose name says that it is secret or proves something, and its line.

    The length of such a value is no secret.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, TELLING) for op in node.ops):
            sides = [side for side in (node.left, *node.comparators) if not ast.unparse(side).startswith("len(")]
            names = [
                getattr(part, "attr", None) or getattr(part, "id", "") for side in sides for part in ast.walk(side)
            ]
            if any(SECRET_WORDS & set(re.split(r"[^a-z]+", name.lower())) for name in names):
                found.append((ast.unparse(node), node.lineno))
    return found


def comparison_problems(path: str, tree: ast.AST) -> list[str]:
    return [
        f"{path}:{line} compares secrets in a time that tells: {text}"
        for text, line in comparisons_of_secrets(tree)
        if (path, text) not in COMPARED
    ]


def problems_of(path: str, source: str) -> list[str]:
    tree = ast.parse(source)
    problems = import_problems(path, tree) + call_problems(path, tree) + name_problems(path, tree)
    problems += comparison_problems(path, tree)
    lines = source.count("\n")
    if lines > MAX_LINES:
        problems.append(f"{path} has {lines} lines; the limit is {MAX_LINES}")
    return problems


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES)
def test_T30_K15_A26_D14_every_file_keeps_to_its_room_and_away_from_what_is_dangerous(path: str) -> None:
    assert problems_of(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


def test_every_room_has_its_floor() -> None:
    assert {room_of(path) for path in FILES} <= set(FLOOR_OF)


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("wire/framing.py", "from securexfer.storage.local import Inbox", "does not lie below wire"),
        ("wire/framing.py", "from securexfer import storage", "does not lie below wire"),
        ("storage/local.py", "import securexfer.net.tls", "does not lie below storage"),
        ("server.py", "if TYPE_CHECKING:\n    from securexfer.client import Target", "does not lie below server"),
        ("names.py", "def show():\n    from securexfer.cli.terminal import note", "does not lie below names"),
        ("errors.py", "from securexfer.names import show", "does not lie below errors"),
        ("names.py", "from securexfer.helpers import pad", "no place in FLOORS"),
        ("names.py", "from .errors import UnsafeNameError", "absolute imports"),
        ("transfer/sender.py", "import ssl", "imports ssl"),
        ("server.py", "from argon2 import PasswordHasher", "imports argon2"),
        ("server.py", "from cryptography import x509", "imports cryptography"),
        ("storage/local.py", "import sqlalchemy.exc", "imports sqlalchemy"),
        ("client.py", "import typer", "imports typer"),
        ("client.py", "import random", "imports random"),
        ("profiles.py", "import pickle", "imports pickle"),
        ("client.py", "print(password)", "calls print"),
        ("client.py", "sys.exit(1)", "calls sys.exit"),
        ("client.py", "raise SystemExit(1)", "raises SystemExit"),
        ("client.py", "from random import choice", "imports random"),
        ("client.py", "import random as dice", "imports random"),
        ("client.py", "from pickle import loads as read", "imports pickle"),
        ("client.py", "from os import system as run\nrun('ls')", "calls os.system"),
        ("client.py", "import os as o\no.popen('ls')", "calls os.popen"),
        ("client.py", "from sys import exit as leave\nleave(1)", "calls sys.exit"),
        ("client.py", "import time as t\nt.time()", "looks at the wall clock"),
        ("client.py", "from time import time as now\nnow()", "looks at the wall clock"),
        ("transfer/tree.py", "time.time_ns()", "looks at the wall clock"),
        ("cli/send.py", "eval(text)", "calls eval"),
        ("cli/send.py", "import builtins as b\nb.eval(text)", "calls eval"),
        ("cli/send.py", "from builtins import eval as read\nread(text)", "calls eval"),
        ("cli/send.py", "getattr(builtins, 'eval')(text)", "names eval"),
        ("cli/send.py", "__builtins__['eval'](text)", "names __builtins__"),
        ("cli/send.py", "compile(text)", "calls compile"),
        ("cli/send.py", "exec(text)", "calls exec"),
        ("client.py", "importlib.import_module(name)", "calls importlib.import_module"),
        ("client.py", "subprocess.run(command, shell=True)", "passes shell=True"),
        ("client.py", "subprocess.run(command, shell=yes)", "passes shell=yes"),
        ("net/tls.py", "context.wrap_socket(sock, suppress_ragged_eofs=True)", "passes suppress_ragged_eofs=True"),
        ("net/tls.py", "context.wrap_socket(sock)", "does not pass suppress_ragged_eofs=False"),
        ("net/tls.py", "context.wrap_socket(sock, **options)", "does not pass suppress_ragged_eofs=False"),
        ("net/tls.py", "ssl.SSLSocket(sock)", "does not pass suppress_ragged_eofs=False"),
        ("net/tls.py", "context.verify_mode = ssl.CERT_NONE", "names CERT_NONE"),
        ("net/tls.py", "mode = getattr(ssl, 'CERT_NONE')", "names CERT_NONE"),
        ("net/tls.py", "from ssl import CERT_NONE as mode", "names CERT_NONE"),
        ("net/tls.py", "import ssl as s\nmode = s.CERT_NONE", "names CERT_NONE"),
        ("net/tls.py", "from ssl import create_default_context as make", "names create_default_context"),
        ("net/tls.py", "context.verify_mode = mode", "names verify_mode"),
        ("net/tls.py", "context.check_hostname = False", "names check_hostname"),
        ("net/tls.py", "setattr(context, 'check_hostname', False)", "names check_hostname"),
        ("net/tls.py", "setattr(context, 'check_' + 'hostname', False)", "with a name that is computed"),
        ("net/tls.py", "a, context.check_hostname = 1, False", "names check_hostname"),
        ("net/tls.py", "connect(target, check_hostname=False)", "names check_hostname"),
        ("net/tls.py", "context.hostname_checks_common_name = True", "sets hostname_checks_common_name"),
        ("net/tls.py", "context.hostname_checks_common_name = flag", "sets hostname_checks_common_name"),
        ("net/tls.py", "context.minimum_version = ssl.TLSVersion.TLSv1_2", "sets minimum_version"),
        ("net/tls.py", "context.minimum_version: int = ssl.TLSVersion.TLSv1_3", "sets minimum_version"),
        ("net/tls.py", "context.maximum_version = ssl.TLSVersion.TLSv1_2", "names maximum_version"),
        ("net/tls.py", "context = ssl.create_default_context()", "names create_default_context"),
        ("net/tls.py", "context = ssl._create_unverified_context()", "names _create_unverified_context"),
        ("net/tls.py", "context = ssl.SSLContext(ssl.PROTOCOL_TLS)", "names PROTOCOL_TLS"),
        ("client.py", "if trailer != found: pass", "compares secrets"),
        ("client.py", "right = digest.digest() == found", "compares secrets"),
        ("client.py", "right = self.password_hash == _compute(typed)", "compares secrets"),
        ("client.py", "right = fingerprint in found", "compares secrets"),
        ("client.py", "\n" * (MAX_LINES + 1), "the limit is"),
    ],
)
def test_each_rule_notices_what_breaks_it(path: str, line: str, problem: str) -> None:
    assert any(problem in found for found in problems_of(path, line)), problems_of(path, line)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("cli/send.py", "from securexfer.client import send"),
        ("server.py", "from securexfer.wire import framing"),
        ("accounts/logins.py", "from securexfer.accounts.database import Accounts"),
        ("cli/send.py", "print(answer)"),
        ("net/tls.py", "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never ssl.CERT_NONE"),
        ("net/tls.py", "context.hostname_checks_common_name = False"),
        ("cli/__init__.py", "from securexfer import __version__"),
        ("net/tls.py", "context.minimum_version = ssl.TLSVersion.TLSv1_3"),
        ("net/tls.py", "context.wrap_socket(sock, suppress_ragged_eofs=False)"),
        ("names.py", "pattern = re.compile('x')"),
        ("accounts/users.py", "now = time.time()"),
        ("transfer/digests.py", "now = time.time_ns()"),
        ("client.py", "if len(digest) == 32 and hmac.compare_digest(digest, found): pass"),
        ("client.py", "if fingerprint is None or size == 32: pass"),
    ],
)
def test_no_rule_minds_what_is_right(path: str, line: str) -> None:
    assert problems_of(path, line) == []


def test_every_comparison_that_is_allowed_is_there() -> None:
    found = {
        (path, text)
        for path in FILES
        for text, _ in comparisons_of_secrets(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
    }
    assert set(COMPARED) <= found


@pytest.mark.parametrize("path", FILES)
def test_O06_what_a_linter_is_told_to_overlook_has_its_reason(path: str) -> None:
    """As in `# noqa: X123 - why` and `# nosec B123 # why`: a rule by its name, and then words."""
    for line in (PACKAGE / path).read_text(encoding="utf-8").splitlines():
        assert unreasoned(line) is None, line


def unreasoned(line: str) -> str | None:
    """Return the mark in a line that tells a linter to overlook something and does not say which rule or why."""
    found = re.search(r"#\s*(noqa|nosec)\b(.*)", line)
    reasoned = found and re.match(r":? ?[A-Z]+[0-9]+(,\s?[A-Z]+[0-9]+)* (-|#) \w+ \w+", found[2])
    return None if not found or reasoned else found[0]


@pytest.mark.parametrize(
    "line", ["x()  # nosec", "x()  # nosec B603", "x()  # noqa", "x()  # noqa: S603", "#nosec B603 #"]
)
def test_O06_a_mark_without_a_reason_is_noticed(line: str) -> None:
    assert unreasoned(line)


@pytest.mark.parametrize("line", ["x()", "x()  # noqa: S603 - no shell", "x()  # nosec B603 # no shell"])
def test_O06_a_mark_with_a_reason_is_right(line: str) -> None:
    assert unreasoned(line) is None
