"""What commands print: tables and colour for people at a terminal, plain lines in a pipe, JSON for scripts.

Data goes to stdout, sentences go to stderr. Whatever came from outside is escaped here, once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from types import FrameType
from typing import Annotated, Any, TextIO

import typer

from exchange.format.errors import printable
from exchange.progress import ASKING, Pace, Progress

LONGEST_CELL = 500
LONGEST_SENTENCE = 2000
LINE_SECONDS = 10.0
"""So often a line says how far work is, where nobody sees a bar."""

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#@"
"""The same for an output that has no such characters."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]

_COLOURS = {
    "green": {"applied", "ok", "sent", "acknowledged", "published"},
    "yellow": {
        "waiting",
        "untold",
        "incomplete",
        "held",
        "busy",
        "parked",
        "warning",
        "unsupported",
        "sealed",
        "loses",
    },
    "red": {"quarantined", "fault", "failed", "rejected", "corrupt", "untrusted", "misdirected", "stops"},
    "bright_black": {"duplicate", "discarded", "superseded"},
}
_INDENT = " " * 9
_STYLES = {word: {"fg": colour} for colour, words in _COLOURS.items() for word in words} | {
    "head": {"bold": True},
    "name": {"bold": True},
    "dim": {"dim": True},
}
WIDEST_PARAGRAPH = 100


@dataclass(frozen=True)
class Shape:
    """How a person wants a list: which of its columns, and whether each record is to be one line however long."""

    columns: tuple[str, ...] = ()
    wide: bool = False


_AS_USUAL = Shape()
_shape = _AS_USUAL

Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="A,B,C", help="Only these columns, in this order.", show_default=False),
]
Wide = Annotated[bool, typer.Option("--wide", help="One line a record, however long.")]


