"""`securexfer trust`: whom a machine trusts is what somebody compared or copied, and nothing weaker is ever saved."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hostile.certificates import make_ca, make_leaf
from hostile.listeners import HOST, Listener, TlsListener, answer_all
from lab import SECUREXFER, Lab, Server, environment
from terminals import Terminal

from securexfer.profiles import is_authority

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

WRONG = "00" * 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lab_source: Path) -> Iterator[Lab]:
    """A lab for the whole module."""
    made = Lab(tmp_path_factory.mktemp("trust"), lab_source)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(place: Lab) -> Server:
    return place.serve()


@pytest.fixture
def fresh(place: Lab, tmp_path: Path) -> Lab:
    """The lab as a machine sees it that trusts nobody yet."""
    place.config = tmp_path / "config"
    return place


def pin(place: Lab) -> str:
    return fingerprint(place.ca.read_text())


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def saved(place: Lab) -> list[Path]:
    return sorted((place.config / "servers").glob("*"))


def send_trusting(
    place: Lab, port: int, user: str = "ana@", host: str = "localhost"
) -> subprocess.CompletedProcess[str]:
    """Send with nothing but what `trust` saved."""
    source = place.home / "source"
    source.write_bytes(b"what is sent")
    return place.run("send", source, f"{user}{host}:{port}", "--password-file", place.password_file)


@pytest.mark.parametrize("style", ["plain", "with colons", "capitals"])
def test_K13_the_right_fingerprint_is_saved_and_enough_to_send(fresh: Lab, server: Server, style: str) -> None:
    typed = pin(fresh)
    if style != "plain":
        typed = ":".join(re.findall("..", typed.upper() if style == "capitals" else typed))
    result = fresh.run("trust", f"localhost:{server.port}", "--ca-fingerprint", typed)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Trusted: localhost:{server.port}, CA fingerprint {pin(fresh)}\n"
    assert f"Next: securexfer send FILE USER@localhost:{server.port}" in result.stderr
    (profile,) = saved(fresh)
    assert profile.stat().st_mode & 0o777 == 0o600
    sent = send_trusting(fresh, server.port)
    assert sent.returncode == 0, sent.stderr
    assert "fingerprint" not in sent.stderr


def test_K13_a_wrong_fingerprint_is_refused_and_nothing_is_saved(fresh: Lab, server: Server) -> None:
    right = pin(fresh)
    nearly = right[:-1] + ("0" if right[-1] != "0" else "1")
    for wrong, more in ((WRONG, []), (WRONG, ["--ca", str(fresh.ca)]), (nearly, []), (nearly[::-1], [])):
        result = fresh.run("trust", f"localhost:{server.port}", "--ca-fingerprint", wrong, *more)
        assert result.returncode == 3
        assert f"no certificate has the fingerprint {wrong}; found: {right}" in result.stderr
    assert not saved(fresh)
    assert send_trusting(fresh, server.port).returncode == 3


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "abc",
        "0" * 63,
        "0" * 65,
        "g" * 64,
        "00:" * 31 + "0",
        "0000:" + "00:" * 29 + "00",
        "0" * 64 + "\n",
        "\x1b[31m",
    ],
)
def test_K13_a_malformed_fingerprint_is_a_mistake_in_the_command(fresh: Lab, server: Server, typed: str) -> None:
    """An empty one, too: a variable that is not set must not mean that nothing is compared."""
    for command in (["trust", f"localhost:{server.port}"], ["send", str(fresh.ca), f"ana@localhost:{server.port}"]):
        result = fresh.run(*command, "--ca-fingerprint", typed)
        assert result.returncode == 2, result.stderr
        assert "is not a SHA-256 fingerprint: that is 64 hexadecimal digits" in result.stderr
        assert "\x1b" not in result.stderr
    assert not saved(fresh)


def test_K13_send_pins_as_well(fresh: Lab, server: Server, tmp_path: Path) -> None:
    """--ca-fingerprint of `send`: fetched and compared, or compared with the CA that is given or saved."""
    source = tmp_path / "pinned"
    source.write_bytes(b"x")
    to = [str(source), f"ana@localhost:{server.port}", "--password-file", str(fresh.password_file)]
    for more in ([], ["--ca", str(fresh.ca)]):
        right = fresh.run("send", *to, *more, "--ca-fingerprint", pin(fresh))
        assert right.returncode == 0, right.stderr
        assert "Trusting" not in right.stderr  # they had it before their eyes
        assert fresh.run("send", *to, *more, "--ca-fingerprint", WRONG).returncode == 3
    assert not saved(fresh)
    fresh.run("trust", f"localhost:{server.port}", "--ca", fresh.ca)
    assert fresh.run("send", *to, "--ca-fingerprint", WRONG).returncode == 3
    assert fresh.run("send", *to, "--ca-fingerprint", pin(fresh)).returncode == 0


def test_a_ca_file_is_saved_and_its_fingerprint_shown(fresh: Lab, server: Server) -> None:
    result = fresh.run("trust", f"localhost:{server.port}", "--ca", fresh.ca)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Trusted: localhost:{server.port}, CA fingerprint {pin(fresh)}\n"
    assert "Compare it with what `securexfer cert show` prints on the server." in result.stderr
    assert send_trusting(fresh, server.port).returncode == 0


def test_cert_show_pem_pipes_into_trust(fresh: Lab, server: Server) -> None:
    """`ssh lab1 securexfer cert show --pem | securexfer trust lab1 --ca -`."""
    shown = fresh.run("cert", "show", "--pem", "--home", fresh.home)
    result = fresh.run("trust", f"localhost:{server.port}", "--ca", "-", input=shown.stdout)
    assert result.returncode == 0, result.stderr
    assert send_trusting(fresh, server.port).returncode == 0


@pytest.mark.parametrize("raw", [b"", b"garbage\n", bytes(range(256)), b"-----BEGIN CERTIFICATE-----\n"])
def test_T13_what_is_piped_in_must_hold_a_certificate(fresh: Lab, server: Server, raw: bytes) -> None:
    result = subprocess.run(
        [SECUREXFER, "trust", f"localhost:{server.port}", "--ca", "-"],
        input=raw, capture_output=True, timeout=30, check=False, env=environment(SECUREXFER_CONFIG=str(fresh.config)),
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith(b"securexfer: standard input holds no certificate\n")
    assert not saved(fresh)


BAD_FILES = {
    "missing": (None, "cannot be read: No such file or directory"),
    "empty": (b"", "holds no certificate"),
    "garbage": (bytes(range(256)) * 8, "holds no certificate"),
    "damaged": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
    "a leaf": (b"LEAF", "holds a certificate that is not a CA's"),
    "a CA and a leaf": (b"BOTH", "holds a certificate that is not a CA's"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_T13_a_ca_file_that_is_none_is_told_before_anything_is_asked_or_opened(
    fresh: Lab, tmp_path: Path, kind: str
) -> None:
    content, says = BAD_FILES[kind]
    path = tmp_path / "their.pem"
    if content is not None:
        leaf = (fresh.home / "certs" / "server.pem").read_bytes()
        path.write_bytes({b"LEAF": leaf, b"BOTH": fresh.ca.read_bytes() + leaf}.get(content, content))

    def answer(sock: socket.socket) -> None:
        sock.recv(1)

    with Listener(answer) as listener:
        to = f"ana@{HOST}:{listener.port}"
        for command in (["send", str(tmp_path / "file"), to], ["trust", to]):
            (tmp_path / "file").write_bytes(b"x")
            # Neither a password nor a way to be asked for one: it must not come so far.
            result = fresh.run(*command, "--ca", path)
            assert result.returncode == 2, result.stderr
            assert says in result.stderr
            assert "  Give the server's ca.pem: `securexfer cert show --pem` prints it there.\n" in result.stderr
        assert listener.count == 0
    assert not saved(fresh)


def test_a_prompt_takes_the_fingerprint_typed_by_a_person(fresh: Lab, server: Server) -> None:
    config = {"SECUREXFER_CONFIG": str(fresh.config)}
    with Terminal(SECUREXFER, "trust", f"ana@localhost:{server.port}", columns=120, **config) as terminal:
        terminal.wait_for("Fingerprint: ")
        assert "`securexfer serve` on localhost prints its CA's fingerprint" in terminal.shown
        assert pin(fresh) not in terminal.shown  # shown first, it would only be agreed to
        terminal.type(pin(fresh) + "\n")
        assert terminal.finish() == 0
        terminal.check_restored()
    assert send_trusting(fresh, server.port, user="").returncode == 0
    with Terminal(SECUREXFER, "trust", f"localhost:{server.port}", **config) as terminal:
        terminal.wait_for("Fingerprint: ")
        terminal.type("\x03")
        assert terminal.finish() == 130


def test_without_a_terminal_there_is_no_prompt(fresh: Lab, server: Server) -> None:
    result = fresh.run("trust", f"localhost:{server.port}", timeout=10)
    assert result.returncode == 2
    assert "Give --ca-fingerprint SHA256 (`securexfer serve` prints the whole line) or --ca FILE." in result.stderr
    assert not saved(fresh)


def test_what_serve_prints_is_the_line_to_type(fresh: Lab, server: Server) -> None:
    line = next(each for each in server.log_path.read_text().splitlines() if each.startswith("  securexfer trust "))
    result = fresh.run(*line.split()[1:])
    assert result.returncode == 0, result.stderr
    assert len(saved(fresh)) == 1


def test_the_user_is_saved_with_the_server(fresh: Lab, server: Server) -> None:
    """And stays when it is trusted again without one; a target's user comes first."""
    server_name = f"localhost:{server.port}"
    first = fresh.run("trust", f"bruno@{server_name}", "--ca", fresh.ca)
    assert f"Next: securexfer send FILE bruno@{server_name}" in first.stderr
    assert fresh.run("trust", server_name, "--ca", fresh.ca).returncode == 0
    assert f"Sending to {server_name} as bruno" in send_trusting(fresh, server.port, user="").stderr
    assert f"Sending to {server_name} as ana" in send_trusting(fresh, server.port).stderr


