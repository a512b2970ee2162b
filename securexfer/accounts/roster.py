"""A class list becomes users: a CSV file with a column `user`, and the same list with a passphrase for each.

The columns beside `user` (names, mail addresses) are for whoever hands the passphrases out: they are copied from
list to list and never reach the database.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securexfer.accounts.users import NAME_RULE, is_user_name
from securexfer.errors import UsageError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHOWN_ERRORS = 20  # lines; more would scroll the first one away


@dataclass(frozen=True, slots=True)
class Roster:
    """Who is on the list: user name -> the other cells of the line, and the header of these."""

    users: dict[str, list[str]]
    header: list[str]
    delimiter: str

    @classmethod
    def read(cls, path: Path) -> Roster:
        """Return the list in `path`; raise UsageError, which names every line that is wrong.

        The first line is the header if one of its cells is `user`; otherwise the users are in the first column.
        """
        rows, delimiter = _read_rows(path)
        column, header = 0, []
        if rows:
            cells = [cell.casefold() for cell in rows[0][1]]
            if "user" in cells:
                column = cells.index("user")
                header = _without(rows.pop(0)[1], column)
        users: dict[str, list[str]] = {}
        lines: dict[str, int] = {}
        problems = []
        for line, cells in rows:
            user = cells[column] if column < len(cells) else ""
            if not user:
                problems.append(f"line {line}: there is no user name")
            elif not is_user_name(user):
                problems.append(f"line {line}: {show(user)!r} is not an allowed user name")
            elif user in users:
                problems.append(f"line {line}: {user} is on line {lines[user]} already")
            else:
                users[user] = _without(cells, column)
                lines[user] = line
        if problems:
            raise _refusal(path, problems)
        if not users:
            raise UsageError(f"the roster {path} names no user", hint="Write one user name a line.")
        return cls(users, header, delimiter)

    def with_passphrases(self, passphrases: Mapping[str, str]) -> bytes:
        """Return the lines of those users as a CSV file, each with the passphrase beside the user."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator="\n")
        writer.writerow(["user", "passphrase", *self.header])
        writer.writerows([user, passphrase, *self.users[user]] for user, passphrase in passphrases.items())
        return text.getvalue().encode()


def _read_rows(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Return the lines that are not empty, each with its number, and what separates their cells."""
    try:
        text = path.read_text("utf-8-sig")  # spreadsheet programs begin with a byte order mark
    except OSError as error:
        raise UsageError(f"the roster {path} cannot be read: {error.strerror}", hint="Check its path.") from error
    except UnicodeDecodeError:
        raise UsageError(f"the roster {path} is not UTF-8", hint="Save it as CSV in UTF-8.") from None
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","  # spreadsheets write `;` where `,` is in numbers
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UsageError(f"the roster {path} is not a CSV file: line {reader.line_num}: {error}") from error
    return [(line, cells) for line, cells in rows if any(cells)], delimiter


def _without(cells: list[str], column: int) -> list[str]:
    return cells[:column] + cells[column + 1 :]


def _refusal(path: Path, problems: list[str]) -> UsageError:
    more = len(problems) - SHOWN_ERRORS
    shown = [*problems[:SHOWN_ERRORS], *([f"and {more} more"] if more > 0 else [])]
    return UsageError(
        f"the roster {path} has {len(problems)} wrong {'line' if len(problems) == 1 else 'lines'}; nothing was changed",
        hint="\n".join([*shown, NAME_RULE]),
    )
