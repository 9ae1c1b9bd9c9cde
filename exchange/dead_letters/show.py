"""All there is to know about one dead letter, as a person may see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import HIDDEN, Stream
from exchange.database.tables import revision
from exchange.dead_letters.advice import Advice, advice
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.pages import page
from exchange.dead_letters.pretty import Line, laid_out
from exchange.dead_letters.rows import Row, row_of
from exchange.dead_letters.rules import rule_of
from exchange.dead_letters.store import Brief, Parked, find, history
from exchange.site import Site

OTHERS = 10
"""How many other letters of the same key are shown."""


@dataclass(frozen=True)
class Revision:
    """What a person made of a record."""

    number: int
    at: Any
    who: str
    why: str
    difference: str

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self.__dict__, "at": self.at.isoformat()}


@dataclass(frozen=True)
class View:
    """One dead letter.

    ``record`` is its text as it came, or as it was last mended; None if it can't be shown without showing what is
    sensitive. ``pretty`` is the same laid out, empty if it is no JSON. ``differences`` has each column whose value is
    another one in the record than in the row: name, in the record, in the row. ``others`` are letters of the same key.
    """

    letter: Parked
    advice: Advice
    record: str | None
    pretty: Sequence[Line]
    rule: str | None
    row: Row | None
    differences: Sequence[tuple[str, Any, Any]]
    history: Sequence[Mapping[str, Any]]
    revisions: Sequence[Revision]
    others: Sequence[Brief]

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
            "rule": self.rule,
            "fault": self.advice.fault,
            "next": self.advice.next,
            "row": {"data": self.row.data, "version": self.row.version} if self.row else None,
            "since": self.since,
            "differences": [{"column": name, "record": record, "row": row} for name, record, row in self.differences],
            "history": [{**event, "at": event["at"].isoformat()} for event in self.history],
            "revisions": [one.as_dict() for one in self.revisions],
            "others": [one.as_dict() for one in self.others],
        }


def view(site: Site, connection: Connection, letter_id: int) -> View | None:
    """Look at one letter from all sides; None if there is none. What is sensitive is hidden."""
    letter = find(connection, letter_id)
    if letter is None:
        return None
    mask = Mask(site.channels)
    stream = _stream(site, letter)
    mended, revisions = _revisions(connection, letter)
    text = mask.record(letter, mended or letter.record)
    value = _value(text)
    row = row_of(connection, stream, letter) if stream else None
    return View(
        letter=mask.brief(letter),
        advice=advice(letter.direction, letter.error, letter.id),
        record=text,
        pretty=laid_out(value, letter.pointer or "") if value is not None else (),
        rule=rule_of(connection, stream, letter) if stream else None,
        row=Row(stream.shown(row.data), row.version) if stream and row and row.data is not None else row,
        differences=_differences(stream, mended or letter.record, row) if stream else (),
        history=history(connection, letter_id)[::-1],
        revisions=revisions,
        others=[mask.brief(one) for one in _others(connection, letter)],
    )


def _stream(site: Site, letter: Brief) -> Stream | None:
    streams = (one for channel in site.channels for one in channel.streams)
    return next((one for one in streams if one.name == letter.stream), None)


def _revisions(connection: Connection, letter: Brief) -> tuple[bytes | None, list[Revision]]:
    """Give the newest revision's record and what is known of all, newest first."""
    rows = connection.execute(
        sa.select(revision).where(revision.c.letter == letter.id).order_by(revision.c.number.desc())
    ).all()
    told = [Revision(row.number, row.at, row.who, row.why, row.difference) for row in rows]
    return (rows[0].record if rows else None), told


def _value(text: str | None) -> Any:
    try:
        return json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None


def _differences(stream: Stream, record: bytes, row: Row | None) -> list[tuple[str, Any, Any]]:
    value = _value(record.decode("utf-8", "replace"))
    data = value.get("data") if isinstance(value, dict) else None
    if row is None or row.data is None or not isinstance(data, dict):
        return []
    names = [name for name in (*row.data, *(data.keys() - row.data.keys())) if data.get(name) != row.data.get(name)]
    return [
        (name, HIDDEN, HIDDEN) if name in stream.sensitive else (name, data.get(name), row.data.get(name))
        for name in names
    ]


def _others(connection: Connection, letter: Brief) -> list[Brief]:
    if letter.key is None or letter.stream is None:
        return []
    found = page(connection, Filters(keys=(letter.key,), stream=letter.stream), limit=OTHERS + 1).letters
    return [one for one in found if one.id != letter.id][:OTHERS]
