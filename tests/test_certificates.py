"""What the certificates promise: their contents, real TLS handshakes with them, and what `load` refuses to serve."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from commands import run, snapshot
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from securexfer import certificates, hosts
from securexfer.certificates import making, reading
from securexfer.errors import ConfigurationError, UntrustedServerError, UsageError

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
DAY = timedelta(days=1)


@pytest.fixture
def certs(tmp_path):
    directory = tmp_path / "certs"
    certificates.initialise(directory, [], force=False)
    return directory


def forge(directory, names=("localhost",), begin=-DAY, end=89 * DAY, ca=None, more=()):
    """Put a server's pair in the directory that is right in all but what the arguments say; times are from now."""
    ca = ca or reading.read_ca(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        making._builder(making._common_name("forged"), ca.certificate.subject, key, now + begin, now + end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(making._key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(general, names))), critical=False)
    pair = making.Pair(builder.sign(ca.key, hashes.SHA256()), key)
    for name, (data, _) in pair.files("server.pem", "server.key").items():
        (directory / name).write_bytes(data)
    return pair


def general(name):
    return x509.IPAddress(ipaddress.ip_address(name)) if hosts.is_address(name) else x509.DNSName(name)


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lab1.Example.ORG", "lab1.example.org"),
        ("lab_1", "lab_1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("a" * 63 + ".b1", "a" * 63 + ".b1"),
    ],
)
def test_a_name_is_held_as_clients_compare_it(text, name):
    assert certificates.parse_name(text) == name


JUNK = ["", ".", "a..b", "a.", ".a", "-a", "a-", "a b", "a\0b", "a\n", "a/b", "a@b", "a,b", "a" * 64, "a." * 127 + "a"]
JUNK += ["*", "*.example.org", "a*", "http://a", "a:9090", "[::1]", "fe80::1%eth0", "\udcff", "ü" * 70]
JUNK += ["256.1.1.1", "010.0.0.1", "1.2.3", "42", "0x7f.1", "0x7f000001"]  # addresses to some resolvers


@pytest.mark.parametrize("text", JUNK)
def test_junk_is_no_name(text):
    with pytest.raises(UsageError, match="not a host name or an address"):
        certificates.parse_name(text)


def test_default_names_are_what_this_machine_is_called_without_duplicates():
    names = certificates.default_names()
    assert {"localhost", "127.0.0.1", socket.gethostname().lower()} <= set(names)
    assert len(names) == len(set(names))
    assert not any(name.startswith("fe80:") for name in names)


# -- contents ------------------------------------------------------------------------------------------------


def test_K13_the_fingerprint_is_the_sha256_of_the_ca(certs):
    der = ssl.PEM_cert_to_DER_cert((certs / "ca.pem").read_text())
    assert certificates.fingerprint(der) == hashlib.sha256(der).hexdigest() == certificates.load(certs).ca_fingerprint


def test_K07_the_certificates_say_what_the_design_says(certs):
    ca, leaf = (x509.load_pem_x509_certificate((certs / name).read_bytes()) for name in ("ca.pem", "server.pem"))
    now = datetime.now(UTC)
    for certificate, days in ((ca, 3650), (leaf, 90)):
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=days)
        assert timedelta(0) <= now - certificate.not_valid_before_utc - DAY < timedelta(minutes=1)
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert certificate.public_key().curve.name == "secp256r1"
        assert certificate.signature_hash_algorithm.name == "sha256"
        assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == making._key_usage(key_cert_sign=True, crl_sign=True)
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value == making._key_usage(digital_signature=True)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.public_key() != ca.public_key()
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert [extension.oid for extension in leaf.extensions if extension.critical] == [
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
    ]
    assert certificates.names_of(leaf.public_bytes(serialization.Encoding.DER)) == list(certificates.load(certs).names)


def test_K07_serial_numbers_are_random():
    serials = {making.make_ca(datetime.now(UTC)).certificate.serial_number for _ in range(5)}
    assert len(serials) == 5
    assert max(serials).bit_length() > 128


