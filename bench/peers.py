"""What is compared: securexfer, scp, rsync and curl, each with a server of its own on a free loopback port.

Every server is set up from nothing in a directory of this run: its own keys, certificates, users and configuration.
Nothing of the machine's own sshd, nginx, ~/.ssh or saved servers is used or changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, Command, Cost, measure, run, stop
from sources import check_received

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HOST = "127.0.0.1"
START_SECONDS = 20.0

SSH_PROGRAMS = ("ssh", "sshd", "ssh-keygen")
NEEDS = {
    "securexfer": ("securexfer",),
    "scp aes128-gcm": ("scp", *SSH_PROGRAMS),
    "scp": ("scp", *SSH_PROGRAMS),
    "rsync": ("rsync", *SSH_PROGRAMS),
    "curl + sha256": ("curl", "nginx", "openssl"),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its process, and the file that takes what it says."""

    pid: int
    log: Path

    def last_words(self) -> str:
        """Return the end of the log, to go with an error."""
        return "the server's log ends:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to move the source: the client's command, where the file arrives, and the server to charge."""

    name: str
    client: Command
    received: Path
    server: Server
    digests: tuple[Command, ...] = ()

    def transfer(self, digest: str, *, watch_memory: bool = True) -> Cost:
        """Move the source once, check that what arrived has this SHA-256 (untimed), and take it away again."""
        try:
            cost = measure(self.client, self.server.pid, digests=self.digests, watch_memory=watch_memory)
            check_received(self.received, digest)
        except BenchError as error:
            raise BenchError(f"{self.name}: {error}\n{self.server.last_words()}") from error
        self.received.unlink()
        return cost


def program(name: str) -> str | None:
    """Return where a program is: beside this Python, on PATH, or where Debian puts servers; None if nowhere."""
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin")
    return shutil.which(name, path=os.pathsep.join(places))


def missing(peer: str) -> list[str]:
    """Return the programs that a peer needs and this machine does not have."""
    return [name for name in NEEDS[peer] if program(name) is None]


def start_peers(stack: contextlib.ExitStack, names: Sequence[str], place: Path, source: Path) -> dict[str, Peer]:
    """Start the servers that these peers need, until `stack` ends; a peer whose programs are missing is left out."""
    ready = [name for name in names if not missing(name)]
    started: list[Peer] = []
    if "securexfer" in ready:
        server = stack.enter_context(securexfer_server(place / "securexfer", ["bench"]))
        started.append(server.peer(source, "bench"))
    if any("ssh" in NEEDS[name] for name in ready):
        started += stack.enter_context(ssh_peers(place / "ssh", source))
    if "curl + sha256" in ready:
        started.append(stack.enter_context(curl_peer(place / "nginx", source)))
    found = {peer.name: peer for peer in started}
    return {name: found[name] for name in ready}


# -- securexfer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecurexferServer:
    """A running `securexfer serve` with its default limits, and the users who may log in."""

    server: Server
    port: int
    home: Path
    environment: Mapping[str, str]
    password: str

    def peer(self, source: Path, user: str) -> Peer:
        """Return what sends `source` as `user`, with a password login and the CA by file."""
        send = (
            *(_found("securexfer"), "send", str(source), f"{user}@{HOST}:{self.port}"),
            *("--ca", str(self.home / "certs" / "ca.pem"), "--password-stdin"),
        )
        client = Command(send, stdin=f"{self.password}\n".encode(), environment=self.environment)
        return Peer("securexfer", client, self.home / "inbox" / user / source.name, self.server)


