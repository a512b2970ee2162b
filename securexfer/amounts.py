"""Numbers of bytes as people write them: parsed, and spelled out to the byte."""

from __future__ import annotations

import re

# By size. `K` is no unit of SI, but what people write.
_UNITS = {"": 1, "k": 10**3, "Ki": 2**10, "M": 10**6, "Mi": 2**20, "G": 10**9, "Gi": 2**30, "T": 10**12, "Ti": 2**40}
_MAX_SIZE = 2**63 - 1  # what a file system's signed offsets can say


def parse_size(text: str) -> int:
    """Return a number of bytes written as 500M, 2G, 64Ki or plain digits; raise ValueError for anything else."""
    found = re.fullmatch(r"([0-9]{1,19})(|[kKMGT]|[KMGT]i)B?", text)
    size = int(found[1]) * _UNITS["k" if found[2] == "K" else found[2]] if found else -1
    if not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"{text!r} is not a size; write it as 500M, 2G, 64Ki or a number of bytes")
    return size


def exactly(size: int) -> str:
    """Return a number of bytes in the largest unit that it is a whole number of: 64 KiB, 500 kB, 1234 B."""
    whole = (entry for entry in reversed(_UNITS.items()) if size >= entry[1] and size % entry[1] == 0)
    unit, factor = next(whole, ("", 1))
    return f"{size // factor} {unit}B"
