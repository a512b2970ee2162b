"""The order of protocol 2's messages: every conversation that two peers can have, walked through.

Each side keeps its own `Conversation`, says whatever its table allows, and hears the other through a line that holds
a few messages; so all that can cross on the way does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

from securexfer.errors import ProtocolError
from securexfer.wire import order
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
    Put,
    Ready,
    Refuse,
    Start,
    Summary,
    Totals,
    Trailer,
    Welcome,
)
from securexfer.wire.order import (
    ABORTED,
    CLIENT,
    CONNECTION,
    ENDED,
    IDLE,
    NEW,
    OF_STORED,
    OPEN,
    RECEIVER,
    SENDER,
    SENDING,
    SERVER,
    TRANSFER,
    Conversation,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[str, str, type]
ROLE = {CLIENT: SENDER, SERVER: RECEIVER}
OTHER = {CLIENT: SERVER, SERVER: CLIENT}

# What is in the tables only because it may be on its way: nobody says it who has heard what the other side said last.
CROSSING: list[Row] = [*(row for row in CONNECTION if row[0] == ENDED), (ABORTED, RECEIVER, Accept)]


class Said(NamedTuple):
    message: type
    transfer: int = 0
    flags: int = 0


class Memory(NamedTuple):
    """What one side knows of the conversation."""

    state: str
    open: tuple[tuple[int, str], ...]
    last: int
    moving: int
    owed: int
    window: int
    returning: int


class World(NamedTuple):
    """Both sides, and what is on its way to each."""

    client: Memory
    server: Memory
    to_server: tuple[Said, ...]
    to_client: tuple[Said, ...]


@dataclass(frozen=True)
class Bounds:
    transfers: int  # in all; more than the window, so that numbers are used up and room is found again
    window: int
    line: int  # messages on their way in one direction
    chatty: bool = True  # whether what changes nothing (Alive, a second Data) is said as well
    courteous: bool = False  # whether nobody says what is there only for crossing


def remembered(memory: Memory) -> Conversation:
    made = Conversation()
    made.state, opened, made.last, made.moving, made.owed, made.window, made.returning = memory
    made.open = dict(opened)
    return made


def memory_of(conversation: Conversation) -> Memory:
    found = conversation
    open_ = tuple(found.open.items())
    return Memory(found.state, open_, found.last, found.moving, found.owed, found.window, found.returning)


def noted(memory: Memory, speaker: str, said: Said, bounds: Bounds) -> Memory:
    """Return what is known after something was said, or heard; raise ProtocolError."""
    conversation = remembered(memory)
    conversation.note(speaker, said.message, said.transfer, said.flags)
    if said.message is Ready:
        conversation.window = bounds.window
    return memory_of(conversation)


def sayable(memory: Memory, speaker: str, bounds: Bounds) -> Iterator[Said]:
    """Yield all that a side might say, going by the rows that the tables have for it."""
    left_out = CROSSING if bounds.courteous else []
    for row in CONNECTION:
        if row[:2] == (memory.state, speaker) and row not in left_out:
            yield from (
                (Said(row[2], number) for number in range(1, memory.last + 1)) if about_stored(row) else [Said(row[2])]
            )
    role = ROLE[speaker]
    if role not in OPEN.get(memory.state, ()) or (bounds.courteous and memory.state == ENDED):
        return
    for transfer, state in memory.open:
        for row in TRANSFER:
            if row[:2] == (state, role) and row not in left_out:
                yield Said(row[2], transfer)
    if role == SENDER and memory.last < bounds.transfers:
        for flags in (0, EAGER, DIRECTORY):
            yield Said(Offer, memory.last + 1, flags)
        yield Said(Claim, memory.last + 1)


def about_stored(row: Row) -> bool:
    """Whether a row of the connection is about a transfer that is closed."""
    return row[1] == SERVER and row[2] in OF_STORED


class Walk:
    """Every world that can be reached, and what is wrong with any of them."""

    def __init__(self, bounds: Bounds, deaf: Row | tuple[str, str] | None = None) -> None:
        """Walk until all are seen, or something is wrong.

        `deaf` is a row that whoever listens does not have, or a pair of `OPEN`.
        """
        self.bounds = bounds
        self.deaf = deaf
        self.problem = ""
        self.heard: set[Row] = set()
        self.before: dict[World, list[World]] = {}  # by which others a world is reached, other than by the last word
        nothing = Memory(NEW, (), 0, 0, 0, 0, 0)
        start = World(nothing, nothing, (), ())
        self.seen = {start}
        waiting = deque([start])
        self.orderly: list[World] = []
        while waiting and not self.problem:
            world = waiting.popleft()
            if not world.to_server and not world.to_client:
                self._compare(world)
            for following, last_word in self._steps(world):
                if following not in self.seen:
                    self.seen.add(following)
                    waiting.append(following)
                if not last_word:
                    self.before.setdefault(following, []).append(world)

    def _compare(self, world: World) -> None:
        client, server = world.client, world.server
        if client._replace(open=()) != server._replace(open=()) or dict(client.open) != dict(server.open):
            self.problem = f"nothing is on its way, and they disagree: {client} {server}"
        if client.state == IDLE and not client.open:
            self.orderly.append(world)

    def _steps(self, world: World) -> Iterator[tuple[World, bool]]:
        for speaker, memory, line in (
            (CLIENT, world.client, world.to_server),
            (SERVER, world.server, world.to_client),
        ):
            if len(line) < self.bounds.line:
                for said in sayable(memory, speaker, self.bounds):
                    last_word = said == Said(Refuse)
                    try:
                        after = noted(memory, speaker, said, self.bounds)
                    except ProtocolError:
                        continue  # its own table does not allow it
                    if after == memory and not self.bounds.chatty:
                        continue
                    yield _after_saying(world, speaker, after, said), last_word
            if line:
                try:
                    yield self._after_hearing(world, speaker, line), False
                except ProtocolError as error:
                    self.problem = f"the {OTHER[speaker]} could not hear {line[0]}: {error} {world}"

    def _after_hearing(self, world: World, speaker: str, line: tuple[Said, ...]) -> World:
        listener = world.server if speaker == CLIENT else world.client
        said = line[0]
        stored = about_stored((listener.state, speaker, said.message))
        if said.transfer and not stored:
            kind: type = {0: Offer, EAGER: order.Eager, DIRECTORY: order.Directory}[said.flags]
            state = dict(listener.open).get(said.transfer, NEW)
            row = (state, ROLE[speaker], kind if said.message is Offer else said.message)
        else:
            row = (listener.state, speaker, said.message)
        if self.deaf in ([row, (listener.state, ROLE[speaker])] if said.transfer and not stored else [row]):
            raise ProtocolError("it does not have that row")
        after = noted(listener, speaker, said, self.bounds)
        self.heard.add(row)
        if speaker == CLIENT:
            return world._replace(server=after, to_server=line[1:])
        return world._replace(client=after, to_client=line[1:])

    def stuck(self) -> set[World]:
        """Return the worlds from which no way leads to an orderly end, but by the server's last word."""
        found, waiting = set(self.orderly), deque(self.orderly)
        while waiting:
            for world in self.before.get(waiting.popleft(), ()):
                if world not in found:
                    found.add(world)
                    waiting.append(world)
        return {world for world in self.seen - found if ENDED not in {world.client.state, world.server.state}}


