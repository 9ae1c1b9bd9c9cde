"""Dead letters that a later record of the same key makes pointless, found while records are loaded.

Most loads meet no letter at all: then this costs one query for each. A few letters' keys are kept in memory and
compared there; where letters are many, or records few, the database is asked for the records' keys.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.engine import among, in_parts
from exchange.database.tables import Direction, dead_letter, is_parked_with_key
from exchange.dead_letters.joining import supersede
from exchange.tables.loader.staging import Key, Rows, key_texts

FEW = 10_000
"""So many letters' keys are kept in memory."""

AT_ONCE = 10_000
"""So many records' keys are looked up together."""

Conditions = tuple[sa.ColumnElement[bool] | sa.TextClause, ...]


def supersede_sent(
    connection: Connection, stream: str, sent: sa.TableClause, refused: Collection[str], cause: str
) -> int:
    """Settle outgoing letters whose row went out after all, in the transaction of the export; give how many.

    ``sent`` has the ``stream`` and ``key`` of what was taken, of which the ``refused`` keys did not go.
    """
    letter = dead_letter.c
    waiting: Conditions = (letter.stream == stream, is_parked_with_key(dead_letter), letter.direction == Direction.OUT)
    if not _is_any(connection, waiting):
        return 0
    mine = sa.and_(sent.c.stream == letter.stream, sent.c.key == letter.key)
    found = connection.execute(sa.select(letter.id, letter.key).join(sent, mine).where(*waiting))
    return supersede(connection, [one for one, key in found if key not in refused], cause)


class _Seen(NamedTuple):
    line: int
    version: int


class SupersededLetters:
    """Watches the records of one load in the caller's transaction, and settles the letters that they supersede."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        streams: Iterable[str],
        records: int,
        *,
        but: sa.ColumnElement[bool],
    ) -> None:
        """Look which letters there are; ``records`` of ``streams`` will come, and letters that are ``but`` stay."""
        self._connection = connection
        self._but = but
        self._streams = {stream.name: stream for stream in channel.streams}
        self._known = self._find_known([name for name in streams if name in self._streams], records)
        self._seen: dict[str, dict[Key, _Seen]] = {name: {} for name in self._known}
        self._letters = array("q")
        self._lines = array("q")

    def note(self, stream: str, rows: Rows) -> bool:
        """Remember those records whose key a letter may have. True if it is time to ``look_up``."""
        if stream not in self._known:
            return False
        known = self._known[stream]
        if known is not None and known.isdisjoint(rows.keys):
            return False
        seen = self._seen[stream]
        for key, line, version in zip(rows.keys, rows.lines, rows.versions, strict=True):
            if (known is None or key in known) and (key not in seen or seen[key].version < version):
                seen[key] = _Seen(line, version)
        return len(seen) >= AT_ONCE

    def look_up(self) -> None:
        """Find the letters of the records that were remembered. The connection must be free for that."""
        letter = dead_letter.c
        for name, seen in self._seen.items():
            for some in in_parts(list(seen), AT_ONCE):
                by_text = dict(zip(key_texts(self._streams[name], some), some, strict=True))
                older = sa.select(letter.id, letter.key, letter.version).where(
                    *self._waiting(name), among(self._connection, letter.key, by_text)
                )
                for letter_id, text, version in self._connection.execute(older):
                    record = seen[by_text[text]]
                    if version is not None and version <= record.version:
                        self._letters.append(letter_id)
                        self._lines.append(record.line)
            seen.clear()

    @property
    def lines(self) -> Collection[int]:
        """The lines, as far as they were looked up, whose keys older letters have."""
        return set(self._lines)

    def settle(self, refused: Collection[int], cause: str) -> int:
        """Settle the letters whose later record is none of the ``refused`` lines; give how many."""
        self.look_up()
        ids = [one for one, line in zip(self._letters, self._lines, strict=True) if line not in refused]
        return supersede(self._connection, ids, cause)

    def _find_known(self, streams: list[str], records: int) -> dict[str, set[Key] | None]:
        """Give the keys of the letters of each stream that has some; None where they are not worth being known."""
        there = [name for name in streams if _is_any(self._connection, self._waiting(name))]
        if records <= AT_ONCE:
            return dict.fromkeys(there)
        return {name: self._keys(self._streams[name]) for name in there}

    def _keys(self, stream: Stream) -> set[Key] | None:
        texts = sa.select(dead_letter.c.key).where(*self._waiting(stream.name))
        found = list(self._connection.scalars(texts.order_by(dead_letter.c.key).limit(FEW + 1)))
        if len(found) > FEW:
            return None
        names = stream.key_names
        bodies = [orjson.loads(text) for text in found]
        # A letter may be older than the key that its stream has today, or be there because its key is none.
        return {
            tuple(body[name] for name in names)
            for body in bodies
            if isinstance(body, dict)
            and body.keys() == set(names)
            and not any(isinstance(value, dict | list) for value in body.values())
        }

    def _waiting(self, stream: str) -> Conditions:
        letter = dead_letter.c
        return (
            letter.stream == stream,
            is_parked_with_key(dead_letter),
            letter.direction == Direction.IN,
            sa.not_(self._but),
        )


def _is_any(connection: Connection, waiting: Conditions) -> bool:
    # In order, or PostgreSQL may think that reading all letters soon meets one.
    some = sa.select(dead_letter.c.key).where(*waiting).order_by(dead_letter.c.key).limit(1)
    return connection.scalar(some) is not None
