"""Frames on a connection: what is heard does not depend on how it arrived, nor on being taken in one step or three."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from securexfer.errors import ProtocolError, TruncatedError
from securexfer.net.frames import BUFFER_SIZE, Frames
from securexfer.wire import messages
from securexfer.wire.messages import DIRECTORY, EAGER, Abort, Data, Offer, Totals, Trailer, encode, encode_data
from securexfer.wire.order import SENDING

if TYPE_CHECKING:
    from securexfer.net.connection import Connection

Heard = tuple[int, object]


class Arriving:
    """Bytes that arrive in pieces, as a connection hands them over: the one thing of it that frames use."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._pieces: list[bytes] = []
        while data:
            size = sizes[len(self._pieces) % len(sizes)]
            self._pieces.append(data[:size])
            data = data[size:]

    def try_receive_into(self, view: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces[0][: len(view)]
        view[: len(piece)] = piece
        self._pieces[0] = self._pieces[0][len(piece) :]
        if not self._pieces[0]:
            del self._pieces[0]
        return len(piece)


def listen(data: bytes, sizes: list[int], *, whole: bool) -> tuple[list[Heard], str, object]:
    """Return what was said, content by itself, the error that ended it, and the state it was left in."""
    frames = Frames(cast("Connection", Arriving(data, sizes)), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, 2
    heard: list[Heard] = []
    try:
        while True:
            if frames.payload:
                piece = bytes(frames.take())
                if piece:
                    number, before = heard.pop()
                    heard.append((number, cast("bytes", before) + piece))
                    continue
            elif whole and (found := frames.hear_whole()):
                number, offer, content, digest = found
                heard.append((number, offer))
                if content:
                    heard.append((number, bytes(content)))
                heard.append((number, Trailer(digest)))
                continue
            elif message := frames.hear():
                heard.append((message[0], b"" if isinstance(message[1], Data) else message[1]))
                continue
            frames.fill()
    except (ProtocolError, TruncatedError) as error:
        state = frames.conversation
        return heard, type(error).__name__, (state.open, state.last, state.moving, state.owed)


def eager(number: int, content: bytes, flags: int = EAGER, size: int | None = None) -> list[bytes]:
    data = [encode_data(number, len(content)) + content] if content else []
    offer = Offer(flags, len(content) if size is None else size, 0, "x")
    return [encode(offer, number), *data, encode(Trailer(hashlib.sha256(content).digest()), number)]


contents = st.binary(max_size=40)
# Numbers are right more often than not, or nothing would ever come far.
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("eager"), contents, st.sampled_from([0, 0, 0, 0, 1])),
        st.tuples(st.just("plain"), contents, st.just(0)),
        st.tuples(st.just("directory"), contents, st.sampled_from([DIRECTORY, DIRECTORY | EAGER])),
        st.tuples(st.just("size"), contents, st.integers(0, 60)),
        st.tuples(st.just("totals"), contents, st.just(0)),
        st.tuples(st.just("abort"), contents, st.just(0)),
        st.tuples(st.just("unfinished"), contents, st.just(0)),
        st.tuples(st.just("both"), contents, st.just(0)),
        st.tuples(st.just("noise"), st.binary(max_size=12), st.just(0)),
    ),
    max_size=8,
)


def said(deeds: list[tuple[str, bytes, int]]) -> bytes:
    frames: list[bytes] = []
    number = 0
    for deed, content, extra in deeds:
        number += 1
        if deed == "eager":
            number += extra
            frames += eager(number, content)
        elif deed == "plain":
            frames.append(encode(Offer(0, len(content), 0, "x"), number))
        elif deed == "directory":
            frames.append(encode(Offer(extra, 0, 0, "x"), number))
        elif deed == "size":
            frames += eager(number, content, size=extra)
        elif deed == "totals":
            number -= 1
            frames.append(encode(Totals(1, 1)))
        elif deed == "unfinished":
            frames += eager(number, content)[:-1]
        elif deed == "both":
            frames += eager(number, content, flags=EAGER | DIRECTORY)
        elif deed == "abort":
            frames += [*eager(number, content)[:-1], encode(Abort("X"), number)]
        else:
            frames.append(content)
    return b"".join(frames)


@settings(deadline=None, max_examples=400)
@example([("unfinished", b"ab", 0), ("eager", b"cd", 0)], [50])
@example([("eager", b"a", 0), ("eager", b"b", 0), ("eager", b"", 0)], [50])
@example([("both", b"", 0)], [50])
@given(deeds, st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_taking_small_files_whole_is_hearing_their_messages_one_by_one(
    deeds: list[tuple[str, bytes, int]], sizes: list[int]
) -> None:
    data = said(deeds)
    assert listen(data, sizes, whole=True) == listen(data, [1 << 20], whole=False)


def test_files_that_have_arrived_are_taken_whole() -> None:
    """Else the test above would compare a way with itself."""
    data = b"".join(b"".join(eager(number, b"content")) for number in (1, 2)) + b"".join(eager(3, b""))
    frames = Frames(cast("Connection", Arriving(data, [len(data)])), server=True)
    frames.conversation.state, frames.conversation.window = SENDING, 4
    assert frames.fill()
    taken = [found and (found[0], bytes(found[2])) for found in (frames.hear_whole() for _ in range(4))]
    assert taken == [(1, b"content"), (2, b"content"), (3, b""), None]


@pytest.mark.parametrize("size", [BUFFER_SIZE - 200, BUFFER_SIZE, 3 * BUFFER_SIZE])
def test_content_that_no_buffer_holds_comes_in_pieces(size: int) -> None:
    content = bytes(range(256)) * (size // 256)
    heard, _, _ = listen(b"".join(eager(1, content)), [1 << 14, 7], whole=True)
    assert heard[1] == (1, content)
    assert isinstance(heard[2][1], Trailer)


def test_what_is_sent_whole_is_what_its_messages_are() -> None:
    offer, digest = Offer(EAGER, 3, 5, "a/b"), hashlib.sha256(b"abc").digest()
    parts = encode(offer, 7) + encode_data(7, 3) + b"abc" + encode(Trailer(digest), 7)
    assert messages.encode_whole(offer, 7, b"abc", digest) == parts
    empty = Offer(EAGER, 0, 5, "a/b")
    assert messages.encode_whole(empty, 7, b"", digest) == encode(empty, 7) + encode(Trailer(digest), 7)