def listing(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that prints a list have the options ``--columns`` and ``--wide``, which ``table`` obeys."""
    given = {**signature(command, eval_str=True).parameters}
    as_json = given.pop("as_json", None)
    own = [
        Parameter("columns", Parameter.KEYWORD_ONLY, default=None, annotation=Columns),
        Parameter("wide", Parameter.KEYWORD_ONLY, default=False, annotation=Wide),
    ]
    parameters = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in given.values()] + own
    parameters += [as_json.replace(kind=Parameter.KEYWORD_ONLY)] if as_json else []

    @wraps(command)
    def run(*args: Any, columns: str | None = None, wide: bool = False, **options: Any) -> None:
        """Call the command with its lists in the shape that was asked for."""
        global _shape  # noqa: PLW0603 - one command runs in a process, and it is its own
        names = tuple(one.strip() for one in columns.split(",")) if columns is not None else ()
        if names and options.get("as_json"):
            _refuse("--columns: expected no --json beside it, which has every field")
        before = _shape
        if names or wide:  # else as the command wants it that calls this one
            _shape = Shape(names, wide)
        try:
            command(*args, **options)
        finally:
            _shape = before

    # Typer reads a command's options from both.
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def is_shaped() -> bool:
    """Say whether a person asked for columns, or for one line a record: a table then, and nothing else."""
    return _shape != _AS_USUAL


def _refuse(sentence: str) -> None:
    from exchange.cli.runtime import Refused

    raise Refused(sentence)


def emit(fields: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own; characters a terminal might act on come escaped."""
    typer.echo(json.dumps(fields))


def say(sentence: str) -> None:
    """Print a sentence to stderr."""
    _print(sentence, err=True)


def warn(sentence: str) -> None:
    """Print a sentence to stderr that should not be overlooked."""
    _print(sentence, err=True, fg="yellow")


def print_error(sentence: str) -> None:
    """Print a sentence to stderr that says what failed."""
    _print(sentence, err=True, fg="red")


def tell(sentence: str) -> None:
    """Print a line to stdout; what is indented is laid out already, and goes as it is."""
    if sentence.startswith(" "):
        typer.echo(_shown(sentence))
    else:
        _print(sentence)


def tell_text(text: str) -> None:
    """Print lines to stdout that fit a terminal already."""
    for line in text.splitlines():
        tell(line)


def head(title: str, more: str) -> None:
    """Print a line to stdout under which others belong: what it is about, and less loudly more of it."""
    both = f"{_shown(title)}  {_shown(more)}"
    if not sys.stdout.isatty() or len(both) <= _width(sys.stdout):
        typer.echo(f"{styled(_shown(title), bold=True)}  {styled(_shown(more), dim=True)}")
        return
    _print(title, bold=True)
    under(more)


def under(sentence: str) -> None:
    """Print a line to stdout that belongs to the one above."""
    _print(sentence, indent="  ")


def _print(sentence: str, *, err: bool = False, indent: str = "", **style: Any) -> None:
    """Print a sentence, at a terminal in lines of its width."""
    shown, stream = _shown(sentence), sys.stderr if err else sys.stdout
    lines = [indent + shown]
    if stream.isatty():
        from exchange.cli.layout import wrapped

        lines = wrapped(shown, _width(stream), indent)
    for line in lines:
        typer.echo(styled(line, err=err, **style), err=err)


def styled(text: str, *, err: bool = False, **style: Any) -> str:
    """Give a text with colour and weight where a terminal shows them and its user wants them."""
    stream = sys.stderr if err else sys.stdout
    return typer.style(text, **style) if style and stream.isatty() and not plain() else text


def plain() -> bool:
    """Say whether a terminal's user wants no colour: https://no-color.org."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _width(stream: TextIO) -> int:
    """Give the width of a terminal in cells; 80 if it has none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, steady: bool = False) -> None:
    """Print rows as lists are printed, here alone; of a ``steady`` one that has room all columns stay, alike or not.

    At a terminal as a table in which nothing is broken, with what is alike in every row said once before it; where
    columns have no room each record is a short paragraph. Else a line a row with tabs between, headings first.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if _shape.columns:
        headings, cells = _chosen(headings, cells)
    if not sys.stdout.isatty():
        for line in ([*headings], *cells):
            typer.echo("\t".join(line))
        return
    from exchange.cli import layout

    if _shape.wide:
        lines = layout.whole(headings, cells, _painted)
    else:
        lines = layout.fitted(headings, cells, _width(sys.stdout), _painted, steady=steady)
    for one in lines:
        typer.echo(one)


def _chosen(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[Sequence[str], list[list[str]]]:
    """Give the columns that were asked for. Raises Refused naming those there are."""
    for name in _shape.columns:
        if name not in headings:
            _refuse(f"--columns: expected some of {', '.join(headings)}, found {_cell(repr(name))}")
    places = [headings.index(name) for name in _shape.columns]
    return _shape.columns, [[row[at] for at in places] for row in cells]


def _painted(text: str, kind: str) -> str:
    return styled(text, **_STYLES.get(kind, {}))


def paragraph(mark: str, *sentences: str) -> None:
    """Print sentences beside a mark, each on lines of its own, as wide as the terminal at most; no word is cut."""
    from exchange.cli.layout import wrapped

    for sentence in filter(None, sentences):
        for line in wrapped(_shown(sentence), min(_width(sys.stdout), WIDEST_PARAGRAPH), _INDENT):
            typer.echo(styled(mark.ljust(len(_INDENT)), **_STYLES.get(mark, {})) + line[len(_INDENT) :])
            mark = ""


def bars(numbers: Sequence[int]) -> str:
    """Draw numbers as a row of bars; the smallest one that is not 0 is seen."""
    drawn = BARS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BARS
    highest = max(1, *numbers)
    heights = [-(-max(0, number) * (len(drawn) - 1) // highest) for number in numbers]
    return "".join(drawn[height] for height in heights)


def command(line: str, indent: str = _INDENT + "$ ") -> None:
    """Print what to type next, below what it is about: whole, however long."""
    typer.echo(f"{indent}{_shown(line)}")


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
    with _interruptible("the batch") as interrupted, shown_progress(doing, progress):
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

    with _interruptible("the group") as interrupted, shown_progress(doing, progress):
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
def shown_progress(doing: str, progress: Progress) -> Iterator[None]:
    """Show how far work is: by a bar at a terminal, else by a line now and then; and by one at a signal that asks."""

    def answer(_number: int, _frame: FrameType | None) -> None:
        say(f"{doing}: {progress.pace()}")

    before = {number: signal.signal(number, answer) for number in ASKING}
    try:
        with _bar(doing) if sys.stderr.isatty() else _lines(doing) as watch, progress.watched(watch, say):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
