"""Work that takes long is done by threads beside whoever needs it: commits, hashing, syncs."""

from __future__ import annotations

import contextlib
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result_co = TypeVar("Result_co", covariant=True)


class Job(Generic[Result_co]):
    """Something to do, and once it is done, what came of it."""

    def __init__(self, work: Callable[[], Result_co]) -> None:
        self._work = work
        self._results: list[Result_co] = []  # one, when it is done
        self._error: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Do it; never raises."""
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error
        self._over.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for it, so long at most; return whether it is done."""
        return self._over.wait(seconds)

    @property
    def done(self) -> bool:
        """Whether it is."""
        return self._over.is_set()

    def result(self) -> Result_co:
        """Return what came of it, or raise what it raised, when it is done."""
        self._over.wait()
        if self._error:
            raise self._error
        return self._results[0]


class Bell:
    """Wakes a thread that waits in `poll`, from another."""

    def __init__(self) -> None:
        self.descriptor, self._in = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._in, False)

    def ring(self) -> None:
        """Wake whoever waits for `descriptor`."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._in, b".")

    def hush(self) -> None:
        """Have it rung no more, until the next time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def close(self) -> None:
        """Let it go; nobody may ring it any more."""
        os.close(self.descriptor)
        os.close(self._in)


class Worker:
    """Does jobs in order, in a thread of its own, which is started with the first.

    Where no thread is to be had, a job is done at once, by whoever hands it over. (The library's executor puts a job
    into its queue before it finds that out: it might be done a second time, by a later thread.)
    """

    def __init__(self, bell: Bell | None = None) -> None:
        """Ring the `bell`, if there is one, at the end of each job that the thread does."""
        self._bell = bell
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], Result_co]) -> Job[Result_co]:
        """Have something done."""
        if not self._start():
            return self.do_here(work)
        job = Job(work)
        self._jobs.put(job)
        return job

    def do_here(self, work: Callable[[], Result_co]) -> Job[Result_co]:
        """Do something at once, in the thread that asks for it."""
        job = Job(work)
        job.run()
        return job

    def close(self) -> None:
        """Wait until all is done."""
        if self._thread:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> bool:
        if self._thread:
            return True
        thread = threading.Thread(target=self._run, daemon=True, name="worker")
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads, or no memory for one
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while job := self._jobs.get():
            job.run()
            if self._bell:
                self._bell.ring()
