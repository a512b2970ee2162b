"""The classroom's client, made safe: python classroom_client.py HOST PORT CA.pem USER FILE..."""

import hashlib
import ssl
import struct
import sys
from getpass import getpass
from pathlib import Path
from socket import create_connection


def padded(text: str) -> bytes:
    """Return 128 bytes: the text in UTF-8, then spaces. What does not fit is refused, never cut."""
    data = text.encode()
    if not data or len(data) > 128 or data != data.strip(b" ") or 0 in data:
        sys.exit("user, password and names: 1 to 128 bytes each, no NUL, no space at either end")
    return data.ljust(128)


if len(sys.argv) < 6:
    sys.exit(__doc__)
sys.excepthook = lambda kind, problem, _: print(f"{kind.__name__}: {problem}", file=sys.stderr)
host, port, ca, user, *names = sys.argv[1:]
password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
login, name_fields = padded(user) + padded(password), [padded(Path(name).name) for name in names]

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate, and that it is this host's
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_verify_locations(ca)
context.set_alpn_protocols(["securexfer/1"])
with context.wrap_socket(create_connection((host, int(port))), server_hostname=host) as server:
    if server.selected_alpn_protocol() != "securexfer/1":
        sys.exit(f"{host} does not speak securexfer/1")
    server.sendall(login)
    if server.recv(1) != b"\x01":
        sys.exit("login refused")
    server.sendall(struct.pack(">I", len(names)))
    for name, field in zip(names, name_fields, strict=True):
        with Path(name).open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").digest(), file.tell()
            file.seek(0)
            server.sendall(field + struct.pack(">Q", size))
            if server.sendfile(file) != size:
                sys.exit(f"{name} changed while it was sent")
            server.sendall(digest)
    answers = b""
    while len(answers) < len(names) and (more := server.recv(65536)):
        answers += more

for name, answer in zip(names, answers.ljust(len(names), b"\0"), strict=True):
    print("stored" if answer == 1 else "NOT STORED", name)
sys.exit(answers != b"\x01" * len(names))
