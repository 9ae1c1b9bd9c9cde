"""Two whole networks as they run in life, each with ``exchange up``, for tests and benchmarks of the reference app.

There is no carrier: what the one sends lies in the folder that the other receives from. Beat's periods are an hour
unless told otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil
from sqlalchemy import Engine

from exchange.database import make_engine
from exchange.operating import broker
from exchange.operating.assemble import assemble
from exchange.settings import load_settings
from exchange.site import Site

START_SECONDS = 90.0
NAMES = ("response", "request")
_HOUR = "3600"


@dataclass
class Network:
    """One side: where it lives, and the supervisor that runs it."""

    name: str
    home: Path
    environment: dict[str, str]
    engine: Engine
    log: Path
    process: psutil.Process
    python: Path

    def child(self, word: str) -> psutil.Process:
        """Give the supervisor's child with this word in its command."""
        return next(one for one in self.process.children() if any(word in part for part in one.cmdline()))

    def up(self) -> None:
        """Start the supervisor, after it was killed."""
        with self.log.open("ab") as out:
            self.process = psutil.Popen(
                [str(self.python), "-m", "exchange", "up"],
                env=self.environment,
                cwd=self.home.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Have the supervisor stop all that it runs, and wait for it; may be repeated."""
        with suppress(psutil.NoSuchProcess):
            self.process.terminate()
            self.process.wait()

    def site(self) -> Site:
        """Assemble this side in this process; whoever takes it disposes of its engine."""
        with patch.dict(os.environ, self.environment, clear=True):
            return assemble(load_settings())

    def kill_broker(self) -> None:
        """Kill the embedded broker."""
        address = broker.running(self.home / "broker")
        assert address is not None
        with address.client(START_SECONDS) as client:
            psutil.Process(client.info("server")["process_id"]).kill()

    def exchange(self, *words: str) -> str:
        """Run a command and give what it printed."""
        return _exchange(self.python, self.environment, self.home, *words)


@contextmanager
def two_networks(
    folder: Path, urls: Mapping[str, str] | None = None, python: Path = Path(sys.executable), **settings: str
) -> Iterator[dict[str, Network]]:
    """Run both networks below ``folder`` until the end, ready when this begins.

    ``urls`` are their databases by name (SQLite files); ``python`` runs the commands (``process`` has no children with
    one that forks); ``settings`` go to both, by the names of their variables.
    """
    databases = urls or {name: f"sqlite:///{folder}/{name}.db" for name in NAMES}
    for name in NAMES:
        (folder / f"from-{name}").mkdir()
        (folder / name).mkdir(mode=0o700)
    peers = dict(zip(NAMES, NAMES[::-1], strict=True))
    environments = {
        name: _environment(
            {
                "EXCHANGE_NETWORK": name,
                "EXCHANGE_PEER": peer,
                "EXCHANGE_HOME": str(folder / name),
                "EXCHANGE_DATABASE_URL": databases[name],
                "EXCHANGE_OUTGOING": str(folder / f"from-{name}"),
                "EXCHANGE_INCOMING": str(folder / f"from-{peer}"),
                **{f"EXCHANGE_{what}_EVERY": _HOUR for what in ("EXPORT", "IMPORT", "ANSWER")},
                **settings,
            }
        )
        for name, peer in peers.items()
    }
    with ThreadPoolExecutor() as both:

        def run(name: str, *words: str) -> str:
            return _exchange(python, environments[name], folder / name, *words)

        made = dict(zip(NAMES, both.map(lambda name: json.loads(run(name, "init", "--json")), NAMES), strict=True))
        list(both.map(lambda name: run(name, "migrate"), NAMES))

        def trust(name: str) -> None:
            key = made[peers[name]]
            run(name, "keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])

        list(both.map(trust, NAMES))
    with ExitStack() as stack:
        networks = {
            name: stack.enter_context(_up(name, folder, environment, databases[name], python))
            for name, environment in environments.items()
        }
        for network in networks.values():
            _wait_until_ready(network)
        try:
            yield networks
        finally:
            for network in networks.values():  # both at once: each stops its own in order
                with suppress(psutil.NoSuchProcess):
                    network.process.terminate()


@contextmanager
def _up(name: str, folder: Path, environment: dict[str, str], url: str, python: Path) -> Iterator[Network]:
    log = folder / f"{name}.log"
    log.touch()
    network = Network(name, folder / name, environment, make_engine(url), log, psutil.Process(), python)
    network.up()
    try:
        yield network
    finally:
        network.engine.dispose()
        network.stop()


def _wait_until_ready(network: Network) -> None:
    wanted = [" ready."] + [" nudging imports"] * (network.environment.get("EXCHANGE_NUDGE") == "true")
    until(lambda: all(words in network.log.read_text() for words in wanted), network.log.read_text)


def until(true: Callable[[], object], otherwise: Callable[[], str] = str, seconds: float = START_SECONDS) -> None:
    """Wait for something to become true. Raises TimeoutError with what ``otherwise`` says then."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise())
        time.sleep(0.05)


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")} | variables


def _exchange(python: Path, environment: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(python), "-m", "exchange", *words],
        env=environment,
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exchange {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout
