"""What is compared: securexfer, scp, rsync, tar and curl, each with a server of its own on a free port.

Every server is set up from nothing in a directory of this run: its own keys, certificates, users and configuration.
Nothing of the machine's own sshd, nginx, ~/.ssh or saved servers is used or changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import BenchError, Command, Cost, measure, run
from serving import LOOPBACK, Network, Server, found, free_port, program, serving, write
from sources import NANOSECOND, SECOND, Source, remove, sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SSH_PROGRAMS = ("ssh", "sshd", "ssh-keygen")
FILE_PEERS = {
    "securexfer": ("securexfer",),
    "scp aes128-gcm": ("scp", *SSH_PROGRAMS),
    "scp": ("scp", *SSH_PROGRAMS),
    "rsync": ("rsync", *SSH_PROGRAMS),
    "curl + sha256": ("curl", "nginx", "openssl"),
}
TREE_PEERS = {
    "securexfer": ("securexfer",),
    "rsync -a": ("rsync", *SSH_PROGRAMS),
    "rsync -a --fsync": ("rsync", *SSH_PROGRAMS),
    "tar | ssh tar": ("tar", *SSH_PROGRAMS),
    "scp -r": ("scp", *SSH_PROGRAMS),
}
NEEDS = FILE_PEERS | TREE_PEERS
# What a peer keeps of a file's time as it is run here, in nanoseconds; the others keep nothing.
MTIME_UNITS = {"rsync -a": NANOSECOND, "rsync -a --fsync": NANOSECOND, "tar | ssh tar": SECOND}


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to move a source: the client's command, where it arrives, and the server to charge."""

    name: str
    client: Command
    source: Source
    received: Path
    server: Server
    digests: tuple[Command, ...] = ()
    mtime_unit: int | None = None

    def transfer(self, *, watch_memory: bool = True, keep: bool = False, aside: Path | None = None) -> Cost:
        """Move the source once and check what arrived (untimed).

        Unless it is to be kept, it is taken away again, into the directory `aside` if there is one; and what the disk
        has yet to write of it is waited for.
        """
        try:
            cost = measure(self.client, self.server.pid, digests=self.digests, watch_memory=watch_memory)
            self.source.check(self.received, mtime_unit=self.mtime_unit)
        except BenchError as error:
            raise BenchError(f"{self.name}: {error}\n{self.server.last_words()}") from error
        if aside:
            self.received.rename(Path(tempfile.mkdtemp(dir=aside)) / self.received.name)
        elif not keep:
            remove(self.received)
        sync(self.received.parent)
        return cost


def missing(peer: str) -> list[str]:
    """Return the programs that a peer needs and this machine does not have."""
    return [name for name in NEEDS[peer] if program(name) is None]


def start_peers(
    stack: contextlib.ExitStack, names: Sequence[str], place: Path, source: Source, network: Network = LOOPBACK
) -> dict[str, Peer]:
    """Start the servers that these peers need, until `stack` ends; a peer whose programs are missing is left out."""
    ready = [name for name in names if not missing(name)]
    started: list[Peer] = []
    if "securexfer" in ready:
        server = stack.enter_context(securexfer_server(place / "securexfer", ["bench"], network))
        started.append(server.peer(source, "bench"))
    if any("ssh" in NEEDS[name] for name in ready):
        ssh = stack.enter_context(ssh_server(place / "ssh", network))
        started += [ssh.peer(name, source) for name in ready if "ssh" in NEEDS[name]]
    if "curl + sha256" in ready:
        started.append(stack.enter_context(curl_peer(place / "nginx", source)))
    by_name = {peer.name: peer for peer in started}
    return {name: by_name[name] for name in ready}


# -- securexfer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SecurexferServer:
    """A running `securexfer serve` with its default limits, and the users who may log in."""

    server: Server
    network: Network
    port: int
    home: Path
    environment: Mapping[str, str]
    password: str

    def peer(self, source: Source, user: str) -> Peer:
        """Return what sends `source` as `user`, with a password login and the CA by file."""
        client = self.sending([source.path], user)
        received = self.home / "inbox" / user / source.path.name
        return Peer("securexfer", client, source, received, self.server, mtime_unit=NANOSECOND)

    def sending(self, paths: Sequence[Path], user: str) -> Command:
        """Return the command that sends these, so."""
        send = (
            *(*self.network.at_client, found("securexfer"), "send", *map(str, paths)),
            *(f"{user}@{self.network.host}:{self.port}", "--ca", str(self.home / "certs" / "ca.pem")),
            "--password-stdin",
        )
        return Command(send, stdin=f"{self.password}\n".encode(), environment=self.environment)


