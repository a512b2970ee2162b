"""A server for many cases of one kit: what it holds against one of them touches no other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import stranger_client as stranger

from hostile.oracles import Oracles
from securexfer.accounts.database import Accounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab import Lab


class Site:
    """A lab, a server, what watches it, and a user and a source address for each case."""

    def __init__(self, lab: Lab, cases: Sequence[str], network: str, *options: str) -> None:
        """Serve with these options; sources begin with `network`, as in ``127.1``."""
        assert len(cases) == len(set(cases))
        self.lab = lab
        self._cases = list(cases)
        self._network = network
        accounts = Accounts.open(lab.home / "users.db")
        hashed = accounts.find("ana").hash
        for number in range(len(cases)):
            accounts.add(f"u{number}", hashed)
        accounts.add("disabled", hashed)
        accounts.disable("disabled")
        accounts.close()
        self.server = lab.serve(*options, watched=True)
        self.oracles = Oracles(lab, self.server)

    def user(self, case: str) -> str:
        return f"u{self._cases.index(case)}"

    def source(self, case: str) -> str:
        return "{}.{}.{}".format(self._network, *divmod(250 + self._cases.index(case), 250))

    @contextlib.contextmanager
    def connect(self, case: str, alpn: str = "securexfer/1") -> Iterator[stranger.Tls]:
        port, ca = self.server.port, str(self.lab.ca)
        with stranger.connect(port, ca, source=self.source(case), alpn=alpn) as tls:
            yield tls

    def logged(self, kind: str, case: str) -> list[dict[str, Any]]:
        return [event for event in self.server.events(kind) if event["address"] == self.source(case)]

    def check(self, case: str, stores: dict[str, bytes], ends: tuple[str, ...], aborts: str = "") -> None:
        """Hold the oracles, and what the log says of this case: how it ended, and the file that was on its way."""
        self.oracles.check({f"{self.user(case)}/{name}": content for name, content in stores.items()})
        closed = [event["reason"] for event in self.logged("conn.close", case)]
        assert len(closed) == 1
        assert closed[0] in ends
        assert [event["reason"] for event in self.logged("file.abort", case)] == [aborts] * bool(aborts)
