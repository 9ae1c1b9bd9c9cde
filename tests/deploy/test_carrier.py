"""The carriers of deploy/carrier, run as they stand there between two real sides, and cut in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.testing.servers import free_port
from tests.crossing import shop
from tests.crossing.conftest import small
from tests.crossing.sides import Link
from tests.deploy.commands import DEPLOY

__all__ = ["small"]

CARRIER = DEPLOY / "carrier"
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
START_SECONDS = 30.0

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not (shutil.which("rsync") and shutil.which("rrsync")), reason="needs rsync"),
]
needs_sshd = pytest.mark.skipif(not Path(SSHD).exists(), reason="needs sshd")


def key(folder: Path, name: str) -> str:
    """Make a key without a passphrase; give its public half."""
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name).returncode == 0
    return (folder / f"{name}.pub").read_text()


class Server:
    """An SSH server on the loopback, as this user, that lets in one key, and how to reach it."""

    def __init__(self, folder: Path, authorized: str, *more: str) -> None:
        folder.mkdir()
        folder.chmod(0o700)
        key(folder, "host")
        public = " ".join(key(folder, "carrier").split()[:2])
        (folder / "authorized").write_text(authorized.replace("ssh-ed25519 AAAA...", public) + "\n")
        self.port = free_port()
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder}/host",
            f"AuthorizedKeysFile {folder}/authorized",
            "StrictModes no",
            "UsePAM no",
            f"PidFile {folder}/pid",
            *more,
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self.options = ["-i", f"{folder}/carrier", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
        self.options += ["-o", f"UserKnownHostsFile={folder}/known", "-o", "LogLevel=ERROR"]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("wb") as log:
            words = [SSHD, "-D", "-e", "-f", str(self._folder / "sshd_config")]
            self._process = subprocess.Popen(words, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while b"Server listening" not in (self._folder / "log").read_bytes():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    @property
    def shell(self) -> str:
        """What rsync calls."""
        return " ".join(["ssh", "-p", str(self.port), *self.options])


@pytest.fixture
def rsync_server(small: Link, tmp_path: Path) -> Iterator[Server]:
    """Give a server at the receiving side that lets a carrier's key do nothing but write into incoming, by rsync."""
    incoming = small.other.site.spool.folders.incoming
    line = (CARRIER / "authorized_keys.rsync").read_text().strip().replace("/srv/exchange/incoming", str(incoming))
    server = Server(tmp_path / "ssh", line)
    server.start()
    yield server
    server.stop()


def write(link: Link, *ids: int, rows: int = 1) -> None:
    """Have the first side send a batch for each id, with so many rows from that one on."""
    for one in ids:
        some = [{"id": number, "name": os.urandom(15).hex()} for number in range(one, one + rows)]
        link.one.execute(sa.insert(shop.account), some)
        assert link.one.export().trouble is None


def arrived(link: Link) -> list[int]:
    """Import, and give what is there then."""
    assert link.other.take_in().trouble is None
    return [row["id"] for row in link.other.rows(shop.account)]


def run(*words: object, said: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    command = [str(one) for one in words]
    return subprocess.run(command, env=environment, input=said, capture_output=True, text=True, check=False)


@needs_sshd
def test_rsync_by_a_key_that_may_do_nothing_else(small: Link, rsync_server: Server, tmp_path: Path) -> None:
    outgoing = small.one.site.spool.folders.outgoing
    words = (CARRIER / "carry-rsync", outgoing, "127.0.0.1:/", tmp_path / "carried")
    write(small, 1, 2)
    done = run(*words, RSYNC_RSH=rsync_server.shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("carried forth-") == 2
    assert arrived(small) == [1, 2]
    assert run(*words, RSYNC_RSH=rsync_server.shell).stdout == ""  # what was carried is not carried again
    write(small, 3)
    assert run(*words, RSYNC_RSH=rsync_server.shell).stdout.count("carried") == 1
    assert arrived(small) == [1, 2, 3]
    for path in outgoing.glob("forth-*"):
        path.unlink()
    assert run(*words, RSYNC_RSH=rsync_server.shell).stdout == ""
    assert (tmp_path / "carried").read_text() == ""
    ssh = ["ssh", "-p", str(rsync_server.port), *rsync_server.options, "127.0.0.1"]
    for wish in (["cat", "/etc/hostname"], ["rsync", "--server", "--sender", "-e.LsfxC", ".", "/"]):
        refused = run(*ssh, *wish)
        assert refused.returncode != 0
        assert refused.stdout == ""


def test_rsync_that_is_killed_in_the_middle_goes_on(small: Link, tmp_path: Path) -> None:
    outgoing, incoming = small.one.site.spool.folders.outgoing, small.other.site.spool.folders.incoming
    words = [str(CARRIER / "carry-rsync"), str(outgoing), str(incoming), str(tmp_path / "carried")]
    write(small, 1, 10_001, 20_001, rows=10_000)
    for _ in range(3):
        before = set(incoming.iterdir())
        process = subprocess.Popen(words, start_new_session=True)
        while process.poll() is None and set(incoming.iterdir()) == before:
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert small.other.take_in().trouble is None
    assert run(*words).returncode == 0
    assert arrived(small) == list(range(1, 30_001))


def test_a_folder_that_is_not_mounted_is_said(small: Link, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outgoing = small.one.site.spool.folders.outgoing
    for source, target in ((tmp_path / "empty", outgoing), (outgoing, tmp_path / "empty")):
        done = run(CARRIER / "carry-rsync", source, target, tmp_path / "carried")
        assert done.returncode != 0
        assert ".exchange-folder" in done.stderr or "not mounted" in done.stderr


@needs_sshd
def test_sftp_puts_under_a_temporary_name_and_renames(small: Link, tmp_path: Path) -> None:
    root = small.other.site.spool.folders.home
    [forced] = [line for line in (CARRIER / "sshd_sftp.conf").read_text().splitlines() if "ForceCommand" in line]
    # Only root may shut somebody in; what else the example says holds here too.
    server = Server(tmp_path / "ssh", "ssh-ed25519 AAAA...", "Subsystem sftp internal-sftp", forced.strip())
    server.start()
    try:
        write(small, 1, 2)
        outgoing = small.one.site.spool.folders.outgoing
        where = (outgoing, "127.0.0.1", root / "incoming", tmp_path / "carried")
        words = (CARRIER / "carry-sftp", *where, "-P", server.port, *server.options)
        done = run(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("carried forth-") == 2
        assert arrived(small) == [1, 2]
        assert run(*words).stdout == ""
        asked = ("sftp", "-q", "-b", "-", "-P", server.port, *server.options, "127.0.0.1")
        remove = run(*asked, said=f"rm {root}/exchange.db\n")
        assert remove.returncode != 0
        assert "Permission denied" in remove.stderr
    finally:
        server.stop()


@needs_sshd
def test_the_example_of_a_shut_in_carrier_is_what_sshd_takes(tmp_path: Path) -> None:
    key(tmp_path, "host")
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {tmp_path}/host\n" + (CARRIER / "sshd_sftp.conf").read_text())
    said = run(SSHD, "-T", "-f", config, "-C", "user=exchange-carrier,host=a,addr=127.0.0.1")
    assert said.returncode == 0, said.stderr
    assert "chrootdirectory /srv/exchange" in said.stdout
    assert "permittty no" in said.stdout
