"""What a channel shall send beside changes: asked for, found when its turn comes, and finished.

Anybody may ask, the other side too: so what is asked is checked, an open request is not taken twice, and there are
never more than a few.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import ResyncState, network, resync
from exchange.database.whoami import whoami
from exchange.format.control import BUCKETS, CHECKPOINT, MAX_BUCKETS, SNAPSHOT
from exchange.format.errors import RecordError, printable
from exchange.site import Site
from exchange.tables.capture import carried

MOST_OPEN = 16
"""So many requests of one channel may be open."""

MOST_TOLD_BUCKETS = 4_096
"""More than so many are not told apart in a manifest: then all of them are sent."""

FIRST_LOAD = "first load"
"""Who asks for what was there before it was captured, as its request says."""

_OPEN = (ResyncState.ASKED, ResyncState.RUNNING)
_LONGEST_REASON = 1_000


def add_request(
    connection: Connection,
    *,
    channel: str,
    want: str,
    streams: Sequence[str] | None = None,
    buckets: Sequence[int] | None = None,
    of: int = BUCKETS,
    prune: bool = False,
    reason: str,
    who: str | None = None,
    answers: str | None = None,
    known: Mapping[str, Sequence[str]] | None = None,
) -> bool:
    """Have the ``snapshot`` or the ``checkpoint`` of a channel (as its files call it) sent by the next exports.

    Of all ``streams`` and ``buckets`` (of ``of``), unless some are named; with ``prune`` the receiver removes what is
    not in it. ``answers`` is the name of the other side's request. False, and nothing done, if that is known, or the
    same waits for its turn already. ``known`` says which streams each channel has (``known_streams``); where it is
    given, RecordError of class ``absurd`` is raised for another channel or stream, and always for too much. Runs in the
    caller's transaction.
    """
    _check(want, streams, buckets, of)
    if known is not None:
        _check_known(known, channel, streams)
    if answers is not None and connection.scalar(_IS_ANSWERED, {"answers": answers}):
        return False
    request: dict[str, Any] = {
        "channel": channel,
        "want": want,
        "streams": None if streams is None else json.dumps(sorted(set(streams))),
        "buckets": _buckets_text(buckets, of),
        "prune": int(prune and want == SNAPSHOT),
    }
    if connection.scalar(_IS_ASKED, request):
        return False
    if _count_open(connection, channel) >= MOST_OPEN:
        sentence = f"channel {channel}: {MOST_OPEN} snapshots and checkpoints are asked for already; they come first"
        raise RecordError("absurd", "/data/channel", sentence)
    moment = now()
    row = {
        **request,
        "answers": answers,
        "reason": printable(reason, _LONGEST_REASON),
        "who": printable(who or whoami(), 255),
        "state": ResyncState.ASKED,
        "created_at": moment,
        "updated_at": moment,
    }
    connection.execute(_ASK, row)
    return True


_IS_ANSWERED = sa.select(sa.exists().where(resync.c.answers == sa.bindparam("answers")))
_IS_ASKED = sa.select(
    sa.exists().where(
        resync.c.state == ResyncState.ASKED,
        *(
            resync.c[name].is_not_distinct_from(sa.bindparam(name, type_=resync.c[name].type))
            for name in ("channel", "want", "streams", "buckets", "prune")
        ),
    )
)
_ASK = sa.insert(resync)


def add_snapshot_requests(
    site: Site, channel: str, streams: Sequence[str] | None = None, *, prune: bool = False, reason: str | None = None
) -> bool:
    """Ask for a snapshot of a channel as a person calls it: of all its shards that carry one of the streams.

    False if it was asked for already. Raises RecordError for a stream that it doesn't have or if too much is asked for,
    Busy, and TransientError. Commits all of them in one transaction.
    """
    known = {name: has for name, has in known_streams(site).items() if name in site.names_in_files(channel)}
    every = {name for has in known.values() for name in has}
    for name in streams or ():
        if name not in every:
            sentence = f"channel {channel} carries no stream {printable(name, 80)}, it has {', '.join(sorted(every))}"
            raise RecordError("absurd", "/streams", sentence)
    asked = False
    with transient_errors(), writing(site.engine) as connection:
        for name, has in known.items():
            some = None if not streams else [one for one in streams if one in has]
            if some is None or some:
                because = reason or "asked for by hand"
                asked |= add_request(connection, channel=name, want=SNAPSHOT, streams=some, prune=prune, reason=because)
    return asked


def list_open_requests(site: Site) -> list[sa.Row[Any]]:
    """Give open requests, by channel and oldest first. Only reads, in its own transaction. Raises TransientError."""
    rows = sa.select(resync).where(resync.c.state.in_(_OPEN)).order_by(resync.c.channel, resync.c.id)
    with transient_errors(), reading(site.engine) as connection:
        return list(connection.execute(rows))


def count_open_requests(site: Site, channel: str) -> int:
    """Count the open requests of a channel as a person calls it. Raises TransientError.

    Only reads, in a transaction of its own.
    """
    return sum(row.channel in site.names_in_files(channel) for row in list_open_requests(site))


def request_fields(row: sa.Row[Any]) -> dict[str, Any]:
    """Give the fields of a request that scripts rely on."""
    buckets, _ = buckets_of(row)
    return {
        "channel": row.channel,
        "want": row.want,
        "streams": None if row.streams is None else json.loads(row.streams),
        "buckets": None if buckets is None else len(buckets),
        "prune": bool(row.prune),
        "state": row.state,
        "parts": row.parts,
        "records": row.records,
        "expected": row.expected,
        "asked_at": row.created_at.isoformat(),
        "who": row.who,
        "reason": row.reason,
    }


def add_due_snapshots(site: Site) -> None:
    """Ask for a whole snapshot of each channel whose last one, or whose beginning, is a set number of days ago.

    Raises Busy. Commits all of them in one transaction.
    """
    period = timedelta(days=site.limits.snapshot_days)
    with reading(site.engine) as connection:
        begun = connection.scalar(sa.select(network.c.created_at))
        last = {one.name: _last(connection, one.name) or begun or now() for one in site.outgoing()}
        due = [name for name, moment in last.items() if clock.since(moment) >= period]
    if due:
        with writing(site.engine) as connection:
            for name in due:
                add_request(
                    connection, channel=name, want=SNAPSHOT, prune=True, reason="the schedule of a one-way link"
                )


def _last(connection: Connection, channel: str) -> datetime | None:
    """Say when a whole snapshot of a channel was asked for last."""
    whole = (resync.c.want == SNAPSHOT, resync.c.streams.is_(None), resync.c.buckets.is_(None), resync.c.prune == 1)
    newest = sa.select(resync.c.created_at).where(resync.c.channel == channel, *whole).order_by(resync.c.id.desc())
    return connection.scalar(newest.limit(1))


def known_streams(site: Site) -> dict[str, tuple[str, ...]]:
    """Name the channels that this side sends, as its files call them, and of each the streams that it carries.

    Reads the declarations alone.
    """
    return {one.name: tuple(stream.name for stream in carried(one.streams, one.shard)) for one in site.outgoing()}


def next_open_request(
    connection: Connection, channel: str, but: Sequence[int] = (), *, whole: bool = False, who: str | None = None
) -> sa.Row[Any] | None:
    """Give the oldest open request of a channel, but for some, or the oldest one for a ``whole`` snapshot.

    With ``who`` only those that this one asked for.

    Only reads, in the caller's transaction.
    """
    of = {"channel": channel, "but": but} if who is None else {"channel": channel, "but": but, "who": who}
    return connection.execute(_next_open(whole=whole, by_one=who is not None), of).one_or_none()


@cache
def _next_open(*, whole: bool, by_one: bool) -> sa.Select[Any]:
    here = [
        resync.c.state.in_(_OPEN),
        resync.c.channel == sa.bindparam("channel"),
        resync.c.id.not_in(sa.bindparam("but", expanding=True)),
        *([is_whole_snapshot] if whole else []),
        *([resync.c.who == sa.bindparam("who")] if by_one else []),
    ]
    return sa.select(resync).where(*here).order_by(resync.c.id).limit(1)


is_whole_snapshot = sa.and_(resync.c.want == SNAPSHOT, resync.c.streams.is_(None), resync.c.buckets.is_(None))
"""Whether a request is for a snapshot of all rows of its channel."""


def wants_whole_snapshot(row: sa.Row[Any]) -> bool:
    """Say whether a request is for a snapshot of all rows of its channel."""
    return row.want == SNAPSHOT and row.streams is None and row.buckets is None


def channels_asked_of(connection: Connection) -> set[str]:
    """Name the channels that have open requests. Only reads, in the caller's transaction."""
    return set(connection.scalars(_ASKED_OF))


