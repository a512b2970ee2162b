"""Protocol 2: which message may follow which.

The rules in plain words:

* The connection: a login, then one request after another. A send begins with Put, is answered by Ready, and ends with
  Finish and Summary; in between there are transfers, numbered one after the other from 1.
* A transfer is opened by an Offer or a Claim. Each side ends it with one word: the sender with Trailer or Abort (an
  Offer of a directory is its own end), the receiver with Committed or Refuse. It is open until both were said. As many
  as the receiver's `window` may be open.
* A Claim is answered by Committed, which is both sides' last word; or as an Offer is, and goes on as one. The sender
  says nothing of it before the answer.
* The receiver may refuse until it has said its word. A sender that reads that before its own says Abort; until the
  receiver reads that, or the Trailer that was on its way, it throws away what comes. An Abort is answered by a Refuse,
  unless that was said before.
* Content of one transfer at a time: it moves from an eager Offer or a Start on, until Trailer or Abort. Until then no
  other may begin to move. Offers that are not eager, Aborts of others, Totals and Alive may come in between.
* Finish comes after the sender's last word about every transfer, Summary after the receiver's. Numbers go on in the
  next send.
* Files may be opened once all are stored. Between Finish and Summary the server tells what came of each: its Results,
  each with its content in Data of the server's, and last Opened. It speaks of one file at a time.
* Alive is for a side that owes something: the sender between Ready and Finish, the receiver from Ready to Summary.
* Refuse of transfer 0 is the server's last word of all. A client that reads it says nothing more.

Everything else is an error: what is not in these tables must not be said. Either side keeps its own `Conversation` of
what it says and what it hears, in that order; messages that cross on the way are in the tables, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from securexfer.errors import ProtocolError
from securexfer.wire.messages import (
    DIRECTORY,
    EAGER,
    Abort,
    Accept,
    Alive,
    Authenticate,
    Claim,
    Committed,
    Data,
    Finish,
    Offer,
    Opened,
    Put,
    Ready,
    Refuse,
    Result,
    Start,
    Summary,
    Totals,
    Trailer,
    Welcome,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT, SERVER = "client", "server"
SENDER, RECEIVER = "sender", "receiver"

# -- the connection ----------------------------------------------------------------------------------------------

NEW, AUTHENTICATING, IDLE, ASKED = "new", "authenticating", "idle", "asked"
SENDING, COUNTED, FINISHING, RETURNING, ENDED = "sending", "counted", "finishing", "returning", "ended"

CONNECTION: Final[dict[tuple[str, str, type], str]] = {
    (NEW, CLIENT, Authenticate): AUTHENTICATING,
    (AUTHENTICATING, SERVER, Welcome): IDLE,
    (AUTHENTICATING, SERVER, Refuse): ENDED,
    (IDLE, CLIENT, Put): ASKED,
    (IDLE, SERVER, Refuse): ENDED,
    (ASKED, SERVER, Ready): SENDING,
    (ASKED, SERVER, Refuse): ENDED,
    (SENDING, CLIENT, Totals): COUNTED,
    (SENDING, CLIENT, Finish): FINISHING,
    (COUNTED, CLIENT, Finish): FINISHING,
    (FINISHING, SERVER, Summary): IDLE,
    (FINISHING, SERVER, Opened): FINISHING,
    (FINISHING, SERVER, Result): RETURNING,
    (RETURNING, SERVER, Data): RETURNING,
    (RETURNING, SERVER, Result): RETURNING,
    (RETURNING, SERVER, Opened): FINISHING,
    (RETURNING, SERVER, Refuse): ENDED,
}
OF_STORED: Final = frozenset({Opened, Result, Data})  # what a server says of a file that is stored, and opened
for _state in (SENDING, COUNTED, FINISHING):
    CONNECTION[_state, SERVER, Alive] = _state
    CONNECTION[_state, SERVER, Refuse] = ENDED
for _state in (SENDING, COUNTED):
    CONNECTION[_state, CLIENT, Alive] = _state
# What the server's last word crosses on its way.
for _said in (Put, Totals, Finish, Alive):
    CONNECTION[ENDED, CLIENT, _said] = ENDED

# Transfers are spoken of in these states of the connection. (Not by the sender once it has said Finish.)
OPEN: Final = {SENDING: (SENDER, RECEIVER), COUNTED: (SENDER, RECEIVER), FINISHING: (RECEIVER,), ENDED: (SENDER,)}

# -- a transfer --------------------------------------------------------------------------------------------------

OFFERED, CLAIMED, ACCEPTED, PAYLOAD, COMPLETE = "offered", "claimed", "accepted", "payload", "complete"
REFUSED, DISCARDING, ABORTED, CLOSED = "refused", "discarding", "aborted", "closed"


class Eager(Offer):
    """An Offer with the flag of that name; it stands in the table as a message of its own."""


class Directory(Offer):
    """An Offer with the flag of that name."""


TRANSFER: Final[dict[tuple[str, str, type], str]] = {
    (NEW, SENDER, Offer): OFFERED,
    (NEW, SENDER, Eager): PAYLOAD,
    (NEW, SENDER, Directory): COMPLETE,
    (NEW, SENDER, Claim): CLAIMED,
    (OFFERED, RECEIVER, Accept): ACCEPTED,
    (OFFERED, RECEIVER, Refuse): REFUSED,
    (OFFERED, SENDER, Abort): ABORTED,
    (CLAIMED, RECEIVER, Committed): CLOSED,
    (CLAIMED, RECEIVER, Accept): ACCEPTED,
    (CLAIMED, RECEIVER, Refuse): REFUSED,
    (ACCEPTED, SENDER, Start): PAYLOAD,
    (ACCEPTED, SENDER, Abort): ABORTED,
    (ACCEPTED, RECEIVER, Refuse): REFUSED,
    (PAYLOAD, SENDER, Data): PAYLOAD,
    (PAYLOAD, SENDER, Trailer): COMPLETE,
    (PAYLOAD, SENDER, Abort): ABORTED,
    (PAYLOAD, RECEIVER, Refuse): DISCARDING,
    (COMPLETE, RECEIVER, Committed): CLOSED,
    (COMPLETE, RECEIVER, Refuse): CLOSED,
    # The receiver has refused; what the sender says did not know that yet, or is its last word.
    (REFUSED, SENDER, Start): DISCARDING,
    (REFUSED, SENDER, Abort): CLOSED,
    (DISCARDING, SENDER, Data): DISCARDING,
    (DISCARDING, SENDER, Trailer): CLOSED,
    (DISCARDING, SENDER, Abort): CLOSED,
    # The sender has aborted; what the receiver says did not know that yet.
    (ABORTED, RECEIVER, Accept): ABORTED,
    (ABORTED, RECEIVER, Refuse): CLOSED,
}
MOVING: Final = frozenset({PAYLOAD, DISCARDING})
_WHOLE: Final = frozenset(state for state, roles in OPEN.items() if roles == (SENDER, RECEIVER))
OWED_BY_SENDER: Final = MOVING | {OFFERED, CLAIMED, ACCEPTED, REFUSED}


class Conversation:
    """What was said so far on one connection, as one of its two ends knows it."""

    def __init__(self) -> None:
        self.state = NEW
        self.window = 0
        self.open: dict[int, str] = {}
        self.last = 0  # number of the last transfer that was opened
        self.moving = 0  # number of the transfer whose content is on its way, or 0
        self.returning = 0  # number of the one of which results are on their way back, or 0
        self.owed = 0  # transfers about which the sender has to say something yet

    def note(self, speaker: str, message: type, transfer: int, flags: int = 0) -> None:
        """Take note that `speaker` (the client is the sender) says a message; raise ProtocolError if it may not.

        `flags` are those of an Offer.
        """
        if transfer and speaker == SERVER and message in OF_STORED:
            self._note_opening(message, transfer)
        elif transfer:
            role = SENDER if speaker == CLIENT else RECEIVER
            self._note_transfer(role, message, transfer, flags)
        else:
            self._note_connection(speaker, message)

    def _note_connection(self, speaker: str, message: type) -> None:
        following = CONNECTION.get((self.state, speaker, message))
        if following is None:
            raise ProtocolError(f"the {speaker} said {message.__name__} in the state {self.state}")
        if message is Finish and self.owed and self.state is not ENDED:
            raise ProtocolError(f"the client said Finish with {self.owed} transfers unfinished")
        if message is Summary and self.open:
            raise ProtocolError(f"the server said Summary with {len(self.open)} transfers open")
        self.state = following

    def _note_opening(self, message: type, transfer: int) -> None:
        if transfer > self.last or transfer in self.open or self.returning not in {0, transfer}:
            raise ProtocolError(
                f"the server said {message.__name__} of transfer {transfer}, which it cannot speak of now"
            )
        self._note_connection(SERVER, message)
        self.returning = transfer if self.state == RETURNING else 0

    def note_whole(self, transfer: int) -> bool:
        """Take note of an eager Offer, its Data and its Trailer at once, if nothing speaks against any of them.

        That is what `note` does for the three of them; where this returns False, it says what is wrong.
        """
        if self.state not in _WHOLE or self.moving or transfer != self.last + 1 or len(self.open) >= self.window:
            return False
        self.last = transfer
        self.open[transfer] = COMPLETE
        return True

    @property
    def room_for_wholes(self) -> int:
        """How many files may now be sent each with an eager Offer, its Data and its Trailer, one after the other."""
        if self.state not in _WHOLE or self.moving:
            return 0
        return max(0, self.window - len(self.open))

    def note_wholes(self, count: int) -> None:
        """Take note of the next so many, for which there is room: what `note` does for three messages of each."""
        first = self.last + 1
        self.last += count
        self.open.update(dict.fromkeys(range(first, first + count), COMPLETE))

    def note_claim(self, transfer: int) -> bool:
        """Take note of a Claim, if nothing speaks against it; False where `note` has to say what does."""
        if self.state not in _WHOLE or transfer != self.last + 1 or len(self.open) >= self.window:
            return False
        self.last = transfer
        self.open[transfer] = CLAIMED
        self.owed += 1
        return True

    def note_unchanged(self, transfer: int) -> bool:
        """Take note that the receiver says Committed of a Claim; False where `note` has to."""
        if self.state not in _WHOLE or self.open.get(transfer) != CLAIMED:
            return False
        del self.open[transfer]
        self.owed -= 1
        return True

    def note_stored(self, transfer: int) -> bool:
        """Take note that the receiver says Committed of a transfer that is complete; False where `note` has to."""
        if RECEIVER not in OPEN.get(self.state, ()) or self.open.get(transfer) != COMPLETE:
            return False
        del self.open[transfer]
        return True

    def note_all_stored(self, transfers: Sequence[int]) -> bool:
        """Take note of that for each of them; False, and of none, where `note` has to say of one what is wrong."""
        found = self.open
        if RECEIVER not in OPEN.get(self.state, ()) or len({*transfers}) != len(transfers):
            return False
        for transfer in transfers:
            if found.get(transfer) != COMPLETE:
                return False
        for transfer in transfers:
            del found[transfer]
        return True

    def _note_transfer(self, role: str, message: type, transfer: int, flags: int) -> None:
        if role not in OPEN.get(self.state, ()):
            raise ProtocolError(f"the {role} spoke of transfer {transfer} in the state {self.state}")
        state = self.open.get(transfer, NEW)
        if message is Offer:
            message = self._offered(transfer, flags)
        elif message is Claim:
            self._begun(transfer)
        following = TRANSFER.get((state, role, message))
        if following is None:
            raise ProtocolError(f"the {role} said {message.__name__} of transfer {transfer}, which is {state}")
        if following in MOVING:
            if self.moving not in {0, transfer}:
                raise ProtocolError(f"transfer {transfer} was begun in the middle of {self.moving}")
            self.moving = transfer
        elif state in MOVING:
            self.moving = 0
        if state != following:
            self.owed += (following in OWED_BY_SENDER) - (state in OWED_BY_SENDER)
            if following == CLOSED:
                del self.open[transfer]
            else:
                self.open[transfer] = following

    def _offered(self, transfer: int, flags: int) -> type:
        """Take note of the next transfer; return as what its Offer stands in the table."""
        if flags & EAGER and flags & DIRECTORY:
            raise ProtocolError("an eager offer of a directory")
        self._begun(transfer)
        return Eager if flags & EAGER else Directory if flags & DIRECTORY else Offer

    def _begun(self, transfer: int) -> None:
        """Take note of the number of the next transfer."""
        if transfer != self.last + 1:
            raise ProtocolError(f"transfer {transfer} was offered after {self.last}")
        if len(self.open) >= self.window:
            raise ProtocolError(f"more than {self.window} transfers are open")
        self.last = transfer
