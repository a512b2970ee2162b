"""What a sender expects of the next files, from what it heard of those before: whether the receiver has them, too.

And how many offers it may be ahead of the answers.
"""

from __future__ import annotations

ALIKE = 8  # answers in a row that say the same: then it is probably the same with the next files
FIRST_OFFERS = 64  # without an answer; one more for each answer, so that no line has to be waited for


class Expecting:
    """The offers of one connection that have no answer yet, and what the last answers said."""

    def __init__(self) -> None:
        self._unanswered: set[int] = set()
        self._ahead = FIRST_OFFERS
        self._new = self._there = 0  # answers in a row

    @property
    def may_ask(self) -> bool:
        """Whether one more offer may go ahead."""
        return len(self._unanswered) < self._ahead

    @property
    def new(self) -> bool:
        """Whether the receiver probably has nothing of the next files."""
        return self._new >= ALIKE

    @property
    def there(self) -> bool:
        """Whether the receiver probably has the next files."""
        return self._there >= ALIKE

    def ask(self, number: int) -> None:
        """Take note of an offer that wants an answer before its content goes."""
        self._unanswered.add(number)

    def answered(self, number: int) -> bool:
        """Take note that it was answered; return whether an answer was due."""
        if number not in self._unanswered:
            return False
        self._unanswered.remove(number)
        self._ahead += 1
        return True

    def refused(self, number: int) -> None:
        """Take note that it was refused, which says nothing of how far to be ahead."""
        self._unanswered.discard(number)

    def note_new(self) -> None:
        """Take note of an answer that nothing of a file is there."""
        self._new += 1
        self._there = 0

    def note_there(self) -> None:
        """Take note of an answer that something of a file is there."""
        self._new = 0
        self._there += 1

    def note_other(self) -> None:
        """Take note of an answer that something else is there in its place."""
        self._new = self._there = 0
