"""The database: reached, at this version, with every table and trigger, and what its rows say of both sides' set-up."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sa

from exchange.channels.channel import Channel, rollout_cautions
from exchange.database import clock, encodings, ledger, locks, positions, rollouts, sessions
from exchange.database.tables import Direction, ResyncState, batch, folded, resync
from exchange.format.control import SNAPSHOT
from exchange.format.names import CONTROL
from exchange.link import known_schemas, peer_statements
from exchange.operating.doctor import quick
from exchange.operating.doctor.columns import check_columns
from exchange.operating.doctor.doubts import check_doubts
from exchange.operating.doctor.finding import (
    DatabaseCheck,
    Findings,
    Level,
    of_problem,
    ok,
    warning,
)
from exchange.operating.doctor.leavings import (
    check_arrivals,
    check_paused_files,
    check_pending,
    check_strangers,
    check_strays,
)
from exchange.operating.doctor.watch import check_told
from exchange.operating.doctor.writes import check_sequences, check_writes
from exchange.outgoing import rollout
from exchange.outgoing.first_load import never_sent
from exchange.people.proposals import read_proposals
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture

UNCONFIRMED = timedelta(hours=1)
"""What has waited so long for a second person is worth a warning."""

MANY_ROWS = 1_000_000
"""Where more than so many records were sent, rows are not counted to find out whether some were not."""


def check_database(settings: Settings, site: Site, *, work: bool = True) -> Findings:
    """Look at the database and, unless ``work`` is false, at the work in it."""
    return quick.look(settings, site, _TABLES + (_WORK if work else ()))


def _encoding(_settings: Settings, site: Site) -> Findings:
    with locks.reading(site.engine) as connection:
        narrow, problem = encodings.narrow_encoding(connection), encodings.problem(connection)
    if problem is not None:
        yield of_problem("encoding", problem)
    elif narrow is not None:
        yield ok("encoding", f"{narrow.name}: records with characters that it lacks are parked")


def _sessions(_settings: Settings, site: Site) -> Findings:
    tables = [stream.table.name for channel in site.channels for stream in channel.streams]
    with locks.reading(site.engine) as connection:
        holding = sessions.long_holders(connection, tables)
    for problem in holding:
        yield of_problem("sessions", problem)
    if not holding:
        yield ok("sessions", "nobody else has held a lock on an exchanged table for long")


def _schemas(_settings: Settings, site: Site) -> Findings:
    """Find models that changed under their schema version, and streams that the other side reads in another one."""
    with locks.reading(site.engine) as connection:
        changed = {
            (direction, stream): problem
            for direction in Direction
            for stream, problem in known_schemas.changed_schemas(site, connection, direction).items()
        }
        unlike = [
            *known_schemas.unread_streams(site, connection).values(),
            *known_schemas.unlike_streams(site, connection),
        ]
    for (_, stream), problem in changed.items():
        yield of_problem("schemas", problem, Level.FAULT, subject=stream)
    for problem in unlike:
        yield of_problem("schemas", problem)
    if not changed and not unlike:
        yield ok("schemas", "each stream's model is that of its schema version")


def _rollouts(_settings: Settings, site: Site) -> Findings:
    """Say how far rollouts are, what can't go on as it is declared, and whose rows may come without their parents."""
    with locks.reading(site.engine) as connection:
        refused = rollout.refusals(site, connection)
        told = [(stream, said) for _, stream, _, said in rollout.told(site, connection)]
    for name, problem in refused.items():
        yield of_problem("rollout", problem, subject=name)
    for stream, said in told:
        if stream.name not in refused:
            yield ok("rollout", said, subject=stream.name)
    for problem in rollout_cautions(site.channels, site.network):
        yield of_problem("rollout", problem)


def _first_start(_settings: Settings, site: Site) -> Findings:
    """Find channels whose tables have more rows than were ever sent or wait to be: those were there before capture."""
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            if channel.source != site.network:
                continue
            readable = all(capture.is_readable(connection, one) for one in channel.streams)
            if readable and (names := never_sent(site, connection, channel)):
                if not site.first_load:
                    yield warning(
                        "first start",
                        f"channel {channel.name}: the rows that {', '.join(names)} had before changes were captured"
                        f" were never sent to {site.peer}, as EXCHANGE_FIRST_LOAD is never",
                        f"run `exchange resync {channel.name}`, which sends whole tables",
                        command=f"exchange resync {channel.name}",
                    )
            elif rows := _never_sent(site, connection, channel):
                yield warning(
                    "first start",
                    f"channel {channel.name}: {rows} or more rows were there before changes were captured, and were"
                    f" never sent to {site.peer}",
                    f"run `exchange resync {channel.name}`, which sends whole tables",
                    command=f"exchange resync {channel.name}",
                )


