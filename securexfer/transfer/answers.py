"""What the sender of one send is told of each file, and the log before it: there it is, whoever is left to hear."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from securexfer.errors import TruncatedError
from securexfer.storage.base import Committed as Stored
from securexfer.storage.base import Outcome as Done
from securexfer.wire import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securexfer.errors import SecurexferError
    from securexfer.events import StoredFile
    from securexfer.net.frames import Frames
    from securexfer.transfer.groups import Complete, Outcome
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session

_ENOUGH = 16 * 1024  # bytes of answers, which one TLS record holds


class Answers:
    """Answers that go out together, and are told to the log together: each by itself would cost as much as its file."""

    def __init__(self, frames: Frames, session: Session, directory: str, openings: Openings | None) -> None:
        """Answer for files below `directory`, "" or ending in a slash, of which these `openings` take some."""
        self._frames = frames
        self._session = session
        self._directory = directory
        self._openings = None if openings is None or openings.silent else openings
        self._out = bytearray()
        self._unlogged: list[StoredFile] = []  # those of which `_out` says that they are stored
        self.files = self.bytes = 0  # that are stored
        self.awaited: list[int] = []  # numbers of those that are going to be opened
        self.over = False  # whether the session is, so that nobody may be left to hear

    def say(self, message: messages.Message, number: int) -> None:
        """Say a message about a transfer."""
        self._out += self._frames.say(message, number)
        self._speak_if_enough()

    def refuse(self, number: int, name: str, size: int, sha256: str, error: SecurexferError, started: float) -> None:
        """Say why a file is not stored."""
        self._refuse(number, name, size, sha256, error, started)
        self._speak_if_enough()

    def unchanged(self, number: int, name: str, size: int, sha256: str, outcome: Stored, started: float) -> None:
        """Say that a file that was claimed stands there already."""
        if self._stored(number, name, size, sha256, outcome, time.monotonic() - started):
            self.say(messages.Committed("unchanged", 1, ""), number)
        else:
            self._out += self._frames.say_unchanged(number)
            self._speak_if_enough()

    def tell(self, found: Sequence[tuple[Complete, Outcome]]) -> None:
        """Say what has become of files all of which had arrived, or of directories, in order.

        Nothing goes out before all of it is noted: whoever is not there any more has the log told all the same.
        """
        now = time.monotonic()
        plain: list[int] = []  # stored under their own names, which most are, and nothing else
        for complete, outcome in found:
            number, (name, size, _, _), _, sha256, started = complete
            if isinstance(outcome, Stored):
                how, stored_as = outcome
                if how is Done.STORED and (stored_as is name or stored_as == name) and sha256 and not self._openings:
                    # As `_tell_one` does, in a third of the time.
                    plain.append(number)
                    self._unlogged.append((text := str(name), size, sha256, how, text, now - started))
                    self.bytes += size
                    continue
            self._say_stored(plain)
            plain = []
            self._tell_one(complete, outcome, now - started)
        self._say_stored(plain)
        self._speak_if_enough()

    def _say_stored(self, numbers: Sequence[int]) -> None:
        self.files += len(numbers)
        self._out += self._frames.say_stored(numbers)

    def _tell_one(self, complete: Complete, outcome: Outcome, seconds: float) -> None:
        number, file, _, sha256, started = complete
        name = str(file.name)
        if not isinstance(outcome, Stored):
            self._refuse(number, name, file.size, sha256, outcome, started)
            return
        opened = bool(sha256) and self._stored(number, name, file.size, sha256, outcome, seconds)
        how, stored_as = outcome
        same = stored_as is file.name or stored_as == file.name
        self._out += self._frames.say(
            messages.Committed(how.value, int(opened), "" if same else str(stored_as)), number
        )

    def _refuse(self, number: int, name: str, size: int, sha256: str, error: SecurexferError, started: float) -> None:
        self.log()
        self._session.rejected(name, size, sha256, error, started)
        self._out += self._frames.say(refusal_of(error), number)

    def speak(self) -> bool:
        """Send what was said; return whether anything was."""
        if not self._out:
            return False
        self.log()
        said = bytes(self._out)
        self._out.clear()
        try:
            self._frames.connection.post(said)
        except TruncatedError:
            if not self.over:  # else the log still has to be told the rest
                raise
        return True

    def log(self) -> None:
        """Tell the log of the files that are stored, before their sender hears so and before anything else is told."""
        if self._unlogged:
            self._session.stored(self._unlogged)
            self._unlogged = []

    def _speak_if_enough(self) -> None:
        if len(self._out) >= _ENOUGH:
            self.speak()

    def _stored(self, number: int, name: str, size: int, sha256: str, outcome: Stored, seconds: float) -> bool:
        """Have the log told of a file that is stored; return whether it is going to be opened."""
        self.files += 1
        self.bytes += size
        self._unlogged.append((name, size, sha256, outcome.outcome, str(outcome.stored_as), seconds))
        if self._openings is None:
            return False
        self.log()
        taken = self._openings.takes(name.removeprefix(self._directory), outcome)
        if taken:
            self.awaited.append(number)
        return taken


def refusal_of(error: SecurexferError) -> messages.Refuse:
    """Return the word that says why a file is not stored, or the session over."""
    # It is for people, so a long one may lose its end.
    return messages.Refuse(0, error.reason, error.message.encode()[: messages.MAX_DETAIL].decode(errors="ignore"))
