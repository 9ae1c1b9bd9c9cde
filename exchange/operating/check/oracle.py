"""The oracle: with both sides' databases and folders at hand, whatever is not as it is promised.

For tests, yours too: let both sides come to rest, then ask. Every row of a source is over there as it is here, or a
dead letter or a batch that waits for a person says why not; no batch took effect twice; no version went back; no folder
has a stray file. Only reads; what it gives is a list, empty if all is well, and nothing is raised for what it finds.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database import ledger, rollouts, tables
from exchange.database.locks import reading
from exchange.database.tables import (
    VERSION_COLUMN,
    BatchState,
    DeadLetterState,
    Direction,
    GapState,
    RepairState,
    ResyncState,
    agreement,
    batch,
    dead_letter,
    gap,
    tombstone,
)
from exchange.format import record as records
from exchange.format.batch import BatchReader
from exchange.format.buckets import key_text, row_hash
from exchange.format.errors import BatchError, RecordError, printable
from exchange.format.manifest import Manifest
from exchange.format.names import CONTROL, BatchName, data_name
from exchange.link.vain_repairs import VainRepairs
from exchange.operating.check.files import check_files
from exchange.operating.check.ledger import check_ledger
from exchange.operating.check.wrong import Kind, Wrong
from exchange.site import Site
from exchange.tables import capture
from exchange.tables.bucket_digests import RowReader

_LOOK = "nothing explains it: look at both sides"

MISSING = Kind("rows", "a row of the source is not there, and nothing says why", _LOOK)
DIFFERENT = Kind("rows", "a row is not as its source has it, and nothing says why", _LOOK)
EXTRA = Kind("rows", "a row is there that its source does not have, and nothing says why", _LOOK)
BACK = Kind("versions", "a version went back", _LOOK)
BOTH = Kind("versions", "a row stands beside a delete that is newer", _LOOK)
OTHER = Kind("ledger", "a batch was applied that is another one where it was sealed", _LOOK)
NEVER_SEALED = Kind("ledger", "a batch was applied that was never sealed", _LOOK)
UNSETTLED = Kind("rest", "something is still to come", "let both sides work on")
LEFT = Kind("files", "a file was left where nothing may stay", _LOOK)

_GIVEN_BY_A_PERSON = (BatchState.HELD, BatchState.QUARANTINED, BatchState.REJECTED, BatchState.DISCARDED)
"""States in which a batch that came explains that its records did not take effect."""


class _Versions(NamedTuple):
    """The versions on the receiving side, by key: of the rows that are there (0: of none), and of deletes."""

    rows: dict[bytes, int]
    deletes: dict[bytes, int]

    def of(self, key: bytes) -> int:
        """Give the newest that is known of a key; 0 if nothing is."""
        return max(self.rows.get(key, 0), self.deletes.get(key, 0))


class Oracle:
    """Looks at both sides. Made once for a link, it remembers the versions that ``watch`` saw."""

    def __init__(self, one: Site, other: Site, *, both_ways: bool = True) -> None:
        """Take both sides; nothing is read yet. Not ``both_ways``: files go from ``one`` to ``other`` alone."""
        self.sites = (one, other)
        self._ways = ((one, other), (other, one)) if both_ways else ((one, other),)
        self._seen: dict[tuple[str, str], _Versions] = {}
        self._back: list[Wrong] = []

    def watch(self) -> list[Wrong]:
        """See that no version went back since the last time; ask it as often as you like."""
        found = []
        for source, target in self._ways:
            with reading(target.engine) as connection:
                for stream in _received(source, target):
                    place, present = (target.network, stream.name), _versions(connection, stream)
                    before = self._seen.get(place, _Versions({}, {}))
                    for key in before.rows.keys() | before.deletes.keys():
                        was, is_now = before.of(key), present.of(key)
                        # A row that went without a delete of its own is compared, not watched.
                        if 0 < is_now < was:
                            found.append(Wrong(BACK, target.network, f"{_named(stream, key)}: {was}, then {is_now}"))
                    self._seen[place] = present
        self._back += found
        return found

    def forget(self, site: Site) -> None:
        """Forget the versions seen on a side: it was restored, and they may go back."""
        self._seen = {place: seen for place, seen in self._seen.items() if place[0] != site.network}

    def unsettled(self) -> list[Wrong]:
        """Say what is still to come: changes, batches on their way or unacknowledged, gaps, requests."""
        return [one for site in self.sites for one in unsettled(site)]

    def judge(self, *, at_rest: bool = True) -> list[Wrong]:
        """Give everything that is wrong. ``at_rest``: nothing is on its way, so nothing may lie in a folder for it."""
        self.watch()
        found = [*self._back]
        for source, target in self._ways:
            found += disagreements(source, target)
        for site in self.sites:
            found += check_ledger(site)
            found += check_files(site)
            if at_rest:
                found += left_behind(site)
        return found


def judge(one: Site, other: Site) -> list[Wrong]:
    """Give everything that is wrong with two sides at rest; empty if all is well."""
    return Oracle(one, other).judge()


def unsettled(site: Site) -> list[Wrong]:
    """Say what is still to come on one side. What waits for a person is at rest, and so is what nobody acknowledges."""
    epoch = sa.select(tables.network.c.epoch).scalar_subquery()
    on_their_way = [BatchState.SEALED] if site.one_way else [BatchState.SEALED, BatchState.PUBLISHED]
    counted = (
        ("changes wait", sa.select(tables.change.c.stream)),
        (
            "batches are not acknowledged",
            sa.select(batch.c.stem).where(
                batch.c.direction == Direction.OUT,
                batch.c.channel != CONTROL,
                batch.c.state.in_(on_their_way),
                batch.c.epoch == epoch,
            ),
        ),
        ("batches wait for others", sa.select(batch.c.stem).where(batch.c.state == BatchState.WAITING)),
        ("batches are missing", sa.select(gap.c.sequence).where(tables.is_missing(gap))),
        ("requests are open", sa.select(tables.repair.c.name).where(tables.repair.c.state == RepairState.OPEN)),
        (
            "snapshots or checkpoints are to be sent",
            sa.select(tables.resync.c.id).where(tables.resync.c.state.in_([ResyncState.ASKED, ResyncState.RUNNING])),
        ),
    )
    with reading(site.engine) as connection:
        numbers = [(what, len(connection.execute(query).all())) for what, query in counted]
    return [Wrong(UNSETTLED, site.network, f"{number} {what}") for what, number in numbers if number]


def left_behind(site: Site) -> list[Wrong]:
    """Name the files that a side at rest has in work, in its drafts or in incoming without a word of them.

    A batch that waits has its row; of a half whose other half never came, or what a carrier made of a file, each import
    tells.
    """
    folders, found = site.spool.folders, site.spool.drafts_left()
    with reading(site.engine) as connection:
        waiting = {one.place for one in ledger.open_batches(connection)}
    told = {one.file for one in site.spool.list_arrivals().left_alone}
    for path in (folders.work, folders.incoming):
        for file, name in site.spool.labels(path):
            place = None if name is None else (name.channel, name.epoch, name.sequence)
            if place is not None and place not in waiting and (path == folders.work or file not in told):
                found.append(f"{path.name}/{file}")
    return [Wrong(LEFT, site.network, one) for one in found]


def disagreements(source: Site, target: Site) -> list[Wrong]:
    """Compare what ``source`` sends with what ``target`` has: rows by rows, and batches by their places."""
    found = [Wrong(kind, target.network, name) for kind, name in _batches(source, target)]
    for channel in source.channels:
        there = {one.name: one for one in _received(source, target)}
        kept_back: Mapping[str, set[bytes]] | None = None
        for stream in (one for one in channel.streams if channel.source == source.network and one.name in there):
            differ = [*_compared(source, target, stream, there[stream.name])]
            if not differ:
                continue
            if kept_back is None:
                kept_back = _kept_back(source, target, channel)
            letters = _letters(source, target, stream)
            found += (
                Wrong(kind, target.network, _named(stream, key))
                for kind, key, version in differ
                if kind is BOTH or (key not in kept_back.get(stream.name, ()) and letters.get(key, -1) <= version)
            )
    return found


def _received(source: Site, target: Site) -> list[Stream]:
    """Give the streams that one side sends, as the other one declares them."""
    return [one for channel in target.channels if channel.source == source.network for one in channel.streams]


def _named(stream: Stream, key: bytes) -> str:
    return f"{stream.name} {printable(key.decode(errors='replace'))}"


# Rows


def _compared(source: Site, target: Site, sent: Stream, received: Stream) -> Iterator[tuple[Kind, bytes, int]]:
    """Give the keys that differ, each with the newest version that the receiving side knows of it."""
    with reading(source.engine) as connection:
        theirs, share = _hashes(connection, sent), rollouts.read(connection).get(sent.name)
    with reading(target.engine) as connection:
        here, versions = _hashes(connection, received), _versions(connection, received)
    if share is not None:  # the rest is not there yet, or is there as it was before
        here = {key: one for key, one in here.items() if not share.keeps_rest or share.has(key)}
        theirs = {key: one for key, one in theirs.items() if share.has(key)}
    for key in sorted(theirs.keys() | here.keys()):
        if key not in here:
            yield MISSING, key, versions.of(key)
        elif key not in theirs:
            yield EXTRA, key, versions.of(key)
        elif theirs[key] is None or here[key] != theirs[key]:
            yield DIFFERENT, key, versions.of(key)
        if key in here and versions.rows.get(key, 0) <= versions.deletes.get(key, -1):
            yield BOTH, key, versions.of(key)


def _hashes(connection: Connection, stream: Stream) -> dict[bytes, bytes | None]:
    """Read all rows of a stream: of each what it would be sent as, in few bytes; None if it can't be sent as it is."""
    read = RowReader(connection, stream).rows()
    return {key: None if data is None else row_hash(data) for some in read for key, data in some}


