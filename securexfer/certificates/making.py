"""Keys and certificates: made, and asked what they say. No files here.

ECDSA over P-256 with SHA-256, which every TLS 1.3 peer must have (RFC 8446, section 9.1). The CA has no name
constraints: `renew` must be able to add any name without a new CA that everybody has to trust again.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securexfer.errors import UntrustedServerError
from securexfer.hosts import is_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=90)  # in all: a stolen server key is of use no longer than this
BACKDATED = timedelta(hours=24)  # part of both lives: the clocks of students' machines are off, and clients check

# Nobody registers anything under 2.25: a UUID is an arc there (ITU-T X.667). This one was drawn for this purpose.
EMBEDDED_CA = x509.ObjectIdentifier(f"2.25.{UUID('29fd30d6-601b-47aa-972d-9c28ca8c8ced').int}")

_MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280, appendix A.1


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def files(self, certificate_name: str, key_name: str) -> dict[str, tuple[bytes, int]]:
        """Return the two files that hold this pair: name -> data, mode. The key is not encrypted."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {certificate_name: (pem(self.certificate), 0o644), key_name: (key, 0o600)}


# -- made ----------------------------------------------------------------------------------------------------


def make_ca(now: datetime) -> Pair:
    """Make a CA that can issue certificates for servers and nothing else, no further CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"securexfer CA of {socket.gethostname()}")
    builder = (
        _builder(name, name, key, now - BACKDATED, now - BACKDATED + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(ca: Pair, names: Sequence[str], now: datetime) -> Pair:
    """Make a server's key and its certificate for `names` (from `parse_name`); it ends with its CA at the latest."""
    key = ec.generate_private_key(ec.SECP256R1())
    # For people who look at it: names are compared with the SAN alone, and this is not a host name.
    subject = _common_name(f"securexfer server {socket.gethostname()}")
    not_after = min(now - BACKDATED + SERVER_LIFE, ca.certificate.not_valid_after_utc)
    ca_key_id = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    san = [x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name) for name in names]
    builder = (
        _builder(subject, ca.certificate.subject, key, now - BACKDATED, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # Python 3.13 refuses a certificate without it (VERIFY_X509_STRICT).
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
        .add_extension(x509.SubjectAlternativeName(san), critical=False)
        .add_extension(x509.UnrecognizedExtension(EMBEDDED_CA, der(ca.certificate)), critical=False)
    )
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())  # 159 random bits
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_MAX_COMMON_NAME])])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# -- asked ---------------------------------------------------------------------------------------------------


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate as the bytes that were signed and that a fingerprint is of."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as a text file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate in DER: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def names_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the host names and addresses that a certificate is for, in its order."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in san if isinstance(name, x509.DNSName | x509.IPAddress))


def names_of(der: bytes) -> list[str]:
    """Return the host names and addresses that a server's certificate (DER) is for; raise UntrustedServerError."""
    return list(names_in(_from_server(der)))


def embedded_ca(leaf_der: bytes) -> bytes | None:
    """Return the CA (DER) that a server's certificate carries, unchecked, or None; raise UntrustedServerError.

    `trust` compares its fingerprint with the one it was given, and from then on connects with that CA alone. The
    standard library gives the certificate of a server that is not trusted yet (`ssl.get_server_certificate`), but not
    the chain behind it: to get that, we would have to make an unverified TLS context of our own. So the certificate
    carries the whole CA, in an extension that everybody else ignores (it is not critical).
    """
    try:
        value = _from_server(leaf_der).extensions.get_extension_for_oid(EMBEDDED_CA).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else None


def _from_server(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions  # parsed only when they are asked for
    except (ValueError, x509.DuplicateExtension) as error:
        raise UntrustedServerError(f"the server's certificate cannot be read: {error}") from error
    return certificate
