"""The rooms of the package: imports point downwards, and what is dangerous or bound to one room stays out of the rest.

Everything is read from the syntax tree, so comments may speak of what code must not do. Each rule is also shown a
line that breaks it, so that a rule which sees nothing is noticed.
"""

from __future__ import annotations

import ast
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
    {"transfer", "opening"},
    {"net", "storage", "accounts", "certificates", "profiles"},
    {"wire"},
    {"hosts", "files", "privileges"},
    {"names", "events"},
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
    "rich": {"cli"},
}
NEVER_IMPORTED = {"random", "pickle", "marshal", "shelve"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}
ONLY_CLI_CALLS = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "importlib.import_module"}
NEVER_NAMED = {
    "CERT_NONE",
    "CERT_OPTIONAL",
    "PROTOCOL_TLS",
    "create_default_context",
    "_create_unverified_context",
    "_create_default_https_context",
}
NEVER_SET = {"check_hostname": {False}, "hostname_checks_common_name": {True}}
NEVER_PASSED = {("suppress_ragged_eofs", True), ("shell", True), ("check_hostname", False)}


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
        elif room not in ONLY_IN.get(top, {room}):
            problems.append(f"{path}:{line} imports {top}, which belongs to {', '.join(sorted(ONLY_IN[top]))}")
    return problems


def call_problems(path: str, tree: ast.AST) -> list[str]:
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in NEVER_CALLED or (name in ONLY_CLI_CALLS and room_of(path) != "cli"):
                problems.append(f"{path}:{node.lineno} calls {name}")
            problems += [
                f"{path}:{node.lineno} passes {keyword.arg}={keyword.value.value}"
                for keyword in node.keywords
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in NEVER_PASSED
            ]
        elif isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc):
            problems.append(f"{path}:{node.lineno} raises SystemExit")
    return problems


def name_problems(path: str, tree: ast.AST) -> list[str]:
    problems = []
    for node in ast.walk(tree):
        # A name as a string is how getattr would reach it.
        word = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", None)
        if isinstance(node, ast.Attribute | ast.Name | ast.Constant) and isinstance(word, str) and word in NEVER_NAMED:
            problems.append(f"{path}:{node.lineno} names {word}")
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if not isinstance(target, ast.Attribute):
                    continue
                value = node.value.value if isinstance(node.value, ast.Constant) else None
                if target.attr == "verify_mode" or value in NEVER_SET.get(target.attr, set()):
                    problems.append(f"{path}:{node.lineno} sets {target.attr}")
    return problems


def problems_of(path: str, source: str) -> list[str]:
    tree = ast.parse(source)
    problems = import_problems(path, tree) + call_problems(path, tree) + name_problems(path, tree)
    lines = source.count("\n")
    if lines > MAX_LINES:
        problems.append(f"{path} has {lines} lines; the limit is {MAX_LINES}")
    return problems


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES)
def test_T30_K15_every_file_keeps_to_its_room_and_away_from_what_is_dangerous(path: str) -> None:
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
        ("cli/send.py", "eval(text)", "calls eval"),
        ("cli/send.py", "exec(text)", "calls exec"),
        ("client.py", "importlib.import_module(name)", "calls importlib.import_module"),
        ("client.py", "subprocess.run(command, shell=True)", "passes shell=True"),
        ("net/tls.py", "context.wrap_socket(sock, suppress_ragged_eofs=True)", "passes suppress_ragged_eofs=True"),
        ("net/tls.py", "context.verify_mode = ssl.CERT_NONE", "names CERT_NONE"),
        ("net/tls.py", "mode = getattr(ssl, 'CERT_NONE')", "names CERT_NONE"),
        ("net/tls.py", "context.verify_mode = mode", "sets verify_mode"),
        ("net/tls.py", "context.check_hostname = False", "sets check_hostname"),
        ("net/tls.py", "context.hostname_checks_common_name = True", "sets hostname_checks_common_name"),
        ("net/tls.py", "context = ssl.create_default_context()", "names create_default_context"),
        ("net/tls.py", "context = ssl._create_unverified_context()", "names _create_unverified_context"),
        ("net/tls.py", "context = ssl.SSLContext(ssl.PROTOCOL_TLS)", "names PROTOCOL_TLS"),
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
    ],
)
def test_no_rule_minds_what_is_right(path: str, line: str) -> None:
    assert problems_of(path, line) == []
