"""Compare moving one large file, from memory file system to memory file system, with scp, rsync and curl.

Whole processes over loopback, login included. README.md says how to read it.
"""

from __future__ import annotations

import json

from comparing import compare, with_machine
from options import between, end_with, mib, parser, size, table
from peers import FILE_PEERS


def main() -> None:
    """Measure, then print a table or JSON."""
    options = parser(__doc__)
    options.add_argument("--size", type=size, default=size("2GiB"), help="of the file (default: 2GiB)")
    options.add_argument("--runs", type=between(1, 100), default=5, help="pairs with each peer (default: 5)")
    options.add_argument("--peers", nargs="+", choices=FILE_PEERS, default=list(FILE_PEERS), help="default: all")
    chosen = options.parse_args()
    found = compare(chosen.peers, chosen.directory, chosen.size, chosen.runs)
    if chosen.json:
        print(json.dumps(with_machine(**found.document()), indent=2))
        return
    gigabytes = found.size / 1e9
    print(
        f"One file of {found.size} bytes; medians; the ratio is a peer's seconds over securexfer's in the same pair.\n"
    )
    print(
        table(
            ("", "runs", "seconds", "MB/s", "client CPU s/GB", "server CPU s/GB", "client MiB", "server MiB", "ratio"),
            [
                (
                    each.peer,
                    str(each.runs),
                    f"{each.seconds:.2f}",
                    f"{found.size / 1e6 / each.seconds:.0f}",
                    f"{each.client_cpu / gigabytes:.2f}",
                    f"{each.server_cpu / gigabytes:.2f}",
                    mib(each.client_peak),
                    mib(each.server_peak),
                    each.ratio_text(),
                )
                for each in found.summaries
            ],
        )
    )


if __name__ == "__main__":
    end_with(main)
