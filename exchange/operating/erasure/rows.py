"""Our own tables, where a row's record or its key may stand: found, and rewritten so that it no longer does.

The application's tables are none of ours. What people did by hand stays written as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.dialects import dialect_of
from exchange.database.engine import among, now
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    GapState,
    agreement,
    audit,
    batch,
    change,
    dead_letter,
    event,
    gap,
    receipt,
    repair,
    resync,
    revision,
    selection,
    tombstone,
)
from exchange.dead_letters import file_rows
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.link.vain_repairs import VainRepairs
from exchange.operating.erasure import dropped
from exchange.operating.erasure.sought import RowToErase, What
from exchange.reading.read import read_row
from exchange.site import Site

ERASED = "erased by hand"
"""What stands where something was said of the row."""

_FETCH = 200
_AUDIT_STAYS = "what was done by hand is only ever added to: it stays"


@dataclass(frozen=True)
class Trace:
    """Something of the row in a table of ours: in which place, its name there; ``kept`` says why it must stay."""

    place: str
    name: str
    what: What
    kept: str | None = None


def find(site: Site, connection: Connection, sought: RowToErase) -> list[Trace]:
    """Look through every table of ours."""
    return [one for place in _PLACES for one in place.find(site, connection, sought)]


def erase(site: Site, connection: Connection, sought: RowToErase) -> None:
    """Rewrite or remove what ``find`` found, but for what must stay, in the caller's transaction. May be repeated."""
    for place in _PLACES:
        if place.erase is not None:
            place.erase(site, connection, sought)


# Dead letters, their revisions and events


def _letters(connection: Connection, sought: RowToErase) -> Iterator[tuple[int, int, What]]:
    """Give the letters of the row: id, how many revisions, and what of it they have."""
    letter = dead_letter.c
    mine = sa.and_(letter.stream == sought.stream.name, letter.key.in_(sought.texts))
    # Of what could not be read as a record nobody noted whose it is.
    unknown = sa.and_(sa.or_(letter.key.is_(None), letter.stream.is_(None)), letter.record_bytes > 0)
    columns = (letter.id, letter.op, letter.record, letter.revision, letter.intake, letter.stream)
    asking = sa.select(*columns, mine.label("mine")).order_by(letter.id)
    asking = asking.where(sa.or_(mine, unknown)).execution_options(yield_per=_FETCH)
    files = _FileRows(connection, sought)
    with connection.execute(asking) as rows:
        for row in rows:
            known = What(row.op) if row.mine and row.op in set(What) else What.BROKEN
            what = known if row.mine else files.find(row) if row.intake else sought.find(bytes(row.record))
            if what is not None:
                yield row.id, row.revision, what


class _FileRows:
    """Rows of people's files among the letters, each read as its file is written."""

    def __init__(self, connection: Connection, sought: RowToErase) -> None:
        mine = (dead_letter.c.stream == sought.stream.name, dead_letter.c.intake.is_not(None))
        numbers = connection.scalars(sa.select(dead_letter.c.intake).where(*mine).distinct())
        self._files = file_rows.files_of(connection, [*numbers])
        self._sought = sought

    def find(self, row: Any) -> What | None:
        """Say what a letter has of the row: of what can't be read whether its key's values stand in it."""
        if row.stream != self._sought.stream.name:
            return None
        file, record = self._files.get(row.intake), bytes(row.record)
        try:
            if file is not None:
                body = read_row(file.written, self._sought.stream, record)
                return What.UPSERT if self._sought.is_key(row.stream, body) else None
        except RecordError:
            pass
        return What.BROKEN if dropped.stands_in(file, record, self._sought) else None


