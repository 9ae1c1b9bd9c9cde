"""How this program logs: one event a line on stderr, named fields, never a payload, never a secret.

EXCHANGE_LOG_LEVEL and EXCHANGE_LOG_FORMAT hold for our own events and for those of every library. A library may quote
what it works on at its lower levels, so it speaks from its own level on; and of an exception only words are shown that
can quote no row.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from logging.handlers import WatchedFileHandler
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import BoundLogger, LoggerFactory, ProcessorFormatter

from exchange.database import clock
from exchange.database.redact import withhold
from exchange.format.errors import RecordError
from exchange.format.moments import to_rfc3339
from exchange.tracing import fields_of_lines

CONSOLE, JSON = "console", "json"

MAX_TEXT_CHARACTERS = 16_000
"""So much of one text a line has: a message may quote a whole sentence of a library, never a file."""
MAX_DEPTH = 4
_LARGEST = 2**63
SHORTEST_SECRET = 8
"""A shorter password is also a word: it is kept out of URLs alone."""

_LIBRARIES = {
    # At DEBUG these have rows, parameters and arguments.
    "sqlalchemy": logging.WARNING,
    "psycopg": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    "celery": logging.INFO,
    "kombu": logging.INFO,
    "amqp": logging.INFO,
    "multiprocessing": logging.WARNING,
    "uvicorn": logging.INFO,
    # Every tick of an idle alarm clock would bury our own events, and results have what they are about.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    "celery.beat": logging.WARNING,
    "celery.worker.request": logging.WARNING,
    "uvicorn.access": logging.WARNING,
}
"""The lowest level at which others speak, whatever is set."""

_WORDS_OF = {"exchange", "redis", "kombu", "celery", "billiard", "typer", "click", "pydantic_core"}
"""Whose exceptions have words that quote no row."""

_IN_URLS = re.compile(r"(?<=://)([^\s/@:'\"]*):[^\s/'\"]*(?=@)")
_BARE = re.compile(r"[^\s\"'=\\\x00-\x20\x7f-\xa0]+")
_COLOURS = {"warning": 33, "error": 31, "critical": 31}
_FIRST = ("time", "level", "logger", "process", "pid", "event")

_STDERR = 2

_process = "exchange"
_form = CONSOLE
_file: str | None = None
_secrets: tuple[str, ...] = ()
_handler: logging.Handler | None = None


def configure(
    process: str, level: str, form: str = CONSOLE, *, file: str | None = None, secrets: Iterable[str | None] = ()
) -> None:
    """Have this process log so, to stderr or to a file, whatever logs in it; may be repeated when settings change.

    ``process`` is what it calls itself. ``secrets`` are shown nowhere. Handlers that others have set up stay.
    """
    global _process, _form, _file, _handler  # noqa: PLW0603 - a process has one log
    _process, _form, _file = process, form, file
    _hide(secrets)
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    _handler = _File(file) if file else _Stderr()
    at_terminal = file is None and os.isatty(_STDERR)
    _handler.setFormatter(formatter(form, coloured=at_terminal and _may_colour(), folded=at_terminal))
    root.addHandler(_handler)
    root.setLevel(level)
    for name, lowest in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(lowest, logging.getLevelNamesMapping()[level]))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            merge_contextvars,
            _of_what,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def change(level: str, form: str, *, secrets: Iterable[str | None] = ()) -> None:
    """Have this process log so from now on; one that does not log in our way yet does not begin to."""
    if _handler is not None:
        configure(_process, level, form, file=_file, secrets=(*_secrets, *secrets))  # what was one stays one


def join() -> None:
    """Hand our events to the loggers of an application that logs in its own way, each as a text of one line."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            merge_contextvars,
            _of_what,
            lambda _logger, level, event: render({"level": level, **event}, _form, short=True),
        ],
        logger_factory=LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )


