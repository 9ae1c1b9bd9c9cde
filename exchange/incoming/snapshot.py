"""Snapshots as they arrive: when all parts have come, what their sender no longer has is removed, if that is asked.

Rows that the snapshot did not bring have an older version than its records. Those are deleted like any records' rows:
children first, remembered by tombstones, hidden from capture; what other rows hold in place stays, with a dead letter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.dialects import upsert
from exchange.database.engine import among, now
from exchange.database.ledger import Counts
from exchange.database.tables import BatchState, Direction, attempt, batch, dead_letter, loading
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from exchange.format import record as records
from exchange.format.buckets import bucket_of, key_text, shard_of
from exchange.format.control import Part
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import BatchKind
from exchange.format.record import Op, Record, RecordRun
from exchange.format.strict_json import MAX_INTEGER
from exchange.incoming import delete_limit, superseding
from exchange.incoming.delete_limit import DeleteLimit
from exchange.incoming.manifests import Arrival, part_of
from exchange.link import asked_requests, peer_statements
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.gc_pause import gc_paused
from exchange.tables.loader import Loader, Refusal

MOST_KEPT = 100_000
"""So many rows may stay whose delete the database refuses; more of them refuse the batch."""

LETTERS_AT_ONCE = 5_000
"""So many dead letters are written down together."""

MOST_NAMED = 20
"""So many rows that are left in doubt are named in the batch's sentence; the sender's dead letters have all."""

MANIFESTS_AT_ONCE = 100
"""So many manifests are in memory while the parts of a snapshot are looked for."""

Key = Mapping[str, Any]


def note_progress(connection: Connection, arrival: Arrival) -> None:
    """Note how far a snapshot is with this part, as far as its sender says. In the transaction that applied it."""
    part, channel = part_of(arrival.manifest), arrival.channel.name
    if part is None or part.expected is None or part.before is None:
        return
    if part.last:
        connection.execute(sa.delete(loading).where(loading.c.channel == channel))
        return
    records = min(part.before + arrival.manifest.total, MAX_INTEGER)
    far = {"part": part.part, "records": records, "expected": part.expected, "updated_at": now()}
    again = sa.update(loading).where(loading.c.channel == channel, loading.c.name == part.name).values(far)
    if not connection.execute(again).rowcount:
        mine = attempt.c.batch == str(arrival.manifest.name)
        begun_at = connection.scalar(sa.select(attempt.c.started_at).where(mine)) or now()
        upsert(connection, loading, {"channel": channel}, {**far, "name": part.name, "begun_at": begun_at})


def finish_snapshot(site: Site, connection: Connection, arrival: Arrival, counts: Counts) -> Counts:
    """Do what the last part of a snapshot asks for, once all parts are in; give what became of records and rows.

    ``counts`` is what became of this part's records. Runs in the transaction that applied them.
    """
    last = _concluded_by(connection, arrival)
    if last is None:
        return counts
    doubts = _Doubts(connection, arrival, last)
    removed, kept = _prune(site, connection, arrival, last, doubts)
    if last.answers is not None:
        asked_requests.close_answered(site, connection, last.answers)
    if site.one_way and last.is_whole:
        asked_requests.close_unheard(connection, arrival.channel.name)
    instead = superseding.close_contained(site, connection, arrival, last)
    told = "; ".join(filter(None, (counts.told, instead, *doubts.told(arrival.channel, last.pruned))))
    return replace(counts, applied=counts.applied + removed, parked=counts.parked + kept, told=told)


def removes_too_much(site: Site, connection: Connection, arrival: Arrival) -> str | None:
    """Say that a snapshot's last part removes more rows than the settings let pass, if so.

    Only reads, in the caller's transaction.
    """
    last = _concluded_by(connection, arrival)
    if last is None:
        return None
    channel, doubts = arrival.channel, _Doubts(connection, arrival, last)
    for stream in _pruned(channel, last):
        gone, brake = 0, DeleteLimit(site, connection, channel, stream)
        for keys in _missing(connection, channel, stream, last, doubts):
            gone += len(keys)
            what = f"of what {site.peer} no longer has it removes {gone} or more"
            if sentence := brake.refusal(gone, what):
                return sentence
    return None


def _concluded_by(connection: Connection, arrival: Arrival) -> Part | None:
    """Give the last part of a snapshot if it is there with this one, and no part is missing."""
    part = part_of(arrival.manifest)
    if part is None or (arrival.channel.ordered and not part.last):
        return None
    numbers = {part.part}
    last = part if part.last else None
    if last is not None and _are_all(numbers, last):
        return last
    for _, other in _applied_parts(connection, arrival, part.name):
        numbers.add(other.part)
        last = other if other.last else last
        if last is not None and _are_all(numbers, last):
            return last
    return None


def _are_all(numbers: set[int], last: Part) -> bool:
    """Say whether each part from 1 through the last one is there; what its number says is nothing to count up to."""
    return len(numbers) >= last.part and sum(number <= last.part for number in numbers) == last.part


def _applied_parts(connection: Connection, arrival: Arrival, name: str) -> Iterator[tuple[str, Part]]:
    """Give the parts of a snapshot that are applied beside this one, each with its batch's name, the newest first."""
    channel, epoch, sequence = arrival.place
    query = (
        sa.select(batch.c.stem, batch.c.manifest)
        .where(
            batch.c.direction == Direction.IN,
            batch.c.channel == channel,
            batch.c.epoch == epoch,
            batch.c.sequence != sequence,
            batch.c.state == BatchState.APPLIED,
            batch.c.manifest.contains(BatchKind.SNAPSHOT.value),
        )
        .order_by(batch.c.sequence.desc())
    )
    with connection.execute(query, execution_options={"yield_per": MANIFESTS_AT_ONCE}) as found:
        for stem, line in found:
            part = part_in(line)
            if part is not None and part.name == name:
                yield stem, part


