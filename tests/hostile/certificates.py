"""Certificates with one thing wrong with each, which `securexfer init` would never make."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostile.listeners import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = timedelta(days=1)


@dataclass
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private(self) -> bytes:
        return bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def context(self, directory: Path, *protocols: str) -> ssl.SSLContext:
        """Return the context of a server that shows this certificate: of any strength, TLS 1.2 and later."""
        path = directory / f"{self.certificate.serial_number}.pem"
        path.write_bytes(self.private + self.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(path)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def make_ca(*, may_sign: bool = True) -> Pair:
    """Make a CA as `securexfer init` does, or one that may not sign certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("a lab's CA")
    usage = _usage(key_cert_sign=may_sign, crl_sign=True)
    builder = (
        _builder(name, name, key, -DAY, 3650 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(
    ca: Pair | None,
    names: Sequence[str] = (HOST,),
    *,
    common_name: str = "a server",
    not_before: timedelta = -DAY,
    not_after: timedelta = 30 * DAY,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    is_ca: bool = False,
    key_id: bool = True,
    key: Any = None,
) -> Pair:
    """Make a server's certificate with what is asked for, signed by `ca` or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    issuer_key = ca.key if ca else key
    builder = (
        _builder(subject, ca.certificate.subject if ca else subject, key, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=is_ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if key_id:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    if names:
        san = [x509.IPAddress(_address(name)) if _address(name) else x509.DNSName(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return Pair(builder.sign(issuer_key, hashes.SHA256()), key)


def signed_with_sha1(leaf: Pair, ca: Pair) -> Pair:
    """Return `leaf` with a signature over SHA-1, which no library makes any more: RFC 5280, section 4.1, by hand."""
    with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")  # AlgorithmIdentifier, RFC 5758, section 3.2
    with_sha1 = bytes.fromhex("300906072a8648ce3d0401")
    body = leaf.certificate.tbs_certificate_bytes.replace(with_sha256, with_sha1)[4:]
    tbs = _der(0x30, body)
    signature = ca.key.sign(tbs, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - the point
    return Pair(x509.load_der_x509_certificate(_der(0x30, tbs + with_sha1 + _der(0x03, b"\0" + signature))), leaf.key)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, not_before: timedelta, not_after: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + not_before)
        .not_valid_after(now + not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature, False, False, False, False, key_cert_sign, crl_sign, False, False)


def _address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