def _versions(connection: Connection, stream: Stream) -> _Versions:
    written: sa.ColumnElement[Any] = sa.literal_column(connection.dialect.identifier_preparer.quote(VERSION_COLUMN))
    columns = [stream.codecs[column.name].selected(connection.dialect) for column in stream.key]
    encode, reader = stream.key_encoder(connection.dialect), RowReader(connection, stream)
    rows: dict[bytes, int] = {}
    for row in connection.execute(sa.select(written, *columns).select_from(stream.table)):
        with suppress(RecordError, TypeError):
            rows[reader.key_text(encode(row[1:]))] = int(row[0] or 0)
    deletes = connection.execute(_DELETES, {"stream": stream.name})
    return _Versions(rows, {text.encode(): int(version) for text, version in deletes})


_DELETES = sa.select(tombstone.c.key, tombstone.c.version).where(tombstone.c.stream == sa.bindparam("stream"))


# What explains that a row differs


def _letters(source: Site, target: Site, stream: Stream) -> dict[bytes, float]:
    """Give the keys of a stream that letters speak of, with the newest version that one is of.

    A letter of an older version than what is there explains nothing. One of the sending side is of whatever comes, and
    so is the word that repairs of a row do not hold.
    """
    found: dict[bytes, float] = defaultdict(float)
    open_states = [DeadLetterState.PARKED, DeadLetterState.DISCARDED]
    mine = (dead_letter.c.stream == stream.name, dead_letter.c.state.in_(open_states), dead_letter.c.key.is_not(None))
    query = sa.select(dead_letter.c.key, dead_letter.c.version).where(*mine)
    with reading(target.engine) as connection:
        for key, version in connection.execute(query.where(dead_letter.c.direction == Direction.IN)):
            found[key.encode()] = max(found[key.encode()], math.inf if version is None else version)
        vain = sa.select(agreement.c.in_vain).where(
            agreement.c.stream == stream.name, agreement.c.direction == Direction.IN
        )
        for text in connection.scalars(vain):
            found |= {key_text(row.key): math.inf for row in VainRepairs(text).left()}
    with reading(source.engine) as connection:
        reader = RowReader(connection, stream)
        for key, _ in connection.execute(query.where(dead_letter.c.direction == Direction.OUT)).all():
            found[_key_sent(connection, reader, key)] = math.inf
    return found


