"""What the sender of one send is told of each file, and the log before it: there it is, whoever is left to hear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securexfer.errors import TruncatedError
from securexfer.storage.base import Committed as Stored
from securexfer.storage.base import Outcome as Done
from securexfer.wire import messages

if TYPE_CHECKING:
    from securexfer.errors import SecurexferError
    from securexfer.net.frames import Frames
    from securexfer.transfer.groups import Complete, Outcome
    from securexfer.transfer.openings import Openings
    from securexfer.transfer.session import Session

_ENOUGH = 16 * 1024  # bytes of answers, which one TLS record holds


class Answers:
    """Answers that go out together: short ones by themselves would be a record and a system call each."""

    def __init__(self, frames: Frames, session: Session, directory: str, openings: Openings | None) -> None:
        """Answer for files below `directory`, "" or ending in a slash, of which these `openings` take some."""
        self._frames = frames
        self._session = session
        self._directory = directory
        self._openings = openings
        self._out = bytearray()
        self.files = self.bytes = 0  # that are stored
        self.awaited: list[int] = []  # numbers of those that are going to be opened
        self.over = False  # whether the session is, so that nobody may be left to hear

    def say(self, message: messages.Message, number: int) -> None:
        """Say a message about a transfer."""
        self._out += self._frames.say(message, number)
        self._speak_if_enough()

    def refuse(self, number: int, name: str, size: int, sha256: str, error: SecurexferError, started: float) -> None:
        """Say why a file is not stored."""
        self._session.rejected(name, size, sha256, error, started)
        self.say(refusal_of(error), number)

    def unchanged(self, number: int, name: str, size: int, sha256: str, outcome: Stored, started: float) -> None:
        """Say that a file that was claimed stands there already."""
        if self._stored(number, name, size, sha256, outcome, started):
            self.say(messages.Committed("unchanged", 1, ""), number)
        else:
            self._out += self._frames.say_unchanged(number)
            self._speak_if_enough()

    def tell(self, complete: Complete, outcome: Outcome) -> None:
        """Say what has become of a file all of which had arrived, or of a directory."""
        number, file, _, sha256, started = complete
        name = str(file.name)
        if not isinstance(outcome, Stored):
            self.refuse(number, name, file.size, sha256, outcome, started)
            return
        opened = bool(sha256) and self._stored(number, name, file.size, sha256, outcome, started)
        how, stored_as = outcome
        same = stored_as is file.name or stored_as == file.name
        if same and how is Done.STORED and not opened:
            self._out += self._frames.say_stored(number)
        else:
            self.say(messages.Committed(how.value, int(opened), "" if same else str(stored_as)), number)

    def speak(self) -> bool:
        """Send what was said; return whether anything was."""
        if not self._out:
            return False
        said = bytes(self._out)
        self._out.clear()
        try:
            self._frames.connection.post(said)
        except TruncatedError:
            if not self.over:  # else the log still has to be told the rest
                raise
        return True

    def _speak_if_enough(self) -> None:
        if len(self._out) >= _ENOUGH:
            self.speak()

    def _stored(self, number: int, name: str, size: int, sha256: str, outcome: Stored, started: float) -> bool:
        """Tell the log of a file that is stored; return whether it is going to be opened."""
        self.files += 1
        self.bytes += size
        self._session.stored(name, size, sha256, outcome, started)
        taken = self._openings is not None and self._openings.takes(name.removeprefix(self._directory), outcome)
        if taken:
            self.awaited.append(number)
        return taken


def refusal_of(error: SecurexferError) -> messages.Refuse:
    """Return the word that says why a file is not stored, or the session over."""
    # It is for people, so a long one may lose its end.
    return messages.Refuse(0, error.reason, error.message.encode()[: messages.MAX_DETAIL].decode(errors="ignore"))
