"""Control batches on their way out: receipts, a sign of life, and what this side asks for.

All of it is said anew each time, so that any of them may be lost. One is written after an import that changed
something, when a missing batch is to be asked for, and with the exports when the last one is old; never because of
control batches alone, or both sides would answer each other for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger, network, pauses, positions
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, export_lock, locked, reading
from exchange.database.tables import BatchState, Direction, RepairState, batch, position, repair
from exchange.format import control
from exchange.format import record as records
from exchange.format.batch import BatchWriter
from exchange.format.control import Heard, Heartbeat, PausedChannel, PeerRequest, Proof, Sent, Takes
from exchange.format.errors import Reason, TransientError, Verdict, printable
from exchange.format.manifest import BatchKind, Manifest
from exchange.format.names import CONTROL
from exchange.format.record import Op, Record
from exchange.link import asked_requests, epoch_adoption, gaps, known_schemas, receipts
from exchange.outgoing import resend, snapshot
from exchange.outgoing.seal import ENCODING, check_room, publish_sealed, seal_batch
from exchange.results import Imported
from exchange.site import Site

DUE_SHARE = 0.5
"""With an export a control batch goes out if the last one is older than this share of the period."""

NOBODYS = frozenset({Reason.UNTRUSTED, Reason.MISDIRECTED})
"""Why files are refused of which there is nothing to tell: they are not the other side's."""

ROOM_BYTES = 1024 * 1024
"""So much room is asked for: a disk that is too full for batches may still tell that it is."""

MOST_REQUESTS = 100
"""So many open requests are told, the oldest first."""


def after_import(site: Site, outcomes: Iterable[Imported], stopping: Callable[[], bool]) -> str | None:
    """Do what an import calls for: send again what the other side misses, and tell it what became of its batches.

    ``outcomes`` are those of the import. Gives what went wrong in a sentence: the import itself is done. Commits batch
    by batch, under the locks of their channels; raises nothing of the world.
    """
    changed = [one for one in outcomes if one.changed and one.verdict is not Verdict.BUSY]
    heard = any(one.channel == CONTROL and one.verdict is Verdict.APPLIED for one in changed)
    news = any(one.channel != CONTROL and one.reason not in NOBODYS for one in changed)
    trouble = None
    if heard:
        trouble = _trouble_of(lambda: resend.resend_due(site, stopping))
    told = try_to_publish(site) if news else _trouble_of(lambda: publish_control_batch(site) if _asks(site) else None)
    return told or trouble


def after_export(site: Site) -> str | None:
    """Give a sign of life, unless there was one just now. Gives what went wrong in a sentence.

    Commits under the lock of the channel ``control``; raises nothing of the world.
    """
    return _trouble_of(lambda: publish_control_batch(site) if _is_due(site) else None)


def try_to_publish(site: Site) -> str | None:
    """Tell the other side what a person did to a batch of it. Gives what went wrong in a sentence.

    Commits under the lock of the channel ``control``; raises nothing of the world.
    """
    return _trouble_of(lambda: publish_control_batch(site))


def _trouble_of(work: Callable[[], object]) -> str | None:
    """Do what follows on something that is done and stays so; give what went wrong."""
    try:
        with transient_errors():
            work()
    except Busy:
        pass  # whoever is at work tells what it finds; the rest goes with the next export
    except TransientError as error:
        return f"the other side was not told: {error.sentence}"
    return None


def publish_control_batch(site: Site) -> Manifest | None:
    """Write one control batch and publish it; None where nobody would ever hear it, or nothing may go out.

    Raises Busy and TransientError. Commits twice under the lock of the channel ``control``: sealed, and published.
    """
    if site.one_way and not site.outgoing():
        return None
    check_room(site, min(ROOM_BYTES, site.limits.batch_bytes))
    manifest = _seal(site)
    if manifest is not None:
        publish_sealed(site, CONTROL)
    return manifest


def _is_due(site: Site) -> bool:
    with reading(site.engine) as connection:
        last = _last_written(site, connection)
        patience = timedelta(seconds=site.limits.period_seconds * DUE_SHARE)
        moment = now()
        if last is None or not timedelta() <= moment - last < patience:
            return True
        if site.one_way:
            return False
        learned = known_schemas.newest_read(connection)
        return (learned is not None and last < learned <= moment) or gaps.became_due(site, connection, last, moment)


def _asks(site: Site) -> bool:
    """Say whether a missing batch is to be asked for, and was not yet when the last control batch was written."""
    if site.one_way:
        return False
    with reading(site.engine) as connection:
        if not gaps.missing_since(connection):
            return False
        last = _last_written(site, connection)
        return last is not None and gaps.became_due(site, connection, last, now())


