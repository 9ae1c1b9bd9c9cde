"""What this side asks of the other one: a snapshot or a checkpoint of a channel that it reads, told until it came.

On a one-way link nothing is asked, as nobody would ever hear it: its sender's own checkpoints and snapshots come.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.tables import RepairState, repair
from exchange.format.control import CHECKPOINT, MAX_WORDS, SNAPSHOT
from exchange.format.errors import printable
from exchange.site import Site

PATIENCE = timedelta(days=1)
"""How long an answer may take until something is asked for again."""


def ask_peer(
    site: Site,
    connection: Connection,
    *,
    channel: str,
    want: str,
    streams: Sequence[str] | None = None,
    buckets: Sequence[int] | None = None,
    prune: bool = False,
    reason: str,
    who: str,
) -> str | None:
    """Ask for a ``snapshot`` or a ``checkpoint`` of an incoming channel; give the request's name.

    None on a one-way link. ``streams`` and ``buckets`` are None for all. Who asks for the very same
    while it is open asks only once. Runs in the caller's transaction.
    """
    if site.one_way:
        return None
    asked = {
        "channel": channel,
        "want": want,
        "streams": None if streams is None else json.dumps(list(streams)),
        "buckets": None if buckets is None else json.dumps(list(buckets)),
        "prune": int(prune),
    }
    same = sa.and_(*(repair.c[name].is_not_distinct_from(value) for name, value in asked.items()))
    name: str | None = connection.scalar(sa.select(repair.c.name).where(repair.c.state == RepairState.OPEN, same))
    if name is not None:
        return name
    name = f"{channel}-{secrets.token_hex(8)}"
    words = {"reason": printable(reason, MAX_WORDS), "who": printable(who, 255)}
    connection.execute(sa.insert(repair).values(name=name, state=RepairState.OPEN, asked_at=now(), **asked, **words))
    return name


def is_ours(connection: Connection, channel: str, name: str) -> bool:
    """Say whether this side once asked for something of a channel by that name.

    Only reads, in the caller's transaction.
    """
    ours = sa.exists().where(repair.c.name == name, repair.c.channel == channel)
    return bool(connection.scalar(sa.select(ours)))


def is_snapshot_asked(connection: Connection, channel: str) -> bool:
    """Say whether a snapshot of a channel is asked for, and may still come; one that takes too long is withdrawn.

    Runs in the transaction that imports, under the channel's lock.
    """
    here = sa.and_(repair.c.state == RepairState.OPEN, repair.c.channel == channel, repair.c.want == SNAPSHOT)
    # One that was asked for ahead of now was so by a clock that was wrong: nobody knows for how long it waits.
    late = sa.and_(here, sa.or_(repair.c.asked_at < now() - PATIENCE, repair.c.asked_at > now() + clock.SKEW))
    connection.execute(sa.update(repair).where(late).values(state=RepairState.WITHDRAWN, closed_at=now()))
    return bool(connection.scalar(sa.select(sa.exists().where(here))))


def ask_again(site: Site, connection: Connection, channel: str, answered: str | None) -> None:
    """Ask for what is open of a channel once more, as its answer may be among what was passed over.

    For snapshots, but for the one that is being ``answered``, there is no need: the one that is taken has all of it.
    What it comes to a checkpoint shows. Runs in the transaction that imports, under the channel's lock.
    """
    here = sa.and_(repair.c.state == RepairState.OPEN, repair.c.channel == channel)
    others = here if answered is None else sa.and_(here, repair.c.name != answered)
    connection.execute(sa.update(repair).where(others).values(state=RepairState.WITHDRAWN, closed_at=now()))
    sentence = f"batches of {channel} were passed over, as a snapshot contains them; to see that both sides agree"
    ask_peer(site, connection, channel=channel, want=CHECKPOINT, reason=sentence, who="comparison")


def close_answered(site: Site, connection: Connection, name: str) -> None:
    """Close a request, as its answer has come. After a snapshot, a checkpoint is to show whether it helped.

    Runs in the transaction that imports, under the channel's lock.
    """
    row = connection.execute(sa.select(repair.c.channel, repair.c.want).where(repair.c.name == name)).one_or_none()
    if row is None or not _close(connection, repair.c.name == name) or row.want != SNAPSHOT:
        return
    sentence = f"a snapshot of {row.channel} came as asked; to see that both sides agree"
    ask_peer(site, connection, channel=row.channel, want=CHECKPOINT, reason=sentence, who="comparison")


def close_compared(connection: Connection, channel: str) -> None:
    """Close the requests for a checkpoint of a channel: one has come, whoever asked for it.

    Runs in the transaction that imports, under the channel's lock.
    """
    _close(connection, sa.and_(repair.c.channel == channel, repair.c.want == CHECKPOINT))


def close_unheard(connection: Connection, channel: str) -> None:
    """Close what is open of a channel on a link that became one-way: nobody hears it, and all of the rows have come.

    Runs in the transaction that imports, under the channel's lock.
    """
    _close(connection, repair.c.channel == channel)


def withdraw_asked(connection: Connection, channels: Collection[str]) -> None:
    """Withdraw what is open of channels that their sender has no more: it would be asked for with every receipt.

    Runs in the transaction that imports.
    """
    here = sa.and_(repair.c.state == RepairState.OPEN, repair.c.channel.in_(channels))
    connection.execute(sa.update(repair).where(here).values(state=RepairState.WITHDRAWN, closed_at=now()))


def withdraw_undeclared(site: Site, connection: Connection) -> None:
    """Withdraw what is open of channels and streams that this side reads no more. Runs in the caller's transaction."""
    gone = [row.id for row in connection.execute(_OPEN) if not _is_read(site, row)]
    if gone:
        withdrawing = sa.update(repair).where(repair.c.id.in_(gone))
        connection.execute(withdrawing.values(state=RepairState.WITHDRAWN, closed_at=now()))


_OPEN = sa.select(repair.c.id, repair.c.channel, repair.c.streams).where(repair.c.state == RepairState.OPEN)


def _is_read(site: Site, row: Any) -> bool:
    channel = site.channel(row.channel)
    if channel is None or channel.target != site.network:
        return False
    return row.streams is None or {stream.name for stream in channel.streams}.issuperset(json.loads(row.streams))


def _close(connection: Connection, which: sa.ColumnElement[bool]) -> int:
    closing = sa.update(repair).where(repair.c.state == RepairState.OPEN, which)
    return connection.execute(closing.values(state=RepairState.ANSWERED, closed_at=now())).rowcount
