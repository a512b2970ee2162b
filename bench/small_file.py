"""Compare sending one small file with scp: what starting, connecting and logging in cost.

Whole processes over loopback; scp logs in with a key, securexfer with a password. README.md says how to read it.
"""

from __future__ import annotations

import json

from comparing import compare, with_machine
from options import between, end_with, parser, size, table
from peers import FILE_PEERS


def main() -> None:
    """Measure, then print a table or JSON."""
    options = parser(__doc__)
    options.add_argument("--size", type=size, default=size("1KiB"), help="of the file (default: 1KiB)")
    options.add_argument("--runs", type=between(1, 1000), default=15, help="pairs with each peer (default: 15)")
    options.add_argument(
        "--peers", nargs="+", choices=FILE_PEERS, default=["securexfer", "scp"], help="default: these two"
    )
    chosen = options.parse_args()
    # Nobody looks at memory meanwhile: a look every 0.1 s would cost a run of 0.3 s more than the difference sought.
    found = compare(chosen.peers, chosen.directory, chosen.size, chosen.runs, watch_memory=False)
    if chosen.json:
        print(json.dumps(with_machine(**found.document()), indent=2))
        return
    print(
        f"One file of {found.size} bytes; medians; the ratio is a peer's seconds over securexfer's in the same pair.\n"
    )
    print(
        table(
            ("", "runs", "ms", "client CPU ms", "server CPU ms", "ratio"),
            [
                (
                    each.peer,
                    str(each.runs),
                    f"{each.seconds * 1e3:.0f}",
                    f"{each.client_cpu * 1e3:.0f}",
                    f"{each.server_cpu * 1e3:.0f}",
                    each.ratio_text(),
                )
                for each in found.summaries
            ],
        )
    )


if __name__ == "__main__":
    end_with(main)
