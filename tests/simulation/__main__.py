"""Run seeds of the simulation: ``python -m tests.simulation --seed 7 --database sqlite --trace``.

Without a seed, seeds are drawn for ``--seconds``, on every core. Each seed that fails is printed with its command.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from exchange.testing import servers
from tests.databases import Databases, Templates
from tests.postgresql import Cluster
from tests.simulation import simulation
from tests.simulation.simulation import Outcome
from tests.simulation.world import World

KINDS = {
    "sqlite": ("sqlite", "sqlite"),
    "postgresql": ("postgresql", "postgresql"),
    "mixed": ("sqlite", "postgresql"),
    "mixed-back": ("postgresql", "sqlite"),
}


@contextmanager
def made_world(database: str) -> Iterator[World]:
    """Make a world on databases of its own, in memory where there is room."""
    kinds = KINDS[database]
    with ExitStack() as stack:
        shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
        where = str(shared) if os.access(shared, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulation-", dir=where)))
        cluster = None
        if "postgresql" in kinds:
            url = stack.enter_context(servers.postgres(autovacuum="off"))
            cluster = Cluster(url)
            stack.callback(cluster.close)
        (folder / "templates").mkdir()
        databases = Databases(folder, Templates(folder / "templates"), lambda: cluster)  # type: ignore[arg-type,return-value]
        stack.callback(databases.give_back)
        world = World(folder, databases, kinds, cluster)
        stack.callback(world.close)
        yield world


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 if a seed failed."""
    asked = _parser().parse_args(words)
    if asked.seed is not None or asked.count:
        first = asked.seed or 0
        return _run(asked, asked.database or "sqlite", iter(range(first, first + (asked.count or 1))), math.inf)
    jobs = asked.jobs or len(os.sched_getaffinity(0))
    first = random.SystemRandom().randrange(2**31)
    print(f"seeds from {first}, {asked.seconds:.0f} s, {jobs} processes", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        return max(pool.map(_run_in_turn, [(asked, first + 10_000_000 * number) for number in range(jobs)]))


def _run_in_turn(asked_first: tuple[argparse.Namespace, int]) -> int:
    """Run seeds for as long as is asked for: half of it on SQLite, the rest on the other kinds, or all on one."""
    asked, first = asked_first
    shares = {asked.database: 1.0} if asked.database else {name: 1 / 2 if name == "sqlite" else 1 / 6 for name in KINDS}
    seeds = count(first)
    return max([_run(asked, name, seeds, asked.seconds * share) for name, share in shares.items()])


def _run(asked: argparse.Namespace, database: str, seeds: Iterator[int], seconds: float) -> int:
    failed, done, rounds, turns, spent = 0, 0, 0, 0, 0.0
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)  # what the product imported is no garbage
    with made_world(database) as world:
        began = time.monotonic()
        for seed in seeds:
            began_cpu = time.process_time()
            trace = _show if asked.trace else None
            how = {"without": asked.without, "rounds": asked.rounds, "plain": asked.plain}
            outcome = simulation.run(world, seed, **how, trace=trace)
            spent += time.process_time() - began_cpu
            done, rounds, turns = done + 1, rounds + outcome.rounds, max(turns, outcome.turns)
            if outcome.wrong:
                failed += 1
                print(failure(outcome, database, asked.without, plain=asked.plain), flush=True)
            if time.monotonic() - began > seconds:
                break
        elapsed = time.monotonic() - began
    print(
        f"{done} seeds on {database}, {failed} failed; {rounds} rounds in {elapsed:.1f} s,"
        f" {rounds / elapsed:.0f} a second ({rounds / max(spent, 0.001):.0f} a second of CPU);"
        f" at most {turns} honest turns",
        flush=True,
    )
    return 1 if failed else 0


def failure(outcome: Outcome, database: str, without: Sequence[str] = (), *, plain: bool = False) -> str:
    """Say what is wrong with a seed, and how to run it again."""
    left_out = " --plain" * plain + "".join(f" --without '{one}'" for one in without)
    command = f"python -m tests.simulation --seed {outcome.seed} --database {database}{left_out} --trace"
    return "\n  ".join(
        [f"seed {outcome.seed} failed after {outcome.turns} honest turns: {command}", *outcome.wrong[:12]]
    )


def _show(number: int, who: str, what: str) -> None:
    print(f"{number:5} {who:12} {what}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--count", type=int, help="run so many, from --seed or 0")
    parser.add_argument("--seconds", type=float, default=60.0, help="run drawn seeds for so long")
    parser.add_argument("--jobs", type=int, help="processes for that, one for each core if not given")
    parser.add_argument("--database", choices=sorted(KINDS), help="SQLite for --seed, all in turn without")
    parser.add_argument("--rounds", type=int, default=simulation.ROUNDS, help="rounds in which anything may happen")
    parser.add_argument("--without", action="append", default=[], help="leave out an actor; may be repeated")
    parser.add_argument("--plain", action="store_true", help="the world as it was at first: no wide tables and actors")
    parser.add_argument("--trace", action="store_true", help="show each round")
    return parser


if __name__ == "__main__":
    sys.exit(main())
