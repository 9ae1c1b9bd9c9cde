"""All there is to know about one dead letter, as a person may see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.schemas import stream_schema
from exchange.channels.stream import HIDDEN, Stream
from exchange.database.tables import VERSION_COLUMN, DeadLetterState, Direction, revision, tombstone
from exchange.dead_letters import file_rows, schedule
from exchange.dead_letters.advice import Advice, advice
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.joining import at_version
from exchange.dead_letters.masking import Mask, Unmasked
from exchange.dead_letters.pages import page
from exchange.dead_letters.store import Brief, Parked, find, history
from exchange.format import json_pointer
from exchange.format.as_dict import AsDict
from exchange.format.errors import RecordError
from exchange.format.moments import in_words
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.loader.constraints import reflect

OTHERS = 10
"""How many other letters of the same key are shown."""


@dataclass(frozen=True)
class Revision(AsDict):
    """What a person made of a record."""

    number: int
    at: Any
    who: str
    why: str
    difference: str


@dataclass(frozen=True)
class View:
    """One dead letter.

    ``record`` is its text as it came, or as it was last mended; None if it can't be shown without showing what is
    sensitive. ``pretty`` is the same laid out, empty if it is no JSON. ``differences`` has each column whose value is
    another one in the record than in the row: name, in the record, in the row. ``others`` are letters of the same key.
    ``file`` is what the file is called that it is a row of, and ``cells`` are that row's, by their columns.
    """

    letter: Parked
    advice: Advice
    record: str | None
    pretty: Sequence[Line]
    rule: str | None
    row: ShownRow | None
    differences: Sequence[tuple[str, Any, Any]]
    history: Sequence[Mapping[str, Any]]
    revisions: Sequence[Revision]
    others: Sequence[Brief]
    poison_after: int
    file: str | None = None
    cells: Mapping[str, Any] | None = None

    @property
    def next_try(self) -> str | None:
        """Say when it is tried again by itself, and for which time of how many; None if it is not, or not by time."""
        letter = self.letter
        if letter.state is not DeadLetterState.PARKED or letter.attempts > self.poison_after:
            return None
        if letter.next_try_at is not None:
            return f"by itself at {in_words(letter.next_try_at)}, try {letter.tries + 1} of {schedule.MOST_TRIES}"
        if letter.tries:
            return f"not by itself any more: {letter.tries} of {schedule.MOST_TRIES} tries were in vain"
        return None

    @property
    def since(self) -> str | None:
        """Say what happened to the same key since, as far as its row tells; None if that can't be read."""
        if self.row is None:
            return None
        version, own = self.row.version, self.letter.version
        if self.row.data is None:
            return f"deleted by version {version}" if self.row.deleted else "there is no such row"
        if version is None or own is None:
            return "there is a row"
        if version == own:
            return "the row has this very version"
        return f"the row has version {version}, which is {'newer' if version > own else 'older'} than this record"

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        letter = self.letter
        return {
            **letter.as_dict(),
            "op": letter.op,
            "pointer": letter.pointer,
            "cause": letter.cause,
            "schema_version": letter.schema_version,
            "producer": letter.producer,
            "record_bytes": letter.record_bytes,
            "record": self.record,
            "file": self.file,
            "cells": dict(self.cells) if self.cells is not None else None,
            "rule": self.rule,
            "fault": self.advice.fault,
            "next": self.advice.next,
            "next_try": self.next_try,
            "most_tries": schedule.MOST_TRIES,
            "row": {"data": self.row.data, "version": self.row.version} if self.row else None,
            "since": self.since,
            "differences": [{"column": name, "record": record, "row": row} for name, record, row in self.differences],
            "history": [{**event, "at": event["at"].isoformat()} for event in self.history],
            "revisions": [one.as_dict() for one in self.revisions],
            "others": [one.as_dict() for one in self.others],
        }