@pytest.mark.parametrize("flags", [[], ["-x509_strict", "-purpose", "sslserver", "-auth_level", "2"]])
@pytest.mark.debian
@needs_openssl
def test_K07_openssl_accepts_the_chain(certs, flags):
    verified = subprocess.run(
        ["openssl", "verify", *flags, "-CAfile", certs / "ca.pem", certs / "server.pem"],
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_a_leaf_does_not_outlive_its_ca(certs):
    ca = reading.read_ca(certs)
    then = ca.certificate.not_valid_after_utc - 10 * DAY
    assert (
        making.make_leaf(ca, ["localhost"], then).certificate.not_valid_after_utc == ca.certificate.not_valid_after_utc
    )


# -- handshakes ----------------------------------------------------------------------------------------------


def handshake(certificate, key, authorities, name):
    """Make a TLS 1.3 connection over loopback as strictly as our client does; return the certificate it saw."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    client.hostname_checks_common_name = False
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(cadata=authorities)
    with (
        Listener(server) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        client.wrap_socket(raw, server_hostname=name) as connection,
    ):
        return connection.getpeercert(binary_form=True)


class Listener:
    """A TLS server for one connection."""

    def __init__(self, context):
        self.context = context
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.run)

    def run(self):
        raw, _ = self.listening.accept()
        raw.settimeout(10)
        with raw:
            try:
                with self.context.wrap_socket(raw, server_side=True) as connection:
                    connection.recv(1)
            except OSError:
                pass  # the client's side is what is tested

    def __enter__(self):
        self.thread.start()
        return self.listening.getsockname()[1]

    def __exit__(self, *_):
        self.thread.join()
        self.listening.close()


def test_T06_a_strict_client_connects_by_every_name_and_by_no_other(tmp_path):
    certs = tmp_path / "certs"
    issued = certificates.initialise(certs, ["lab_1", "bücher.example", "192.0.2.7", "2001:db8::7"], force=False)
    assert issued.names[:5] == ("lab_1", "xn--bcher-kva.example", "192.0.2.7", "2001:db8::7", "localhost")
    authority = (certs / "ca.pem").read_text()
    for name in [*issued.names, "bücher.example", "LAB_1"]:
        assert handshake(certs / "server.pem", certs / "server.key", authority, name)
    for name in ("lab-1", "192.0.2.8", "2001:db8::8", "x.localhost"):
        with pytest.raises(ssl.SSLCertVerificationError, match="match"):
            handshake(certs / "server.pem", certs / "server.key", authority, name)


def test_T05_another_ca_of_the_same_name_vouches_for_nothing(tmp_path, certs):
    other = tmp_path / "other"
    certificates.initialise(other, [], force=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certs / "server.pem", certs / "server.key", (other / "ca.pem").read_text(), "localhost")


def test_K10_with_two_cas_of_the_same_name_both_servers_are_trusted(tmp_path, certs):
    other = tmp_path / "other"
    certificates.initialise(other, [], force=False)
    for directories in ((certs, other), (other, certs)):
        both = "".join((directory / "ca.pem").read_text() for directory in directories)
        for directory in directories:
            assert handshake(directory / "server.pem", directory / "server.key", both, "localhost")


def test_K08_a_certificate_signed_with_the_servers_key_is_refused(certs, tmp_path):
    leaf = x509.load_pem_x509_certificate((certs / "server.pem").read_bytes())
    key = serialization.load_pem_private_key((certs / "server.key").read_bytes(), None)
    forged = forge(certs, ca=making.Pair(leaf, key))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(making.pem(forged.certificate) + making.pem(leaf))
    forged.certificate.verify_directly_issued_by(leaf)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"invalid CA certificate|unable to get local issuer"):
        handshake(chain, certs / "server.key", (certs / "ca.pem").read_text(), "localhost")


def test_K13_who_knows_the_fingerprint_finds_the_ca_in_the_certificate_that_a_server_shows(certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.pem", certs / "server.key")
    with Listener(context) as port:
        leaf = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=10))
    found = certificates.embedded_ca(leaf)
    assert certificates.fingerprint(found) == certificates.load(certs).ca_fingerprint
    assert handshake(certs / "server.pem", certs / "server.key", found, "localhost") == leaf


def test_a_certificate_that_carries_no_ca_or_is_none_is_told_apart(certs):
    assert certificates.embedded_ca(making.der(forge(certs).certificate)) is None
    for junk in (b"", b"junk", (certs / "server.pem").read_bytes()):
        with pytest.raises(UntrustedServerError, match="cannot be read"):
            certificates.embedded_ca(junk)
        with pytest.raises(UntrustedServerError, match="cannot be read"):
            certificates.names_of(junk)


def test_a_certificate_that_carries_an_extension_twice_cannot_be_read(certs):
    twice = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{last}"), b"x") for last in (4, 5)]
    der = making.der(forge(certs, more=twice).certificate).replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04")
    with pytest.raises(UntrustedServerError, match="cannot be read"):
        certificates.names_of(der)
    (certs / "server.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    with pytest.raises(ConfigurationError, match="does not hold a certificate"):
        certificates.load(certs)


# -- what load refuses ---------------------------------------------------------------------------------------


def encrypt(directory):
    key = serialization.load_pem_private_key((directory / "server.key").read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    (directory / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


def put_rsa_key(directory):
    key = rsa.generate_private_key(65537, 2048)
    (directory / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def link(path):
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


BROKEN = {
    "no directory": (shutil.rmtree, "there are no certificates in {certs}", "init"),
    "no files": (lambda d: [file.unlink() for file in d.iterdir()], "there are no certificates in {certs}", "init"),
    "no ca.pem": (lambda d: (d / "ca.pem").unlink(), "ca.pem is missing", "init --force"),
    "no server.pem": (lambda d: (d / "server.pem").unlink(), "server.pem is missing", "cert renew"),
    "no server.key": (lambda d: (d / "server.key").unlink(), "server.key is missing", "cert renew"),
    "key 0640": (lambda d: (d / "server.key").chmod(0o640), "others can read the private key", "chmod 600"),
    "key 0644": (lambda d: (d / "server.key").chmod(0o644), "others can read the private key", "chmod 600"),
    "key 0602": (lambda d: (d / "server.key").chmod(0o602), "others can change the private key", "chmod 600"),
    "ca key 0644": (lambda d: (d / "ca.key").chmod(0o644), "others can read the CA's private key", "chmod 600"),
    "key a link": (lambda d: link(d / "server.key"), "but a link to", "mv -f"),
    "certificate a link": (lambda d: link(d / "server.pem"), "but a link to", "mv -f"),
    "ca a link": (lambda d: link(d / "ca.pem"), "but a link to", "mv -f"),
    "ca key a link": (lambda d: link(d / "ca.key"), "but a link to", "mv -f"),
    "above 0777": (lambda d: d.parent.chmod(0o777), "others can change the directory", "chmod go-w"),
    "certificate 0666": (lambda d: (d / "server.pem").chmod(0o666), "others can change the server cert", "chmod go-w"),
    "ca 0646": (lambda d: (d / "ca.pem").chmod(0o646), "others can change the CA certificate", "chmod go-w"),
    "directory 0770": (lambda d: d.chmod(0o770), "others can change the directory", "chmod go-w"),
    "other key": (lambda d: shutil.copy(d / "ca.key", d / "server.key"), "is not the one of", "cert renew"),
    "encrypted key": (encrypt, "is encrypted", "cert renew"),
    "rsa key": (put_rsa_key, "is not one for ECDSA", "cert renew"),
    "no key": (lambda d: (d / "server.key").write_text("junk"), "does not hold a private key", "cert renew"),
    "no certificate": (lambda d: (d / "server.pem").write_text("junk"), "does not hold a certificate", "cert renew"),
    "no ca": (lambda d: (d / "ca.pem").write_text(""), "ca.pem does not hold a certificate", "init --force"),
    "other ca": (lambda d: forge(d, ca=making.make_ca(datetime.now(UTC))), "is not signed by", "cert renew"),
    "expired": (lambda d: forge(d, begin=-90 * DAY, end=-DAY / 24), "server.pem ended on", "cert renew"),
    "no name": (lambda d: forge(d, names=()), "names no host", "cert renew"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_K06_what_is_broken_is_not_served_and_the_hint_mends_it(certs, case):
    breaking, message, mend = BROKEN[case]
    breaking(certs)
    with pytest.raises(ConfigurationError) as caught:
        certificates.load(certs)
    assert message.format(certs=certs) in caught.value.message
    assert mend in caught.value.hint
    run("sh", "-c", caught.value.hint, cwd="/")
    assert certificates.load(certs).ca_pem == certs / "ca.pem"


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda d: forge(d, begin=DAY), "and by this machine's clock that is to come"),
        (lambda d: (d / "server.key").unlink() or (d / "server.key").symlink_to("nowhere"), "is not a plain file"),
        (lambda d: (d / "server.key").unlink() or os.mkfifo(d / "server.key"), "is not a plain file"),
    ],
)
def test_K06_what_only_a_person_can_mend_is_not_served(certs, breaking, message):
    breaking(certs)
    with pytest.raises(ConfigurationError, match=message):
        certificates.load(certs)


@pytest.mark.root
def test_K06_a_key_of_somebody_else_is_not_served(certs):
    os.chown(certs / "server.key", 65534, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user") as caught:
        certificates.load(certs)
    subprocess.run(shlex.split(caught.value.hint), check=True)
    assert certificates.load(certs)


def test_K05_serving_needs_no_ca_key(certs):
    assert certificates.load(certs).has_ca_key
    (certs / "ca.key").unlink()
    assert not certificates.load(certs).has_ca_key


def test_looking_changes_nothing(certs):
    (certs / ".lock").unlink()
    before = snapshot(certs)
    certificates.load(certs)
    certificates.describe(certs)
    assert snapshot(certs) == before
