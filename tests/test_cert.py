"""What `securexfer cert` promises: it shows what there is, and renews without anybody having to trust again."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from commands import ENVIRONMENT, needs_strace, run, snapshot

from securexfer import certificates
from securexfer.certificates import making, reading
from securexfer.errors import ConfigurationError, UsageError

DAY = timedelta(days=1)


@pytest.fixture
def certs(tmp_path):
    directory = tmp_path / "certs"
    certificates.initialise(directory, ["lab1.example.org"], force=False)
    return directory


def put_leaf(directory, names, age=timedelta(0)):
    """Put a certificate in the directory as it was made some time ago."""
    pair = making.make_leaf(reading.read_ca(directory), names, datetime.now(UTC) - age)
    for name, (data, _) in pair.files("server.pem", "server.key").items():
        (directory / name).write_bytes(data)


# -- show ----------------------------------------------------------------------------------------------------


def test_show_needs_no_keys_and_works_after_the_end(certs, tmp_path):
    put_leaf(certs, ["old.example.org"], age=100 * DAY)
    (certs / "ca.key").unlink()
    (certs / "server.key").unlink()
    found = certificates.describe(certs)
    shown = run("securexfer", "cert", "show", cwd=tmp_path).stdout.splitlines()
    assert shown == [
        f"CA fingerprint: {found.ca_fingerprint}",
        "Names: old.example.org",
        f"Valid until: {found.not_after:%Y-%m-%d %H:%M} UTC",
        f"Valid from: {found.not_before:%Y-%m-%d %H:%M} UTC",
        f"CA valid until: {found.ca_not_after:%Y-%m-%d %H:%M} UTC",
        f"Directory: {certs}",
        "CA key: not here; cert renew needs it",
    ]
    assert found.not_after < datetime.now(UTC)


def test_pem_prints_the_ca_certificate_and_nothing_else_that_is_in_its_file(certs, tmp_path):
    public = (certs / "ca.pem").read_text()
    (certs / "ca.pem").write_text((certs / "ca.key").read_text() + public)
    done = run("securexfer", "cert", "show", "--pem", "--home", tmp_path, cwd="/")
    assert done.stdout == public
    assert done.stderr == ""
    assert ssl.PEM_cert_to_DER_cert(done.stdout)


# -- renew ---------------------------------------------------------------------------------------------------


def test_K09_renew_makes_a_new_key_and_certificate_from_the_same_ca_and_keeps_the_old_pair(certs, tmp_path):
    before, old = snapshot(certs), certificates.load(certs)
    done = run("securexfer", "cert", "renew", "--name", "bücher.example", cwd=tmp_path)
    after, new = snapshot(certs), certificates.load(certs)
    assert "nobody has to trust again. A running `securexfer serve` picks this up by itself" in done.stderr
    assert f"CA fingerprint: {old.ca_fingerprint}\n" in done.stdout
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}
    assert after["server.old.pem"][1] == before["server.pem"][1]
    assert after["server.old.key"] == before["server.key"]
    assert set(new.names) == {*old.names, "xn--bcher-kva.example"}
    run("securexfer", "cert", "renew", cwd=tmp_path)
    assert snapshot(certs)["server.old.key"] == after["server.key"]


def test_renew_keeps_what_somebody_gave_and_host_names_and_drops_addresses_that_are_gone(certs):
    put_leaf(certs, ["lab1.example.org", "192.0.2.200", "localhost", "formerly", "192.0.2.201", "127.0.0.1"])
    for _ in range(2):
        names = certificates.renew(certs, ["192.0.2.202", "localhost"], if_needed=False).names
        assert names[: names.index("localhost")] == ("lab1.example.org", "192.0.2.200", "192.0.2.202", "formerly")
        assert set(certificates.default_names()) <= set(names)
        assert "192.0.2.201" not in names
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("age", "asked", "needed"),
    [
        (0 * DAY, [], False),
        (0 * DAY, ["LAB1.example.org", "127.0.0.1"], False),
        (0 * DAY, ["other.example.org"], True),
        (0 * DAY, ["192.0.2.250"], True),
        (58.9 * DAY, [], False),
        (59.1 * DAY, [], True),
        (100 * DAY, [], True),
    ],
)
def test_if_needed_renews_for_a_name_that_is_lacking_or_when_a_third_of_the_life_is_left(certs, age, asked, needed):
    put_leaf(certs, certificates.load(certs).names, age)
    before = snapshot(certs)
    issued = certificates.renew(certs, asked, if_needed=True)
    assert (issued is not None) is needed
    assert (snapshot(certs) != before) is needed
    assert certificates.load(certs)


def test_if_needed_renews_when_this_machine_has_a_name_that_the_certificate_lacks(certs, tmp_path):
    put_leaf(certs, [name for name in certificates.default_names() if name != "127.0.0.1"])
    assert "127.0.0.1" in run("securexfer", "cert", "renew", "--if-needed", cwd=tmp_path).stdout
    done = run("securexfer", "cert", "renew", "--if-needed", cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.startswith("Not needed: ")


def test_if_needed_works_without_the_ca_key_while_it_is_not_needed(certs):
    (certs / "ca.key").unlink()
    assert certificates.renew(certs, [], if_needed=True) is None
    with pytest.raises(ConfigurationError, match=r"ca\.key is missing, and only the CA's key"):
        certificates.renew(certs, ["other.example.org"], if_needed=True)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda d: (d / "ca.key").chmod(0o644), "others can read the CA's private key"),
        (lambda d: shutil.copy(d / "server.key", d / "ca.key"), "is not the one of"),
        (lambda d: (d / "ca.pem").unlink(), "ca.pem is missing"),
        (lambda d: (d / "ca.pem").chmod(0o666), "others can change the CA certificate"),
        (lambda d: (d / "server.key").unlink() or (d / "server.key").mkdir(), "is not a plain file"),
        (lambda d: d.chmod(0o777), "others can change the directory"),
    ],
)
def test_renew_refuses_a_ca_that_others_may_have_and_leaves_what_it_does_not_know(certs, breaking, message):
    breaking(certs)
    mode = certs.stat().st_mode
    with pytest.raises(ConfigurationError, match=message):
        certificates.renew(certs, [], if_needed=False)
    assert not list(certs.glob(".new*"))
    assert certs.stat().st_mode == mode


def test_an_encrypted_ca_key_is_refused_with_the_line_that_decrypts_it(certs):
    key = reading.load_pem_private_key((certs / "ca.key").read_bytes(), None)
    form = making.serialization
    encrypted = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret"))
    (certs / "ca.key").write_bytes(encrypted)
    with pytest.raises(ConfigurationError, match="is encrypted") as caught:
        certificates.renew(certs, [], if_needed=False)
    if shutil.which("openssl"):
        typed = caught.value.hint.replace("openssl pkey", "openssl pkey -passin pass:secret")
        subprocess.run(["sh", "-c", typed], check=True)
        assert certificates.renew(certs, [], if_needed=False)


def test_a_name_that_is_none_changes_nothing(certs):
    before = snapshot(certs)
    with pytest.raises(UsageError):
        certificates.renew(certs, ["a b"], if_needed=False)
    assert snapshot(certs) == before


def test_K09_a_server_that_looks_while_certificates_are_renewed_never_sees_half_a_pair(certs):
    done = threading.Event()
    seen, problems = set(), []

    def look():
        while not done.is_set():
            try:
                seen.add(certificates.load(certs).not_after)
            except ConfigurationError as error:
                problems.append(error.message)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(30):
        certificates.renew(certs, [], if_needed=False)
    done.set()
    looking.join()
    assert problems == []
    assert seen


@pytest.mark.debian
@needs_strace
def test_K09_a_renewal_between_two_reads_is_no_broken_pair(certs, tmp_path):
    """With the server held up before it opens the key, until the certificate that it has read is no longer there."""
    trace, key = tmp_path / "trace", certs / "server.key"
    program = "import pathlib, sys\nfrom securexfer.certificates import load\nload(pathlib.Path(sys.argv[1]))"
    slowed = ["strace", "-o", trace, "-P", key, "-e", "openat", "-e", "inject=openat:delay_enter=1000000"]
    with subprocess.Popen([*slowed, sys.executable, "-c", program, certs], env=ENVIRONMENT) as server:
        while not (trace.exists() and "server.key" in trace.read_text()) and server.poll() is None:
            time.sleep(0.01)
        certificates.renew(certs, [], if_needed=False)
    assert server.returncode == 0
    assert trace.read_text().count("server.key") == 2
