"""Protocol 2: how the fields of a message are written, and with them a whole message."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from securexfer.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TRANSFER: Final = 2**32 - 1


class Number(NamedTuple):
    """An integer: its code in `struct`, and the largest value where that is less than fits."""

    code: str
    most: int | None = None


class Octets(NamedTuple):
    """Exactly so many bytes."""

    size: int


class Word(NamedTuple):
    """One of a few words, written as its place among them (u8)."""

    words: tuple[str, ...]


class Text(NamedTuple):
    """Text of so many bytes in UTF-8 at most."""

    most: int


U32, U64, I64 = Number("I"), Number("Q"), Number("q")
FLAG = Number("B", 1)


class Layout:
    """How one kind of message is written."""

    def __init__(self, kind: int, message: Any, *, about_transfer: bool | None) -> None:
        self.kind = kind
        self.message = message
        self.about_transfer = about_transfer
        codecs = [hint.__metadata__[0] for hint in message.__annotations__.values()]
        self._texts: list[Text] = [codec for codec in codecs if isinstance(codec, Text)]
        self._count = len(codecs) - len(self._texts)
        numbers = codecs[: self._count]
        self._head = struct.Struct(">" + "".join(map(_code, numbers)))
        self._words = [(place, codec.words) for place, codec in enumerate(numbers) if isinstance(codec, Word)]
        self._sizes = [(place, codec.size) for place, codec in enumerate(numbers) if isinstance(codec, Octets)]
        self._mosts = [
            (place, codec.most) for place, codec in enumerate(numbers) if isinstance(codec, Number) and codec.most
        ]
        self.least = self._head.size + 2 * len(self._texts)
        self.most = self.least + sum(text.most for text in self._texts)

    def encode(self, message: Sequence[Any]) -> bytes:
        """Return the body of a message; raise ProtocolError if a value is over its limit."""
        numbers = list(message[: self._count])
        for place, size in self._sizes:
            if len(numbers[place]) != size:
                raise self._problem(f"{size} bytes were wanted")
        try:
            for place, words in self._words:
                numbers[place] = words.index(numbers[place])
            body = self._head.pack(*numbers)
            for text, value in zip(self._texts, message[self._count :], strict=True):
                raw = value.encode()
                if len(raw) > text.most:
                    raise self._problem(f"a text of {len(raw)} bytes; the limit is {text.most}")
                body += len(raw).to_bytes(2, "big") + raw
        except (struct.error, ValueError) as error:
            raise self._problem(str(error)) from error
        self._check(numbers)
        return body

    def decode(self, body: bytes | memoryview) -> Any:
        """Return the message that a body holds; raise ProtocolError."""
        size = len(body)
        if size < self.least:
            raise self._problem("it is too short")
        numbers = list(self._head.unpack_from(body))
        self._check(numbers)
        for place, words in self._words:
            if numbers[place] >= len(words):
                raise self._problem(f"{numbers[place]} stands for no word")
            numbers[place] = words[numbers[place]]
        end = self._head.size
        for text in self._texts:
            start = end + 2
            end = start + (body[end] << 8 | body[end + 1] if start <= size else 0)
            if end - start > text.most or end > size:
                raise self._problem("a text is longer than it may be")
            try:
                numbers.append(str(body[start:end], "utf-8"))
            except UnicodeDecodeError as error:
                raise self._problem("a text is not UTF-8") from error
        if end != size:
            raise self._problem("it is too long")
        return self.message._make(numbers)

    def check_transfer(self, transfer: int) -> None:
        """Raise ProtocolError if these messages cannot be about this transfer, 0 for the connection itself."""
        if self.about_transfer not in {None, transfer != 0} or not 0 <= transfer <= MAX_TRANSFER:
            raise ProtocolError(f"a message {self.message.__name__} cannot be about transfer {transfer}")

    def _check(self, numbers: Sequence[Any]) -> None:
        for place, most in self._mosts:
            if numbers[place] > most:
                raise self._problem("a bit without a meaning is set")

    def _problem(self, what: str) -> ProtocolError:
        return ProtocolError(f"a message {self.message.__name__} is wrong: {what}")


def _code(codec: Number | Octets | Word) -> str:
    return codec.code if isinstance(codec, Number) else f"{codec.size}s" if isinstance(codec, Octets) else "B"
