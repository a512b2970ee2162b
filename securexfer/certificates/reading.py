"""The four files of a server's directory: read, described, and judged before `serve` shows them.

Every error names the file and the command that mends it. `ca.key` is opened only by `read_ca`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import cryptography.hazmat.backends.openssl  # noqa: F401 - before rights are given up that reading it may take
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from securexfer import files, privileges
from securexfer.certificates.making import Pair, der, fingerprint, names_in, pem
from securexfer.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

CA_PEM, CA_KEY, SERVER_PEM, SERVER_KEY = "ca.pem", "ca.key", "server.pem", "server.key"
_WHAT = {
    CA_PEM: "the CA certificate",
    CA_KEY: "the CA's private key",
    SERVER_PEM: "the server certificate",
    SERVER_KEY: "the private key",
}
FILES = tuple(_WHAT)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A server's certificate and its CA: where they are and what they say."""

    ca_pem: Path
    certificate: Path
    key: Path
    serial: int
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    ca_fingerprint: str
    ca_not_after: datetime
    has_ca_key: bool  # whether `renew` finds a CA key; it is not opened to know


def load(directory: Path) -> ServerCertificate:
    """Return what `serve` shows, fit for use; finish or drop first what a killed `init` or `renew` left.

    Raises ConfigurationError if a file is missing, others can read the key or change any file, the key is encrypted or
    not the certificate's, or the certificate is not the CA's, names nobody, or is not valid today.
    """
    with told(directory):
        try:
            return _read_settled(directory)
        except ConfigurationError:
            # Two files read while a renewal replaced them do not fit: look again. What is broken stays broken.
            return _read_settled(directory)


def describe(directory: Path) -> ServerCertificate:
    """Return what the certificates in `directory` say, fit for use or not; the keys need not be there."""
    ca, leaf = read_certificate(directory, CA_PEM), read_certificate(directory, SERVER_PEM)
    return ServerCertificate(
        ca_pem=directory / CA_PEM,
        certificate=directory / SERVER_PEM,
        key=directory / SERVER_KEY,
        serial=leaf.serial_number,
        names=names_in(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        ca_fingerprint=fingerprint(der(ca)),
        ca_not_after=ca.not_valid_after_utc,
        has_ca_key=(directory / CA_KEY).is_file(),
    )


def ca_pem(directory: Path) -> str:
    """Return the CA's certificate in PEM, and nothing else that its file may hold."""
    return pem(read_certificate(directory, CA_PEM)).decode()


# -- judged --------------------------------------------------------------------------------------------------


def _read_settled(directory: Path) -> ServerCertificate:
    if files.is_unsettled(directory):
        with alone_in(directory):
            files.settle(directory)
    return read_usable(directory)


def read_usable(directory: Path) -> ServerCertificate:
    """Return what `load` returns, from the files as they are."""
    ca, leaf = read_certificate(directory, CA_PEM), read_certificate(directory, SERVER_PEM)
    ca_path, leaf_path = directory / CA_PEM, directory / SERVER_PEM
    renew = command("cert renew", directory)
    files.check_private(ca_path, _WHAT[CA_PEM], secret=False)
    files.check_private(leaf_path, _WHAT[SERVER_PEM], secret=False)
    files.check_not_shared(directory.resolve().parent, "the certificates")
    with contextlib.suppress(FileNotFoundError):  # it may live elsewhere; it is not opened, and may be root's alone
        files.check_plain(directory / CA_KEY, _WHAT[CA_KEY])
        files.check_access(directory / CA_KEY, (directory / CA_KEY).lstat().st_mode, _WHAT[CA_KEY], secret=True)
    key = _read_key(directory, SERVER_KEY, mend=renew)
    if key.public_key() != leaf.public_key():
        raise ConfigurationError(f"the key {directory / SERVER_KEY} is not the one of {leaf_path}", hint=renew)
    try:
        leaf.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise ConfigurationError(f"{leaf_path} is not signed by {ca_path}", hint=renew) from None
    if not names_in(leaf):
        raise ConfigurationError(f"{leaf_path} names no host (it has no subjectAltName)", hint=renew)
    _check_time(ca, ca_path, mend=command("init --force", directory))
    _check_time(leaf, leaf_path, mend=renew)
    return describe(directory)


def read_ca(directory: Path) -> Pair:
    """Return the CA with its key, fit for issuing; raise ConfigurationError."""
    certificate = read_certificate(directory, CA_PEM)
    files.check_private(directory / CA_PEM, _WHAT[CA_PEM], secret=False)
    _check_time(certificate, directory / CA_PEM, mend=command("init --force", directory))
    path = shlex.quote(str(directory / CA_KEY))
    with privileges.as_ourselves():  # it had better be root's where a server runs as somebody else
        key = _read_key(directory, CA_KEY, mend=f"openssl pkey -in {path} -out {path}.plain && mv {path}.plain {path}")
    if key.public_key() != certificate.public_key():
        raise ConfigurationError(
            f"the key {directory / CA_KEY} is not the one of {directory / CA_PEM}",
            hint="Put back the key and the certificate that were made together (a backup-* directory may hold them).",
        )
    return Pair(certificate, key)


def _check_time(certificate: x509.Certificate, path: Path, mend: str) -> None:
    now = datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise ConfigurationError(f"{path} ended on {end:%Y-%m-%d at %H:%M} UTC", hint=mend)
    if now < begin:
        raise ConfigurationError(
            f"{path} begins on {begin:%Y-%m-%d at %H:%M} UTC, and by this machine's clock that is to come",
            hint=f"Set the clock. If it is right: {mend}",
        )


# -- read ----------------------------------------------------------------------------------------------------


def read_certificate(directory: Path, name: str) -> x509.Certificate:
    """Return the certificate in one of the files; raise ConfigurationError."""
    try:
        certificate = x509.load_pem_x509_certificate(read_plain(directory, name))
        _ = certificate.extensions  # parsed only when they are asked for
    except (ValueError, x509.DuplicateExtension) as error:
        raise ConfigurationError(
            f"{directory / name} does not hold a certificate in PEM",
            hint=command("cert renew" if name == SERVER_PEM else "init --force", directory),
        ) from error
    return certificate


def _read_key(directory: Path, name: str, mend: str) -> ec.EllipticCurvePrivateKey:
    path = directory / name
    with told(directory):
        _check_there(directory, name)
        files.check_private(path, _WHAT[name])
        content = files.read_itself(path)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigurationError(f"the private key {path} is encrypted, and a server starts alone", hint=mend) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} does not hold a private key in PEM", hint=mend) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"the private key {path} is not one for ECDSA", hint=mend)
    return key


