"""examples/homework/: the story runs, and its page tells the same commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from boxes import needs_bubblewrap, reachable
from lab import environment

HOMEWORK = Path(__file__).parent.parent / "examples" / "homework"
pytestmark = needs_bubblewrap


def told(text: str, begin: str) -> list[str]:
    return [line.removeprefix(begin) for line in text.splitlines() if line.startswith(f"{begin}securexfer ")]


def test_the_lesson_is_the_story_of_its_page_and_ends_with_each_students_output() -> None:
    before = sorted(path for path in HOMEWORK.rglob("*") if "__pycache__" not in path.parts)
    with reachable() as place:
        done = subprocess.run(
            [sys.executable, str(HOMEWORK / "lesson.py")],
            capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
            env=environment(TMPDIR=str(place)),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert not list(place.iterdir()), "nothing stays behind"
    assert told(done.stdout, "$ ") == told((HOMEWORK / "README.md").read_text(encoding="utf-8"), "")
    story, _, end = done.stdout.partition("== aluno1: media.py\n")
    assert "│ prova1: 7.50\n│ prova2: 8.17\n  aluno1/results/medias.csv\n" in story
    assert "poema.txt: shown\n│ no meio do caminho tinha uma pedra\n" in story
    assert "laco.py: ended: it took too much processor time" in story
    assert end.split("\n") == [
        "prova1: 7.50", "prova2: 8.17", "",
        "== aluno2: contagem.py", "3 tinha", "3 uma", "3 pedra", "",
        "== aluno3: laco.py", "contando...", "", "",
    ]  # fmt: skip
    assert sorted(path for path in HOMEWORK.rglob("*") if "__pycache__" not in path.parts) == before


def test_the_lesson_knows_the_standard_library_alone() -> None:
    for path in HOMEWORK.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {(node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        assert imported <= sys.stdlib_module_names, path
