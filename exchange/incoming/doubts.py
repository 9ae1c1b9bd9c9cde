"""Rows in doubt: rows of ours that a snapshot left unpruned, as its sender has them, or may, and could not send them.

Nothing of them is written down: the manifests of applied snapshots name them, and a row is in doubt for as long as it
is older than the snapshot that named it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.stream import Stream
from exchange.database.tables import VERSION_COLUMN, BatchState, Direction, batch
from exchange.format.errors import RecordError
from exchange.incoming.snapshot import part_in
from exchange.link.vain_repairs import have_keys
from exchange.site import Site

MOST_SNAPSHOTS = 100
"""So many of the newest snapshots that named rows are looked at."""


@dataclass(frozen=True)
class RowsInDoubt:
    """Rows of a stream that a snapshot left, by their keys as people may see them; ``batch`` is its last part."""

    channel: str
    stream: str
    keys: tuple[dict[str, Any], ...]
    batch: str
    since: datetime


def rows_in_doubt(site: Site, connection: Connection) -> Iterator[RowsInDoubt]:
    """Give the rows that are in doubt, by stream and by the newest snapshot that named them.

    Only reads, in the caller's transaction.
    """
    query = (
        sa.select(batch.c.channel, batch.c.stem, batch.c.manifest, batch.c.created_at)
        .where(
            batch.c.direction == Direction.IN,
            batch.c.state == BatchState.APPLIED,
            batch.c.manifest.contains('"doubts":[{'),
        )
        .order_by(batch.c.id.desc())
        .limit(MOST_SNAPSHOTS)
    )
    seen: set[tuple[str, str]] = set()
    for row in connection.execute(query).all():
        channel, part = site.channel(row.channel), part_in(row.manifest)
        if channel is None or part is None:
            continue
        streams = {stream.name: stream for stream in channel.streams}
        for doubt in part.doubts:
            stream = streams.get(doubt.stream)
            if stream is None or (row.channel, doubt.stream) in seen:
                continue
            seen.add((row.channel, doubt.stream))
            if doubt.keys and (left := _older(connection, stream, doubt.keys, part.version)):
                keys = tuple(stream.shown(key) for key in left)
                yield RowsInDoubt(row.channel, doubt.stream, keys, row.stem, row.created_at)


def _older(connection: Connection, stream: Stream, keys: Sequence[Any], version: int) -> list[dict[str, Any]]:
    """Give the keys of those rows that are here and that no record of a version or a later one wrote."""
    written: sa.ColumnElement[int] = sa.literal_column(connection.dialect.identifier_preparer.quote(VERSION_COLUMN))
    columns = [stream.codecs[column.name].selected(connection.dialect) for column in stream.key]
    encode = stream.key_encoder(connection.dialect)
    try:
        here = have_keys(connection, stream, keys)
    except RecordError:
        return []
    found = connection.execute(
        sa.select(*columns).select_from(stream.table).where(here, sa.or_(written.is_(None), written < version))
    )
    return [encode(tuple(row)) for row in found]