_ASKED_OF = sa.select(resync.c.channel).where(resync.c.state.in_(_OPEN)).distinct()


def reload_open_request(connection: Connection, number: int) -> sa.Row[Any] | None:
    """Give an open request as it is now; None if it was finished or called off meanwhile.

    Only reads, in the caller's transaction.
    """
    return connection.execute(_STILL_OPEN, {"number": number}).one_or_none()


_STILL_OPEN = sa.select(resync).where(resync.c.id == sa.bindparam("number"), resync.c.state.in_(_OPEN))


def update_request(connection: Connection, number: int, state: ResyncState, **values: Any) -> None:
    """Write down how far a request has come. Runs in the caller's transaction, under the channel's lock."""
    connection.execute(_UPDATE, {"of_request": number, "state": state, "updated_at": now(), **values})


_UPDATE = sa.update(resync).where(resync.c.id == sa.bindparam("of_request"))


def cancel_requests(connection: Connection, channel: str, who: str | None = None) -> None:
    """Give up all that is open of a channel, or what ``who`` asked for; the other side may ask for the same again.

    Runs in the caller's transaction.
    """
    here = sa.update(resync).where(resync.c.state.in_(_OPEN), resync.c.channel == channel)
    if who is not None:
        here = here.where(resync.c.who == who)
    connection.execute(here.values(state=ResyncState.CANCELLED, answers=None, updated_at=now()))