@contextlib.contextmanager
def securexfer_server(
    home: Path, users: Sequence[str], network: Network = LOOPBACK, *, opens: bool = False
) -> Iterator[SecurexferServer]:
    """Make certificates and users, and serve them; where it `opens` what they send, root serves as nobody."""
    home.mkdir(mode=0o700)
    # Whatever the client saves for its user (servers, digests of files already read) goes here, not to the real home.
    own = {f"XDG_{kind}_HOME": str(home / "client") for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    environment = {**os.environ, **own}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a checkout would be compiled anew at every start
    serving_environment = {**environment, "SECUREXFER_HOME": str(home)}
    password = os.urandom(16).hex()
    securexfer = found("securexfer")
    run(Command((securexfer, "init", "--name", network.host), environment=serving_environment))
    for user in users:
        add = (securexfer, "user", "add", user, "--password-stdin")
        run(Command(add, stdin=f"{password}\n".encode(), environment=serving_environment))
        if opens:
            run(Command((securexfer, "user", "allow", user, "open"), environment=serving_environment))
    port = free_port()
    options = ("--open", *(_as_nobody(home) if os.geteuid() == 0 else ())) if opens else ()
    words = (securexfer, "serve", "--host", network.host, "--port", str(port), *options)
    serve = Command(words, environment=serving_environment)
    with serving(serve, port, home / "log", network) as server:
        yield SecurexferServer(server, network, port, home, environment, password)


def _as_nobody(home: Path) -> tuple[str, str]:
    """Give a server's home to nobody, who can reach it then; return the option that serves so."""
    home.parent.chmod(0o711)
    for path in (home, *home.rglob("*")):
        shutil.chown(path, "nobody", "nogroup")
    return "--run-as", "nobody"


# -- sshd: scp, rsync and tar ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd that takes one key, as this user, and the client's configuration that knows it as `bench`."""

    server: Server
    network: Network
    config: Path
    inbox: Path

    def peer(self, name: str, source: Source) -> Peer:
        """Return what moves `source` by the program of that name."""
        path, target = str(source.path), f"bench:{self.inbox}/"
        ssh = f"{found('ssh')} -F {shlex.quote(str(self.config))}"
        scp = (found("scp"), "-q", "-F", str(self.config))
        pack = f"tar -c -C {shlex.quote(str(source.path.parent))} {shlex.quote(source.path.name)}"
        unpack = shlex.quote(f"tar -x -C {shlex.quote(str(self.inbox))}")
        commands: dict[str, tuple[str, ...]] = {
            "scp aes128-gcm": (*scp, "-c", "aes128-gcm@openssh.com", path, target),
            "scp": (*scp, path, target),
            "scp -r": (*scp, "-r", path, target),
            "tar | ssh tar": (found("sh"), "-c", f"{pack} | {ssh} bench {unpack}"),
        }
        if "rsync" in NEEDS[name]:
            options = {"rsync": ("-W",), "rsync -a": ("-a",), "rsync -a --fsync": ("-a", "--fsync")}
            commands[name] = (found("rsync"), *options[name], "-e", ssh, path, target)
        client = Command((*self.network.at_client, *commands[name]))
        unit = MTIME_UNITS.get(name)
        return Peer(name, client, source, self.inbox / source.path.name, self.server, mtime_unit=unit)


@contextlib.contextmanager
def ssh_server(place: Path, network: Network = LOOPBACK) -> Iterator[SshServer]:
    """Start an sshd with keys and a configuration of its own."""
    place.mkdir(mode=0o700)
    inbox = place / "inbox"
    inbox.mkdir()
    host_key, user_key = place / "host_key", place / "user_key"
    for key in (host_key, user_key):
        run(Command((found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key))))
    port = free_port()
    known_hosts = place / "known_hosts"
    known_hosts.write_text(f"[{network.host}]:{port} {host_key.with_suffix('.pub').read_text()}")
    server_config = write(
        place / "sshd_config",
        f"""
        ListenAddress {network.host}
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
    client_config = write(
        place / "ssh_config",
        f"""
        Host bench
            HostName {network.host}
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
    serve = Command((found("sshd"), "-D", "-e", "-f", str(server_config)))
    with serving(serve, port, place / "log", network) as server:
        yield SshServer(server, network, client_config, inbox)


# -- nginx: curl -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def curl_peer(place: Path, source: Source) -> Iterator[Peer]:
    """Start an nginx that takes PUT over TLS 1.3; its client's job includes a digest of each end's file."""
    place.mkdir(mode=0o700)
    inbox = place / "inbox"
    inbox.mkdir()
    openssl = found("openssl")
    certificate, key = place / "server.pem", place / "server.key"
    run(
        Command(
            (
                *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-subj", f"/CN={LOOPBACK.host}", "-addext", f"subjectAltName=IP:{LOOPBACK.host}", "-days", "2"),
                *("-keyout", str(key), "-out", str(certificate)),
            )
        )
    )
    port = free_port()
    config = write(
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
                listen {LOOPBACK.host}:{port} ssl;
                ssl_certificate {certificate};
                ssl_certificate_key {key};
                ssl_protocols TLSv1.3;
                root {inbox};
                dav_methods PUT;
            }}
        }}
        """,
    )
    received = inbox / source.path.name
    upload = (
        *(found("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(certificate)),
        *("-T", str(source.path), f"https://{LOOPBACK.host}:{port}/{source.path.name}"),
    )
    digests = tuple(Command((openssl, "dgst", "-sha256", str(file))) for file in (source.path, received))
    with serving(Command((found("nginx"), "-e", "stderr", "-c", str(config))), port, place / "log") as server:
        yield Peer("curl + sha256", Command(upload), source, received, server, digests)
