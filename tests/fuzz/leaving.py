"""What comes out of a sandbox, as the fuzzer feeds it: whatever is said, it is used to the letter or not at all."""

from __future__ import annotations

from securexfer.names import Name
from securexfer.opening import supervisor
from securexfer.opening.results import Reader
from securexfer.opening.supervisor import END, ENTRY, FILE, HEAD, MAGIC

MOST, MOST_BYTES = 4, 4096


def _said(ended: tuple[int, int], files: dict[str, bytes], left_out: int) -> bytes:
    entries = [
        ENTRY.pack(FILE, len(name.encode()), len(content)) + name.encode() + content for name, content in files.items()
    ]
    return HEAD.pack(MAGIC, *ended) + b"".join(entries) + ENTRY.pack(END, 0, left_out)


def left(data: bytes) -> None:
    """Hold that what is used says, encoded again, these very bytes, with safe names and within the limits."""
    reader = Reader(MOST, MOST_BYTES, None)
    for start in range(0, len(data), 13):
        reader.feed(data[start : start + 13])
    reader.close()
    if reader.problem:
        assert reader.results == []
        assert reader.problem.isprintable()
        return
    files = {str(Name.parse(each.name)): each.file.read() for each in reader.results}
    assert [each.size for each in reader.results] == [len(content) for content in files.values()]
    assert len(files) == len(reader.results) <= MOST
    assert sum(map(len, files.values())) <= MOST_BYTES
    assert reader.ended is not None
    assert _said(reader.ended, files, reader.left_out) == data


def seeds() -> list[bytes]:
    """Return what is right, in several sizes, and each of it with one byte altered."""
    right = [
        _said((supervisor.EXIT, 0), {}, 0),
        _said((supervisor.SIGNAL, 9), {"a": b"1"}, 3),
        _said((supervisor.MEMORY, 0), {"a/b": b"x" * 40, "a/c": b"", "é": b"\0"}, 2**40),
    ]
    altered = [
        said[:place] + bytes([said[place] ^ 1 << place % 8]) + said[place + 1 :]
        for said in right
        for place in range(len(said))
    ]
    return [*right, *altered]