def part_in(line: str) -> Part | None:
    """Read which part of a snapshot an applied batch was; None if it was none, or none that counts here."""
    manifest = peer_statements.manifest(line)
    try:
        return part_of(manifest) if manifest is not None and manifest.kind is BatchKind.SNAPSHOT else None
    except RecordError:
        return None


def _pruned(channel: Channel, part: Part) -> list[Stream]:
    return [one for one in capture.carried(channel.streams, channel.shard) if one.name in part.pruned]


def _unreadable(connection: Connection, arrival: Arrival, name: str) -> Mapping[str | None, int]:
    """Count the parked records of a snapshot of which nobody can tell whose they are, by stream where that is known."""
    letter = dead_letter.c
    mine = (letter.key.is_(None), letter.direction == Direction.IN, letter.channel == arrival.channel.name)
    found = connection.execute(
        sa.select(letter.batch, letter.stream, sa.func.count().label("letters"))
        .where(*mine)
        .group_by(letter.batch, letter.stream)
    ).all()
    stems = {arrival.sighting.stem}
    if any(row.batch not in stems for row in found):
        stems |= {stem for stem, _ in _applied_parts(connection, arrival, name)}
    counts = Counter[str | None]()
    for row in found:
        counts[row.stream] += row.letters if row.batch in stems else 0
    return +counts


class _Doubts:
    """Which rows the sender has and could not send, and which of ours are left for that: they may be those."""

    def __init__(self, connection: Connection, arrival: Arrival, part: Part) -> None:
        self._unreadable = _unreadable(connection, arrival, part.name)
        self._said = {one.stream: one for one in part.doubts}
        self._keys = {one.stream: {key_text(key) for key in one.keys} for one in part.doubts}
        self._left: dict[str, list[Key]] = {}
        self._unnamed: Counter[str] = Counter()

    def unreadable(self, stream: str) -> int:
        """Count the records of the snapshot that may be of a stream, any row of it: then all of them are left."""
        return self._unreadable.get(stream, 0) + self._unreadable.get(None, 0)

    def leaves(self, stream: str, key: Key) -> bool:
        """Say whether a row is in doubt, and remember that it is left."""
        is_left = key_text(key) in self._keys.get(stream, ())
        if is_left:
            self._left.setdefault(stream, []).append(key)
        return is_left

    def note_unnamed(self, stream: str) -> None:
        """Count a row of ours that is left, as no record can have its key."""
        self._unnamed[stream] += 1

    def told(self, channel: Channel, pruned: Iterable[str]) -> Iterator[str]:
        """Say what was left, by stream, and why."""
        for stream in channel.streams:
            if stream.name in pruned and (number := self.unreadable(stream.name)):
                yield (
                    f"{stream.name}: nothing was removed, as of {number} records of the snapshot, which are dead"
                    " letters, nobody can tell whose they are"
                )
                continue
            doubt, left, unnamed = self._said.get(stream.name), self._left.get(stream.name), self._unnamed[stream.name]
            if doubt is not None and doubt.more:
                number = doubt.more + len(doubt.keys)
                yield f"{stream.name}: nothing was removed, as {number} rows could not be sent, more than can be named"
            elif left:
                some = ", ".join(printable(key_text(stream.shown(key)).decode(), 200) for key in left[:MOST_NAMED])
                more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
                yield f"{stream.name}: rows that could not be sent were left as they are: {some}{more}"
            if unnamed:
                yield f"{stream.name}: {unnamed} rows were left, as no record can have their keys"