def _last_written(site: Site, connection: Connection) -> datetime | None:
    """Say when the last control batch was written; None if none was, or its row is gone."""
    epoch = network.known_epoch(connection, site.network)
    at = positions.current_position(connection, Direction.OUT, CONTROL)
    if at is None or at.epoch != epoch:
        return None
    last = ledger.at_place(connection, Direction.OUT, CONTROL, at.epoch, at.sequence)
    return last.created_at if last is not None else None


def _seal(site: Site) -> Manifest | None:
    with (
        locked(site.engine, export_lock(CONTROL), isolation_level="REPEATABLE READ") as connection,
        site.spool.drafting() as draft,
    ):
        if network.halted(connection):
            return None
        moment = now()
        writer = BatchWriter(draft[0], ENCODING)
        for stream, said in _records(site, connection, moment):
            version = int(moment.timestamp() * 1_000_000)
            writer.write(records.encode(Record(stream, Op.UPSERT, version, said)), stream, Op.UPSERT)
        return seal_batch(
            site,
            connection,
            writer,
            draft,
            channel=CONTROL,
            kind=BatchKind.CONTROL,
            schemas=dict.fromkeys(writer.streams, control.VERSION),
        )


def _records(site: Site, connection: Connection, moment: datetime) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give all that there is to say: the stream of each record and its data."""
    if not site.one_way:
        for one in receipts.build_receipts(site, connection, moment):
            yield control.RECEIPT, one.as_data()
    yield control.HEARTBEAT, _heartbeat(site, connection, moment).as_data()
    if not site.one_way:
        asked_requests.withdraw_undeclared(site, connection)
        for asked in _requests(connection):
            yield control.REPAIR, asked.as_data()


# Heartbeat


def _heartbeat(site: Site, connection: Connection, moment: datetime) -> Heartbeat:
    epoch = network.open_network(connection, site.network)
    period = site.limits.period_seconds
    declared = {one.name for one in site.channels}
    return Heartbeat(
        epoch=epoch,
        period_seconds=period,
        next_expected_by=moment + timedelta(seconds=period * (1 + DUE_SHARE)),
        sent=tuple(_sent(site, connection, epoch)),
        heard=_heard(connection),
        undecided=tuple(epoch_adoption.proofs(connection)),
        takes=Takes(site.limits.read.max_records, site.limits.read.max_content_bytes),
        reads=known_schemas.read_streams(site),
        paused=tuple(
            PausedChannel(name, way.value, one.since)
            for (way, name), one in sorted(pauses.paused(connection, site.off).items())
            if name in declared
        ),
        newest_version=None if site.one_way else positions.newest_version(connection),
    )


def _sent(site: Site, connection: Connection, epoch: str) -> Iterable[Sent]:
    rows = connection.execute(_SEALED, {"epoch": epoch})
    lost = resend.with_lost_places(connection, epoch)
    present = {one.name for one in site.outgoing()}
    for row in rows.all():
        places = resend.lost_places(connection, row.channel, epoch) if row.channel in lost else ()
        gone = places and row.channel not in present
        if gone and not resend.comes_behind(connection, row.channel, epoch, places[0][0]):
            continue  # nothing comes behind the lost end of a shard that is no more: it is not spoken of any longer
        promised = snapshot.promised_from(site, connection, row.channel, epoch, places[-1][1]) if places else None
        yield Sent(row.channel, epoch, row.sequence, places, promised)


_SEALED = (
    sa.select(position.c.channel, position.c.sequence)
    .where(
        position.c.direction == Direction.OUT,
        position.c.epoch == sa.bindparam("epoch"),
        position.c.channel != CONTROL,
    )
    .order_by(position.c.channel)
    .limit(receipts.MOST_RECEIPTS)
)


def _heard(connection: Connection) -> Heard | None:
    at = positions.current_position(connection, Direction.IN, CONTROL)
    if at is None or not at.sequence:
        return None
    row = connection.execute(_HEARD, {"epoch": at.epoch, "sequence": at.sequence}).one_or_none()
    return Heard(at.epoch, at.sequence, Proof(row.manifest, row.signature) if row else None)


_HEARD = sa.select(batch.c.manifest, batch.c.signature).where(
    batch.c.direction == Direction.IN,
    batch.c.channel == CONTROL,
    batch.c.epoch == sa.bindparam("epoch"),
    batch.c.sequence == sa.bindparam("sequence"),
    batch.c.state == BatchState.APPLIED,
)


# Requests


def _requests(connection: Connection) -> Iterable[PeerRequest]:
    for row in connection.execute(_OPEN_REQUESTS):
        yield PeerRequest(
            name=row.name,
            channel=row.channel,
            want=row.want,
            streams=None if row.streams is None else tuple(json.loads(row.streams)),
            buckets=None if row.buckets is None else tuple(json.loads(row.buckets)),
            prune=bool(row.prune),
            reason=printable(row.reason, control.MAX_WORDS),
        )


_OPEN_REQUESTS = sa.select(repair).where(repair.c.state == RepairState.OPEN).order_by(repair.c.id).limit(MOST_REQUESTS)