def test_a_directory_or_a_bad_target_is_not_trusted(fresh: Lab, server: Server) -> None:
    for target in (f"localhost:{server.port}/x", "@localhost", "localhost:results", "a b"):
        result = fresh.run("trust", target, "--ca", fresh.ca)
        assert result.returncode == 2, result.stderr
    assert not saved(fresh)


def test_T06_a_wrong_name_is_mended_by_the_command_that_is_hinted(tmp_path: Path, lab_source: Path) -> None:
    """While `serve` runs, without a restart, and without anybody trusting again."""
    lab = Lab(tmp_path, lab_source)
    try:
        running = lab.serve("--host", "127.0.0.9")
        wanted = f"127.0.0.9:{running.port}"
        assert lab.run("trust", wanted, "--ca", lab.ca).returncode == 0  # takes the CA at its word, without connecting
        refused = send_trusting(lab, running.port, host="127.0.0.9")
        assert refused.returncode == 3
        assert "is for localhost" in refused.stderr
        assert "; not for 127.0.0.9" in refused.stderr
        assert lab.run("trust", wanted, "--ca-fingerprint", pin(lab)).returncode == 3
        hint = re.search(r"on the server: securexfer (.*)", refused.stderr)
        assert hint
        renewed = lab.run(*hint[1].split(), env={"SECUREXFER_HOME": str(lab.home)})
        assert renewed.returncode == 0, renewed.stderr
        assert "127.0.0.9" in renewed.stdout
        os.kill(running.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + 15
        while (sent := send_trusting(lab, running.port, host="127.0.0.9")).returncode != 0:
            assert sent.returncode == 3, sent.stderr
            assert time.monotonic() < deadline, sent.stderr
            time.sleep(0.2)
        assert lab.run("trust", wanted, "--ca-fingerprint", pin(lab)).returncode == 0
        assert running.stop() == 0
    finally:
        lab.close()


def test_another_ca_replaces_the_first_and_says_so(fresh: Lab, server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_ca().pem)
    name = f"localhost:{server.port}"
    assert fresh.run("trust", name, "--ca", other).returncode == 0
    assert send_trusting(fresh, server.port).returncode == 3
    again = fresh.run("trust", name, "--ca-fingerprint", pin(fresh))
    assert again.returncode == 0
    assert f"Until now this machine trusted another CA there: {fingerprint(other.read_text())}" in again.stderr
    assert send_trusting(fresh, server.port).returncode == 0


def test_K10_two_cas_in_one_bundle_are_both_trusted_until_one_is_taken_out(
    fresh: Lab, server: Server, tmp_path: Path
) -> None:
    """Text around the certificates, as openssl writes it, does not matter; a private key beside them is not kept."""
    new = make_ca()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes("# the old CA, até março\n".encode() + fresh.ca.read_bytes() + new.private + new.pem)
    with TlsListener(make_leaf(new).context(tmp_path, "securexfer/1"), answer_all) as listener:
        for name in (f"localhost:{server.port}", f"{HOST}:{listener.port}"):
            assert fresh.run("trust", name, "--ca", bundle).returncode == 0
        assert b"PRIVATE" not in b"".join(path.read_bytes() for path in saved(fresh))
        assert send_trusting(fresh, server.port).returncode == 0
        assert send_trusting(fresh, listener.port, host=HOST).returncode == 0
    bundle.write_bytes(new.pem)
    assert fresh.run("trust", f"localhost:{server.port}", "--ca", bundle).returncode == 0
    assert send_trusting(fresh, server.port).returncode == 3


def test_what_answers_but_is_not_securexfer_is_told_apart_from_nobody(fresh: Lab, tmp_path: Path) -> None:
    def mail(sock: socket.socket) -> None:
        sock.sendall(b"220 mail ESMTP\r\n")
        sock.recv(1000)

    with Listener(mail) as listener:
        result = fresh.run("trust", f"{HOST}:{listener.port}", "--ca-fingerprint", WRONG)
        assert result.returncode == 3
        assert "something answered at" in result.stderr
    result = fresh.run("trust", f"{HOST}:{listener.port}", "--ca-fingerprint", WRONG)
    assert result.returncode == 75
    assert "refused the connection: nothing listens on that port" in result.stderr
    with TlsListener(make_leaf(make_ca()).context(tmp_path, "securexfer/1")) as tls:
        result = fresh.run("trust", f"{HOST}:{tls.port}", "--ca-fingerprint", WRONG)
        assert result.returncode == 3
        assert "its certificate is not securexfer's" in result.stderr
    assert not saved(fresh)


def test_the_ca_that_a_stranger_embeds_is_worth_nothing_without_the_key(
    fresh: Lab, server: Server, tmp_path: Path
) -> None:
    """Anybody can show a certificate that carries the lab's CA: the fingerprint fits, but the CA did not sign it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    from securexfer.certificates.making import EMBEDDED_CA

    impostor = make_leaf(make_ca())
    embedded = x509.UnrecognizedExtension(EMBEDDED_CA, ssl.PEM_cert_to_DER_cert(fresh.ca.read_text()))
    original = impostor.certificate
    builder = x509.CertificateBuilder(
        original.issuer, original.subject, original.public_key(), original.serial_number,
        original.not_valid_before_utc, original.not_valid_after_utc,
        [*original.extensions, x509.Extension(EMBEDDED_CA, critical=False, value=embedded)],
    )  # fmt: skip
    impostor.certificate = builder.sign(impostor.key, hashes.SHA256())
    with TlsListener(impostor.context(tmp_path, "securexfer/1")) as listener:
        result = fresh.run("trust", f"{HOST}:{listener.port}", "--ca-fingerprint", pin(fresh))
    assert result.returncode == 3
    assert "is not signed by the given CA" in result.stderr
    assert not saved(fresh)


@pytest.mark.parametrize("shared", ["file", "directory", "directory of a link", "nothing"])
def test_C05_a_ca_that_anybody_can_change_is_refused(fresh: Lab, server: Server, tmp_path: Path, shared: str) -> None:
    """Whoever can write there decides whom this machine trusts."""
    directory = tmp_path / "shared"
    directory.mkdir()
    path = directory / "ca.pem"
    shutil.copy(fresh.ca, path)
    given = path
    if shared == "file":
        path.chmod(0o666)
    elif shared != "nothing":
        directory.chmod(0o777)
    if shared == "directory of a link":
        given = tmp_path / "link.pem"
        given.symlink_to(path)
    result = fresh.run("trust", f"localhost:{server.port}", "--ca", given)
    if shared == "nothing":
        assert result.returncode == 0, result.stderr
        directory.chmod(0o1777)  # as /tmp: only its owner can replace what is there
        assert fresh.run("trust", f"localhost:{server.port}", "--ca", given).returncode == 0
        path.chmod(0o664)  # an ordinary umask where every user has a group
        assert fresh.run("trust", f"localhost:{server.port}", "--ca", given).returncode == 0
        return
    assert result.returncode == 2
    assert f"the CA file {given}" in result.stderr
    sent = fresh.run(
        "send", given, f"ana@localhost:{server.port}", "--ca", given, "--password-file", fresh.password_file
    )
    assert sent.returncode == 2
    assert f"the CA file {given}" in sent.stderr
    assert not saved(fresh)
    if shared == "file":
        hint = re.search(r"then: (chmod .*)", result.stderr)
        assert hint
        subprocess.run(hint[1].split(), check=True)
        assert fresh.run("trust", f"localhost:{server.port}", "--ca", given).returncode == 0


@pytest.mark.root
def test_C05_a_ca_that_somebody_else_left_in_tmp_is_refused(fresh: Lab, server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    path = directory / "ca.pem"
    shutil.copy(fresh.ca, path)
    os.chown(path, 65534, 65534)
    result = fresh.run("trust", f"localhost:{server.port}", "--ca", path)
    assert result.returncode == 2
    assert f"anybody on this machine could have put the CA file {path} there" in result.stderr


def test_a_saved_server_that_is_damaged_is_named(fresh: Lab, server: Server) -> None:
    fresh.run("trust", f"localhost:{server.port}", "--ca", fresh.ca)
    (profile,) = saved(fresh)
    profile.write_text("{")
    result = send_trusting(fresh, server.port)
    assert result.returncode == 2
    assert f"the saved server {profile} cannot be read" in result.stderr
    profile.unlink()
    assert fresh.run("trust", f"localhost:{server.port}", "--ca", fresh.ca).returncode == 0


def test_without_a_setting_servers_are_saved_where_the_system_keeps_settings(
    fresh: Lab, server: Server, tmp_path: Path
) -> None:
    """XDG_CONFIG_HOME, else ~/.config; nothing else of the home is touched."""
    for env, expected in (
        ({"HOME": str(tmp_path / "h"), "XDG_CONFIG_HOME": ""}, tmp_path / "h" / ".config"),
        ({"HOME": str(tmp_path / "h"), "XDG_CONFIG_HOME": str(tmp_path / "x")}, tmp_path / "x"),
    ):
        subprocess.run(
            [SECUREXFER, "trust", f"localhost:{server.port}", "--ca", fresh.ca],
            check=True, capture_output=True, env=environment(**env),
        )  # fmt: skip
        assert [path.name for path in (expected / "securexfer" / "servers").iterdir()] == [
            f"localhost-{server.port}.json"
        ]
        assert (expected / "securexfer").stat().st_mode & 0o777 == 0o700


def test_a_certificate_says_whether_it_is_a_cas(place: Lab) -> None:
    """Also one that carries a CA inside itself, as a server's does."""
    ca, leaf = place.ca, place.home / "certs" / "server.pem"
    assert is_authority(ssl.PEM_cert_to_DER_cert(ca.read_text()))
    assert not is_authority(ssl.PEM_cert_to_DER_cert(leaf.read_text()))
