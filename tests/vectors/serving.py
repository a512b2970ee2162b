"""Servers for the vectors to be played to: one for each set of options, with the accounts of all vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab import Lab, Server

from securexfer.accounts.database import Accounts
from securexfer.accounts.passwords import PasswordHash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def serving_vectors(
    place: Path, lab_source: Path, accounts: dict[str, str]
) -> Iterator[Callable[[tuple[str, ...]], tuple[Lab, Server]]]:
    """Yield a function from options to a lab and its server; afterwards nothing went wrong inside any of them."""
    started: dict[tuple[str, ...], tuple[Lab, Server]] = {}
    hashes = {password: str(PasswordHash.make(password)) for password in set(accounts.values())}

    def get(options: tuple[str, ...]) -> tuple[Lab, Server]:
        if options not in started:
            directory = place / str(len(started))
            directory.mkdir()
            lab = Lab(directory, lab_source)
            with Accounts.open(lab.home / "users.db") as database:
                for user in database.all():
                    database.remove(user.name)
                database.add_all({user: hashes[password] for user, password in accounts.items()}, lambda _: None)
            started[options] = lab, lab.serve(*options)
        return started[options]

    yield get
    for lab, server in started.values():
        lab.close()
        assert server.events("server.stop")
        assert not [event for event in server.events() if event["level"] == "error" or event.get("reason") == "error"]
        assert "Traceback" not in server.log_path.read_text()