def speak(form: str | None, *, secrets: Iterable[str | None] = ()) -> None:
    """Take the form of those texts, if one is given, and what they may not show."""
    global _form  # noqa: PLW0603 - a process has one log
    _form = form or _form
    _hide(secrets)


def _hide(secrets: Iterable[str | None]) -> None:
    global _secrets  # noqa: PLW0603 - a process has one log
    _secrets = tuple(sorted({one for one in secrets if one and len(one) >= SHORTEST_SECRET}, key=len, reverse=True))


def formatter(form: str, *, coloured: bool = False, folded: bool = False) -> logging.Formatter:
    """Give what makes a line of any record, for a handler of an application that wants its lines as ours are."""
    return _Formatter(
        foreign_pre_chain=[merge_contextvars, _of_what],
        processors=[_complete, lambda _logger, _name, event: render(event, form, coloured=coloured, folded=folded)],
    )


def _of_what(_logger: Any, _name: str, event: Any) -> Any:
    """Add which batch is at hand, if one is; what the line itself says of that goes before."""
    return {**fields_of_lines(), **event}


def _may_colour() -> bool:
    return not os.environ.get("NO_COLOR")


def line_now(event: str, process: str | None = None, form: str | None = None) -> str:
    """Give the line of an event that no logger made: in a signal's handler, or by another program's words."""
    said = {"time": to_rfc3339(clock.now()), "level": "info", "logger": "exchange"}
    return render({**said, "process": process or _process, "event": event}, form or _form)


