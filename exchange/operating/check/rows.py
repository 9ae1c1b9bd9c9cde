"""Whether each row of each stream could be sent as it is, and each received one has a version that can be.

Tables are read in the order of their keys, some rows in a transaction of their own: none is long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import rollouts
from exchange.database.engine import among
from exchange.database.locks import reading
from exchange.database.tables import VERSION_COLUMN, DeadLetterState, Direction, change, dead_letter, tombstone
from exchange.format.errors import printable
from exchange.operating.check.wrong import AT_ONE_GO, Found, Kind, Pace, Wrong
from exchange.operating.doctor.finding import Level
from exchange.site import Site
from exchange.tables import capture, version_limit
from exchange.tables.bucket_digests import KeyedRow, RowReader

ROWS_AT_ONCE = 500
"""So many rows are read in one transaction."""

UNSENT = Kind(
    "rows",
    "rows can't be sent as they are, and neither a dead letter nor a pending change says so",
    "mend the rows, which sends them; `exchange resync CHANNEL` looks at all of them and says what is wrong with each",
    "exchange resync",
)
UNREADABLE = Kind(
    "rows",
    "rows of received streams hold what no record can have brought",
    "somebody wrote them here; a comparison has their source send them again",
    "exchange reconcile",
)
NOBODYS = Kind(
    "versions",
    "rows of received streams came in no batch",
    "they were written here, or were there before: a comparison finds out whether their source has them",
    "exchange reconcile",
    Level.WARNING,
)
DELETED = Kind(
    "versions",
    "rows of received streams stand beside a delete that is no older",
    "the row or the delete was changed by hand: a comparison has their source send what differs",
    "exchange reconcile",
)
TOO_NEW = Kind(
    "versions",
    "rows of received streams have a version that no batch can have brought by now",
    "it wins over every later change: `exchange versions free-row STREAM KEY` takes it away",
    "exchange versions",
)


def check_rows(site: Site, pace: Pace = AT_ONE_GO) -> Found:
    """Look at every row of every stream."""
    for channel in site.channels:
        look = _sent if channel.source == site.network else _received
        for stream in channel.streams:
            with reading(site.engine) as connection:
                if not capture.is_readable(connection, stream):
                    continue  # of that the look at the tables tells
            yield from look(site, channel, stream, pace)


class _Page(NamedTuple):
    """Some rows of a stream, each with the text of its key as a change has it and, if received, its version."""

    connection: Connection
    texts: Sequence[str]
    rows: Sequence[KeyedRow]
    versions: Sequence[int | None]


def _pages(site: Site, stream: Stream, pace: Pace, *, received: bool) -> Iterator[_Page]:
    after: str | None = None
    while True:
        with reading(site.engine) as connection:
            dialect = connection.dialect
            columns = [stream.codecs[column.name].selected(dialect) for column in stream.columns]
            written: sa.ColumnElement[Any] = sa.literal_column(
                dialect.identifier_preparer.quote(VERSION_COLUMN) if received else "NULL"
            )
            found = capture.row_page(connection, stream, [written, *columns], after, ROWS_AT_ONCE)
            rows = RowReader(connection, stream).keyed([row[2:] for row in found]) if found else []
            yield _Page(connection, [row[0] for row in found], rows, [row[1] for row in found])
        if len(found) < ROWS_AT_ONCE:
            return
        after = str(found[-1][0])
        pace.rest()


def _named(stream: Stream, key: bytes | str) -> str:
    return f"{stream.name} {printable(key if isinstance(key, str) else key.decode(errors='replace'))}"


def _sent(site: Site, _channel: Channel, stream: Stream, pace: Pace) -> Found:
    """Find rows of ours that can't be sent and of which nothing says so."""
    for page in _pages(site, stream, pace, received=False):
        share = rollouts.read(page.connection).get(stream.name)
        sent = {place for place, row in enumerate(page.rows) if share is None or share.has(row.key)}
        bad = [page.texts[place] for place in sorted(sent & _unsound(site, stream, page.rows))]
        told = _told(page.connection, stream, bad) if bad else set()
        for text in bad:
            if text not in told:
                yield Wrong(UNSENT, site.network, _named(stream, text))


def _unsound(site: Site, stream: Stream, rows: Sequence[KeyedRow]) -> set[int]:
    """Give the places of rows that no record can have as they are."""
    checker = site.checkers[stream.name]
    bodies = {place: row.data for place, row in enumerate(rows) if row.data is not None}
    unsound = set(range(len(rows))) - bodies.keys()
    some = [*bodies.values()]
    if not checker.accepts_all(some):
        places = [*bodies]
        unsound |= {places[refused] for refused in checker.refused(some)}
    return unsound


def _told(connection: Connection, stream: Stream, texts: Collection[str]) -> set[str]:
    """Give those of some keys, as changes have them, that are pending or of which a letter speaks."""
    waiting = [DeadLetterState.PARKED, DeadLetterState.DISCARDED]
    letters = sa.select(dead_letter.c.key).where(
        dead_letter.c.stream == stream.name,
        dead_letter.c.direction == Direction.OUT,
        dead_letter.c.state.in_(waiting),
        among(connection, dead_letter.c.key, texts),
    )
    changes = sa.select(change.c.key).where(change.c.stream == stream.name, among(connection, change.c.key, texts))
    return {*connection.scalars(letters), *connection.scalars(changes)}


def _received(site: Site, channel: Channel, stream: Stream, pace: Pace) -> Found:
    """Find received rows that no record can have brought, and versions that can't be."""
    for page in _pages(site, stream, pace, received=True):
        most = version_limit.most(site, page.connection, channel)
        deletes = _deletes(page.connection, stream, [row.key for row in page.rows])
        unsound = _unsound(site, stream, page.rows)
        for place, (row, version) in enumerate(zip(page.rows, page.versions, strict=True)):
            name = _named(stream, row.key or page.texts[place])
            if place in unsound:
                yield Wrong(UNREADABLE, site.network, name)
            if (kind := _fault(version, deletes.get(row.key), most)) is not None:
                yield Wrong(kind, site.network, name)


def _fault(version: int | None, deleted: int | None, most: int) -> Kind | None:
    """Say what is wrong with a row's version, beside that of a delete of its key."""
    if version is None:
        return NOBODYS
    if version > most:
        return TOO_NEW
    return DELETED if deleted is not None and deleted >= version else None


def _deletes(connection: Connection, stream: Stream, keys: Sequence[bytes]) -> dict[bytes, int]:
    texts = [key.decode() for key in keys if key]
    found = sa.select(tombstone.c.key, tombstone.c.version).where(
        tombstone.c.stream == stream.name, among(connection, tombstone.c.key, texts)
    )
    return {key.encode(): version for key, version in connection.execute(found)}