def _find_letters(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    for letter, revisions, what in _letters(connection, sought):
        more = f" and {revisions} revisions" if revisions else ""
        yield Trace("dead letter", f"{letter}{more}, with its events", what)


def _erase_letters(_site: Site, connection: Connection, sought: RowToErase) -> None:
    ids = [letter for letter, _, _ in _letters(connection, sought)]
    if not ids:
        return
    mine = among(connection, dead_letter.c.id, ids)
    parked = list(
        connection.scalars(sa.select(dead_letter.c.id).where(mine, dead_letter.c.state == DeadLetterState.PARKED))
    )
    nothing = {"record": b"", "record_bytes": 0, "key": None, "message": ERASED, "cause": "", "revision": 0}
    nothing |= {"identity": None}  # a digest of the key
    connection.execute(sa.update(dead_letter).where(mine).values(**nothing, updated_at=now()))
    connection.execute(sa.delete(revision).where(among(connection, revision.c.letter, ids)))
    told = sa.and_(event.c.subject == "dead_letter", among(connection, event.c.subject_id, ids))
    connection.execute(sa.update(event).where(told).values(cause=ERASED))
    if parked:
        going = among(connection, dead_letter.c.id, parked)
        connection.execute(sa.update(dead_letter).where(going).values(state=DeadLetterState.DISCARDED))
        ledger.note_dead_letters(connection, parked, DeadLetterState.PARKED, DeadLetterState.DISCARDED, ERASED)


# What was deleted, and what is to be sent


def _find_tombstones(site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    if connection.scalar(sa.select(sa.exists().where(*_buried(sought)))):
        yield Trace("tombstone", sought.stream.name, What.MENTION, _guarded(site, connection, sought))


def _erase_tombstones(site: Site, connection: Connection, sought: RowToErase) -> None:
    if _guarded(site, connection, sought) is None:
        connection.execute(sa.delete(tombstone).where(*_buried(sought)))


def _buried(sought: RowToErase) -> tuple[sa.ColumnElement[bool], ...]:
    return (tombstone.c.stream == sought.stream.name, tombstone.c.key.in_(sought.texts))


def _guarded(site: Site, connection: Connection, sought: RowToErase) -> str | None:
    """Say why a tombstone is still needed: an older record of the row may be on its way."""
    names = {one.name for one in site.incoming() if sought.stream.name in {stream.name for stream in one.streams}}
    open_ones = (BatchState.WAITING, BatchState.HELD)
    waits = sa.exists().where(
        batch.c.state.in_(open_ones), batch.c.direction == Direction.IN, batch.c.channel.in_(names)
    )
    missing = sa.exists().where(gap.c.state == GapState.MISSING, gap.c.channel.in_(names))
    if connection.scalar(sa.select(sa.or_(waits, missing))):
        return "batches are missing or wait, and one may bring the row back: run this again when they are in"
    return None


def _find_changes(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    pending = sa.exists().where(change.c.stream == sought.stream.name, change.c.key.in_(sought.texts))
    if connection.scalar(sa.select(pending)):
        why = "it goes with the next export: run this again when that is acknowledged"
        yield Trace("pending change", sought.stream.name, What.MENTION, why)


# What is kept as JSON


def _find_selections(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    for name, _ in _selections(connection, sought):
        yield Trace("selection", name, What.MENTION)


def _erase_selections(_site: Site, connection: Connection, sought: RowToErase) -> None:
    """Have selections that were made by the row's key say that it was erased."""
    for name, filters in _selections(connection, sought):
        rewritten = json.dumps(filters | {"keys": [ERASED]})
        connection.execute(sa.update(selection).where(selection.c.name == name).values(filters=rewritten))


def _selections(connection: Connection, sought: RowToErase) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in connection.execute(sa.select(selection.c.name, selection.c.filters).order_by(selection.c.name)).all():
        filters = json.loads(row.filters)
        # Filters of another stream may mean a row of that one.
        here = filters.get("stream") in {None, sought.stream.name}
        if here and not set(sought.texts).isdisjoint(filters.get("keys", ())):
            yield row.name, filters


def _find_receipts(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    for channel, *_ in _receipts(connection, sought):
        yield Trace("receipt", channel, What.MENTION)


def _erase_receipts(_site: Site, connection: Connection, sought: RowToErase) -> None:
    for channel, epoch, said in _receipts(connection, sought):
        here = (receipt.c.channel == channel, receipt.c.epoch == epoch)
        connection.execute(sa.update(receipt).where(*here).values(said=strict_json.dumps(said).decode()))


def _receipts(connection: Connection, sought: RowToErase) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give the receipts that name the row, without it."""
    for row in connection.execute(sa.select(receipt.c.channel, receipt.c.epoch, receipt.c.said)).all():
        said = json.loads(row.said)
        letters = [one for one in said["letters"] if not sought.is_key(one["stream"], one["key"])]
        if len(letters) < len(said["letters"]):
            yield row.channel, row.epoch, said | {"letters": letters}


def _find_comparisons(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    for row in dict.fromkeys(
        row.channel for row, _ in (*_comparisons(connection, sought), *_repaired(connection, sought))
    ):
        yield Trace("comparison", row, What.MENTION)


def _erase_comparisons(_site: Site, connection: Connection, sought: RowToErase) -> None:
    for row, found in _comparisons(connection, sought):
        here = (agreement.c.direction == row.direction, agreement.c.channel == row.channel)
        mine = sa.update(agreement).where(*here, agreement.c.stream == row.stream)
        connection.execute(mine.values(found=json.dumps(found)))
    for row, repaired in _repaired(connection, sought):
        here = (agreement.c.direction == row.direction, agreement.c.channel == row.channel)
        mine = sa.update(agreement).where(*here, agreement.c.stream == row.stream)
        connection.execute(mine.values(in_vain=repaired.as_text()))


def _repaired(connection: Connection, sought: RowToErase) -> Iterator[tuple[sa.Row[Any], VainRepairs]]:
    """Give what repairs of the row's stream did not help, without the row."""
    mine = (agreement.c.stream == sought.stream.name, agreement.c.in_vain.is_not(None))
    for row in connection.execute(sa.select(agreement).where(*mine)).all():
        repaired = VainRepairs(row.in_vain)
        before = len(repaired.rows)
        repaired.rows = {text: one for text, one in repaired.rows.items() if not sought.is_key(row.stream, one.key)}
        if len(repaired.rows) < before:
            yield row, repaired


def _comparisons(connection: Connection, sought: RowToErase) -> Iterator[tuple[sa.Row[Any], dict[str, Any]]]:
    """Give what comparisons found different of the row, without it."""
    mine = (agreement.c.stream == sought.stream.name, agreement.c.found.is_not(None))
    for row in connection.execute(sa.select(agreement).where(*mine)).all():
        found = json.loads(row.found)
        keys = [one for one in found["keys"] if not sought.is_key(row.stream, one["key"])]
        if len(keys) < len(found["keys"]):
            yield row, found | {"keys": keys}


# Sentences


_WORDS = (
    ("event", event, event.c.cause),
    ("sentence of a batch", batch, batch.c.message),
    ("sentence of a dead letter", dead_letter, dead_letter.c.message),
    ("difference of a revision", revision, revision.c.difference),
    ("sentence of a gap", gap, gap.c.cause),
    ("reason of a request", repair, repair.c.reason),
    ("reason of a snapshot", resync, resync.c.reason),
)
"""Where sentences are kept that may name another record's row."""


def _find_words(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    for place, table, column in _WORDS:
        there = sa.select(sa.func.count()).select_from(table).where(_has(connection, column, sought.phrases))
        if number := connection.scalar(there):
            yield Trace(place, f"{number} of them", What.MENTION)


def _erase_words(_site: Site, connection: Connection, sought: RowToErase) -> None:
    for _, table, column in _WORDS:
        for phrase, without in sought.phrases.items():
            naming = sa.update(table).where(_has(connection, column, [phrase]))
            connection.execute(naming.values({column.name: sa.func.replace(column, phrase, without)}))


def _has(connection: Connection, column: sa.Column[Any], texts: Iterable[str]) -> sa.ColumnElement[bool]:
    """Say that one of these texts stands in a column, to the letter: LIKE takes upper case for lower on SQLite."""
    place = sa.func.strpos if dialect_of(connection).is_postgresql else sa.func.instr
    return sa.or_(*(place(column, text) > 0 for text in texts))


def _find_audit(_site: Site, connection: Connection, sought: RowToErase) -> Iterator[Trace]:
    written = [*sought.phrases, *sought.texts]
    texts = dict.fromkeys([*written, *(json.dumps(text)[1:-1] for text in written)])
    columns = (audit.c.arguments, audit.c.why, audit.c.result)
    naming = sa.or_(*(_has(connection, column, texts) for column in columns))
    for number in connection.scalars(sa.select(audit.c.id).where(naming).order_by(audit.c.id)):
        yield Trace("audit", str(number), What.MENTION, _AUDIT_STAYS)


_Finds = Callable[[Site, Connection, RowToErase], Iterator[Trace]]
_Erases = Callable[[Site, Connection, RowToErase], None]


@dataclass(frozen=True)
class _PlaceOfTraces:
    find: _Finds
    erase: _Erases | None = None


# Sentences last: those of the row's own letters are gone by then.
_PLACES = (
    _PlaceOfTraces(_find_letters, _erase_letters),
    _PlaceOfTraces(_find_tombstones, _erase_tombstones),
    _PlaceOfTraces(_find_changes),
    _PlaceOfTraces(_find_selections, _erase_selections),
    _PlaceOfTraces(_find_receipts, _erase_receipts),
    _PlaceOfTraces(_find_comparisons, _erase_comparisons),
    _PlaceOfTraces(_find_words, _erase_words),
    _PlaceOfTraces(_find_audit),
)