@contextlib.contextmanager
def securexfer_server(home: Path, users: Sequence[str]) -> Iterator[SecurexferServer]:
    """Make certificates and users, and serve them."""
    home.mkdir(mode=0o700)
    # Whatever the client saves for its user (servers, digests of files already read) goes here, not to the real home.
    own = {f"XDG_{kind}_HOME": str(home / "client") for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    environment = {**os.environ, **own}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a checkout would be compiled anew at every start
    serving = {**environment, "SECUREXFER_HOME": str(home)}
    password = os.urandom(16).hex()
    securexfer = _found("securexfer")
    run(Command((securexfer, "init", "--name", HOST), environment=serving))
    for user in users:
        add = (securexfer, "user", "add", user, "--password-stdin")
        run(Command(add, stdin=f"{password}\n".encode(), environment=serving))
    port = free_port()
    serve = Command((securexfer, "serve", "--host", HOST, "--port", str(port)), environment=serving)
    with _serving(serve, port, home / "log") as server:
        yield SecurexferServer(server, port, home, environment, password)


# -- sshd: scp and rsync -----------------------------------------------------------------------------------


@contextlib.contextmanager
def ssh_peers(place: Path, source: Path) -> Iterator[list[Peer]]:
    """Start an sshd that takes one key, as this user."""
    place.mkdir(mode=0o700)
    inbox = place / "inbox"
    inbox.mkdir()
    host_key, user_key = place / "host_key", place / "user_key"
    for key in (host_key, user_key):
        run(Command((_found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key))))
    port = free_port()
    known_hosts = place / "known_hosts"
    known_hosts.write_text(f"[{HOST}]:{port} {host_key.with_suffix('.pub').read_text()}")
    server_config = _write(
        place / "sshd_config",
        f"""
        ListenAddress {HOST}
        Port {port}
        HostKey {host_key}
        PidFile none
        AuthorizedKeysFile {user_key.with_suffix(".pub")}
        AuthenticationMethods publickey
        PermitRootLogin prohibit-password
        StrictModes no
        UsePAM no
        Subsystem sftp internal-sftp
        """,
    )
    client_config = _write(
        place / "ssh_config",
        f"""
        Host bench
            HostName {HOST}
            Port {port}
            User {getpass.getuser()}
            IdentityFile {user_key}
            IdentitiesOnly yes
            IdentityAgent none
            UserKnownHostsFile {known_hosts}
            GlobalKnownHostsFile none
            StrictHostKeyChecking yes
            BatchMode yes
        """,
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's sshd insists on it; the service makes it at boot
    serve = Command((_found("sshd"), "-D", "-e", "-f", str(server_config)))
    with _serving(serve, port, place / "log") as server:
        target = f"bench:{inbox}/"
        clients = {
            "scp aes128-gcm": ("scp", "-q", "-F", str(client_config), "-c", "aes128-gcm@openssh.com"),
            "scp": ("scp", "-q", "-F", str(client_config)),
            "rsync": ("rsync", "-W", "-e", f"{program('ssh')} -F {client_config}"),
        }
        yield [
            Peer(name, Command((_found(client), *options, str(source), target)), inbox / source.name, server)
            for name, (client, *options) in clients.items()
            if not missing(name)
        ]


# -- nginx: curl -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def curl_peer(place: Path, source: Path) -> Iterator[Peer]:
    """Start an nginx that takes PUT over TLS 1.3; its client's job includes a digest of each end's file."""
    place.mkdir(mode=0o700)
    inbox = place / "inbox"
    inbox.mkdir()
    openssl = _found("openssl")
    certificate, key = place / "server.pem", place / "server.key"
    run(
        Command(
            (
                *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}", "-days", "2"),
                *("-keyout", str(key), "-out", str(certificate)),
            )
        )
    )
    port = free_port()
    config = _write(
        place / "nginx.conf",
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off;
        worker_processes 1;
        pid {place}/pid;
        error_log stderr;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {place}/arriving;
            proxy_temp_path {place}/unused;
            fastcgi_temp_path {place}/unused;
            uwsgi_temp_path {place}/unused;
            scgi_temp_path {place}/unused;
            client_max_body_size 0;
            client_body_buffer_size 1m;  # the fastest of 16k (the default), 256k, 1m and 4m
            server {{
                listen {HOST}:{port} ssl;
                ssl_certificate {certificate};
                ssl_certificate_key {key};
                ssl_protocols TLSv1.3;
                root {inbox};
                dav_methods PUT;
            }}
        }}
        """,
    )
    received = inbox / source.name
    upload = (
        *(_found("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(certificate)),
        *("-T", str(source), f"https://{HOST}:{port}/{source.name}"),
    )
    digests = tuple(Command((openssl, "dgst", "-sha256", str(file))) for file in (source, received))
    with _serving(Command((_found("nginx"), "-e", "stderr", "-c", str(config))), port, place / "log") as server:
        yield Peer("curl + sha256", Command(upload), received, server, digests)


# -- what they share ---------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a loopback port that nobody listened on a moment ago."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def _serving(command: Command, port: int, log: Path) -> Iterator[Server]:
    """Run a server until the block ends, and enter the block when it answers on its port."""
    with log.open("wb") as output:
        # A session of its own: Ctrl-C at the terminal is for this program, which stops its servers itself.
        process = subprocess.Popen(
            command.arguments,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        server = Server(process.pid, log)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{command.arguments[0]} did not start\n{server.last_words()}")
            time.sleep(0.02)
        yield server
    finally:
        stop(process)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _found(name: str) -> str:
    path = program(name)
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
