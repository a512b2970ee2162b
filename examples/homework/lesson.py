"""The story of README.md, told by doing it: python examples/homework/lesson.py.

A lab is set up in a temporary directory, three students send their homework to it over a loopback connection, and at
the end stands what each of their scripts printed. Root has the server run as `nobody`; nothing stays behind.
"""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SECUREXFER = shutil.which("securexfer", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
STUDENTS = {"aluno1": "media.py notas.csv", "aluno2": "contagem.py poema.txt", "aluno3": "laco.py"}
RUN_AS = ["--run-as", "nobody"] if os.geteuid() == 0 else []
SECONDS = 60.0  # for whatever is waited for


class Lesson:
    """A lab in a directory, and its server."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = 0
        self.log = place / "serve.log"

    def do(self, line: str, *more: str, said: str | None = None) -> str:
        """Show a command as it stands in the story and run it, with what a temporary lab needs besides."""
        print(f"$ {line}", flush=True)
        command = [SECUREXFER if word == "securexfer" else word for word in shlex.split(line)]
        done = subprocess.run(
            [str(word).replace("@localhost", f"@localhost:{self.port}") for word in [*command, *more]],
            cwd=self.place, input=said, capture_output=True, text=True, timeout=SECONDS * 2, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{line} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def serve(self, line: str) -> subprocess.Popen[bytes]:
        """Start the server on a free port, and wait until it listens."""
        print(f"$ {line}", flush=True)
        command = [SECUREXFER, *shlex.split(line)[1:], "--host", "localhost", "--port", "0", *RUN_AS]
        with self.log.open("wb") as log:
            server = subprocess.Popen(command, cwd=self.place, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while "server.start" not in (said := self.log.read_text(encoding="utf-8")):
            if server.poll() is not None or time.monotonic() > end:
                sys.exit(f"the server did not start:\n{said}")
            time.sleep(0.05)
        self.port = int(said.partition("Listening on ")[2].split()[0].rstrip(",").rpartition(":")[2])
        return server


def tell(lesson: Lesson) -> None:
    """Do what README.md tells, in its order."""
    place = lesson.place
    lesson.do("securexfer init")
    shutil.copy(place / "certs" / "ca.pem", place / "ca.pem")  # what `securexfer trust` fetches on another machine
    for student in STUDENTS:
        password = secrets.token_urlsafe(16)
        (place / f"{student}.password").touch(mode=0o600)
        (place / f"{student}.password").write_text(password + "\n", encoding="utf-8")
        lesson.do(f"securexfer user add {student}", "--password-stdin", said=password)
        lesson.do(f"securexfer user allow {student} open")
    server = lesson.serve("securexfer serve --open --open-rules rules.toml --keep-output")
    try:
        for student, files in STUDENTS.items():
            sent = " ".join(f"{student}/{name}" for name in files.split())
            print(
                lesson.do(
                    f"securexfer send {sent} {student}@localhost --results {student}/results",
                    *("--ca", "ca.pem", "--password-file", f"{student}.password"),
                )
            )
    finally:
        server.terminate()
        server.wait(SECONDS)
    for student in STUDENTS:
        for path in sorted((place / "inbox" / student).glob("*.py.out.txt")):
            print(f"== {student}: {path.name.removesuffix('.out.txt')}")
            print(path.read_text(encoding="utf-8"))


with tempfile.TemporaryDirectory(prefix="securexfer-homework-") as directory:
    top = Path(directory)
    shutil.copytree(HERE, top, dirs_exist_ok=True)
    if RUN_AS:
        shutil.chown(top, "nobody")
        top.chmod(0o755)
    os.environ["SECUREXFER_CONFIG"] = str(top / "config")  # no server that this user has trusted is meant
    tell(Lesson(top))
