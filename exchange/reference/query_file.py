"""The queries that the handler ``sql`` knows: each with its text, its parameters and their bounds, and its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exchange.channels.codecs import codec_for
from exchange.format.errors import RecordError, printable
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.reference.handler_files import MOST_ANSWER_BYTES, Table, read_toml
from exchange.reference.handlers import Refused

MOST_ROWS = 100_000
LONGEST_TEXT = 1000
"""So many characters a text may have that is a parameter, unless its table says another number."""


@dataclass(frozen=True)
class _Type:
    type: sa.types.TypeEngine[Any]
    ordered: Callable[[Any], Any] | None = None
    """From the wire's value to one that bounds are compared with."""


_TYPES: Mapping[str, _Type] = {
    "text": _Type(sa.Text()),
    "integer": _Type(sa.BigInteger(), int),
    "float": _Type(sa.Double(), float),
    "decimal": _Type(sa.Numeric(), Decimal),
    "boolean": _Type(sa.Boolean()),
    "date": _Type(sa.Date(), date.fromisoformat),
    "time": _Type(sa.Time(), time.fromisoformat),
    "datetime": _Type(sa.DateTime(timezone=True), datetime.fromisoformat),
    "uuid": _Type(sa.Uuid(as_uuid=False)),
}


@dataclass(frozen=True)
class Parameter:
    """What one parameter of a query may be: values as records have them, each exactly."""

    name: str
    kind: str
    minimum: Any = None
    maximum: Any = None
    among: tuple[Any, ...] = ()
    longest: int = LONGEST_TEXT
    default: Any = None
    optional: bool = False

    @property
    def type(self) -> sa.types.TypeEngine[Any]:
        """What a database has for it."""
        return _TYPES[self.kind].type

    def bound(self, value: Any, dialect: sa.Dialect) -> Any:
        """Give what the driver binds. Raises Refused."""
        if value is None:
            if self.optional:
                return None
            raise Refused(f"the parameter {self.name}: expected {self.expected}, found nothing")
        value = _one_spelling(value) if self.kind == "datetime" else value
        try:
            bound = codec_for(sa.Column(self.name, self.type)).decoder(dialect)(value)
        except RecordError as error:
            raise Refused(f"the parameter {error.sentence}") from error
        if not self._is_within(value):
            found = printable(repr(value), 80)
            raise Refused(f"the parameter {self.name}: expected {self.expected}, found {found}")
        return bound

    def _is_within(self, value: Any) -> bool:
        if self.among and value not in self.among:
            return False
        if self.kind == "text":
            return len(value) <= self.longest
        ordered = _TYPES[self.kind].ordered
        if ordered is None or self.minimum is self.maximum is None:
            return True
        found = ordered(value)
        return (self.minimum is None or found >= self.minimum) and (self.maximum is None or found <= self.maximum)

    @property
    def expected(self) -> str:
        """Say what it may be, in words that follow "expected"."""
        if self.among:
            return f"one of {', '.join(printable(str(one), 80) for one in self.among)}"
        words = [f"{'an' if self.kind == 'integer' else 'a'} {self.kind}"]
        if self.kind == "text":
            words.append(f"of at most {self.longest} characters")
        words += [f"from {self.minimum}"] if self.minimum is not None else []
        words += [f"to {self.maximum}"] if self.maximum is not None else []
        return " ".join(words)


_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")


def _one_spelling(value: Any) -> Any:
    """Write a moment as records have it, whatever its zone and however few digits; what is none stays as it is."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return value
    try:
        return to_rfc3339(from_rfc3339(value))
    except ValueError:
        return value


@dataclass(frozen=True)
class Query:
    """One query: what is asked of the database, and how much of its answer is taken."""

    name: str
    sql: str
    parameters: Mapping[str, Parameter]
    rows: int
    bytes: int
    seconds: float

    def bound(self, given: Mapping[str, Any], dialect: sa.Dialect) -> dict[str, Any]:
        """Give what is bound for what was asked. Raises Refused."""
        if stray := sorted(given.keys() - self.parameters.keys()):
            known = ", ".join(self.parameters) or "none"
            raise Refused(
                f"the query {self.name} has no parameter {printable(repr(stray[0]), 80)}; its parameters are {known}"
            )
        return {
            name: one.bound(one.default if given.get(name) is None else given[name], dialect)
            for name, one in self.parameters.items()
        }


def read_queries(file: Path, most_seconds: float) -> Mapping[str, Query]:
    """Read the queries of a file. Raises ValueError with one sentence."""
    content = read_toml(file)
    if not content:
        raise ValueError(f"{printable(str(file))}: it has no query; a table [NAME] with its sql is one")
    return {name: _query(f"{file.name}: [{printable(name)}]", name, one, most_seconds) for name, one in content.items()}


def _query(where: str, name: str, members: object, most_seconds: float) -> Query:
    table = Table(where, members)
    sql = table.text("sql")
    parameters = {
        called: _parameter(f"{where} parameters.{printable(called)}", called, one)
        for called, one in table.tables("parameters").items()
    }
    found = Query(
        name,
        sql,
        parameters,
        table.whole("rows", 1000, 1, MOST_ROWS),
        table.whole("bytes", 500_000, 1, MOST_ANSWER_BYTES),
        table.seconds("seconds", min(10.0, most_seconds / 2), most_seconds),
    )
    table.end()
    used = {one.key for one in sa.text(sql)._bindparams.values()}  # noqa: SLF001 - SQLAlchemy has no other name for it
    if differing := sorted(used ^ parameters.keys()):
        side = "its sql has, but its parameters lack" if differing[0] in used else "its sql lacks"
        raise ValueError(f"{where}: {side} :{printable(differing[0])}")
    return found


def _parameter(where: str, name: str, members: object) -> Parameter:
    table = Table(where, members)
    kind = table.one_of("type", tuple(_TYPES))
    longest = table.whole("longest", LONGEST_TEXT, 1, MOST_ANSWER_BYTES) if kind == "text" else LONGEST_TEXT
    minimum, maximum = (_limit(where, kind, word, table.anything(word)) for word in ("minimum", "maximum"))
    among = table.anything("among") or []
    if not isinstance(among, list):
        raise ValueError(f"{where}: among: expected a list of values, found {printable(repr(among), 80)}")  # noqa: TRY004
    default, optional = table.anything("default"), table.truth("optional")
    table.end()
    return Parameter(name, kind, minimum, maximum, tuple(among), longest, default, optional)


def _limit(where: str, kind: str, word: str, written: Any) -> Any:
    """Read a bound: TOML's own value of the type, or the text that a record has."""
    if written is None:
        return None
    ordered = _TYPES[kind].ordered
    if ordered is None:
        raise ValueError(f"{where}: {word}: a {kind} has none")
    try:
        return ordered(written.isoformat() if hasattr(written, "isoformat") else str(written))
    except (ValueError, ArithmeticError):
        raise ValueError(f"{where}: {word}: expected a {kind}, found {printable(repr(written), 80)}") from None
