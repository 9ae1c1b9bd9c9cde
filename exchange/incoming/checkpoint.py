"""Checkpoints as they arrive: this side's rows beside what their sender says they are at this very point.

A checkpoint has its place in the channel's sequence, so what was applied is exactly what its digests are of. This
side's rows are digested under the channel's lock, but before the transaction that writes: nobody is kept from writing
meanwhile. A difference is written down and, unless a setting says otherwise, the buckets that differ are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import positions
from exchange.database.engine import now
from exchange.database.ledger import Counts
from exchange.database.locks import reading
from exchange.database.tables import Direction, agreement
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter, letter_of
from exchange.format import record as records
from exchange.format.batch import BatchReader
from exchange.format.control import BUCKETS, DIGEST, SNAPSHOT, Digest
from exchange.format.errors import RecordError, Rejected, printable
from exchange.format.manifest import OpCounts
from exchange.format.record import Op, Record
from exchange.incoming.apply import LETTER_BYTES
from exchange.incoming.manifests import Arrival
from exchange.link import asked_requests, gaps, peer_statements
from exchange.link.vain_repairs import VainRepairs
from exchange.site import Site
from exchange.tables import bucket_digests

WHOLE_SHARE = 0.5
"""Where more of the buckets differ than this share, all of the rows are asked for."""


def own_digests(site: Site, channel: Channel) -> list[Digest]:
    """Digest this side's rows of a channel, in a transaction that only reads. Hold the channel's lock meanwhile."""
    with reading(site.engine) as connection:
        return bucket_digests.digests(connection, channel)


def compare_checkpoint(
    site: Site, connection: Connection, arrival: Arrival, data: BinaryIO, ours: Sequence[Digest]
) -> Counts:
    """Compare ``ours`` with the digests of a verified checkpoint; give how many of those counted.

    A digest that can't be meant is parked. Raises Corrupt if the batch is not what its manifest says, and Rejected if
    no end of its records is bad: then nothing of it may be committed. Runs in the transaction that imports, under the
    channel's lock.
    """
    reader = BatchReader(data, arrival.manifest, site.limits.read)
    if not arrival.channel.ordered and not _is_alone(connection, arrival):
        return Counts(stale=_count(reader))  # batches overtook it, or it them: another one will be compared
    theirs, parked = _read(site, connection, arrival, reader, {one.stream: one for one in ours})
    asked_requests.close_compared(connection, arrival.channel.name)
    asked_requests.withdraw_asked(connection, _other_shards(site, arrival.channel))
    differing = {
        mine.stream: buckets for mine, their in theirs if (buckets := _write_down(connection, arrival, mine, their))
    }
    if differing and site.repair and not site.one_way:
        _ask(site, connection, arrival.channel.name, differing)
    return Counts(applied=len(theirs), parked=parked)


def _other_shards(site: Site, channel: Channel) -> frozenset[str]:
    """Name the channels in the files that the sender has no more, as it splits the channel of a checkpoint now."""
    shard, declared = channel.shard, channel.declared
    present = {declared} if shard is None else {f"{declared}_{number}" for number in range(shard.of)}
    return site.names_in_files(declared) - present


def _count(reader: BatchReader) -> int:
    """Count the lines there are: what the manifest says of them is only a claim until they were read."""
    return sum(map(len, reader))


def _read(
    site: Site, connection: Connection, arrival: Arrival, reader: BatchReader, ours: dict[str, Digest]
) -> tuple[list[tuple[Digest, Digest]], int]:
    """Read the digests, each beside ours; what can't be one, or is of no stream that we compare, becomes a letter.

    Gives how many of those there are, too. They are written down as they come: memory holds few of them.
    """
    pairs: dict[str, tuple[Digest, Digest]] = {}
    letters: list[Letter] = []
    counted = parked = size = 0
    for number, line in _lines(reader):
        try:
            record = records.decode(line)
            if record.stream == DIGEST:
                counted += 1
            mine, their = _pair(record, ours, pairs)
            pairs[mine.stream] = (mine, their)
        except RecordError as error:
            if parked == site.limits.invalid_records:
                msg = f"more than {parked} of its records are no digests of this channel; nothing was compared"
                raise Rejected(msg) from error
            letter = letter_of(arrival.channel, arrival.manifest.schemas, line, error)
            producer = printable(arrival.manifest.producer, 200)
            letters.append(replace(letter, batch=arrival.sighting.stem, line=number, producer=producer))
            parked, size = parked + 1, size + len(line)
        if size > LETTER_BYTES:
            store.park(connection, letters, "refused on import")
            letters, size = [], 0
    reader.check_counts({DIGEST: OpCounts(counted, 0)})
    store.park(connection, letters, "refused on import")
    return list(pairs.values()), parked


def _lines(reader: BatchReader) -> Iterator[tuple[int, bytes]]:
    for lines in reader:
        yield from enumerate(lines, reader.first_line)


def _pair(record: Record, ours: Mapping[str, Digest], known: Collection[str]) -> tuple[Digest, Digest]:
    """Understand a digest, and give ours in as many buckets beside it. Raises RecordError."""
    if record.stream != DIGEST or record.op is not Op.UPSERT:
        sentence = f"a checkpoint holds upserts of {DIGEST} alone, found {record.op} of {printable(record.stream)}"
        raise RecordError("record", "/stream", sentence)
    their = Digest.parse(record.body)
    mine = ours.get(their.stream)
    if mine is None:
        sentence = f"stream {printable(their.stream)} is none that is compared here; nothing was done about it"
        raise RecordError("absurd", "/data/stream", sentence)
    if mine.stream in known:
        raise RecordError("absurd", "/data/stream", f"stream {mine.stream} is digested twice in one checkpoint")
    of = len(their.counts)
    if not of or BUCKETS % of:
        sentence = f"digests of {of} buckets: expected {BUCKETS}, or a number that divides it"
        raise RecordError("absurd", "/data/digests", sentence)
    return bucket_digests.folded(mine, of), their


def _write_down(connection: Connection, arrival: Arrival, mine: Digest, their: Digest) -> list[int]:
    """Write down how a stream compares; give the buckets that are to be repaired, as numbers of the usual ``BUCKETS``.

    Those are left that repairs did not help (``link.vain_repairs``). Where the two sides know the stream in different
    versions of its schema, only rows can be counted.
    """
    counted_only = mine.schema_version != their.schema_version
    of = len(their.counts)
    coarse = {
        number
        for number in range(of)
        if mine.counts[number] != their.counts[number]
        or (not counted_only and mine.digests[number] != their.digests[number])
    }
    buckets = [number for number in range(BUCKETS) if number % of in coarse]
    moment = now()
    known = connection.execute(sa.select(agreement).where(_here(arrival.channel.name, mine.stream))).one_or_none()
    repaired = VainRepairs(known.in_vain if known is not None else None)
    to_repair = repaired.unexplained(
        connection, arrival.channel.stream(mine.stream), coarse, (mine, their), known.repairs if known else 0
    )
    goes_on = known is not None and bool(peer_statements.buckets(known.buckets))
    values: dict[str, Any] = {
        "epoch": arrival.manifest.epoch,
        "sequence": arrival.manifest.sequence,
        "compared_at": moment,
        "sent": their.rows,
        "received": mine.rows,
        "buckets": json.dumps(buckets),
        "since": (known.since if known is not None and goes_on else moment) if buckets else None,
        "in_vain": repaired.as_text(),
    }
    if known is None:
        place = {"direction": Direction.IN, "channel": arrival.channel.name, "stream": mine.stream}
        connection.execute(sa.insert(agreement).values(**place, **values))
    else:
        if not buckets:
            values |= {"repairs": 0}
        elif not goes_on:  # what was found the last time is no longer what differs
            values |= {"repairs": 0, "found": None}
        connection.execute(sa.update(agreement).where(_here(arrival.channel.name, mine.stream)).values(**values))
    return [number for number in buckets if number % of in to_repair]


def _is_alone(connection: Connection, arrival: Arrival) -> bool:
    """Say whether all batches before this one were applied or given up, and none behind it was applied.

    What is missing is noted as soon as a later batch is applied (``gaps.record_skipped``).
    """
    channel, epoch, sequence = arrival.place
    at = positions.current_position(connection, Direction.IN, channel)
    reached = at.sequence if at is not None and at.epoch == epoch else 0
    return reached == sequence - 1 and not gaps.missing_among(connection, gaps.Flow(channel, epoch), 1, reached)


def _ask(site: Site, connection: Connection, channel: str, differing: dict[str, list[int]]) -> None:
    """Ask for the buckets that differ, of all these streams at once: so their rows come and go in one order."""
    if asked_requests.is_snapshot_asked(connection, channel):
        return
    buckets = sorted(set().union(*differing.values()))
    streams = list(differing)
    asked_requests.ask_peer(
        site,
        connection,
        channel=channel,
        want=SNAPSHOT,
        streams=streams,
        buckets=buckets if len(buckets) <= WHOLE_SHARE * BUCKETS else None,
        prune=True,
        reason=f"rows of {', '.join(streams)} are not what they are at their source",
        who="comparison",
    )
    for stream in streams:
        repaired = VainRepairs(connection.scalar(sa.select(agreement.c.in_vain).where(_here(channel, stream))))
        repaired.count_asked(differing[stream])
        counted = {"repairs": agreement.c.repairs + 1, "in_vain": repaired.as_text()}
        connection.execute(sa.update(agreement).where(_here(channel, stream)).values(counted))


def _here(channel: str, stream: str) -> sa.ColumnElement[bool]:
    return sa.and_(agreement.c.direction == Direction.IN, agreement.c.channel == channel, agreement.c.stream == stream)
