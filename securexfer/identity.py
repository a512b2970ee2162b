"""The server's certificate while it runs: picked up again when it is renewed, and complained about before it ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from securexfer import certificates
from securexfer.errors import ConfigurationError, SecurexferError
from securexfer.events import KeyNotice
from securexfer.net.tls import server_context
from securexfer.protocols import SPEAKERS

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from securexfer.events import Observer

CHECK_SECONDS = 10.0  # between looks at the files; SIGHUP does not wait for the next
_ATTEMPTS = 3  # at loading a certificate that is being renewed this very moment
WARNING_DAYS = (30, 14, 7, 1)  # before the end; the shipped way to renew does so well before the first


class Identity:
    """What a server shows to prove who it is."""

    def __init__(self, directory: Path, observe: Observer) -> None:
        """Load the certificate and its key; raises ConfigurationError, which names the file and the mend."""
        self._directory = directory
        self._observe = observe
        self._seen = self._stamp()  # before loading: what changes meanwhile is loaded again
        self.certificate, self._context = self._load()
        self._next = 0.0
        self._warned: int | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; older connections keep theirs."""
        return self._context

    def hurry(self) -> None:
        """Make the next `refresh` look, whenever that is. Safe in a signal handler."""
        self._seen = None
        self._next = 0.0

    def refresh(self) -> None:
        """Now and then: take a renewed certificate; keep the old one if the new one is no good; warn near the end."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + CHECK_SECONDS
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._reload()
        self._warn()

    def _reload(self) -> None:
        before = self.certificate
        try:
            self.certificate, self._context = self._load()
        except SecurexferError as error:
            self._observe(KeyNotice(f"the certificate was not reloaded, the old one stays in use: {error}"))
            return
        if before.serial != self.certificate.serial:
            self._warned = None
            self._observe(KeyNotice(f"the certificate was reloaded; it ends on {self.certificate.not_after:%Y-%m-%d}"))

    def _load(self) -> tuple[certificates.ServerCertificate, ssl.SSLContext]:
        """Return the certificate and a context that shows it; both files may be replaced between two looks at them."""
        for attempt in range(_ATTEMPTS):
            found = certificates.load(self._directory)
            try:
                return found, server_context(found.certificate, found.key, list(SPEAKERS))
            except OSError as error:  # an SSLError is one
                if attempt == _ATTEMPTS - 1:
                    raise ConfigurationError(
                        f"the certificate {found.certificate} cannot be used: {error}", hint="securexfer cert renew"
                    ) from error
        raise AssertionError

    def _stamp(self) -> tuple[tuple[int, int], ...] | None:
        try:
            found = [(self._directory / name).stat() for name in ("server.pem", "server.key")]
        except OSError:
            return ()
        return tuple((status.st_ino, status.st_mtime_ns) for status in found)

    def _warn(self) -> None:
        """Warn once a threshold, and every day after the end."""
        left = (self.certificate.not_after - datetime.now(UTC)).days
        passed = [days for days in WARNING_DAYS if left < days]
        threshold = min(left, 0) if left < 0 else min(passed, default=None)
        if threshold is None or threshold == self._warned:
            return
        self._warned = threshold
        when = "has ended" if left < 0 else f"ends in {left} days" if left else "ends today"
        where = "" if self.certificate.has_ca_key else " where the CA's key is kept"
        self._observe(KeyNotice(f"the certificate {when}: securexfer cert renew{where} (nobody has to trust again)"))