def _prune(site: Site, connection: Connection, arrival: Arrival, part: Part, doubts: _Doubts) -> tuple[int, int]:
    """Delete what the snapshot did not bring; give how many rows went, and how many had to stay."""
    channel = arrival.channel
    with gc_paused(), Loader(connection, channel, MOST_KEPT) as loader:
        line = 0
        for stream in _pruned(channel, part):
            for keys in _missing(connection, channel, stream, part, doubts):
                numbers = range(line + 1, line + len(keys) + 1)
                run = RecordRun(stream.name, Op.DELETE, [part.version] * len(keys), [dict(key) for key in keys])
                loader.add(stream.name, loader.rows(numbers, [*map(key_text, keys)], run))
                loader.flush()  # the next keys are read over the same connection
                line = numbers[-1]
        loaded = loader.load()
        refused = {refusal.line: refusal for refusal in loaded.refusals}
        kept = loader.keys_of(refused)
        letters = [_letter(arrival, part, *kept[line], refusal) for line, refusal in refused.items() if line in kept]
        held = (_letter(arrival, part, one.stream, one.key, one.refusal) for one in loader.orphans())
        every, number = chain(letters, held), 0
        while some := list(islice(every, LETTERS_AT_ONCE)):
            store.park(connection, some, f"kept, though snapshot {part.name} does not have it")
            number += len(some)
    delete_limit.count_deletes(site, connection, arrival, loaded.deleted, {})
    return loaded.counts.applied, number


def _letter(arrival: Arrival, part: Part, stream: str, key: str, refusal: Refusal) -> Letter:
    """Describe the delete of a row that stays."""
    line = records.encode(Record(stream, Op.DELETE, part.version, orjson.loads(key))).removesuffix(b"\n")
    return Letter(
        Direction.IN,
        arrival.channel.name,
        line,
        refusal.error,
        f"the row is not in snapshot {part.name}, and is to go: {refusal.sentence}",
        pointer=refusal.pointer,
        cause=refusal.cause,
        batch=arrival.sighting.stem,
        stream=stream,
        op=Op.DELETE.value,
        key=key,
        version=part.version,
        schema_version=arrival.channel.stream(stream).schema_version,
        producer=printable(arrival.manifest.producer, 200),
    )


def _missing(
    connection: Connection, channel: Channel, stream: Stream, part: Part, doubts: _Doubts
) -> Iterator[Sequence[Key]]:
    """Give the keys of rows, some at a time, that a whole snapshot did not bring and that should be in it.

    A row is left alone if its record came and is parked, or was, or could not be sent: the sender has it. So are all
    rows of a stream of which a record can't be read so far that its key is known.
    """
    if doubts.unreadable(stream.name):
        return
    encode = stream.key_encoder(connection.dialect)
    is_meant = _meant(channel, stream, part)
    for rows in capture.older_keys(connection, stream, part.version):
        keys = []
        for row in rows:
            try:
                key = encode(row[1:])
            except RecordError:
                doubts.note_unnamed(stream.name)
                continue  # no record can speak of it
            if is_meant(key) and not doubts.leaves(stream.name, key):
                keys.append(key)
        if keys:
            texts = [key_text(key).decode() for key in keys]
            waiting = _with_letter(connection, stream, part.version, texts)
            left = [key for key, text in zip(keys, texts, strict=True) if text not in waiting]
            if left:
                yield left


def _with_letter(connection: Connection, stream: Stream, version: int, texts: Sequence[str]) -> set[str]:
    letter = dead_letter.c
    newer = (letter.stream == stream.name, letter.direction == Direction.IN, letter.version >= version)
    return set(connection.scalars(sa.select(letter.key).where(*newer, among(connection, letter.key, texts))))


def _meant(channel: Channel, stream: Stream, part: Part) -> Callable[[Key], bool]:
    """Make the function that says whether a key is in the buckets and in the shard that a snapshot is of."""
    buckets = None if part.buckets is None else frozenset(part.buckets)
    shard = channel.shard if channel.shard is not None and stream.name in channel.shard.split else None

    def is_meant(key: Key) -> bool:
        if buckets is not None and bucket_of(key, part.of) not in buckets:
            return False
        return shard is None or (_hashed_alike(key, stream) and shard_of(key_text(key), shard.of) == shard.number)

    return is_meant


_DIGITS = re.compile("[0-9a-f]{32}")


def _hashed_alike(key: Key, stream: Stream) -> bool:
    """Say whether the sender's database surely finds the same shard for a key as we do, whichever that is."""
    for name, column in zip(stream.key_names, stream.key, strict=True):
        value, kind = key[name], column.type.python_type
        plain = kind in {int, UUID} or (kind is str and '"' not in value and not _DIGITS.fullmatch(value))
        if not plain:
            return False
    return True
