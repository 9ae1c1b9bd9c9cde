"""The ledger by the page, newest first: whatever is asked, only what an index leads to is read.

Batches of one state, direction and channel lie in an index by when they were written down; a page is merged from the
newest of each. A reason, a trace and the beginning of a name have indexes of their own. What none leads to is looked
for among a bounded number of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.dialects import begins_with, by_bytes
from exchange.database.page_count import COUNTED, Count, counted
from exchange.database.states import WORRYING
from exchange.database.tables import BatchState, Direction, batch, batch_count
from exchange.dead_letters.order import Cursor, Order
from exchange.format.as_dict import AsDict
from exchange.format.names import CONTROL
from exchange.site import Site

LOOKED_AT = 5_000
"""Among how many batches a page looks for what no index leads to."""

_UNCONFIRMABLE = "unconfirmable"
_NEWEST = Order()


@dataclass(frozen=True)
class BatchFilters(AsDict):
    """A batch is meant if everything that is given is true of it.

    ``channel`` is its declared name, or that of a shard; ``since`` and ``until`` are about when this side wrote it down
    first, ``since`` included; ``stem`` is its name or how that begins; ``trace`` the trace of its manifest, or the id
    in it; ``reason`` why it waits, is held or was refused; ``key`` the key that signed it, of those that came.
    """

    channel: str | None = None
    direction: Direction | None = None
    state: BatchState | None = None
    since: datetime | None = None
    until: datetime | None = None
    stem: str | None = None
    trace: str | None = None
    reason: str | None = None
    key: str | None = None

    def of_time(self, rows: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write when they were written down."""
        said = [] if self.since is None else [rows.c.created_at >= self.since]
        return said if self.until is None else [*said, rows.c.created_at < self.until]


@dataclass(frozen=True)
class BatchRow(AsDict):
    """A batch of the ledger as people list it. ``id`` is its number in the ledger."""

    batch: str
    direction: Direction
    channel: str
    epoch: str
    sequence: int
    state: BatchState
    reason: str | None
    message: str | None
    records: ledger.Counts
    total: int
    bytes: int
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None
    erased_at: datetime | None
    shown_state: str
    """The state as people see it: what is published on a one-way link is ``unconfirmable``."""
    id: int
    attempt: int
    trace: str | None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        shown = super().as_dict()
        state = shown.pop("shown_state")
        return shown | {"state": state}


@dataclass(frozen=True)
class BatchPage(AsDict):
    """Some batches in order.

    ``after`` is the id of the batch after which the next page begins, None if this is the last. ``cut`` says that the
    page is not full and yet not the last: so many batches were looked at for it as may be.
    """

    batches: tuple[BatchRow, ...]
    after: int | None
    count: Count
    cut: bool = False


class _Place(NamedTuple):
    created_at: datetime
    id: int
    stem: str

    @property
    def in_time(self) -> Cursor:
        return Cursor(self.created_at, self.id)


class _Found(NamedTuple):
    rows: list[sa.Row[Any]]
    counted: Count
    end: int | None = None
    """The id of the last batch that was looked at, where there may be more behind it."""


_SHOWN = [
    batch.c[name]
    for name in (
        *("id", "stem", "direction", "channel", "epoch", "sequence", "state", "reason", "message", "attempt", "trace"),
        *("applied", "duplicate", "stale", "parked", "records", "bytes"),
        *("created_at", "updated_at", "published_at", "erased_at"),
    )
]
_SEEN = [*_SHOWN, batch.c.signature]


def page(
    site: Site, connection: Connection, filters: BatchFilters, *, after: int | None = None, limit: int = 50
) -> BatchPage | None:
    """Give the batches that ``filters`` mean, at most ``limit`` of those behind the one with the id ``after``.

    They come newest first; those of whose name the beginning is given in the order of names, backwards. Control
    batches, of which there is one every few minutes, are given only if they are asked for or somebody's worry. None if
    there is no batch ``after`` any more. Reads in the caller's transaction.
    """
    place = _place(connection, after) if after is not None else None
    if after is not None and place is None:
        return None
    names = None if filters.channel is None else site.names_in_files(filters.channel)
    query = _Query(connection, filters, names, place, limit + 1)
    found = query.found()
    rows = [row_of(site, row) for row in found.rows[:limit]]
    if len(found.rows) > limit:
        return BatchPage(tuple(rows), rows[-1].id, found.counted)
    return BatchPage(tuple(rows), found.end, found.counted, cut=found.end is not None)


def newest(site: Site, connection: Connection, filters: BatchFilters, *, limit: int = 50) -> list[BatchRow]:
    """Give the first batches that ``filters`` mean, however many have to be looked at for it."""
    found: list[BatchRow] = []
    after: int | None = None
    while True:
        here = page(site, connection, filters, after=after, limit=limit - len(found))
        assert here is not None  # in one transaction, of which PostgreSQL and SQLite keep what was read
        found += here.batches
        after = here.after
        if after is None or len(found) >= limit:
            return found


