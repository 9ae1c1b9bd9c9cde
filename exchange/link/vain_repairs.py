"""Repairs that do not hold: rows of ours that differ from their source again after they were written anew.

A trigger may change them each time, or a constraint refuse them. A row that was repaired ``MOST_REPAIRS`` times in vain
is left, with what differs, until its source or our row changes or a person asks. A checkpoint tells of buckets alone,
but its digests are sums: without the rows that are left the rest of a bucket can be compared, and repaired. Where the
rest does not come to agree, the bucket is left, too, until its source changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.stream import HIDDEN, Stream
from exchange.format.buckets import HASH_BYTES, bucket_of_text, key_text, row_hash
from exchange.format.control import Digest
from exchange.format.errors import printable
from exchange.link.peer_statements import UNREADABLE
from exchange.tables.bucket_digests import RowReader

MOST_REPAIRS = 2
"""So often a row, and what else a bucket has, is repaired: where that did not help, a person has to look."""

MOST_ROWS = 100
"""So many rows of each stream are known one by one; those beyond make their buckets differ."""

MISSING, EXTRA, DIFFERENT = "missing", "extra", "different"

_LONGEST_VALUE = 200
_MOST_COLUMNS = 20
_DIGESTS = 1 << (8 * HASH_BYTES)
_GONE = "gone"

Body = Mapping[str, Any]


@dataclass(frozen=True)
class RepairedRow:
    """A row that was repaired ``repairs`` times: ``what`` was wrong with it each time, first at ``since``.

    ``theirs`` is the hash of its source's row, None where there is none or it can't be sent. ``ours`` is that of our
    row when it was left, "gone" if there is none. ``difference`` has the columns with their values there and here.
    """

    what: str
    key: Body
    repairs: int
    theirs: str | None
    since: str
    difference: Sequence[Sequence[Any]]
    ours: str | None = None

    @property
    def is_left(self) -> bool:
        """Whether it is repaired no more."""
        return self.repairs >= MOST_REPAIRS

    def shown(self, stream: Stream | None) -> dict[str, Any]:
        """Give it as a person may see it, and as scripts rely on."""
        return {
            "what": self.what,
            "key": stream.shown(self.key) if stream else dict(self.key),
            "repairs": self.repairs,
            "since": self.since,
            "difference": [{"column": name, "there": there, "here": here} for name, there, here in self.difference],
        }


class VainRepairs:
    """What was repaired of one stream and may not hold, as ``exchange_agreement`` keeps it."""

    def __init__(self, text: str | None) -> None:
        """Read it; what can't be read is as if nothing was repaired."""
        self.rows: dict[str, RepairedRow] = {}
        self._buckets: dict[int, tuple[int, str]] = {}
        self._of = 1
        try:
            said = json.loads(text or "{}")
            rows = [RepairedRow(**one) for one in said.get("rows", ())]
            self.rows = {key_text(one.key).decode(): one for one in rows}
            self._buckets = {
                int(number): (int(asked), rest) for number, (asked, rest) in said.get("buckets", {}).items()
            }
            self._of = int(said.get("of", 1))
        except UNREADABLE:
            pass

    def as_text(self) -> str | None:
        """Give what is kept."""
        if not self.rows and not self._buckets:
            return None
        rows = [vars(one) for one in self.rows.values()]
        return json.dumps({"rows": rows, "buckets": self._buckets, "of": self._of})

    def left(self) -> list[RepairedRow]:
        """Give the rows that are repaired no more."""
        return [one for one in self.rows.values() if one.is_left]

    def note(self, stream: Stream, what: str, key: bytes, bodies: tuple[Body | None, Body | None], at: str) -> None:
        """Note that a row is repaired now: its source's data and ours, None where there is none."""
        theirs, ours = bodies
        text, digest = key.decode(), None if theirs is None else row_hash(theirs).hex()
        before = self.rows.get(text)
        again = before is not None and before.theirs == digest
        if before is None and len(self.rows) >= MOST_ROWS:
            return
        self.rows[text] = RepairedRow(
            what,
            json.loads(key),
            before.repairs + 1 if before is not None and again else 1,
            digest,
            before.since if before is not None and again else at,
            _difference(stream, theirs, ours),
        )

    def unexplained(
        self,
        connection: Connection,
        stream: Stream,
        differing: Iterable[int],
        digests: tuple[Digest, Digest],
        repairs: int,
    ) -> set[int]:
        """Give those of the differing buckets that are to be repaired: what is left does not say why they differ.

        ``digests`` are ours and theirs, in as many buckets; ``repairs`` says how many there were of the stream: after
        those a bucket of which no row is known is repaired once. Only reads, in the transaction that imports.
        """
        mine, their = digests
        self._of = len(their.counts)
        differing = set(differing)
        known = {text: bucket_of_text(text.encode(), self._of) for text in self.rows}
        self.rows = {text: row for text, row in self.rows.items() if known[text] in differing}
        rests = {number: [their.counts[number], mine.counts[number], 0, 0] for number in differing}
        if mine.schema_version == their.schema_version:
            for number, rest in rests.items():
                rest[2:] = int(their.digests[number], 16), int(mine.digests[number], 16)
        self._compare_left(connection, stream)
        for text, row in self.rows.items():
            if row.is_left:
                rest = rests[known[text]]
                rest[0] -= row.what != EXTRA
                rest[1] -= row.ours != _GONE
                if mine.schema_version == their.schema_version:
                    rest[2] -= int(row.theirs or "0", 16)
                    rest[3] -= 0 if row.ours == _GONE else int(row.ours or "0", 16)
        asked, before = set(), self._buckets
        self._buckets = {}
        for number, (their_count, my_count, their_sum, my_sum) in rests.items():
            if (their_count, their_sum % _DIGESTS) == (my_count, my_sum % _DIGESTS):
                continue
            rest_text = f"{their_count}:{their_sum % _DIGESTS:x}"
            times, same = before.get(number, (0, rest_text))
            self._buckets[number] = (times if same == rest_text else 0, rest_text)
            once = repairs >= MOST_REPAIRS and number not in known.values()
            if self._buckets[number][0] < (1 if once else MOST_REPAIRS):
                asked.add(number)
        return asked

    def count_asked(self, buckets: Iterable[int]) -> None:
        """Note that buckets, as numbers of those that are usual, were asked for."""
        for number in {one % self._of for one in buckets} & self._buckets.keys():
            times, rest = self._buckets[number]
            self._buckets[number] = (times + 1, rest)

    def _compare_left(self, connection: Connection, stream: Stream) -> None:
        """Look at our rows that are left: one that agrees by now is forgotten, one that changed is repaired again."""
        left = {text: row for text, row in self.rows.items() if row.is_left}
        if not left:
            return
        here: dict[str, str] = {}
        where = have_keys(connection, stream, [row.key for row in left.values()])
        for found in RowReader(connection, stream).rows(where):
            here |= {key.decode(): "" if data is None else row_hash(data).hex() for key, data in found}
        for text, row in left.items():
            ours = here.get(text, _GONE)
            if ours == (_GONE if row.what == EXTRA else row.theirs):
                del self.rows[text]
            elif row.ours is not None and row.ours != ours:
                self.rows[text] = replace(row, repairs=0, ours=None)
            else:
                self.rows[text] = replace(row, ours=ours)