def view(site: Site, connection: Connection, letter_id: int, *, revealed: bool = False) -> View | None:
    """Look at one letter from all sides; None if there is none. Changes nothing.

    What is sensitive is hidden unless it is ``revealed``.
    """
    letter = find(connection, letter_id)
    if letter is None:
        return None
    mask = Unmasked(site.channels) if revealed else Mask(site.channels)
    stream = _stream(site, letter)
    mended, revisions = _revisions(connection, letter)
    file = file_rows.file_of(connection, letter)
    text = mask.record(letter, mended or letter.record, file)
    cells = _cells(letter, file, mended or letter.record, mask)
    value = _value(text) if letter.intake is None else {"data": cells} if cells is not None else None
    row = row_of(connection, stream, letter) if stream else None
    hidden = stream.hidden if stream and not revealed else frozenset()
    return View(
        letter=mask.brief(letter),
        advice=advice(letter.direction, letter.error, letter.id, of_file=letter.intake is not None),
        record=text,
        pretty=laid_out(value, letter.pointer or "") if value is not None else (),
        rule=rule_of(connection, stream, letter) if stream else None,
        row=ShownRow(_shown(row.data, hidden), row.version) if stream and row and row.data is not None else row,
        differences=_differences(mended or letter.record, row, hidden) if stream else (),
        history=history(connection, letter_id)[::-1],
        revisions=revisions,
        others=[mask.brief(one) for one in _others(connection, letter)],
        poison_after=site.limits.poison_after,
        file=letter.producer if letter.intake is not None else None,
        cells=cells,
    )


def _cells(letter: Parked, file: file_rows.PeoplesFile | None, record: bytes, mask: Mask) -> Mapping[str, Any] | None:
    parts = None if letter.intake is None else file_rows.parts_of(file, record)
    if parts is None or file is None:
        return None
    return file_rows.shown(parts, file_rows.hidden_parts(file, parts, mask.sensitive(letter)))


def _stream(site: Site, letter: Brief) -> Stream | None:
    streams = (one for channel in site.channels for one in channel.streams)
    return next((one for one in streams if one.name == letter.stream), None)


def _revisions(connection: Connection, letter: Brief) -> tuple[bytes | None, list[Revision]]:
    """Give the newest revision's record and what is known of all, newest first."""
    rows = connection.execute(
        sa.select(revision).where(revision.c.letter == letter.id).order_by(revision.c.number.desc())
    ).all()
    told = [Revision(row.number, row.at, row.who, row.why, row.difference) for row in rows]
    return (at_version(rows[0].record, letter.version) if rows else None), told


def _value(text: str | None) -> Any:
    try:
        return json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None


def _shown(data: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, Any]:
    return {name: HIDDEN if name in hidden else value for name, value in data.items()}


def _differences(record: bytes, row: ShownRow | None, hidden: frozenset[str]) -> list[tuple[str, Any, Any]]:
    value = _value(record.decode("utf-8", "replace"))
    data = value.get("data") if isinstance(value, dict) else None
    if row is None or row.data is None or not isinstance(data, dict):
        return []
    names = [name for name in (*row.data, *(data.keys() - row.data.keys())) if data.get(name) != row.data.get(name)]
    return [(name, HIDDEN, HIDDEN) if name in hidden else (name, data.get(name), row.data.get(name)) for name in names]


def _others(connection: Connection, letter: Brief) -> list[Brief]:
    if letter.key is None or letter.stream is None:
        return []
    found = page(connection, Filters(keys=(letter.key,), stream=letter.stream), limit=OTHERS + 1).letters
    return [one for one in found if one.id != letter.id][:OTHERS]


INDENT = "  "


class Line(NamedTuple):
    """One line; ``fails`` says that what it shows is at fault."""

    text: str
    fails: bool


def laid_out(value: Any, pointer: str) -> list[Line]:
    """Write a JSON value over many lines. If the place that ``pointer`` names is missing, its nearest parent fails."""
    places = {place for place, _ in _lines(value, "", "", "")}
    while pointer and pointer not in places:
        pointer = pointer.rpartition("/")[0]
    return [Line(text, bool(pointer) and place == pointer) for place, text in _lines(value, "", "", "")]


def _lines(value: Any, place: str, before: str, indent: str) -> Iterator[tuple[str, str]]:
    """Give each line with the pointer of the value that begins on it; a closing bracket has none."""
    match value:
        case dict() if value:
            members: list[tuple[str, str, Any]] = [
                (json_pointer.join(name), f"{_text(name)}: ", one) for name, one in value.items()
            ]
            opening, closing = "{}"
        case list() if value:
            members = [(json_pointer.join(number), "", one) for number, one in enumerate(value)]
            opening, closing = "[]"
        case _:
            yield place, f"{indent}{before}{_text(value)}"
            return
    yield place, f"{indent}{before}{opening}"
    for number, (step, name, one) in enumerate(members, 1):
        lines = list(_lines(one, place + step, name, indent + INDENT))
        if number < len(members):
            lines[-1] = (lines[-1][0], lines[-1][1] + ",")
        yield from lines
    yield "-", f"{indent}{closing}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_PLACE = 2
