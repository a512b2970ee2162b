"""What a release would hold: the same bytes each time, and never a key, a certificate or a database."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from securexfer import certificates

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "inbox", "*.db*", "*.pem", "*.key"
)


def build(checkout: Path, into: Path) -> dict[str, bytes]:
    """Build wheel and sdist; return the two files' content by their ending."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(into)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return {path.suffix: path.read_bytes() for path in into.iterdir()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which a server was set up: keys, a backup of keys, users, received files."""
    place = tmp_path_factory.mktemp("release") / "checkout"
    shutil.copytree(ROOT, place, ignore=LEFT_OUT)
    (place / "certs").chmod(0o700)
    certificates.initialise(place / "certs", ["lab1"], force=False)
    certificates.initialise(place / "certs", ["lab1"], force=True)
    (place / "users.db").write_bytes(b"SQLite format 3\0")
    (place / "inbox" / "ana").mkdir(parents=True)
    (place / "inbox" / "ana" / "homework").write_text("received")
    return place


def test_K14_no_key_certificate_or_database_gets_into_a_release(checkout: Path, tmp_path: Path) -> None:
    build(checkout, tmp_path)
    [wheel], [sdist] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            if file := archive.extractfile(member):
                content[member.name] = file.read()
    assert any(name.endswith("securexfer/client/login.py") for name in content)
    assert any(name.endswith("certs/README.md") for name in content)
    for name, data in content.items():
        assert not name.endswith((".pem", ".key", ".db", "homework")), name
        assert b"-----BEGIN PRIVATE KEY-----\nM" not in data, name


def test_O08_two_builds_are_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    found = [build(checkout, tmp_path / name) for name in ("first", "second")]
    first, second = ({ending: hashlib.sha256(data).hexdigest() for ending, data in each.items()} for each in found)
    assert len(first) == 2
    assert first == second