def of_stem(site: Site, connection: Connection, stem: str) -> list[BatchRow]:
    """Give the newest rows of a batch's name, both ways and in any state, newest first."""
    rows = sa.select(*_SHOWN).where(batch.c.stem == stem).order_by(batch.c.id.desc()).limit(ledger.MAX_ROWS)
    return [row_of(site, row) for row in connection.execute(rows)]


def row_of(site: Site, row: Any) -> BatchRow:
    """Give a batch as people list it, of a row that has its columns."""
    never_acknowledged = site.one_way and (row.direction, row.state) == (Direction.OUT, BatchState.PUBLISHED)
    return BatchRow(
        batch=row.stem,
        direction=Direction(row.direction),
        channel=row.channel,
        epoch=row.epoch,
        sequence=row.sequence,
        state=BatchState(row.state),
        reason=row.reason,
        message=row.message,
        records=ledger.Counts(row.applied, row.duplicate, row.stale, row.parked),
        total=row.records,
        bytes=row.bytes,
        created_at=row.created_at,
        updated_at=row.updated_at,
        published_at=row.published_at,
        erased_at=row.erased_at,
        shown_state=_UNCONFIRMABLE if never_acknowledged else row.state,
        id=row.id,
        attempt=row.attempt,
        trace=row.trace,
    )


def _place(connection: Connection, batch_id: int) -> _Place | None:
    row = connection.execute(
        sa.select(batch.c.created_at, batch.c.id, batch.c.stem).where(batch.c.id == batch_id)
    ).one_or_none()
    return _Place(*row) if row else None


