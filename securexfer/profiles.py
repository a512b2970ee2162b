"""The servers this client knows and trusts: for each, the CA that must have certified it, and a user name.

One small JSON file a server, in the user's configuration directory; written whole, readable by its owner.
`SECUREXFER_CONFIG` names another directory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from securexfer.errors import ConfigurationError, UntrustedServerError, UsageError
from securexfer.files import make_private_directory, replace_file
from securexfer.names import show

_PEM = re.compile("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----\\s*", re.DOTALL)
MAX_AUTHORITIES_BYTES = 1 << 20  # a CA file is about 1 KiB; a bundle for a change of CAs, two of them


@dataclass(frozen=True, slots=True)
class Profile:
    """A server this client trusts: PEM text of its CA, and who the user is there, if that was said."""

    host: str
    port: int
    authorities: str
    user: str | None = None

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def all(cls) -> list[Profile]:
        """Return everything that is saved, by file name. Raises ConfigurationError for a damaged file."""
        directory = _path("", 0).parent
        return [_read(path) for path in sorted(directory.glob("*.json"))]

    @property
    def path(self) -> Path:
        """Where it is saved."""
        return _path(self.host, self.port)

    def save(self) -> None:
        """Write it, replacing what was there. Raises ConfigurationError."""
        fields = {"host": self.host, "port": self.port, "user": self.user, "authorities": self.authorities}
        try:
            make_private_directory(self.path.parent)
            replace_file(self.path, (json.dumps(fields, indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigurationError(
                f"the server cannot be saved in {self.path.parent}: {error.strerror}",
                hint="Make that directory writable, or set SECUREXFER_CONFIG to another.",
            ) from error

    @classmethod
    def find(cls, host: str, port: int) -> Profile | None:
        """Return what is saved about a server, or None. Raises ConfigurationError for a damaged file."""
        path = _path(host, port)
        if not path.exists():
            return None
        profile = _read(path)
        # Two hosts may share a file name (a colon becomes an underscore): the content decides.
        return profile if (profile.host, profile.port) == (host, port) else None


def read_authorities(path: Path) -> str:
    """Return the text of a CA file; raise ConfigurationError if it is missing, unreadable or has no certificate."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_AUTHORITIES_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise ConfigurationError(
            f"the CA file {path} cannot be read: {error.strerror}",
            hint="Give the server's ca.pem: `securexfer cert show --pem` prints it there.",
        ) from error
    if not _PEM.search(text):
        raise ConfigurationError(
            f"the CA file {path} holds no certificate",
            hint="Give the server's ca.pem: `securexfer cert show --pem` prints it there.",
        )
    return text


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as 64 lower-case hex digits; raise UsageError for anything else.

    Taken as `securexfer` prints it and as `openssl x509 -fingerprint` does: a colon after every pair, or none at all.
    """
    plain = text.replace(":", "") if re.fullmatch("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31}", text) else text
    if not re.fullmatch("[0-9A-Fa-f]{64}", plain):
        raise UsageError(
            f"{show(text, 100)!r} is not a SHA-256 fingerprint: that is 64 hexadecimal digits",
            hint="Copy the line that `securexfer serve` or `securexfer cert show` prints on the server.",
        )
    return plain.lower()


def fingerprints(authorities: str) -> list[str]:
    """Return the SHA-256 of each certificate's DER form, 64 hex digits, in the order of the PEM text."""
    return [fingerprint for fingerprint, _ in _certificates(authorities)]


def pinned(authorities: str, fingerprint: str) -> str:
    """Return the one certificate with this fingerprint, as PEM; raise UntrustedServerError if there is none."""
    found = _certificates(authorities)
    for candidate, pem in found:
        if hmac.compare_digest(candidate, fingerprint):
            return pem
    raise UntrustedServerError(
        f"no certificate has the fingerprint {fingerprint}; found: {', '.join(other for other, _ in found) or 'none'}",
        hint="Compare with what `securexfer cert show` prints on the server. If they differ, somebody is in between.",
    )


def _certificates(authorities: str) -> list[tuple[str, str]]:
    """Return fingerprint and PEM text of each certificate."""
    try:
        return [
            (hashlib.sha256(base64.b64decode(found[1])).hexdigest(), found[0]) for found in _PEM.finditer(authorities)
        ]
    except ValueError as error:
        raise ConfigurationError(
            "the CA's certificate is damaged",
            hint="Give the server's ca.pem: `securexfer cert show --pem` prints it there.",
        ) from error


def _path(host: str, port: int) -> Path:
    chosen = os.environ.get("SECUREXFER_CONFIG")
    if chosen:
        directory = Path(chosen)
    else:
        import platformdirs

        directory = platformdirs.user_config_path("securexfer", appauthor=False)
    # `parse_target` allows letters, digits, dots, dashes and, in an address, colons (which Windows does not).
    return directory / "servers" / f"{host.lower().replace(':', '_')}-{port}.json"


def _read(path: Path) -> Profile:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Profile(str(fields["host"]), int(fields["port"]), str(fields["authorities"]), fields["user"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the saved server {path} cannot be read", hint="Trust that server again: securexfer trust HOST"
        ) from error