def _key_sent(connection: Connection, reader: RowReader, key: str) -> bytes:
    """Give the key of a change, as the database wrote it, as a record would have it."""
    row = capture.row_of_key(connection, reader.stream, key)
    if row is not None:
        return reader.keyed([row])[0].key
    with suppress(ValueError, KeyError):
        return reader.key_text(json.loads(key))
    return key.encode(errors="surrogateescape")


def _kept_back(source: Site, target: Site, channel: Channel) -> Mapping[str, set[bytes]]:
    """Give the keys, by stream, of batches that came and wait for a person, or were given up by one."""
    names = {one.name for one in channel.in_files()}
    places: set[tuple[str, str, int]] = set()
    with reading(target.engine) as connection:
        mine = (batch.c.direction == Direction.IN, batch.c.channel.in_(names))
        stopped = (batch.c.state.in_(_GIVEN_BY_A_PERSON), ~ledger.was_applied_since)
        columns = (batch.c.channel, batch.c.epoch, batch.c.sequence)
        held = connection.execute(sa.select(*columns).where(*mine, *stopped)).all()
        places |= {(row.channel, row.epoch, row.sequence) for row in held}
        waiting = sa.select(*columns).where(*mine, batch.c.state == BatchState.WAITING)
        behind = {(row.channel, row.epoch) for row in held}
        places |= {tuple(row) for row in connection.execute(waiting) if (row.channel, row.epoch) in behind}
        accepted = sa.select(gap.c.channel, gap.c.epoch, gap.c.sequence).where(
            gap.c.channel.in_(names), gap.c.state == GapState.ACCEPTED
        )
        places |= {tuple(row) for row in connection.execute(accepted)}
    found: dict[str, set[bytes]] = defaultdict(set)
    for place in places:
        for stream, key in _keys_in(source, channel, BatchName(*place)):
            found[stream].add(key)
    return found