@dataclass(frozen=True)
class _Query:
    """One look at the ledger: what is meant, the place behind which it begins, and how many rows are wanted."""

    connection: Connection
    filters: BatchFilters
    names: Collection[str] | None
    place: _Place | None
    limit: int

    def found(self) -> _Found:
        """Look where an index leads to most of what is meant."""
        asked, place = self.filters, self.place
        if asked.trace is not None:
            return self._of_trace(asked.trace)
        if asked.stem:
            name = by_bytes(self.connection, batch.c.stem)
            behind = [] if place is None else [sa.tuple_(name, batch.c.id) < sa.tuple_(place.stem, place.id)]
            begins = begins_with(self.connection, batch.c.stem, asked.stem)
            return self._in_order([*begins], behind, self._by_name, "stem")
        if asked.reason is not None:
            here = [batch.c.reason == asked.reason, *self.filters.of_time(batch)]
            return self._in_order(here, self._behind_in_time(batch), _NEWEST.columns, "reason", "since", "until")
        if asked.key is not None:
            behind = [] if place is None else [batch.c.id < place.id]
            return self._in_order([], behind, lambda rows: [rows.c.id.desc()])
        return self._merged()

    def _by_name(self, rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
        return [by_bytes(self.connection, rows.c.stem).desc(), rows.c.id.desc()]

    # What is said of a batch

    def _from_here(self, last: Cursor | None = None) -> list[sa.ColumnElement[bool]]:
        """Write the time that is meant, behind the page before and not behind ``last``.

        Of two bounds a database takes either to begin and end at in an index: only the nearer one is said.
        """
        since, until = self.filters.since if last is None else last.created_at, self.filters.until
        nearer = self.place is not None and (until is None or self.place.created_at < until)
        time = replace(self.filters, since=since, until=None if nearer else until).of_time(batch)
        behind, before = self._behind_in_time(batch), _NEWEST.before(last, batch)
        here = [batch.c.created_at <= self.place.created_at] if self.place is not None and nearer else []
        return [*time, *here, *behind, *before]

    def _behind_in_time(self, rows: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        return _NEWEST.behind(self.place.in_time if self.place else None, rows)

    def _of_group(self, rows: sa.FromClause, state: str = "state") -> list[sa.ColumnElement[bool]]:
        """Say what an index has batches by: which are told apart by what ``exchange_batch_count`` counts."""
        asked = self.filters
        said: list[sa.ColumnElement[bool]] = [] if self.names is None else [rows.c.channel.in_(self.names)]
        if asked.direction is not None or asked.key is not None:
            said.append(rows.c.direction == (asked.direction or Direction.IN))
        return said if asked.state is None else [*said, rows.c[state] == asked.state]

    def _all(self, rows: sa.FromClause, *but: str) -> list[sa.ColumnElement[bool]]:
        """Say everything, but for what an index has led to by then."""
        left = replace(self.filters, **dict.fromkeys(but))
        said = [*self._of_group(rows), *left.of_time(rows)]
        if left.key is not None:
            said.append(ledger.signed_by(left.key, rows))
            said += [] if self.names else [_no_routine(rows, "state")]
        said += [] if left.reason is None else [rows.c.reason == left.reason]
        if left.stem is not None:
            said.append(sa.func.substr(rows.c.stem, 1, len(left.stem)) == left.stem)
        return said

    # Where they are found

    def _of_trace(self, trace: str) -> _Found:
        """Look through the batches of one trace, which are few: all that came of one commit or call."""
        parent = trace if "-" in trace else f"00-{trace}-"
        begins = begins_with(self.connection, batch.c.trace, parent)
        same = sa.select(*_SEEN).where(batch.c.trace.is_not(None), *begins).limit(LOOKED_AT).cte("same")
        said = self._all(same, "trace")
        rows = sa.select(same).where(*said, *self._behind_in_time(same)).order_by(*_NEWEST.columns(same))
        number = self.connection.scalar(sa.select(sa.func.count()).select_from(same).where(*said)) or 0
        return _Found(list(self.connection.execute(rows.limit(self.limit))), Count(number, number < LOOKED_AT))

    def _in_order(
        self,
        here: list[sa.ColumnElement[bool]],
        behind: list[sa.ColumnElement[bool]],
        order: Callable[[sa.FromClause], list[sa.ColumnElement[Any]]],
        *led_by: str,
    ) -> _Found:
        """Take batches as an index has them, and leave out those that are not meant."""
        ordered = sa.select(*_SEEN).where(*here, *behind).order_by(*order(batch))
        if not self._all(batch, *led_by):
            rows = list(self.connection.execute(ordered.limit(self.limit)))
            return _Found(rows, counted(self.connection, sa.select(batch.c.id).where(*here).order_by(*order(batch))))
        looked = ordered.limit(LOOKED_AT).subquery("looked")
        meant = sa.select(looked).where(*self._all(looked, *led_by)).order_by(*order(looked)).limit(self.limit)
        rows = list(self.connection.execute(meant))
        if len(rows) == self.limit:
            return _Found(rows, Count(len(rows), exact=False))
        end = self.connection.scalar(ordered.with_only_columns(batch.c.id).offset(LOOKED_AT - 1).limit(1))
        return _Found(rows, Count(len(rows), exact=end is None and self.place is None), end)

    def _merged(self) -> _Found:
        """Take the newest of each state, direction and channel, beginning with the one that has the very newest."""
        groups = self.groups()
        found: list[sa.Row[Any]] = []
        last: Cursor | None = None
        for group in groups:
            if last is not None and group.first < last:
                break
            rows = (
                sa.select(*_SHOWN)
                .where(*_in_group(group), *self._from_here(last))
                .order_by(*_NEWEST.columns(batch))
                .limit(self.limit)
            )
            found = sorted([*found, *self.connection.execute(rows)], key=_cursor, reverse=True)[: self.limit]
            last = _cursor(found[-1]) if len(found) == self.limit else None
        return _Found(found, self._count(groups))

    def groups(self) -> list[_Group]:
        """Give the groups that have batches which are meant, by the newest of each."""
        there = self._counts().cte("groups_there").prefix_with("MATERIALIZED")
        names = (("state", "outcome"), ("direction", "direction"), ("channel", "channel"))
        same = [batch.c[mine] == there.c[counts] for mine, counts in names]
        first = (
            sa.select(batch.c.id)
            .where(*same, *self._from_here())
            .order_by(*_NEWEST.columns(batch))
            .limit(1)
            .correlate(there)
            .scalar_subquery()
        )
        groups = sa.select(there, first.label("first")).cte("groups_with_first").prefix_with("MATERIALIZED")
        rows = self.connection.execute(
            sa.select(*(groups.c[counts] for _, counts in names), batch.c.created_at, batch.c.id)
            .join(batch, batch.c.id == groups.c.first)
            .order_by(*_NEWEST.columns(batch))
        )
        return [_Group(*row[:3], Cursor(row.created_at, row.id)) for row in rows]

    def _counts(self) -> sa.Select[Any]:
        """Select the groups there are by what triggers count."""
        place = (batch_count.c.outcome, batch_count.c.direction, batch_count.c.channel)
        number = sa.func.sum(batch_count.c.standing)
        said = [*self._of_group(batch_count, "outcome"), *([] if self.names else [_no_routine(batch_count, "outcome")])]
        return sa.select(*place, number.label("number")).where(*said).group_by(*place).having(number > 0)

    def _count(self, groups: list[_Group]) -> Count:
        if self.filters.since is None and self.filters.until is None:
            kept = self._counts().subquery()
            return Count(int(self.connection.scalar(sa.select(sa.func.sum(kept.c.number))) or 0), exact=True)
        if self.place is not None:  # groups that end before this page are counted, too
            groups = replace(self, place=None).groups()
        number = 0
        for group in groups:
            here = sa.select(batch.c.id).where(*_in_group(group), *self.filters.of_time(batch))
            more = counted(self.connection, here.order_by(*_NEWEST.columns(batch)), COUNTED - number)
            number += more.number
            if not more.exact:
                return Count(number, exact=False)
        return Count(number, exact=True)


class _Group(NamedTuple):
    state: str
    direction: str
    channel: str
    first: Cursor


def _in_group(group: _Group) -> list[sa.ColumnElement[bool]]:
    return [
        batch.c.state == group.state,
        batch.c.direction == group.direction,
        batch.c.channel == group.channel,
    ]


def _no_routine(rows: sa.FromClause, state: str) -> sa.ColumnElement[bool]:
    return sa.or_(rows.c.channel != CONTROL, rows.c[state].in_(WORRYING))


def _cursor(row: Any) -> Cursor:
    return Cursor(row.created_at, row.id)
