"""What commands print: tables and colour for people at a terminal, plain lines in a pipe, JSON for scripts.

Data goes to stdout, sentences go to stderr. Whatever came from outside is escaped here, once.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from exchange.format.errors import printable
from exchange.progress import Pace, Progress

LONGEST_CELL = 500
LONGEST_SENTENCE = 2000
LINE_SECONDS = 10.0
"""So often a line says how far work is, where nobody sees a bar."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]

_COLOURS = {
    "green": {"applied", "ok", "acknowledged", "published"},
    "yellow": {"waiting", "incomplete", "held", "busy", "parked", "warning", "unsupported", "sealed", "loses"},
    "red": {"quarantined", "fault", "rejected", "corrupt", "untrusted", "misdirected", "stops"},
    "bright_black": {"duplicate", "discarded", "superseded"},
}
_INDENT = " " * 9
_NAMES = {"batch", "id", "name", "fingerprint"}
_STYLES = {word: colour for colour, words in _COLOURS.items() for word in words}


def emit(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own; characters a terminal might act on come escaped."""
    typer.echo(json.dumps(fields))


def say(sentence: str) -> None:
    """Print a sentence to stderr."""
    typer.echo(_shown(sentence), err=True)


def warn(sentence: str) -> None:
    """Print a sentence to stderr that should not be overlooked."""
    typer.secho(_shown(sentence), err=True, fg="yellow")


def print_error(sentence: str) -> None:
    """Print a sentence to stderr that says what failed."""
    typer.secho(_shown(sentence), err=True, fg="red")


def tell(sentence: str) -> None:
    """Print a line to stdout."""
    typer.echo(_shown(sentence))


def head(title: str, more: str) -> None:
    """Print a line to stdout under which others belong: what it is about, and less loudly more of it."""
    typer.echo(f"{typer.style(_shown(title), bold=True)}  {typer.style(_shown(more), dim=True)}")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: a table at a terminal, else a line a row with tabs between, headings first."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for line in ([*headings], *cells):
            typer.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading, column in zip(headings, zip(*cells, strict=True) if cells else [()] * len(headings), strict=True):
        numbers = bool(column) and all(value.isdecimal() for value in column)
        # What people copy from here into the next command stays whole.
        whole = heading in _NAMES
        drawn.add_column(heading, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    for row in cells:
        drawn.add_row(*(Text(value, style=_STYLES.get(value, "")) for value in row))
    Console().print(drawn)


def paragraph(mark: str, *sentences: str) -> None:
    """Print sentences beside a mark, each on lines of its own, as wide as the terminal at most; no word is cut."""
    wrapped = textwrap.TextWrapper(
        min(shutil.get_terminal_size().columns, 100),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for sentence in filter(None, sentences):
        for line in wrapped.wrap(_shown(sentence)):
            typer.echo(typer.style(mark.ljust(len(_INDENT)), fg=_STYLES.get(mark)) + line[len(_INDENT) :])
            mark = ""


def command(line: str) -> None:
    """Print what to type next below a paragraph: whole, however long."""
    typer.echo(f"{_INDENT}$ {_shown(line)}")


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value), LONGEST_CELL)


def _shown(sentence: str) -> str:
    return printable(sentence, LONGEST_SENTENCE)


@contextmanager
def between_batches(doing: str, progress: Progress) -> Iterator[Callable[[], bool]]:
    """Show how far a workflow is, and give what it asks between batches: whether Ctrl-C was pressed.

    The first Ctrl-C lets the batch at hand end, the second one stops at once, which rolls it back. SIGUSR1 has it said
    how far it is.
    """
    with _interruptible("the batch") as interrupted, _shown_progress(doing, progress):
        yield interrupted


@contextmanager
def between_groups(doing: str, total: int) -> Iterator[tuple[Callable[[], bool], Callable[[int], None]]]:
    """Give what a workflow asks between groups of records, and what it tells: that so many of ``total`` are done.

    Signals are as in ``between_batches``.
    """
    progress, before = Progress(), 0

    def show(done: int) -> None:
        nonlocal before
        progress.add(done - before)
        before = done

    with _interruptible("the group") as interrupted, _shown_progress(doing, progress):
        progress.expect("all", total)
        yield interrupted, show


@contextmanager
def _interruptible(work: str) -> Iterator[Callable[[], bool]]:
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say(f"stopping after {work} at hand; once more stops at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _shown_progress(doing: str, progress: Progress) -> Iterator[None]:
    """Show how far work is: by a bar at a terminal, else by a line now and then, and by one at each SIGUSR1."""
    before = signal.signal(signal.SIGUSR1, lambda *_: say(f"{doing}: {progress.pace()}"))
    try:
        with _bar(doing) if sys.stderr.isatty() else _lines(doing) as watch, progress.watched(watch, say):
            yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def _lines(doing: str) -> Iterator[Callable[[Pace], None]]:
    told = time.monotonic()

    def watch(pace: Pace) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            say(f"{doing}: {pace}")

    yield watch


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[Pace], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None, pace="")
        yield lambda pace: bar.update(task, completed=pace.rows, total=pace.expected, pace=str(pace))
