"""Handlers answer requests: functions from a Question to a value that JSON can hold.

A handler may raise: its error becomes the response. ``EXCHANGE_HANDLER`` names the one to use, as
``package.module:function`` or as one of ``SHIPPED``; or several of them, of which a request's kind takes one.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exchange.format.errors import printable


@dataclass(frozen=True)
class Question:
    """A request as a handler sees it: values only, none of them attached to the database."""

    id: uuid.UUID
    user: str
    kind: str
    query: str
    parameters: Mapping[str, Any]
    priority: int
    created_at: datetime


Handler = Callable[[Question], Any]


class Refused(Exception):  # noqa: N818 - an answer to the user
    """What was asked can't be answered: the text is the response, as it stands."""


class Later(Exception):  # noqa: N818 - no answer yet
    """There is no answer now: the request stays pending and is tried again after a while, which grows.

    The text says why. After ``tries`` such tries it is the response; None for as often as it takes. ``away``: what the
    handler asks is not there at all, so that no other request is tried with it in this run.
    """

    def __init__(self, sentence: str, tries: int | None = None, *, away: bool = True) -> None:
        super().__init__(sentence)
        self.tries, self.away = tries, away


class TimeIsUp(BaseException):
    """The time of EXCHANGE_HANDLER_SECONDS is over. No Exception: a handler that catches those all the same ends."""


@dataclass(frozen=True)
class Sources:
    """What the shipped handlers are made of, as the settings have it."""

    seconds: float = 30.0
    """How long any handler may take for one request."""
    queries: Path | None = None
    database_url: str = field(default="", repr=False)
    paths: Path | None = None
    service_url: str | None = None
    credentials: str | None = field(default=None, repr=False)
    ca_file: Path | None = None


@dataclass(frozen=True)
class Named:
    """A handler and what it is called in responses and in health."""

    name: str
    handle: Handler

    @classmethod
    def of(cls, handler: Handler) -> Named:
        """Name a function as it is imported."""
        return cls(f"{getattr(handler, '__module__', '')}:{getattr(handler, '__qualname__', '')}", handler)


@dataclass(frozen=True)
class Handlers:
    """What answers by a request's kind, and what answers all other kinds, if anything does."""

    by_kind: Mapping[str, Named]
    otherwise: Named | None = None

    def pick(self, kind: str) -> Named:
        """Give what answers a kind. Raises Refused."""
        found = self.by_kind.get(kind, self.otherwise)
        if found is None:
            kinds = ", ".join(sorted(self.by_kind))
            raise Refused(f"nothing here answers requests of the kind {printable(repr(kind), 80)}, only {kinds}")
        return found

    def is_answered_by(self, kind: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        """Say that a request's kind is one of those that a handler of this name answers."""
        mine = kind.in_([one for one, named in self.by_kind.items() if named.name == name])
        if self.otherwise is None or self.otherwise.name != name:
            return mine
        return sa.or_(mine, kind.not_in(list(self.by_kind)))


def load_handlers(spec: str, sources: Sources) -> Handlers:
    """Make what ``spec`` names. Raises ValueError with one sentence.

    A single one answers every kind. Of several with commas between ``KIND=HANDLER`` answers its kind, ``sql``, ``http``
    and ``echo`` those of their names, and one more, ``package.module:function``, all other kinds.
    """
    words = [word.strip() for word in spec.split(",")]
    if len(words) == 1 and "=" not in words[0]:
        return Handlers({}, _load(words[0], sources))
    by_kind: dict[str, Named] = {}
    otherwise: Named | None = None
    for word in words:
        kind, _, name = word.rpartition("=")
        kind = kind.strip() or (name if name in SHIPPED else "")
        loaded = _load(name.strip(), sources)
        if kind in by_kind or (not kind and otherwise is not None):
            what = f"the kind {kind}" if kind else "all other kinds"
            raise ValueError(f"{what} has two handlers; name one, as KIND={name.strip()} names it for a kind")
        if kind:
            by_kind[kind] = loaded
        else:
            otherwise = loaded
    return Handlers(by_kind, otherwise)


def names(spec: str) -> tuple[str, ...]:
    """Name the handlers of a spec, each once."""
    return tuple(dict.fromkeys(word.rpartition("=")[2].strip() for word in spec.split(",")))


def called(name: str) -> str:
    """Say what a handler of a spec is called in responses: a function as it is imported, where it can be."""
    if name in {"sql", "http"}:
        return name
    try:
        return Named.of(_load(name, Sources()).handle).name
    except ValueError:
        return name


def _load(name: str, sources: Sources) -> Named:
    if name == "sql":
        from exchange.reference.sql_handler import load_sql  # noqa: PLC0415 - only where it is named

        return Named("sql", load_sql(sources))
    if name == "http":
        from exchange.reference.http_handler import load_http  # noqa: PLC0415 - likewise

        return Named("http", load_http(sources))
    return Named.of(echo if name == "echo" else load_handler(name))


def load_handler(spec: str) -> Handler:
    """Import the handler that ``package.module:function`` names. Raises ValueError with one sentence."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"a handler is named package.module:function, found {spec!r}")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        # A module of somebody else's may fail in any way when it is imported.
        raise ValueError(f"the handler {spec!r} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"the handler {spec!r} is a {type(found).__name__}, a function is expected")  # noqa: TRY004 - the fault is a setting's
    handler: Handler = found
    return handler


def echo(question: Question) -> dict[str, Any]:
    """Answer with the question: the handler that the exchange ships, to see the line work."""
    return {
        "echo": question.query,
        "kind": question.kind,
        "parameters": dict(question.parameters),
        "user": question.user,
    }


SHIPPED = ("sql", "http", "echo")
"""What the exchange brings along, by the names that EXCHANGE_HANDLER takes."""