"""Steps of a pointer to a column: the record's member, and the column in it."""


def rule_of(connection: Connection, stream: Stream, letter: Brief) -> str | None:
    """Give the words of the rule that a letter breaks, as they are now; None if it is no such rule."""
    if letter.error in {"schema", "value", "cell"}:
        return _of_schema(stream, letter.pointer or "")
    if letter.cause and letter.error in {"foreign_key", "unique", "constraint"}:
        return next(_of_database(connection, stream, letter.cause), None)
    return None


def _of_schema(stream: Stream, pointer: str) -> str:
    schema = stream_schema(stream)
    steps = json_pointer.split(pointer)
    if len(steps) >= _PLACE:
        name = steps[1]
        if name in schema["properties"]:
            return f"{name}: {json.dumps(schema['properties'][name], ensure_ascii=False)}"
    return json.dumps({name: schema[name] for name in ("required", "additionalProperties")}, ensure_ascii=False)


def _of_database(connection: Connection, stream: Stream, name: str) -> Iterator[str]:
    constraints = reflect(connection, [stream.table])
    for key in constraints.foreign_keys:
        if key.name == name:
            here, there = ", ".join(key.columns), ", ".join(key.referred_columns)
            yield f"{name}: FOREIGN KEY {key.table} ({here}) REFERENCES {key.referred} ({there})"
    for unique in constraints.uniques.get(stream.table.key, ()):
        if unique.name == name:
            yield f"{name}: UNIQUE ({', '.join(unique.columns)})"
    for check in constraints.checks.get(stream.table.key, ()):
        if check.name == name:
            yield f"{name}: CHECK ({check.expression})"


@dataclass(frozen=True)
class ShownRow:
    """``data`` is the row as its record would have it, None if there is no row.

    ``version`` is that of the record that wrote the row, or of the delete that removed it (``deleted``); None if the
    row is this side's own.
    """

    data: Mapping[str, Any] | None
    version: int | None = None
    deleted: bool = False


class _AsItIs(sa.types.UserDefinedType[Any]):
    """A value as the driver wants it already."""

    cache_ok = True


def row_of(connection: Connection, stream: Stream, letter: Brief) -> ShownRow | None:
    """Read the row of a letter's key; None if the key or the row can't be read."""
    if letter.key is None:
        return None
    try:
        with connection.begin_nested():
            if letter.direction is Direction.OUT:
                values = capture.row_of_key(connection, stream, letter.key)
                return ShownRow(_data(connection, stream, values) if values else None)
            return _received(connection, stream, letter.key)
    except (DBAPIError, RecordError, capture.CaptureFault, ValueError, KeyError, TypeError):
        return None


def _received(connection: Connection, stream: Stream, key: str) -> ShownRow:
    columns = stream.key_decoder(connection.dialect)([json.loads(key)])
    wanted = [column == sa.literal(value, _AsItIs()) for column, (value,) in zip(stream.key, columns, strict=True)]
    selected = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
    version = sa.column(VERSION_COLUMN, sa.BigInteger)
    row = connection.execute(sa.select(*selected, version).select_from(stream.table).where(*wanted)).one_or_none()
    if row is not None:
        return ShownRow(_data(connection, stream, row[:-1]), row[-1])
    gone = connection.scalar(
        sa.select(tombstone.c.version).where(tombstone.c.stream == stream.name, tombstone.c.key == key)
    )
    return ShownRow(None, gone, deleted=gone is not None)


def _data(connection: Connection, stream: Stream, values: Iterable[Any]) -> dict[str, Any]:
    return {
        name: _encoded(stream.codecs[column.name].encoder(connection.dialect), value)
        for name, column, value in zip(stream.names, stream.columns, values, strict=True)
    }


def _encoded(encode: Callable[[Any], Any], value: Any) -> Any:
    """Write a value as its record would have it; what can't cross is why an outgoing letter is there."""
    try:
        return None if value is None else encode(value)
    except RecordError as error:
        return f"({error.sentence})"