class _Stderr(logging.StreamHandler[TextIO]):
    """The log of a process: UTF-8 whatever the locale, one write a line."""

    def __init__(self) -> None:
        super().__init__(open(_STDERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose the line: the standard library would show its arguments where nobody asked."""


class _File(WatchedFileHandler):
    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose the line: the standard library would show its arguments where nobody asked."""


class _Formatter(ProcessorFormatter):
    """Makes a line of our events and of other loggers' records; these without an exception's own words."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, or one that says that it can't be made."""
        try:
            return self._line_of(record)
        except Exception:  # noqa: BLE001 - whatever a library gave: its arguments are not shown
            unwritten = logging.LogRecord(record.name, record.levelno, "", 0, "a line that can't be made", None, None)
            return self._line_of(unwritten)

    def _line_of(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, Mapping):
            record = logging.makeLogRecord(vars(record))
            assert isinstance(record.args, Mapping)
            error = record.exc_info[1] if record.exc_info else None
            record.args = {**record.args, "exc": words_of(error) if error else "", "traceback": ""}
        elif isinstance(record.args, tuple) and any(isinstance(one, BaseException) for one in record.args):
            record = logging.makeLogRecord(vars(record))
            record.args = tuple(words_of(one) if isinstance(one, BaseException) else one for one in record.args or ())
        return super().format(record)


def _complete(_logger: Any, _name: str, event: Any) -> dict[str, Any]:
    """Add what every line has: when, how grave, who says it, in which process."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = record.exc_info or sys.exc_info()
    error = exc_info if isinstance(exc_info, BaseException) else exc_info[1] if exc_info else None
    complete = {
        "time": to_rfc3339(clock.now()),
        "level": record.levelname.lower(),
        "logger": record.name,
        "process": _process,
        "pid": os.getpid(),
        **event,
    }
    if error is not None:
        complete["exception"] = traceback_of(error)
    return complete


def words_of(error: BaseException) -> str:
    """Give what an exception says, as far as it can quote no row."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, RecordError):  # its sentence may quote a value
        return f"{name}: {error.error} {error.pointer}".strip()
    room = kind.__module__.partition(".")[0]
    original = getattr(error, "orig", None)
    if room == "sqlalchemy" and isinstance(original, Exception):
        withhold(original, error)
        said = str(original)
    elif room in {"sqlite3", "psycopg"}:
        withhold(error)
        said = str(error)
    elif room in _WORDS_OF or isinstance(error, OSError | ImportError | SystemExit):
        said = str(error)
    else:
        return name
    return f"{name}: {said}" if said else name


def traceback_of(error: BaseException) -> str:
    """Give where an exception and those before it were raised, without words that may quote a row."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        parts.append("".join([*_frames(current.__traceback__), words_of(current)]))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nwhich led to\n\n".join(reversed(parts))


def _frames(trace: TracebackType | None) -> Iterator[str]:
    if trace is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(trace, -20)


# Lines


def render(
    event: Mapping[str, Any], form: str, *, coloured: bool = False, folded: bool = False, short: bool = False
) -> str:
    """Make one line of an event's fields; with ``short`` without when and who, which somebody else's line has.

    At a terminal it is ``folded`` between words. What else has more than one line is indented, and begins none of its
    own.
    """
    fields = {text_of(name): _plain(value) for name, value in event.items() if value is not None}
    ordered = {name: fields.pop(name) for name in _FIRST if name in fields} | fields
    if form == JSON:
        made = json.dumps(ordered, ensure_ascii=False, allow_nan=False)
        # Some readers take more for the end of a line than a newline.
        return (
            made if made.isprintable() else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in made)
        )
    return _for_people(ordered, coloured=coloured, folded=folded, short=short)


def _for_people(fields: dict[str, Any], *, coloured: bool, folded: bool, short: bool) -> str:
    level, said = str(fields.pop("level", "info")), str(fields.pop("event", ""))
    trace = str(fields.pop("exception", ""))
    time, process, pid = fields.pop("time", ""), fields.pop("process", ""), fields.pop("pid", "")
    if fields.get("logger") == "exchange":
        del fields["logger"]
    head = "" if short else f"{str(time)[:19]}Z {level:7} {process}{f'/{pid}' if pid else ''} "
    words = [f"{name}={_word(value)}" for name, value in _flat(fields)]
    line = " ".join([head + _one_line(said), *words])
    if folded:
        line = fold(line)
    if coloured and level in _COLOURS:
        line = line.replace(level, f"\x1b[{_COLOURS[level]}m{level}\x1b[0m", 1)
    return "\n".join([line, *(f"    | {_one_line(one)}" for one in trace.splitlines())])


def fold(line: str, indent: str = "    ") -> str:
    """Fold a line between its words to the terminal's width."""
    width = max(shutil.get_terminal_size().columns, 40)
    return "\n".join(
        textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    )


def _flat(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Give fields by their whole names, those in others too; of counts only what there is."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from ((key, one) for key, one in _flat(value, f"{above}{name}.") if one != 0)
        elif value != "":
            yield f"{above}{name}", value


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return _one_line(json.dumps(text, ensure_ascii=False))


def _one_line(text: str) -> str:
    """Show what a terminal or a reader of lines would act on by its number."""
    return text if text.isprintable() else "".join(one if one.isprintable() else _numbered(one) for one in text)


def _numbered(character: str) -> str:
    return character.encode("unicode_escape").decode()


def text_of(value: object) -> str:
    """Give a text that every reader of UTF-8 takes, of bounded length and without a secret."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_TEXT_CHARACTERS:
        text = f"{text[:MAX_TEXT_CHARACTERS]}... ({len(text)} characters)"
    text = _IN_URLS.sub(r"\1:***", text.encode(errors="backslashreplace").decode())
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def _plain(value: Any, depth: int = 0) -> Any:
    """Give what JSON has for a value, whatever it is."""
    try:
        match value:
            case None | bool():
                return value
            case int() | float() if type(value) in (int, float) and abs(value) < _LARGEST:  # nor what is no number
                return value
            case Mapping() if depth < MAX_DEPTH:
                return {text_of(name): _plain(one, depth + 1) for name, one in value.items()}
            case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
                return [_plain(one, depth + 1) for one in value]
            case _:
                return text_of(words_of(value) if isinstance(value, BaseException) else value)
    except Exception:  # noqa: BLE001 - whatever its own code does
        return f"a {type(value).__name__} that can't be shown"