def read_plain(directory: Path, name: str) -> bytes:
    """Return what a file holds; raise ConfigurationError for what is no plain file (a link, a pipe), unopened."""
    with told(directory):
        _check_there(directory, name)
        return files.read_itself(directory / name)


def _check_there(directory: Path, name: str) -> None:
    try:
        files.check_plain(directory / name, _WHAT[name])
    except FileNotFoundError:
        raise _missing(directory, name) from None


# -- locked, and what to say about it ------------------------------------------------------------------------


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[bool]:
    """Hold the lock of `directory`, with nothing half done in it; yield whether a killed command had to be finished."""
    if not directory.is_dir():
        raise _missing(directory, SERVER_PEM)
    files.check_not_shared(directory, "the keys")
    with files.lock_directory(directory):
        yield files.roll_forward(directory)


@contextlib.contextmanager
def told(directory: Path) -> Iterator[None]:
    """Make an error of the system one that a user can act on."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or directory}: {error.strerror}",
            hint="Mend that, then run the same command again: it finishes what was begun, and nothing is lost.",
        ) from error


def command(words: str, directory: Path) -> str:
    """Return the command line that does `words` to `directory` when typed where this one was."""
    option = "" if directory.absolute() == Path("certs").absolute() else f" --certs {shlex.quote(str(directory))}"
    return f"securexfer {words}{option}"


def _missing(directory: Path, name: str) -> ConfigurationError:
    there = [file for file in FILES if os.path.lexists(directory / file)]
    if not there:
        return ConfigurationError(f"there are no certificates in {directory}", hint=command("init", directory))
    if name == CA_KEY:
        return ConfigurationError(
            f"{directory / CA_KEY} is missing, and only the CA's key can make a certificate",
            hint=f"If it is kept elsewhere, copy it to {directory} for as long as this takes. "
            f"If it is lost, every machine has to trust a new CA: {command('init --force', directory)}",
        )
    mend = "cert renew" if {CA_PEM, CA_KEY} <= set(there) else "init --force"
    return ConfigurationError(f"{directory / name} is missing", hint=command(mend, directory))
