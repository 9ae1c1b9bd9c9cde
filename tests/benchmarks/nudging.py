"""The contest of the nudge: how soon a row that one application commits is committed on the other side.

Both networks run as in life: `exchange up` each, with broker, worker and beat, on PostgreSQL, with every setting
at its default but EXCHANGE_NUDGE. The server itself notes when each transaction was committed.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles

import psycopg

from exchange.operating.demo import Network
from exchange.settings import Settings
from exchange.testing.carrier import Carrier
from tests.benchmarks.bars import Bar, Outcome, at_most, not_measured
from tests.benchmarks.data import COLUMNS, copy_line, request
from tests.benchmarks.measuring import Measured, StepFailed
from tests.benchmarks.networks import PEERS
from tests.benchmarks.workshop import Workshop

WHAT = "nudge: commit on one side to commit on the other, 95th percentile"
CARRIED_EVERY_SECONDS = 0.05
PAUSE_SECONDS = (0.2, 0.6)
PATIENCE_SECONDS = 180.0


def nudge(shop: Workshop) -> Outcome:
    """Commit single rows, a few a second, and see when each is committed on the other side."""
    goal = at_most(0.5, "s")
    if "nudge" not in Settings.model_fields:
        return Outcome((not_measured(WHAT, goal, "this version has no nudge"),))
    urls = {network: shop.duplicate(shop.empty(network)) for network in PEERS}
    homes = shop.path()
    networks = {network: Network(network, peer, homes / network) for network, peer in PEERS.items()}
    _prepare(networks, urls)
    with ExitStack() as stack:
        for network in networks.values():
            stack.enter_context(network.running())
        stack.enter_context(_carrying(homes))
        # The first row waits until workers and beats are up; it does not count.
        _commit(urls["request"], 0)
        _until(lambda: _arrived(shop, urls) == 1, homes)
        for number in range(1, shop.sizes.nudges + 1):
            time.sleep(random.uniform(*PAUSE_SECONDS))
            _commit(urls["request"], number)
        _until(lambda: _arrived(shop, urls) == shop.sizes.nudges + 1, homes)
    took = _latencies(shop, urls)
    for url in urls.values():
        shop.drop(url)
    percentile = quantiles(took, n=20, method="inclusive")[-1]
    ours = f"{len(took)} rows: median {median(took):.2f} s, slowest {max(took):.2f} s"
    return Outcome(
        (Bar(WHAT, goal, (percentile,), ours),), {"exchange, one row": [Measured(one, 1, 0) for one in took]}
    )


def _prepare(networks: dict[str, Network], urls: dict[str, str]) -> None:
    for name, network in networks.items():
        network.home.mkdir(parents=True)
        network.env_file.write_text(
            f"EXCHANGE_NETWORK={name}\nEXCHANGE_PEER={network.peer}\nEXCHANGE_HOME=.\n"
            f"EXCHANGE_DATABASE_URL={urls[name]}\nEXCHANGE_NUDGE=true\n"
        )
        network.env_file.chmod(0o600)
        network.command("init")
    for name, network in networks.items():
        key = json.loads(networks[PEERS[name]].command("init", "--json"))
        network.command("keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])


@contextmanager
def _carrying(homes: Path) -> Iterator[None]:
    """Carry files both ways, as often as a carrier that is told of new files would."""
    ended = threading.Event()
    ways = [Carrier(homes / name / "outgoing", homes / peer / "incoming") for name, peer in PEERS.items()]

    def carry() -> None:
        while not ended.wait(CARRIED_EVERY_SECONDS):
            for way in ways:
                way.carry()

    carrier = threading.Thread(target=carry, name="carrier", daemon=True)
    carrier.start()
    try:
        yield
    finally:
        ended.set()
        carrier.join()


def _commit(url: str, number: int) -> None:
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY request ({COLUMNS}) FROM STDIN") as copy,
    ):
        copy.write(copy_line(request(number)))


def _arrived(shop: Workshop, urls: dict[str, str]) -> int:
    count: int = shop.sql("SELECT count(*) FROM request", urls["response"])[0][0]
    return count


def _until(done: Callable[[], bool], homes: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-3000:] for log in homes.glob("*/up.log"))
            raise StepFailed(f"a row did not arrive in {PATIENCE_SECONDS:.0f} seconds\n{logs}")
        time.sleep(0.2)


def _latencies(shop: Workshop, urls: dict[str, str]) -> list[float]:
    """Give each row's seconds from commit to commit: one server, one clock."""
    query = "SELECT id, pg_xact_commit_timestamp(xmin) FROM request"
    sent, received = (dict(shop.sql(query, urls[network])) for network in ("request", "response"))
    order = sorted(sent, key=sent.__getitem__)
    return [(received[key] - sent[key]).total_seconds() for key in order[1:]]