def _never_sent(site: Site, connection: sa.Connection, channel: Channel) -> int:
    """Say by how many, at least, the rows of a channel outnumber records sent and changes pending; 0: unknown."""
    names = site.names_in_files(channel.name)  # by whichever shards it was sent before
    whole = (resync.c.want == SNAPSHOT, resync.c.streams.is_(None), resync.c.buckets.is_(None))
    asked = sa.exists().where(resync.c.channel.in_(names), resync.c.state != ResyncState.CANCELLED, *whole)
    if connection.scalar(sa.select(asked)) or not rollouts.read(connection).keys().isdisjoint(
        one.name for one in channel.streams
    ):
        return 0
    mine = (batch.c.direction == Direction.OUT, batch.c.channel.in_(names))
    sent = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(batch.c.records), 0)).where(*mine)) or 0
    old = (folded.c.direction == Direction.OUT, folded.c.channel.in_(names))
    sent += connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(folded.c.records), 0)).where(*old)) or 0
    if sent > MANY_ROWS:
        return 0
    known = int(sent) + capture.pending(connection, channel.streams, MANY_ROWS)
    rows = 0
    for stream in channel.streams:
        if not capture.is_readable(connection, stream):
            continue
        some = sa.select(sa.literal(1)).select_from(stream.table).limit(known - rows + 1)
        rows += connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0
        if rows > known:
            return 0 if _came_by_another(site, connection, names, channel) else rows - known
    return 0


def _came_by_another(site: Site, connection: sa.Connection, names: Collection[str], channel: Channel) -> bool:
    """Say whether a stream of a channel was sent by another one before: how many of its records is not known.

    Of a channel that is declared no more, and whose batches were folded, anything may be.
    """
    named = (batch.c.manifest.contains(f'"{stream.name}":', autoescape=True) for stream in channel.streams)
    others = (batch.c.direction == Direction.OUT, batch.c.channel.not_in(names))
    declared = {CONTROL, *(one.name for one in site.outgoing())}
    old = (folded.c.direction == Direction.OUT, folded.c.channel.not_in(declared | set(names)))
    return bool(
        connection.scalar(sa.select(sa.or_(sa.exists().where(*others, sa.or_(*named)), sa.exists().where(*old))))
    )


def _proposals(_settings: Settings, site: Site) -> Findings:
    """Find what has waited for a second person for a while."""
    with locks.reading(site.engine) as connection:
        waiting = read_proposals(connection, limit=1000)
    if not waiting:
        return
    oldest = waiting[-1]
    said = f"{len(waiting)} wait for a second person, the oldest is number {oldest.id}: {oldest}"
    if clock.since(oldest.at) < UNCONFIRMED:
        yield ok("proposals", said)
        return
    yield warning(
        "proposals",
        said,
        "have another person look at it and confirm or withdraw it",
        command=f"exchange proposals show {oldest.id}",
        since=oldest.at,
    )


def _shards(_settings: Settings, site: Site) -> Findings:
    """Compare how many shards the peer's latest batch of each channel says with what this side declares."""
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            if channel.target != site.network:
                continue
            names = site.names_in_files(channel.name)
            latest = max(
                (entry for name in names if (entry := _latest(connection, name)) is not None),
                key=lambda entry: entry.id,
                default=None,
            )
            claim = peer_statements.manifest(latest.manifest) if latest else None
            theirs = claim.shards if claim else channel.shards
            if theirs != channel.shards:
                yield warning(
                    "shards",
                    f"{site.peer} sends channel {channel.name} in {theirs} shards, and this side declares"
                    f" {channel.shards}: all is applied, but one after the other",
                    f"declare shards={theirs} here too, if several workers are to share it",
                )


def _latest(connection: sa.Connection, channel: str) -> ledger.Entry | None:
    at = positions.current_position(connection, Direction.IN, channel)
    return None if at is None else ledger.at_place(connection, Direction.IN, channel, at.epoch, at.sequence)


_TABLES: tuple[tuple[str, DatabaseCheck], ...] = (
    *quick.TABLES,
    ("writes", check_writes),
    ("sequences", check_sequences),
    ("encoding", _encoding),
    ("sessions", _sessions),
    ("columns", check_columns),
    ("schemas", _schemas),
    ("shards", _shards),
)

_WORK: tuple[tuple[str, DatabaseCheck], ...] = (
    *quick.WORK,
    ("rollout", _rollouts),
    ("first start", _first_start),
    ("agreement", check_doubts),
    ("arrivals", check_arrivals),
    ("pending", check_pending),
    ("paused", check_paused_files),
    ("strays", check_strays),
    ("strangers", check_strangers),
    ("proposals", _proposals),
    ("watch", check_told),
)
