"""How fast rows cross, beside what the databases themselves and other tools do with the same rows, in one run.

    make bench                                    everything; writes RESULTS.md, results.json and results.png here
    make bench ARGS='--quick'                     small sizes and one round, without the peers: does it run?
    make bench ARGS='--only import-new export'    some of the contests
    make bench ARGS='--records 50000 --rounds 3'  a tenth of everything

All but the first write to .cache/bench/last, unless --output says where. The whole run takes about an hour on
two cores, 15 GB below the folder for temporary files, and a package index for the peers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from exchange.testing.servers import postgres
from tests.benchmarks import (
    agreeing,
    door,
    dropping,
    dropping_data,
    first_load,
    loading,
    looking,
    nudging,
    report,
    sending,
    spoiling,
    widths,
)
from tests.benchmarks.bars import Outcome, not_measured
from tests.benchmarks.data import Sizes
from tests.benchmarks.environments import FOLDER, Environments
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.measuring import note
from tests.benchmarks.report import Findings
from tests.benchmarks.workshop import Workshop

CONTESTS: dict[str, Callable[[Workshop], Outcome]] = {
    "import-new": loading.new_rows,
    "import-changed": loading.changed_rows,
    "import-sqlite": loading.new_rows_on_sqlite,
    "import-bad": loading.bad_rows,
    "import-again": loading.known_batch,
    "export": sending.export,
    "export-sqlite": sending.export_from_sqlite,
    "export-few": sending.export_few,
    "small-batches": sending.small_batches,
    "capture": sending.capture,
    "memory": sending.memory,
    "digest": agreeing.digest,
    "one-batch": sending.one_batch,
    "shards": loading.sharded,
    "first-load": first_load.first_load,
    "widths": widths.widths,
    "intake": dropping.new_rows,
    "intake-sqlite": dropping.new_rows_on_sqlite,
    "intake-memory": dropping.memory,
    "extract": dropping.extract,
    "nudge": nudging.nudge,
    "pages": looking.pages,
    "door": door.door,
}

ON_ONE_CORE = ("import-new", "import-changed", "import-sqlite", "import-bad", "export", "export-sqlite", "nudge")
"""What is measured once more with all processes, the server's too, on one core: nothing overlaps there."""

WHOLE = Sizes()
QUICK = Sizes(records=1_000, rounds=1)
"""Enough to see that everything runs; its figures mean nothing."""

SERVER = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "track_commit_timestamp": "on",
}
"""The disk is waited for by nobody, and nothing starts by itself in the middle of a measurement."""


def main() -> None:
    """Run the contests that are asked for and report."""
    chosen = _arguments()
    environments = Environments(wanted=not chosen.quick)
    names = chosen.only or list(CONTESTS)
    findings = _run(names, Sizes(chosen.records, chosen.rounds, chosen.large), environments, one_core=chosen.cores == 1)
    report.show(findings)
    report.write(findings, chosen.output)
    report.draw(chosen.output, environments)
    note(f"written to {chosen.output}")
    sys.exit(1 if any(outcome.failed for outcome in findings.outcomes.values()) else 0)


def _run(names: list[str], sizes: Sizes, environments: Environments, *, one_core: bool) -> Findings:
    began = time.monotonic()
    where = machine()
    outcomes: dict[str, Outcome] = {}
    with _workshop(sizes, environments, cores=2) as shop:
        for name in names:
            note(name)
            outcomes[name] = _measured(name, shop)
        server, row_bytes = shop.sql("SHOW server_version")[0][0], shop.row_bytes()
    with _workshop(sizes, Environments(wanted=False), cores=1) as shop:
        for name in (one for one in names if one_core and one in ON_ONE_CORE):
            note(f"{name}, on one core")
            done = _measured(name, shop)
            bars = [replace(bar, what=f"on one core: {bar.what}") for bar in done.bars if not bar.absent]
            outcomes[f"{name}, on one core"] = replace(done, bars=tuple(bars))
    return Findings(
        command=_command(),
        machine=where,
        versions=versions(server) | environments.versions(),
        method=report.METHOD.format(
            server=", ".join(f"`{name}={value}`" for name, value in SERVER.items()),
            spoilers="; ".join(spoiling.SPOILERS),
            dropped=dropping_data.BAD,
        ),
        row_bytes=row_bytes,
        outcomes=outcomes,
        minutes=(time.monotonic() - began) / 60,
    )


@contextmanager
def _workshop(sizes: Sizes, environments: Environments, *, cores: int) -> Iterator[Workshop]:
    """Make a workshop whose server and steps have so many cores, or as many as there are."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
            yield Workshop(folder, stack.enter_context(postgres(**SERVER)), sizes, environments, cores)
    finally:
        os.sched_setaffinity(0, before)


def _command() -> str:
    words = " ".join(sys.argv[1:])
    return f"make bench ARGS='{words}'" if words else "make bench"


def _measured(name: str, shop: Workshop) -> Outcome:
    """Run a contest. One that fails says so in the table: half an hour of others is not thrown away for it."""
    try:
        return CONTESTS[name](shop)
    except Exception:  # noqa: BLE001 - whatever it was, it is printed here and makes the run end with 1
        note(traceback.format_exc())
        return Outcome((not_measured(name, None, "it failed"),), failed=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="How fast rows cross.")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, without the peers")
    parser.add_argument("--only", nargs="+", choices=list(CONTESTS), metavar="NAME", help=", ".join(CONTESTS))
    parser.add_argument(
        "--records",
        type=int,
        default=WHOLE.records,
        metavar="N",
        help="rows; all sizes follow (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=WHOLE.rounds, metavar="N", help="repeats (%(default)s)")
    parser.add_argument("--cores", type=int, default=1, choices=(1, 2), help="the fewest to measure on (%(default)s)")
    parser.add_argument("--large", action="store_true", help="intake-memory with 5 GB, first-load with 20,000,000 rows")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where RESULTS.md and the plot go")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.records, chosen.rounds = QUICK.records, QUICK.rounds
    whole = not chosen.only and Sizes(chosen.records, chosen.rounds) == WHOLE
    chosen.output = chosen.output or (Path(__file__).parent if whole else FOLDER / "last")
    return chosen


if __name__ == "__main__":
    main()
