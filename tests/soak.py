"""An hour of two whole networks under load and faults: what they use stays flat, and the oracle is content.

``python -m tests.soak [SECONDS] [SEED]``, or ``make soak SECONDS=3600``. It prints a line a minute and ends with 0, or
with 1 and what is wrong. What is looked at is used at one moment of each turn; the second half of the turns may use no
more than ``MOST_GROWTH`` of what the first half did, by their medians, and a little that does not count. That is so of
the first half of the time, in which processes are killed, and of the second, in which none is: what one process never
lets go of shows only while it lives.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.locks import reading
from tests.networks import NAMES, Network, two_networks
from tests.shaking import BUSY, Load, Shaker, come_to_rest, judge

MOST_GROWTH = 1.25
TURN_SECONDS = 60.0
FAULTS_A_TURN = 4
RETENTION_DAYS = 2 * TURN_SECONDS / 86_400
"""So long settled files are kept."""
WARMING_TURNS = 3
"""In so many turns there come to be as many files as there will be."""

_FLAT_TABLES = ("change", "attempt", "gap", "dead_letter", "repair", "resync", "holder", "dead_letter_count")
"""What is worked off. Rows of the ledger, events and the audit stay for ever, as they are the proof."""


class Used(NamedTuple):
    """What both networks use at one moment."""

    megabytes: float
    processes: float
    descriptors: float
    connections: float
    rows: float
    files: float


SLACK = Used(40, 2, 60, 10, 200, 400)
"""What does not count: a process that is being started, a minute's files."""


def used(networks: Iterable[Network]) -> Used:
    """Look at processes, tables and folders."""
    memory, processes, descriptors, connections, rows, files = 0.0, 0, 0, 0, 0, 0
    for network in networks:
        with suppress(psutil.NoSuchProcess):
            for process in [network.process, *network.process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    memory += process.memory_info().rss / 1e6
                    descriptors += process.num_fds()
                    connections += len(process.net_connections())
                    processes += 1
        with reading(network.engine) as connection:
            for name in _FLAT_TABLES:
                table = tables.metadata.tables[f"exchange_{name}"]
                rows += connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        folders = (network.home, network.home.parent / f"from-{network.name}")
        files += sum(1 for folder in folders for path in folder.rglob("*") if path.is_file())
    return Used(memory, processes, descriptors, connections, rows, files)


def grown(turns: list[Used]) -> list[str]:
    """Say what the second half of the turns used more of than the first."""
    half = len(turns) // 2
    if not half:
        return []
    found = []
    for place, name in enumerate(Used._fields):
        before, after = (median(one[place] for one in some) for some in (turns[:half], turns[half:]))
        if after > before * MOST_GROWTH + SLACK[place]:
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def soak(folder: Path, seconds: float, seed: int) -> list[str]:
    """Run it; give what is wrong."""
    draw = random.Random(seed)
    halves: tuple[list[Used], list[Used]] = ([], [])
    kept = ("", "_APPLIED", "_SUPERSEDED", "_DISCARDED")
    settings = BUSY | {f"EXCHANGE_RETENTION{which}_DAYS": f"{RETENTION_DAYS:.6f}" for which in kept}
    with two_networks(folder, None, Path(sys.executable), **settings) as networks:
        load, shaker = Load(networks, seed, pause=0.2), Shaker(networks, seed, files=True)
        begun = time.monotonic()
        with load.going():
            while time.monotonic() - begun < seconds:
                turn = time.monotonic()
                quiet = turn - begun >= seconds / 2
                for _ in range(0 if quiet else FAULTS_A_TURN):
                    time.sleep(draw.uniform(0.1, 1) * TURN_SECONDS / FAULTS_A_TURN)
                    shaker.shake()
                for network in networks.values():
                    with suppress(AssertionError):  # somebody else writes for long: the next turn goes on
                        network.exchange("prune")
                time.sleep(max(TURN_SECONDS - (time.monotonic() - turn), 0))
                halves[quiet].append(used(networks.values()))
                told = ", ".join(f"{name} {value:.0f}" for name, value in halves[quiet][-1]._asdict().items())
                done = f"{load.written} transactions, {shaker.done.total()} faults"
                say(f"{time.monotonic() - begun:5.0f} s: {done}; {told}")
        say(f"faults: {dict(shaker.done)}")
        growth = [*grown(halves[False][WARMING_TURNS:]), *grown(halves[True])]
        return [*growth, *map(str, come_to_rest(networks)), *map(str, judge(networks))]


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - a program


def main(words: list[str]) -> int:
    """Run it for so many seconds, from a seed if one is given."""
    seconds = float(words[0]) if words else 3600.0
    seed = int(words[1]) if len(words) > 1 else random.SystemRandom().randrange(2**32)
    say(f"seed {seed}: {', '.join(NAMES)} for {seconds:.0f} seconds")
    with tempfile.TemporaryDirectory(prefix="exchange-soak-") as folder:
        wrong = soak(Path(folder), seconds, seed)
        for one in wrong:
            say(f"WRONG: {one}")
        if wrong:
            for name in NAMES:
                say((Path(folder) / f"{name}.log").read_text()[-3000:])
    say("flat, and both sides agree" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
