"""Files that nothing speaks of, and rows whose files are gone: after a crash, or a database that was restored.

A look asks the ledger of the newest and oldest sealed files of each flow alone, as there may be very many. What is
removed is what surely nobody will ask for: drafts that nobody writes any more, what the ledger says was pruned, and of
epochs that were left what is older than the retention, but for one manifest of each, which tells of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import folded
from exchange.database.engine import among, in_parts
from exchange.database.locks import reading
from exchange.database.network import known_epoch
from exchange.database.tables import BatchState, Direction, batch, epoch, is_kept, position
from exchange.files.batch_files import Kept
from exchange.format.errors import Problem, Reason
from exchange.format.names import BatchName, FileKind
from exchange.site import Site

LOOKED_AT = 200
"""So many of the newest, and of the oldest, files of each flow are looked at."""

MOST_FILES = 50_000
"""So many files of a folder are listed for a look."""

_PRUNE = "exchange prune"
_Flow = tuple[str, str]


def find_strays(site: Site, before: datetime) -> tuple[Problem, ...]:
    """Look for strays, each kind a problem; what ``exchange prune`` removes has that as its command.

    ``before`` is the moment before which things are older than the retention. Only reads, in a transaction of its own.
    Raises TransientError.
    """
    folders = site.spool.folders
    sealed = site.spool.list_kept(folders.sealed, MOST_FILES)
    archived = site.spool.list_kept(folders.archive, MOST_FILES)
    with reading(site.engine) as connection:
        ours = _Ours.read(site, connection)
        out = _sorted_out(connection, ours, _ends(sealed), before)
        unknown = _unknown_in(connection, archived)
        whole = len(sealed) < MOST_FILES
        gone = _gone(connection, {str(one.name) for one in sealed if one.kind is FileKind.MANIFEST}) if whole else []
    claimed = site.spool.list_kept(folders.work, MOST_FILES)
    barred = [f"{one.name.channel}: {one.file}" for one in (*sealed, *claimed) if not one.readable]
    epochs = ", ".join(sorted({one.name.epoch for one in out.unexplained})[:3])
    restored = "if the database was restored,"
    said = (
        _said(site.spool.drafts_left(), "drafts lie there that nobody writes any more", command=_PRUNE),
        _said(_names(out.pruned), "files lie in sealed that the ledger says were pruned", command=_PRUNE),
        _said(_names(out.left), "files of epochs that were left lie in sealed without a row", command=_PRUNE),
        _said(
            _names(out.unexplained),
            f"files lie in sealed of which the ledger knows nothing, of epochs {epochs}; they are kept",
            f"{restored} `exchange epoch new --reason TEXT` begins an epoch that leaves them behind",
        ),
        _said(
            _names(unknown),
            "batches lie in archive of which the ledger knows nothing; they are kept until their retention ends",
            f"{restored} `exchange replay BATCH` applies them again",
        ),
        _said(
            gone,
            "batches may be asked for and are no longer in sealed",
            "bring them back from a copy of the home; else a snapshot goes in the place of each that is asked for",
        ),
        _said(
            barred,
            "files lie in sealed and work that this user may not read, and hold up their channels",
            f"another user ran this once: give all of {folders.home} to this one (chown -R)",
        ),
        _said(_names(site.spool.work_alone()), "data files lie in work without a manifest", command=_PRUNE),
    )
    return tuple(filter(None, said))


def remove_strays(site: Site, before: datetime) -> int:
    """Remove what surely nobody will ask for; give how many files. May be repeated. Raises OSError, TransientError."""
    spool, folders = site.spool, site.spool.folders
    sealed = spool.list_kept(folders.sealed)
    with reading(site.engine) as connection:
        out = _sorted_out(connection, _Ours.read(site, connection), sealed, before)
    removed = spool.sweep(before.timestamp()) + spool.remove(folders.sealed, _names([*out.pruned, *out.left]))
    alone = [one for one in spool.work_alone() if one.changed_at < before.timestamp()]
    return removed + spool.remove(folders.work, _names(alone))


class _Ours(NamedTuple):
    """The epochs of this database: the one it is in, and those that it knows it left."""

    current: str | None
    left: frozenset[str]

    @classmethod
    def read(cls, site: Site, connection: Connection) -> _Ours:
        current = known_epoch(connection, site.network)
        known = set(connection.scalars(sa.select(epoch.c.epoch)))
        known |= set(connection.scalars(sa.select(position.c.epoch).where(position.c.direction == Direction.OUT)))
        return cls(current, frozenset(known - {current}))


class _SortedOut(NamedTuple):
    pruned: list[Kept]
    left: list[Kept]
    unexplained: list[Kept]


def _sorted_out(connection: Connection, ours: _Ours, files: Iterable[Kept], before: datetime) -> _SortedOut:
    """Sort out the sealed files that no row keeps."""
    files = list(files)
    rows = _rows(connection, Direction.OUT, {one.name.place for one in files})
    out = _SortedOut([], [], [])
    telling: set[str] = set()
    for one in sorted(files, key=lambda one: (one.name, one.kind), reverse=True):
        row = rows.get(one.name.place)
        if row is not None:
            if row.pruned_at is not None:
                out.pruned.append(one)
        elif folded.was_folded(connection, Direction.OUT, (one.name.channel, one.name.epoch, one.name.sequence)):
            out.pruned.append(one)
        elif one.name.epoch not in ours.left:
            if not _is_next(connection, ours, one.name):
                out.unexplained.append(one)
        elif one.changed_at < before.timestamp():
            # One manifest of each epoch stays: it tells a database that is restored once more that the epoch was.
            if one.kind is FileKind.MANIFEST and one.name.epoch not in telling:
                telling.add(one.name.epoch)
            else:
                out.left.append(one)
    return out


def _is_next(connection: Connection, ours: _Ours, name: BatchName) -> bool:
    """Whether the next batch of its flow replaces it: an export died between its files and the commit."""
    here = (position.c.direction == Direction.OUT, position.c.channel == name.channel, position.c.epoch == name.epoch)
    reached = connection.scalar(sa.select(position.c.sequence).where(*here)) or 0
    return name.epoch == ours.current and name.sequence == reached + 1


def _rows(connection: Connection, direction: Direction, stems: set[str]) -> dict[str, sa.Row[Any]]:
    columns = (batch.c.stem, batch.c.state, batch.c.pruned_at)
    found: dict[str, sa.Row[Any]] = {}
    for part in in_parts(sorted(stems)):
        some = sa.select(*columns).where(batch.c.direction == direction, among(connection, batch.c.stem, part))
        found |= {row.stem: row for row in connection.execute(some.order_by(batch.c.id))}
    return found


def _unknown_in(connection: Connection, files: Iterable[Kept]) -> list[Kept]:
    """Give the manifests of an archive that lie beyond all that the ledger says was applied of their flow."""
    rows = connection.execute(
        sa.select(position.c.channel, position.c.epoch, position.c.sequence).where(position.c.direction == Direction.IN)
    )
    reached = {(row.channel, row.epoch): row.sequence for row in rows}
    return [
        one
        for one in files
        if one.kind is FileKind.MANIFEST and one.name.sequence > reached.get((one.name.channel, one.name.epoch), 0)
    ]


def _gone(connection: Connection, there: set[str]) -> list[str]:
    """Name batches that may be asked for and whose files are not kept: all that are sealed, and the newest others."""
    stems: dict[str, None] = {}
    for state in (BatchState.SEALED, BatchState.PUBLISHED):
        query = sa.select(batch.c.stem).where(
            batch.c.state == state,
            batch.c.direction == Direction.OUT,
            batch.c.reason.is_distinct_from(Reason.LOST),
            batch.c.erased_at.is_(None),
            is_kept(batch),
        )
        stems |= dict.fromkeys(connection.scalars(query.order_by(batch.c.id.desc()).limit(LOOKED_AT)))
    return [stem for stem in stems if stem not in there]


def _ends(files: Iterable[Kept]) -> Iterator[Kept]:
    """Give the newest and the oldest files of each flow."""
    flows: dict[_Flow, list[Kept]] = defaultdict(list)
    for one in files:
        flows[one.name.channel, one.name.epoch].append(one)
    for some in flows.values():
        some.sort(key=lambda one: one.name)
        yield from some if len(some) <= 2 * LOOKED_AT else (*some[:LOOKED_AT], *some[-LOOKED_AT:])


def _names(files: Iterable[Kept]) -> list[str]:
    return [one.file for one in files]


def _said(files: list[str], what: str, remedy: str = "", *, command: str = "") -> Problem | None:
    if not files:
        return None
    return Problem(f"{len(files)} {what}; such as {', '.join(files[:2])}", remedy, command)