def have_keys(connection: Connection, stream: Stream, bodies: Sequence[Body]) -> sa.ColumnElement[bool]:
    """Say that a row of a stream has one of some keys, as records have them. Raises RecordError."""
    columns = [sa.type_coerce(column, sa.types.NullType()) for column in stream.key]
    keys = zip(*stream.key_decoder(connection.dialect)(bodies), strict=True)
    return sa.or_(
        *(sa.and_(*(column == _bound(value) for column, value in zip(columns, key, strict=True))) for key in keys)
    )


def _bound(value: object) -> sa.BindParameter[Any]:
    """Bind what the driver takes as it is."""
    return sa.bindparam(None, value, type_=sa.types.NullType())


def _difference(stream: Stream, theirs: Body | None, ours: Body | None) -> list[list[Any]]:
    if theirs is None or ours is None:
        return []
    names = [name for name in dict.fromkeys((*theirs, *ours)) if theirs.get(name) != ours.get(name)][:_MOST_COLUMNS]
    there, here = stream.shown(theirs), stream.shown(ours)
    return [[name, _shown(there, name), _shown(here, name)] for name in names]


def _shown(body: Body, name: str) -> str:
    if name not in body:
        return "nothing"
    return HIDDEN if body[name] == HIDDEN else printable(json.dumps(body[name], ensure_ascii=False), _LONGEST_VALUE)
