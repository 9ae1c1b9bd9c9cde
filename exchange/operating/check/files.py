"""Whether each row of the ledger has its files where its state says, and each file its row.

Folders and ledger are read one after the other, some at a time: beside a worker what is found once is only a suspicion.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import folded, ledger
from exchange.database.engine import among, in_parts
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, epoch, is_kept, position
from exchange.files.batch_files import label_of
from exchange.format.errors import Reason
from exchange.format.manifest import Manifest
from exchange.format.names import CONTROL, BatchName, data_name, manifest_name
from exchange.link import gaps
from exchange.operating.check.wrong import AT_ONE_GO, Found, Kind, Pace, Wrong
from exchange.operating.doctor.finding import Level
from exchange.operating.retention_clock import RetentionClock
from exchange.site import Site

FILES_AT_ONCE = 500
"""So many rows, or files, are looked at together."""

_MARGIN = timedelta(days=1)
"""What is so near to the end of its retention may be gone, or not."""

_COPIES = 5
"""A batch that came again and again is looked for under so many names."""

NOT_SEALED = Kind(
    "files",
    "batches may be asked for and have not both files in sealed",
    "bring them back from a copy of the home; else a snapshot goes in the place of each that is asked for",
    level=Level.WARNING,
)
NOT_ARCHIVED = Kind(
    "files",
    "batches were applied and their files are neither in archive nor on their way there",
    "their rows are here; they can't be replayed: bring the files back from a copy of the home if that may be wanted",
    level=Level.WARNING,
)
NOT_WAITING = Kind(
    "files", "batches wait or are held and their files are gone", "have them sent again", "exchange gaps"
)
NOT_QUARANTINED = Kind(
    "files",
    "batches are quarantined and their files are not in quarantine",
    "have them sent again, or give them up: `exchange batches reject BATCH --reason TEXT`",
    "exchange quarantine",
    Level.WARNING,
)
UNKNOWN = Kind(
    "files",
    "files lie in our folders of which the ledger knows nothing",
    "if the database was restored, `exchange epoch new` leaves what was sealed behind, and `exchange replay BATCH`"
    " applies what is archived again; else somebody put them there",
    "exchange doctor",
)
NOT_OURS = Kind(
    "files",
    "files lie in outgoing, sealed, archive or quarantine that belong to no batch",
    "somebody put them there; the carrier takes what lies in outgoing: take them away",
    level=Level.WARNING,
)
UNPAIRED = Kind(
    "files", "data files lie in work without a manifest", "prune removes them", "exchange prune", Level.WARNING
)
CHANGED = Kind(
    "digests",
    "batches in sealed or archive are not what was written there",
    "the disk or somebody changed them: bring them back from a copy of the home; what is asked for goes as a snapshot",
)


def check_files(site: Site, pace: Pace = AT_ONE_GO, *, deep: bool = False) -> Found:
    """Look for rows without their files and files without their row; with ``deep`` also whether the bytes are the same.

    Raises TransientError if a folder can't be read.
    """
    before = RetentionClock(site.spool.folders).before(site.limits.retention_days) + _MARGIN
    for rows in _pages(site, before, pace):
        for kind, stem in (*_astray(site, rows), *(_changed(site, rows) if deep else ())):
            yield Wrong(kind, site.network, stem)
    yield from _without_row(site, pace)
    for one in site.spool.work_alone():
        yield Wrong(UNPAIRED, site.network, one.file)


def _pages(site: Site, before: datetime, pace: Pace) -> Iterator[Sequence[sa.Row[Any]]]:
    """Read the rows whose files are to be somewhere, some at a time."""
    columns = [batch.c[one] for one in ("id", "direction", "state", "stem", "reason", "digest", "manifest")]
    kept = sa.and_(
        batch.c.direction == Direction.OUT,
        is_kept(batch),
        batch.c.reason.is_distinct_from(Reason.LOST),
    )
    came = sa.and_(
        batch.c.direction == Direction.IN,
        sa.or_(batch.c.updated_at > before, batch.c.state.in_([BatchState.WAITING, BatchState.HELD])),
        sa.or_(batch.c.state != BatchState.QUARANTINED, ~ledger.was_applied_since),
        batch.c.state.not_in([BatchState.REJECTED, BatchState.DISCARDED]),
    )
    known = (batch.c.manifest.is_not(None), batch.c.erased_at.is_(None))
    after = 0
    while True:
        with reading(site.engine) as connection:
            some = sa.select(*columns).where(batch.c.id > after, *known, sa.or_(kept, came))
            rows = connection.execute(some.order_by(batch.c.id).limit(FILES_AT_ONCE)).all()
        if not rows:
            return
        yield rows
        after = rows[-1].id
        pace.rest()


def _where(site: Site, row: sa.Row[Any]) -> tuple[Kind, tuple[Path, ...]]:
    folders = site.spool.folders
    if row.direction == Direction.OUT:
        return NOT_SEALED, (folders.sealed,)
    if row.state == BatchState.APPLIED:
        return NOT_ARCHIVED, (folders.archive, folders.work, folders.incoming)
    if row.state == BatchState.QUARANTINED:
        return NOT_QUARANTINED, (folders.quarantine, folders.strangers, folders.work, folders.incoming)
    return NOT_WAITING, (folders.incoming, folders.work)


def _astray(site: Site, rows: Sequence[sa.Row[Any]]) -> Iterator[tuple[Kind, str]]:
    """Name the rows whose files are not where their state says."""
    wanted = {row.stem: _where(site, row) for row in rows}
    names = {row.stem: _names(row) for row in rows}
    there: dict[str, set[str]] = {stem: set() for stem in names}
    for folder in {path for _, paths in wanted.values() for path in paths}:
        mine = [stem for stem, (_, paths) in wanted.items() if folder in paths]
        found = site.spool.lie_there(folder, (name for stem in mine for copy in names[stem] for name in copy))
        for stem in mine:
            there[stem] |= found & {name for copy in names[stem] for name in copy}
    for stem, (kind, _) in wanted.items():
        # What was refused or is incomplete may have come without its data.
        enough = 2 if kind in (NOT_SEALED, NOT_ARCHIVED) else 1
        if not any(len(there[stem].intersection(copy)) >= enough for copy in names[stem]):
            yield kind, stem


def _names(row: sa.Row[Any]) -> list[tuple[str, str]]:
    """Name the two files of each copy of a batch that there may be."""
    manifest = Manifest.parse(row.manifest.encode())
    if row.direction == Direction.OUT:
        return [(manifest_name(manifest.name), data_name(manifest.name, manifest.encoding))]
    stem = BatchName.parse(row.stem)
    files = manifest_name(stem), data_name(stem, manifest.encoding)
    labels = [label_of(row.stem, copy) for copy in range(1, _COPIES + 1)]
    return [(label + files[0].removeprefix(row.stem), label + files[1].removeprefix(row.stem)) for label in labels]


def _changed(site: Site, rows: Sequence[sa.Row[Any]]) -> Iterator[tuple[Kind, str]]:
    """Name the batches in sealed and archive whose bytes are no longer those that the ledger speaks of."""
    folders = site.spool.folders
    for row in rows:
        path = folders.sealed if row.direction == Direction.OUT else folders.archive
        if row.direction == Direction.IN and row.state != BatchState.APPLIED:
            continue
        manifest = Manifest.parse(row.manifest.encode())
        line, data = _names(row)[0]
        with suppress(FileNotFoundError):  # of that is told elsewhere
            if (_digest(site, path, line, first_line=True), _digest(site, path, data)) != (row.digest, manifest.sha256):
                yield CHANGED, row.stem


def _digest(site: Site, path: Path, name: str, *, first_line: bool = False) -> str:
    digest = hashlib.sha256()
    with site.spool.open_kept(path, name) as file:
        if first_line:
            return hashlib.sha256(file.readline(_LONGEST).removesuffix(b"\n")).hexdigest()
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


_LONGEST = 1024 * 1024
_PIECE = 256 * 1024


def _without_row(site: Site, pace: Pace) -> Found:
    """Name the files of our folders of which no row speaks."""
    folders = site.spool.folders
    ways = (
        (folders.sealed, Direction.OUT),
        (folders.outgoing, Direction.OUT),
        (folders.archive, Direction.IN),
        (folders.quarantine, Direction.IN),
    )
    for path, direction in ways:
        files = iter(site.spool.labels(path))
        while some := list(islice(files, FILES_AT_ONCE)):
            with reading(site.engine) as connection:
                unknown = _unknown(connection, direction, {name for _, name in some if name is not None})
            for file, name in some:
                if name is None:
                    yield Wrong(NOT_OURS, site.network, f"{path.name}/{file}")
                elif name in unknown:
                    yield Wrong(UNKNOWN, site.network, f"{path.name}/{file}")
            pace.rest()


def _unknown(connection: Connection, direction: Direction, names: set[BatchName]) -> set[BatchName]:
    """Give those of some batches of which no row of a direction speaks, and that nothing else explains."""
    known: set[str] = set()
    for part in in_parts(sorted({str(name) for name in names} | {name.place for name in names})):
        by_stem = (batch.c.direction == direction, among(connection, batch.c.stem, part))
        known |= set(connection.scalars(sa.select(batch.c.stem).where(*by_stem)))
    unknown = {name for name in names if known.isdisjoint({str(name), name.place})}
    for channel, its_epoch in {(name.channel, name.epoch) for name in unknown}:
        flow = {name for name in unknown if (name.channel, name.epoch) == (channel, its_epoch)}
        sequences = {name.sequence for name in flow}
        there = ledger.held_places(connection, direction, channel, its_epoch, sequences)
        if there != sequences:  # a row that holds no place may be called after another publication of the batch
            here = (batch.c.direction == direction, batch.c.channel == channel, batch.c.epoch == its_epoch)
            some = sa.select(batch.c.sequence).where(*here, among(connection, batch.c.sequence, sequences))
            there |= set(connection.scalars(some))
        through = folded.of_flow(connection, direction, channel, its_epoch).through
        there |= {one for one in sequences if one <= through}
        if direction is Direction.IN:  # what comes to a place that was given up is a duplicate of nothing
            there |= gaps.given_up_among(connection, gaps.Flow(channel, its_epoch), sequences)
        unknown -= {name for name in flow if name.sequence in there}
    if not unknown:
        return unknown
    reached: dict[tuple[str, str], int] = defaultdict(int)
    left: set[str] = set()
    for row in connection.execute(sa.select(position).where(position.c.direction == direction)):
        reached[row.channel, row.epoch] = row.sequence
        left |= set() if row.current else {row.epoch}
    if direction is Direction.IN:
        # Of an older control batch, and of one of an epoch that was left, nothing is written down.
        heard = {one for one in unknown if one.channel == CONTROL}
        heard -= {one for one in heard if one.epoch not in left and one.sequence > reached[one.channel, one.epoch]}
        return unknown - heard
    left = set(connection.scalars(sa.select(epoch.c.epoch)))  # of our own
    # An export that dies between its files and the commit leaves them: the next batch of the flow replaces them.
    return {one for one in unknown if one.epoch not in left and one.sequence != reached[one.channel, one.epoch] + 1}
