"""`securexfer send --dry-run`: what would be sent, and what could not be, without a connection or a password."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securexfer.cli.amounts import amount, counted
from securexfer.cli.tally import Failures, Tally, left_out_lines
from securexfer.cli.terminal import note
from securexfer.errors import SecurexferError
from securexfer.names import show

if TYPE_CHECKING:
    from securexfer.cli.tally import Selection


def preview(selection: Selection, server: str, *, as_json: bool, quiet: bool) -> None:
    """Print the name there of each file, and of each directory with a slash behind it, then a summary.

    What only the server knows (what it has, what it would refuse) is not in it. As JSON: an event `would-send` with
    `name` and `size` for each file, and `summary` with `files`, `bytes` and `failed`. Raises SecurexferError if
    something cannot be sent, after naming each.
    """
    from json import dumps

    tally = Tally()
    failures = Failures(note, all_of_them=as_json)
    files = size = 0
    for item in selection.items:
        if item.error:
            tally.count(item)
            if not selection.alone:
                failures.tell(item.error)
            continue
        files += not item.directory
        size += item.size
        if as_json and not item.directory:
            print(dumps({"event": "would-send", "name": item.name, "size": item.size}))
        elif not quiet and not as_json:
            print(show(item.name) + ("/" if item.directory else ""))
    if as_json:
        print(dumps({"event": "summary", "files": files + tally.files, "bytes": size, "failed": tally.files}))
    elif not quiet:
        summary = f"{counted(files, 'file')}, {amount(size)}, would be sent to {server}"
        print("\n".join([summary, *left_out_lines(selection.left_out)]))
    failures.tell_rest()
    if tally.first and selection.alone:
        raise tally.first
    if tally.first:
        kind = type(tally.first) if len(tally.codes) == 1 else SecurexferError
        raise kind(f"{counted(tally.files, 'file')} cannot be sent", hint="Each is named above.")
