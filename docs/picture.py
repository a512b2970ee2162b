"""Make demo.svg: what a terminal shows of `securexfer demo`, from a real run of the securexfer beside this Python.

python docs/picture.py [FILE.svg]

Only what differs from run to run and from machine to machine has fixed words in the picture (see FIXED), so that it
changes when the demo changes and not otherwise. It names no font to fetch.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

COLUMNS, ROWS = 100, 50
PROGRAM = Path(sys.executable).with_name("securexfer")
FIXED = (
    (r"(/\S+)?/securexfer-demo-\w+", "/tmp/securexfer-demo"),  # noqa: S108 - a picture of a path
    (r"127\.0\.0\.1:\d+", "127.0.0.1:40961"),
    (r"(fingerprint:?) [0-9a-f]{64}", rf"\1 {hashlib.sha256(b'the CA of the picture').hexdigest()}"),
    (r"(?m)^Names: .*$", "Names: localhost, lab1, 127.0.0.1, ::1, 192.0.2.10"),
    (r"(?m)^Valid until: .*$", "Valid until: 2030-03-31 12:00 UTC"),
    (r"in \d+\.\d s", "in 0.1 s"),
)
FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def run_on_a_terminal(command: list[str]) -> str:
    """Return all that a command writes on a terminal of its own; raise CalledProcessError if it fails."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # every process on the terminal has ended
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, shown)
    return shown.decode().replace("\r\n", "\n")


def draw(shown: str) -> str:
    """Return the picture (SVG) of what was shown, escape sequences for style included."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(shown), soft_wrap=True)
    picture = console.export_svg(title="securexfer demo", theme=DIMMED_MONOKAI, unique_id="demo")
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL).replace("Fira Code, monospace", FONTS)
    # Some programs drop the spaces at the start of a text.
    return picture.replace('class="demo-matrix"', 'class="demo-matrix" xml:space="preserve"')


def main(picture: Path) -> None:
    """Run the demo and write the picture."""
    shown = run_on_a_terminal([str(PROGRAM), "demo"])
    for pattern, words in FIXED:
        shown = re.sub(pattern, words, shown)
    shown = shown.replace("\x1b[?25h", "")
    picture.write_text(draw(f"\x1b[1m$ securexfer demo\x1b[0m\n\n{shown}"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo.svg"))
