"""What was found, for people: one table on the terminal, RESULTS.md, and a plot of the same."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.bars import Bar, Goal, Outcome, show_work
from tests.benchmarks.environments import Environments
from tests.benchmarks.measuring import ROOT, Series, note

HEADINGS = ("bar", "goal", "reached", "min to max", "ours", "beside it", "met")
WIDTH = 180
"""Of the table in a file or a pipe; a terminal has its own."""

BY_HAND = "<!-- What follows is written by hand; a new run keeps it. -->"
TABLE, RESULTS, PLOT = "RESULTS.md", "results.json", "results.png"

METHOD = """\
- Each bar is a ratio within one run. Ours and what it is compared with take turns, round by round; the table has the
  median of the rounds' ratios, the least and the greatest. Absolute rates are this machine's, on that day. Peak
  memory is measured once: it does not vary.
- "Processor" is the processor's time of our process and of all of the server's, as the system counts it, a row: what
  counts where the two can't overlap. "On one core" all processes, the server's too, share one core.
- Each step is a process of its own with a fresh copy of its database, made from a template that was vacuumed and
  analysed. Its time begins when it is connected; its memory is the peak of its process. The steps, ours and the
  databases' own, stand in `tests/benchmarks/steps.py`.
- PostgreSQL is the server of the test wheel, on loopback, with {server}.
  Everything beside ours runs on the same server. SQLite is as the product opens it: write-ahead log, synced at commit.
- Ours does what it does in production: signed manifests, SHA-256 of file and content, zstd, JSON Schema, values
  checked against their columns, versions, ledger. Batches are cut as by default (100,000 records) unless said.
- "Ready rows" are a file that `COPY TO` wrote of the very rows that ours makes, `exchange_version` included, into the
  same table with its primary key, its index, three CHECK constraints and its foreign key. "Ready tuples" are the same
  on SQLite, in memory.
- The peers stand in `tests/benchmarks/peers/`, each in an environment of its own. They get the same rows as JSON lines
  (Singer messages), but fewer, because they are slow; their time begins after their imports. dlt and target-postgres
  make their own table, with no index but its key's and no constraint. `dlt merge`: write disposition merge, primary
  key, all else as by default; tuned: the upsert strategy, loading CSV by COPY. `target-postgres`: load method upsert,
  `use_copy`. `sqlite-utils upsert`: into the very table that ours go to.
- Bad records are, in turn: {spoilers}.
- Files that people drop are readings of six columns (about 55 bytes a row) for a table with its key, a foreign key, a
  CHECK constraint and its capture; `COPY FROM csv` and `sqlite3 .import` take the same file into the same table. Ours
  reads it, finds out how it is written, checks each value against its column and each row against its schema, and
  loads it by segments, each with its letters and its place. Bad rows are, in turn: {dropped}.
  pandas (`read_csv` in pieces, `to_sql`) and csvkit's `csvsql --insert` write into the same table, dlt appends to one
  of its own; their files have fewer rows.
- A known batch comes again to a process that has imported before, as a worker has.
- The nudge's rows are committed one by one, two or three a second, while both networks run `exchange up`; the carrier
  looks every 0.05 s. Times are the server's own commit timestamps.
"""


@dataclass(frozen=True)
class Findings:
    """Everything about one run."""

    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    method: str
    row_bytes: float
    outcomes: Mapping[str, Outcome]
    minutes: float


def show(findings: Findings) -> None:
    """Print the table."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(title=findings.command, title_justify="left", caption=_caption(findings), box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in {"reached", "min to max"} else "left")
    for bar in _bars(findings):
        table.add_row(*_cells(bar))
    console.print(table)


def write(findings: Findings, folder: Path) -> None:
    """Write RESULTS.md, keeping what people wrote below it, and everything measured as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / TABLE
    kept = page.read_text().partition(BY_HAND)[2] if page.is_file() else "\n"
    page.write_text(_page(findings) + BY_HAND + kept)
    (folder / RESULTS).write_text(json.dumps(dataclasses.asdict(findings), indent=1) + "\n")


def draw(folder: Path, environments: Environments) -> None:
    """Draw the results that lie in a folder, if what draws is to be had."""
    python = environments.python("matplotlib")
    if python is None:
        note(f"no plot: matplotlib was {environments.missing['matplotlib']}")
        return
    words = [str(python), "-m", "tests.benchmarks.plot", str(folder / RESULTS), str(folder / PLOT)]
    subprocess.run(words, cwd=ROOT, check=True)


def _page(findings: Findings) -> str:
    parts = [
        f"# Benchmarks\n\n`{findings.command}` wrote this page in {findings.minutes:.0f} minutes.",
        f"{_caption(findings)}\n",
        f"![the bars and the rates]({PLOT})\n",
        _markdown(HEADINGS, [_cells(bar) for bar in _bars(findings)]),
        "## Everything that was measured\n",
        _markdown(
            ("contest", "contender", "rounds", "records", "seconds", "rows/s", "processor a row", "peak memory"),
            [
                (contest, name, str(len(series)), *_summary(series))
                for contest, outcome in findings.outcomes.items()
                for name, series in outcome.series.items()
            ],
        ),
        "## How\n\n" + findings.method,
        "## Where\n",
        _markdown(("", ""), [*findings.machine.items(), *findings.versions.items()]),
    ]
    return "\n".join(parts) + "\n"


def _caption(findings: Findings) -> str:
    return f"A record is {findings.row_bytes:.0f} bytes of content."


def _bars(findings: Findings) -> list[Bar]:
    return [bar for outcome in findings.outcomes.values() for bar in outcome.bars]


def _cells(bar: Bar) -> tuple[str, ...]:
    goal = f"{bar.goal.words} {_number(bar.goal.number, bar.goal)}" if bar.goal else ""
    if not bar.values:
        return bar.what, goal, f"not measured: {bar.absent}", "", "", "", ""
    spread = f"{_number(min(bar.values))} to {_number(max(bar.values))}" if len(bar.values) > 1 else ""
    met = {True: "yes", False: "NO", None: ""}[bar.met]
    return bar.what, goal, _number(bar.reached, bar.goal), spread, bar.ours, bar.beside, met


def _number(value: float, goal: Goal | None = None) -> str:
    unit = f" {goal.unit}" if goal and goal.unit else ""
    return (f"{value:,.0f}" if value >= 100 else f"{value:.2f}") + unit


def _summary(series: Series) -> tuple[str, ...]:
    seconds, peak = median(one.seconds for one in series), max(one.peak_bytes for one in series)
    records = series[0].records
    return (
        f"{records:,}",
        f"{seconds:.3f}",
        f"{records / seconds:,.0f}",
        show_work(series) if any(one.cpu_seconds for one in series) else "",
        f"{peak / 1e6:.0f} MB" if peak else "",
    )


def _markdown(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