def _after_saying(world: World, speaker: str, after: Memory, said: Said) -> World:
    if speaker == CLIENT:
        return world._replace(client=after, to_server=(*world.to_server, said))
    return world._replace(server=after, to_client=(*world.to_client, said))


# -- the whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "least"),
    [
        (Bounds(transfers=2, window=2, line=2), 40_000),
        (Bounds(transfers=2, window=2, line=3, chatty=False), 20_000),
        (Bounds(transfers=3, window=2, line=2, chatty=False), 25_000),
        (Bounds(transfers=1, window=1, line=4), 40_000),
    ],
    ids=str,
)
def test_no_legal_conversation_is_an_error_to_who_hears_it_and_all_can_end_in_order(bounds: Bounds, least: int) -> None:
    """Whatever crosses; with nothing on its way both sides know the same; and no way leads to where both wait."""
    walk = Walk(bounds)
    assert walk.problem == ""
    assert len(walk.seen) > least, "the walk did not come far"
    assert not walk.stuck()
    assert any(world.client.last == bounds.transfers for world in walk.orderly)


def test_every_row_is_heard_by_somebody() -> None:
    walk = Walk(Bounds(transfers=2, window=2, line=2, courteous=True))
    assert walk.problem == ""
    assert walk.heard == {*CONNECTION, *TRANSFER}