def buckets_of(row: sa.Row[Any]) -> tuple[tuple[int, ...] | None, int]:
    """Give the buckets of a request, None for all, and of how many they are."""
    if row.buckets is None:
        return None, BUCKETS
    said = json.loads(row.buckets)
    return tuple(said["buckets"]), said["of"]


def streams_of(row: sa.Row[Any], channel: Channel) -> tuple[str, ...]:
    """Name the streams that a request is about and that the channel has, parents first."""
    names = [stream.name for stream in carried(channel.streams, channel.shard)]
    wanted = names if row.streams is None else json.loads(row.streams)
    return tuple(name for name in names if name in wanted)


def _buckets_text(buckets: Sequence[int] | None, of: int) -> str | None:
    some = sorted(set(buckets)) if buckets is not None else None
    return None if some is None or len(some) > MOST_TOLD_BUCKETS else json.dumps({"of": of, "buckets": some})


def _count_open(connection: Connection, channel: str) -> int:
    return connection.scalar(_COUNT_OPEN, {"channel": channel}) or 0


_COUNT_OPEN = sa.select(sa.func.count()).where(resync.c.state.in_(_OPEN), resync.c.channel == sa.bindparam("channel"))


def _check(want: str, streams: Sequence[str] | None, buckets: Sequence[int] | None, of: int) -> None:
    if want not in {SNAPSHOT, CHECKPOINT}:
        raise RecordError("absurd", "/data/want", f"a {printable(want, 40)} is nothing that can be asked for")
    if not 1 <= of <= MAX_BUCKETS or (buckets is not None and not all(0 <= one < of for one in buckets)):
        raise RecordError("absurd", "/data/buckets", f"there are no such buckets of {of}")
    if streams is not None and not streams:
        raise RecordError("absurd", "/data/streams", "no stream is named, so nothing is asked for")
    if buckets is not None and not buckets:
        raise RecordError("absurd", "/data/buckets", "no bucket is named, so nothing is asked for")


def _check_known(known: Mapping[str, Sequence[str]], channel: str, streams: Sequence[str] | None) -> None:
    if channel not in known:
        raise RecordError("absurd", "/data/channel", f"this side sends no channel {printable(channel, 40)}")
    for name in streams or ():
        if name not in known[channel]:
            sentence = f"channel {channel} carries no stream {printable(name, 80)}"
            raise RecordError("absurd", "/data/streams", sentence)
