"""Batches refused as a whole: every bad record at once, and a person's word on them: let in with those parked, or not.

What is shown is no guess: the batch is applied as it would be with its bad records parked, and rolled back.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import folded, ledger
from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.ledger import Counts, Entry, Event
from exchange.database.locks import import_lock, join, locked, reading
from exchange.database.tables import BatchState, Direction, dead_letter
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.store import brief, brief_columns
from exchange.format.as_dict import AsDict
from exchange.format.batch import check_data
from exchange.format.errors import BatchError, Reason, TransientError
from exchange.format.names import CONTROL, BatchName
from exchange.incoming import apply, importer, quarantine, replay
from exchange.incoming.manifests import Arrival, Stranger, verify_manifest
from exchange.incoming.verdicts import lock_of
from exchange.link import gaps
from exchange.results import Imported
from exchange.site import Site


@dataclass(frozen=True)
class BadRecord(AsDict):
    """One record that would be parked."""

    line: int | None
    stream: str | None
    key: str | None
    error: str
    pointer: str | None
    message: str


@dataclass(frozen=True)
class ReleaseTrial:
    """What would become of a batch with its bad records parked; ``bad`` are the first of them."""

    counts: Counts
    bad: tuple[BadRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {"records": self.counts.as_dict(), "bad": [one.as_dict() for one in self.bad]}


@dataclass(frozen=True)
class BatchDetail:
    """All about one batch: its rows, newest first, their events, oldest first, its dead letters by state.

    ``trial`` is there for one that was refused for its records; else ``untried`` says why, if it should be.
    """

    rows: tuple[Entry, ...]
    history: tuple[Event, ...]
    letters: dict[str, int]
    trial: ReleaseTrial | None = None
    untried: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        newest = self.rows[0]
        return {
            "batch": newest.stem,
            "direction": newest.direction.value,
            "channel": newest.channel,
            "epoch": newest.epoch,
            "sequence": newest.sequence,
            "state": newest.state.value,
            "reason": newest.reason,
            "message": newest.message,
            "history": [event.as_dict() for event in self.history],
            "dead_letters": self.letters,
            "trial": self.trial.as_dict() if self.trial else None,
            "untried": self.untried,
        }


def batch_detail(site: Site, stem: str, limit: int) -> BatchDetail:
    """Look at a batch closely; of one refused for its records at most ``limit`` bad ones are listed.

    Raises Busy if its channel is being worked on, TransientError if there is no such batch. What it tries is rolled
    back, under the channel's lock.
    """
    with transient_errors(), reading(site.engine) as connection:
        rows = ledger.of_stem(connection, stem)
        history = ledger.history(connection, [row.id for row in rows])
        letters = count_letters(connection, stem)
        old = not rows and _was_folded(connection, stem)
    if not rows:
        raise _unknown(stem, old=old)
    found = BatchDetail(tuple(rows), tuple(history), letters)
    if not _is_refused(rows[0]):
        return found
    try:
        return replace(found, trial=_try(site, _files(site, rows[0]), limit))
    except (BatchError, TransientError) as fault:
        return replace(found, untried=fault.sentence)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        return replace(found, untried=f"that fails with {Crashed.of(error)}")


def refuse_unknown(connection: Connection, stem: str) -> NoReturn:
    """Say why the ledger has no batch of this name. Raises TransientError."""
    raise _unknown(stem, old=_was_folded(connection, stem))


def release_batch(site: Site, stem: str, *, park: bool) -> Imported:
    """Let in a batch at a person's word: one held for its deletes, or with ``park`` one refused for its records.

    Every other check is made anew. Raises TransientError if it is neither. Commits as an import does, under the
    channel's lock.
    """
    site.spool.prepare()
    entry = _newest(site, stem)
    lenient = _lenient(site, entry.channel) if park else site
    if entry.state is BatchState.HELD:
        run = importer.import_batches(lenient, stem=stem, release=True)
        if run.batches:
            return run.batches[0]
        raise TransientError(run.trouble or f"the files of batch {stem} are gone; nothing was done; have it sent again")
    if not _is_refused(entry):
        msg = (
            f"batch {stem} is {entry.state}, neither held nor refused for its records; nothing was done;"
            " `exchange quarantine release` and `exchange replay` judge any kept batch anew"
        )
        raise TransientError(msg)
    if not park:
        msg = (
            f"batch {stem} was refused for its bad records; nothing was done; --park lets the others in,"
            " `exchange batches show` lists them"
        )
        raise TransientError(msg)
    return replay.import_again(lenient, _files(site, entry).sighting, release=True)


def reject_batch(site: Site, stem: str, reason: str) -> Entry:
    """Give up a quarantined or held batch so that its sender is told; its files go to the archive.

    Raises Busy, and TransientError if it is in another state. Commits under the channel's lock, then moves the files.
    """
    entry = _newest(site, stem)
    if entry.state not in {BatchState.QUARANTINED, BatchState.HELD}:
        msg = f"batch {stem} is {entry.state}; only one that is quarantined or held can be rejected; nothing was done"
        raise TransientError(msg)
    sightings = [seen.sighting for seen in quarantine.copies(site, entry)]
    if entry.state is BatchState.HELD:
        kept = site.spool.find(stem)
        if kept is not None:
            sightings.append(kept)
    with transient_errors(), locked(site.engine, import_lock(entry.channel)) as connection:
        ledger.give_up(connection, entry, BatchState.REJECTED, reason)
        if entry.manifest is not None and entry.channel != CONTROL and entry.reason != Reason.UNPROVEN_EPOCH:
            place = (entry.channel, entry.epoch, entry.sequence)
            gaps.record_refused(connection, place, site.limits.look_ahead)
    with transient_errors():
        for sighting in sightings:
            site.spool.retire(sighting)
    return entry


def _newest(site: Site, stem: str) -> Entry:
    with transient_errors(), reading(site.engine) as connection:
        entry = ledger.by_stem(connection, Direction.IN, stem)
    if entry is None:
        raise _unknown(stem)
    return entry


def _was_folded(connection: Connection, stem: str) -> bool:
    try:
        name = BatchName.parse(stem)
    except ValueError:
        return False
    return any(folded.was_folded(connection, way, (name.channel, name.epoch, name.sequence)) for way in Direction)


def _unknown(stem: str, *, old: bool = False) -> TransientError:
    if old:
        return TransientError(f"batch {stem} was settled so long ago that only its channel's counts are kept of it")
    listed = "`exchange batches` lists those there are, `exchange quarantine` also what nobody vouches for"
    return TransientError(f"the ledger has no batch {stem}; nothing was done; {listed}")


def _is_refused(entry: Entry) -> bool:
    return (entry.direction, entry.state, entry.reason) == (Direction.IN, BatchState.QUARANTINED, Reason.REJECTED)


def _files(site: Site, entry: Entry) -> Arrival | Stranger:
    for seen in quarantine.copies(site, entry):
        return seen
    msg = f"the files of batch {entry.stem} are no longer in quarantine; nothing was done; have it sent again"
    raise TransientError(msg)


def _lenient(site: Site, name: str) -> Site:
    """Give a site whose channel of this name parks its bad records, however large a share they are."""

    def parking(channel: Channel) -> Channel:
        if name not in site.names_in_files(channel.name):
            return channel
        lenient = copy.copy(channel)
        lenient.on_invalid = "park"
        return lenient

    channels = tuple(map(parking, site.channels))
    limits = replace(site.limits, invalid_records=apply.MOST_PARKED, invalid_share=1.0)
    return replace(site, channels=channels, limits=limits)


def _try(site: Site, seen: Arrival | Stranger, limit: int) -> ReleaseTrial:
    """Apply a batch with its bad records parked, see what would be parked, and undo all of it."""
    lenient = _lenient(site, seen.place[0])
    seen = verify_manifest(lenient, seen.sighting, site.spool.read_manifest(seen.sighting))
    if isinstance(seen, Stranger):
        raise seen.fault
    with transient_errors(), locked(site.engine, lock_of(seen)) as connection:
        join(connection, import_lock(seen.channel.declared), alone=not seen.channel.beside_others)
        before = connection.scalar(sa.select(sa.func.max(dead_letter.c.id))) or 0
        began = now()
        with site.spool.open_data(seen.sighting, seen.manifest.encoding) as data:
            check_data(data, seen.manifest)
            data.seek(0)
            counts = apply.apply_records(lenient, connection, seen, data)
        trial = ReleaseTrial(counts, _parked(site, connection, seen.sighting.stem, (before, began), limit))
        connection.rollback()
    return trial


def _parked(
    site: Site, connection: Connection, stem: str, since: tuple[int, datetime], limit: int
) -> tuple[BadRecord, ...]:
    """Give what was parked of a batch behind a letter's id, or joined a letter since a moment."""
    before, began = since
    rows = connection.execute(
        sa.select(*brief_columns(dead_letter))
        .where(dead_letter.c.batch == stem, sa.or_(dead_letter.c.id > before, dead_letter.c.last_seen >= began))
        .order_by(dead_letter.c.line)
        .limit(limit)
    )
    mask = Mask(site.channels)
    shown = (mask.brief(brief(row)) for row in rows)
    return tuple(BadRecord(one.line, one.stream, one.key, one.error, one.pointer, one.message) for one in shown)


def count_letters(connection: Connection, stem: str) -> dict[str, int]:
    """Count the dead letters of a batch by their state."""
    rows = connection.execute(
        sa.select(dead_letter.c.state, sa.func.count()).where(dead_letter.c.batch == stem).group_by(dead_letter.c.state)
    )
    return {str(state): number for state, number in rows}