# What a row that is missing needs at most in order to be noticed.
SMALL = Bounds(transfers=2, window=2, line=2, courteous=True)


@pytest.mark.parametrize("row", [*CONNECTION, *TRANSFER], ids=lambda row: f"{row[0]}-{row[1]}-{row[2].__name__}")
def test_every_row_is_needed_by_who_listens(row: Row) -> None:
    assert "it does not have that row" in Walk(SMALL, deaf=row).problem


@pytest.mark.parametrize("row", CROSSING, ids=lambda row: f"{row[0]}-{row[1]}-{row[2].__name__}")
def test_every_row_for_what_crosses_is_needed_though_nobody_says_it_on_purpose(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(TRANSFER if row in TRANSFER else CONNECTION, row)
    assert f"could not hear Said(message={row[2]}" in Walk(SMALL).problem


@pytest.mark.parametrize("pair", [(state, role) for state, roles in OPEN.items() for role in roles], ids="-".join)
def test_each_side_may_be_heard_of_transfers_wherever_the_table_says(pair: tuple[str, str]) -> None:
    assert "it does not have that row" in Walk(SMALL, deaf=pair).problem


# -- what no table holds ----------------------------------------------------------------------------------------


def sending(window: int = 2) -> Conversation:
    """Return a conversation in which a send has begun."""
    made = Conversation()
    for speaker, message in ((CLIENT, Authenticate), (SERVER, Welcome), (CLIENT, Put), (SERVER, Ready)):
        made.note(speaker, message, 0)
    made.window = window
    return made


def test_F13_transfers_are_numbered_one_after_the_other_through_all_sends_of_a_connection() -> None:
    conversation = sending()
    for wrong in (2, 3, 2**32 - 1):
        with pytest.raises(ProtocolError, match="was offered after 0"):
            conversation.note(CLIENT, Offer, wrong)
    conversation.note(CLIENT, Offer, 1, DIRECTORY)
    conversation.note(CLIENT, Finish, 0)
    conversation.note(SERVER, Committed, 1)
    conversation.note(SERVER, Summary, 0)
    conversation.note(CLIENT, Put, 0)
    conversation.note(SERVER, Ready, 0)
    with pytest.raises(ProtocolError, match="transfer 1 was offered after 1"):
        conversation.note(CLIENT, Offer, 1)
    conversation.note(CLIENT, Offer, 2)


def test_no_more_transfers_are_open_than_the_window_allows() -> None:
    conversation = sending(window=2)
    conversation.note(CLIENT, Offer, 1)
    conversation.note(CLIENT, Offer, 2, EAGER)
    with pytest.raises(ProtocolError, match="more than 2 transfers"):
        conversation.note(CLIENT, Offer, 3)
    conversation.note(CLIENT, Trailer, 2)
    with pytest.raises(ProtocolError, match="more than 2 transfers"):
        conversation.note(CLIENT, Offer, 3)
    conversation.note(SERVER, Committed, 2)
    conversation.note(CLIENT, Offer, 3)


def test_the_content_of_one_file_is_not_mixed_with_that_of_another() -> None:
    conversation = sending(window=9)
    conversation.note(CLIENT, Offer, 1)
    conversation.note(CLIENT, Offer, 2)
    conversation.note(SERVER, Accept, 1)
    conversation.note(SERVER, Accept, 2)
    conversation.note(CLIENT, Start, 1)
    with pytest.raises(ProtocolError, match="transfer 2 was begun in the middle of 1"):
        conversation.note(CLIENT, Start, 2)
    with pytest.raises(ProtocolError, match="transfer 3 was begun in the middle of 1"):
        conversation.note(CLIENT, Offer, 3, EAGER)
    for refused in (False, True):
        if refused:
            conversation.note(SERVER, Refuse, 1)
            conversation.note(SERVER, Refuse, 2)
        for message in (Data, Trailer):
            with pytest.raises(ProtocolError, match=f"said {message.__name__} of transfer 2"):
                conversation.note(CLIENT, message, 2)
        conversation.note(CLIENT, Data, 1)


@pytest.mark.parametrize("last_word", [Trailer, Abort])
@pytest.mark.parametrize("refused", [False, True])
def test_after_the_last_word_about_a_file_the_next_one_may_begin(last_word: type, refused: bool) -> None:
    conversation = sending(window=9)
    conversation.note(CLIENT, Offer, 1, EAGER)
    assert conversation.moving == 1
    if refused:
        conversation.note(SERVER, Refuse, 1)
    conversation.note(CLIENT, last_word, 1)
    assert conversation.moving == conversation.owed == 0
    conversation.note(CLIENT, Offer, 2, EAGER)
    assert conversation.moving == 2


def test_what_may_come_between_a_files_data() -> None:
    conversation = sending(window=9)
    conversation.note(CLIENT, Offer, 1)
    conversation.note(CLIENT, Offer, 2, EAGER)
    for message, transfer, flags in (
        (Offer, 3, 0),
        (Offer, 4, DIRECTORY),
        (Abort, 1, 0),
        (Totals, 0, 0),
        (Alive, 0, 0),
    ):
        conversation.note(CLIENT, Data, 2)
        conversation.note(CLIENT, message, transfer, flags)
    conversation.note(CLIENT, Trailer, 2)
    assert conversation.moving == 0


def test_nothing_is_finished_before_all_of_it_is() -> None:
    conversation = sending()
    conversation.note(CLIENT, Offer, 1, EAGER)
    with pytest.raises(ProtocolError, match="Finish with 1 transfers unfinished"):
        conversation.note(CLIENT, Finish, 0)
    conversation.note(CLIENT, Trailer, 1)
    conversation.note(CLIENT, Finish, 0)
    with pytest.raises(ProtocolError, match="Summary with 1 transfers open"):
        conversation.note(SERVER, Summary, 0)
    conversation.note(SERVER, Refuse, 1)
    conversation.note(SERVER, Summary, 0)


def test_a_directory_has_nothing_to_be_eager_about() -> None:
    conversation = sending()
    with pytest.raises(ProtocolError, match="eager offer of a directory"):
        conversation.note(CLIENT, Offer, 1, EAGER | DIRECTORY)
    conversation.note(CLIENT, Offer, 1)  # nothing was noted of it


@pytest.mark.parametrize("message", [Authenticate, Welcome, Put, Ready, Totals, Finish, Summary, Alive])
def test_F04_whatever_is_not_in_the_tables_is_an_error(message: type) -> None:
    for speaker in (CLIENT, SERVER):
        for state in {row[0] for row in CONNECTION} - {row[0] for row in CONNECTION if row[1:] == (speaker, message)}:
            conversation = Conversation()
            conversation.state = state
            with pytest.raises(ProtocolError, match=f"the {speaker} said {message.__name__} in the state {state}"):
                conversation.note(speaker, message, 0)


def test_A14_nothing_is_said_of_files_before_the_login_or_outside_of_a_send() -> None:
    for state in {row[0] for row in CONNECTION} - set(OPEN):
        conversation = Conversation()
        conversation.state, conversation.window = state, 2
        with pytest.raises(ProtocolError, match="spoke of transfer 1"):
            conversation.note(CLIENT, Offer, 1)
    assert sending().state == SENDING
