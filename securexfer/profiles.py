"""The servers this client knows and trusts: for each, the CA that must have certified it, and a user name.

One small JSON file a server, in the user's configuration directory; written whole, readable by its owner.
`SECUREXFER_CONFIG` names another directory.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from securexfer.errors import ConfigurationError, UntrustedServerError, UsageError
from securexfer.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator

_PEM = re.compile("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_MAX_AUTHORITIES_BYTES = 1 << 20  # a CA file is about 1 KiB; a bundle for a change of CAs, two of them
_CA_HINT = "Give the server's ca.pem: `securexfer cert show --pem` prints it there."


class Profile(NamedTuple):
    """A server this client trusts: PEM text of its CA, and who the user is there, if that was said."""

    host: str
    port: int
    authorities: str
    user: str | None = None

    @property
    def address(self) -> str:
        """Host and port as people write them."""
        return address_of(self.host, self.port)

    @classmethod
    def all(cls) -> list[Profile]:
        """Return everything that is saved, by file name. Raises ConfigurationError for a damaged file."""
        return [_read(path) for path in sorted(_directory().glob("*.json"))]

    @property
    def path(self) -> Path:
        """Where it is saved."""
        return _path(self.host, self.port)

    def save(self) -> None:
        """Write it, replacing what was there. Raises ConfigurationError."""
        import json

        from securexfer.files import make_private_directory, replace_file

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


def address_of(host: str, port: int) -> str:
    """Return host and port as people write them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_authorities(path: Path) -> str:
    """Return the certificates of a CA file, in PEM.

    Raises ConfigurationError if it is missing, unreadable, without a certificate, or if anybody can change it: whoever
    can write there decides whom this machine trusts.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if sys.platform != "win32" and stat.S_ISREG(found.st_mode):  # a pipe, as from <(...), is nobody else's
                _check_unshared(path, found, owners={0, os.geteuid()})
            return authorities_in(file, f"the CA file {path}")
    except OSError as error:
        raise ConfigurationError(f"the CA file {path} cannot be read: {error.strerror}", hint=_CA_HINT) from error


def authorities_in(file: BinaryIO, source: str) -> str:
    """Return the certificates that `file` holds, in PEM and nothing else; raise ConfigurationError for none."""
    found = _PEM.finditer(file.read(_MAX_AUTHORITIES_BYTES).decode("ascii", errors="replace"))
    authorities = "".join(f"{pem[0]}\n" for pem in found)
    if not authorities:
        raise ConfigurationError(f"{source} holds no certificate", hint=_CA_HINT)
    return authorities


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
    import hmac

    found = _certificates(authorities)
    for candidate, pem in found:
        if hmac.compare_digest(candidate, fingerprint):
            return pem
    raise UntrustedServerError(
        f"no certificate has the fingerprint {fingerprint}; found: {', '.join(other for other, _ in found) or 'none'}",
        hint="Compare with what `securexfer cert show` prints on the server. If they differ, somebody is in between.",
    )


def is_authority(certificate: bytes) -> bool:
    """Whether a certificate (DER) says that it is a CA's: RFC 5280, section 4.2.1.9.

    OpenSSL takes a CA's certificate as a server's, too, and the `ssl` module cannot tell the two apart; a library for
    certificates takes longer to import than a small file to send. OpenSSL has read `certificate` before, so it is
    well-formed.
    """
    to_be_signed = next(_elements(next(_elements(certificate))[1]))[1]
    for tag, explicit in _elements(to_be_signed):
        if tag == _EXTENSIONS:
            for _, extension in _elements(next(_elements(explicit))[1]):
                fields = [content for _, content in _elements(extension)]
                if fields[0] == _BASIC_CONSTRAINTS:
                    constraints = next(_elements(fields[-1]))[1]
                    return any(tag == _BOOLEAN and any(content) for tag, content in _elements(constraints))
    return False


_BOOLEAN, _EXTENSIONS = 0x01, 0xA3  # tags of DER; the latter is [3] in a TBSCertificate
_BASIC_CONSTRAINTS = b"\x55\x1d\x13"  # 2.5.29.19


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element, one after the other, in DER."""
    while der:
        start, size = 2, der[1]
        if size & 0x80:  # so many bytes of length follow
            start += size & 0x7F
            size = int.from_bytes(der[2:start])
        yield der[0], der[start : start + size]
        der = der[start + size :]


def _certificates(authorities: str) -> list[tuple[str, str]]:
    """Return fingerprint and PEM text of each certificate."""
    import base64
    import hashlib

    try:
        return [(hashlib.sha256(base64.b64decode(pem[1])).hexdigest(), pem[0]) for pem in _PEM.finditer(authorities)]
    except ValueError as error:
        raise ConfigurationError("the CA's certificate is damaged", hint=_CA_HINT) from error


def _check_unshared(path: Path, found: os.stat_result, owners: set[int]) -> None:
    """Raise ConfigurationError for a CA file that anybody on this machine can change, or could have put there."""
    if found.st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"anybody on this machine can change the CA file {path}",
            hint=f"Check its fingerprint (`securexfer cert show` on the server), then: chmod o-w {path}",
        )
    directory = path.resolve().parent.stat()
    # In a sticky directory (/tmp) anybody can add files, but only their owners can replace them.
    if directory.st_mode & stat.S_IWOTH and not (directory.st_mode & stat.S_ISVTX and found.st_uid in owners):
        raise ConfigurationError(
            f"anybody on this machine could have put the CA file {path} there",
            hint="Copy it to a directory of yours and check its fingerprint (`securexfer cert show` on the server).",
        )


def _path(host: str, port: int) -> Path:
    # `parse_target` allows letters, digits, dots, dashes and, in an address, colons (which Windows does not).
    return _directory() / f"{host.replace(':', '_')}-{port}.json"


def _directory() -> Path:
    """Return where the saved servers are; raise ConfigurationError for a user without a home."""
    chosen = os.environ.get("SECUREXFER_CONFIG")
    return (Path(chosen) if chosen else _settings() / "securexfer") / "servers"


def _settings() -> Path:
    """Return where the system keeps a user's settings. A library for it would make every `send` start 3 ms later."""
    try:
        home = Path.home()
    except RuntimeError as error:
        raise ConfigurationError(
            "this machine does not say where your home directory is", hint="Set SECUREXFER_CONFIG to a directory."
        ) from error
    if sys.platform == "win32":
        found = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        found = home / "Library" / "Application Support"
    else:
        found = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")  # XDG Base Directory Specification
    return found


def _read(path: Path) -> Profile:
    import json

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Profile(str(fields["host"]), int(fields["port"]), str(fields["authorities"]), fields["user"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the saved server {path} cannot be read", hint="Trust that server again: securexfer trust HOST"
        ) from error
