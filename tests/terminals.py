"""A terminal of any size for tests: a program runs in it, a person types, and pyte shows what would be seen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

import pyte
from lab import environment

if TYPE_CHECKING:
    from pathlib import Path

# What a terminal emulator does before it starts a program: a session of its own, with this terminal as its own.
_LOGIN = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Screen(pyte.Screen):
    """A screen that counts the lines that did not fit and went on in the next."""

    wrapped = 0
    _drawing = False

    def draw(self, data: str) -> None:
        self._drawing = True
        super().draw(data)
        self._drawing = False

    def linefeed(self) -> None:
        self.wrapped += self._drawing
        super().linefeed()


class Terminal:
    """A program in a terminal. `frames` holds every screen that was to be seen, as text."""

    def __init__(self, *command: str | Path, columns: int = 80, rows: int = 24, **env: str) -> None:
        self.screen = Screen(columns, rows)
        self.raw = b""
        self.frames: list[str] = []
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.settings = termios.tcgetattr(self._slave)
        environ = {**environment(TERM="xterm-256color"), **env}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            if name not in env:
                environ.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOGIN, *map(str, command)],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environ,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, seconds: float) -> None:
        """Take what the program shows, for at most so long."""
        if select.select([self._master], [], [], seconds)[0]:
            data = os.read(self._master, 65536)
            self.raw += data
            self._stream.feed(data)
            self.frames.append("\n".join(line.rstrip() for line in self.screen.display).rstrip())

    def wait_for(self, text: str, seconds: float = 20) -> None:
        """Wait until the program has written this."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.raw:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.shown}"
            assert self.process.poll() is None or select.select([self._master], [], [], 0)[0], self.shown
            self.read(0.1)

    def finish(self, seconds: float = 60) -> int:
        """Return the program's exit code, once it has ended and all it showed has been read."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running:\n{self.shown}"
            self.read(0.05)
        with contextlib.suppress(OSError):
            while select.select([self._master], [], [], 0)[0]:
                self.read(0)
        return self.process.returncode

    @property
    def shown(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def check_restored(self) -> None:
        """Check that whoever types next finds the terminal as it was."""
        assert termios.tcgetattr(self._slave) == self.settings
        assert not self.screen.cursor.hidden
        assert self.screen.cursor.attrs == self.screen.default_char
        assert pyte.modes.DECAWM in self.screen.mode