def _keys_in(source: Site, channel: Channel, name: BatchName) -> Iterator[tuple[str, bytes]]:
    """Read the keys of a batch that was sealed, from its copy there."""
    with reading(source.engine) as connection:
        entry = ledger.at_place(connection, Direction.OUT, name.channel, name.epoch, name.sequence)
        if entry is None or entry.manifest is None:
            return
        manifest = Manifest.parse(entry.manifest.encode())
        readers = {one.name: RowReader(connection, one) for one in channel.streams}
        with suppress(OSError, BatchError):
            data = source.spool.open_kept(source.spool.folders.sealed, data_name(name, manifest.encoding))
            with data:
                for line in (line for lines in BatchReader(data, manifest, source.limits.read) for line in lines):
                    with suppress(RecordError, KeyError):
                        one = records.decode(line)
                        yield one.stream, readers[one.stream].key_text(one.body)


# Batches


def _batches(source: Site, target: Site) -> Iterator[tuple[Kind, str]]:
    """Say which batches of the source's present epoch were applied that are not what it sealed there."""
    columns = (batch.c.stem, batch.c.channel, batch.c.epoch, batch.c.sequence, batch.c.digest)
    with reading(source.engine) as connection:
        epoch = connection.scalar(sa.select(tables.network.c.epoch))
        mine = sa.select(*columns).where(batch.c.direction == Direction.OUT, batch.c.epoch == epoch)
        sealed = {(row.channel, row.sequence): row.digest for row in connection.execute(mine)}
        old = sa.select(tables.folded.c.channel, tables.folded.c.through).where(
            tables.folded.c.direction == Direction.OUT, tables.folded.c.epoch == epoch
        )
        folded = {row.channel: row.through for row in connection.execute(old)}
    with reading(target.engine) as connection:
        came = sa.select(*columns).where(
            batch.c.direction == Direction.IN, batch.c.epoch == epoch, batch.c.state == BatchState.APPLIED
        )
        for row in connection.execute(came):
            place = (row.channel, row.sequence)
            if place not in sealed and row.sequence <= folded.get(row.channel, 0):
                continue  # its sender knows no more of it
            if place not in sealed:
                yield NEVER_SEALED, row.stem
            # Of control batches the newest says it all: one of a life that its sender forgot has changed nothing.
            elif sealed[place] != row.digest and row.channel != CONTROL:
                yield OTHER, row.stem
