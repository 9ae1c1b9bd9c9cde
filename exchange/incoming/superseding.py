"""Snapshots in place of batches that were refused or did not come: an ordered channel goes on with what contains them.

A snapshot of a whole channel says which batches before it have nothing that it has not: they have no stream that it
has not, though this side may know of one already that its sender does not. Where the next one of those was
refused for good, or has been missing for as long as it is asked for, the snapshot's first part is the next batch: the
places before it are passed over in the transaction that applies it, those that wait there, too. What is held for a
person is never passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import clock, ledger, positions
from exchange.database.engine import among
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, gap, is_missing
from exchange.files.spool import FolderTrouble
from exchange.format.control import DIGEST, MAX_CONTAINED, Part, Range, shown, within
from exchange.format.errors import BatchError, Reason, RecordError
from exchange.format.manifest import BatchKind, digest, split_manifest
from exchange.format.placement import Position
from exchange.incoming.manifests import Arrival, part_of
from exchange.link import asked_requests, gaps
from exchange.link.gaps import Flow
from exchange.link.receipts import REFUSED, is_final_refusal
from exchange.site import Site


def contained_before(arrival: Arrival) -> Range | None:
    """Give the batches, right before it, that a snapshot's first part may be taken instead of; None if it is none."""
    if arrival.manifest.kind is not BatchKind.SNAPSHOT:
        return None
    try:
        part = part_of(arrival.manifest)
    except RecordError:
        return None
    if part is None or part.part != 1 or part.contains is None or part.buckets is not None:
        return None
    first, last = part.contains
    return part.contains if 0 < first <= last == arrival.manifest.sequence - 1 else None


def may_take_instead(site: Site, connection: Connection, arrival: Arrival, at: Position | None) -> bool:
    """Say whether an ordered channel is to go on with this snapshot, as a batch before it will not come.

    Only reads, in the caller's transaction.
    """
    contains = contained_before(arrival)
    if contains is None or not arrival.channel.ordered:
        return False
    channel, epoch, _ = arrival.place
    following = (at.sequence if at is not None and at.epoch == epoch else 0) + 1
    # What a sender says that it contains, and no more than that: each place gets a row.
    if not contains[0] <= following <= contains[1] < following + MAX_CONTAINED:
        return False
    flow = Flow(channel, epoch)
    return _will_not_come(site, connection, flow, following) and _holds_all_known(
        connection, arrival, (following, contains[1])
    )


def _will_not_come(site: Site, connection: Connection, flow: Flow, sequence: int) -> bool:
    """Say whether a batch is missing that was refused for good or is lost, or for as long as it takes to ask for it."""
    here = (gap.c.channel == flow.channel, gap.c.epoch == flow.epoch, gap.c.sequence == sequence)
    since = connection.scalar(sa.select(gap.c.noticed_at).where(*here, is_missing(gap)))
    if since is None:
        return False
    if clock.since(since) >= timedelta(seconds=site.limits.gap_seconds):
        return True
    if within(sequence, gaps.lost_places(connection).get(flow, ())):
        return True
    refused = (
        sa.select(batch.c.state, batch.c.reason)
        .where(*_at(flow, (sequence, sequence)), batch.c.state.in_(REFUSED), ledger.speaks_for_its_place)
        .order_by(batch.c.id.desc())
        .limit(1)
    )
    last = connection.execute(refused).one_or_none()
    return last is not None and is_final_refusal(last.state, last.reason)


def _holds_all_known(connection: Connection, arrival: Arrival, places: Range) -> bool:
    """Say whether no batch here at these places is held, is of another shard or has a stream that the snapshot lacks.

    Of those that are not here their sender's word counts.
    """
    part = part_of(arrival.manifest)
    assert part is not None
    there = {*part.streams, DIGEST}
    known = sa.select(batch.c.state, batch.c.manifest).where(
        *_at(Flow(*arrival.place[:2]), places), batch.c.manifest.is_not(None)
    )
    for row in connection.execute(known):
        said = json.loads(row.manifest)
        if row.state == BatchState.HELD or said.get("shards", 1) != arrival.manifest.shards:
            return False
        if not there.issuperset(said["records"]):
            return False
    return True


def _at(flow: Flow, places: Range) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        batch.c.direction == Direction.IN,
        batch.c.channel == flow.channel,
        batch.c.epoch == flow.epoch,
        batch.c.sequence.between(*places),
    )


def pass_over(site: Site, connection: Connection, arrival: Arrival) -> str:
    """Write down that the places before a snapshot's first part are superseded by it; give the sentence, if any are.

    Runs in the transaction that applies the part, under the channel's lock, before the position moves.
    """
    if not arrival.channel.ordered or contained_before(arrival) is None:
        return ""
    channel, epoch, sequence = arrival.place
    at = positions.current_position(connection, Direction.IN, channel)
    first = (at.sequence if at is not None and at.epoch == epoch else 0) + 1
    if first >= sequence:
        return ""
    return _supersede(site, connection, arrival, (first, sequence - 1), range(first, sequence))


def close_contained(site: Site, connection: Connection, arrival: Arrival, last: Part) -> str:
    """Go on, in an unordered channel, without what is missing and a snapshot contains of which all parts are here.

    Gives the sentence, if any are. Runs in the transaction that applies the last of the parts.
    """
    if arrival.channel.ordered or last.contains is None or last.buckets is not None:
        return ""
    flow, (first, through) = Flow(*arrival.place[:2]), last.contains
    if first > through or not _holds_all_known(connection, arrival, last.contains):
        return ""
    missing = gaps.missing_among(connection, flow, first, through)
    return _supersede(site, connection, arrival, last.contains, missing) if missing else ""


def _supersede(site: Site, connection: Connection, arrival: Arrival, places: Range, missing: range | list[int]) -> str:
    flow = Flow(*arrival.place[:2])
    cause = f"superseded: snapshot {arrival.sighting.stem} contains it"
    gaps.supersede(connection, flow, missing, cause)
    for before in (BatchState.WAITING, BatchState.QUARANTINED):
        here = [*_at(flow, places), batch.c.state == before, ledger.speaks_for_its_place]
        if not isinstance(missing, range):
            here.append(among(connection, batch.c.sequence, missing))
        ids = list(connection.scalars(sa.select(batch.c.id).where(*here)))
        ledger.move_all(connection, Direction.IN, ids, (before, BatchState.DISCARDED), cause, reason=Reason.SUPERSEDED)
    part = part_of(arrival.manifest)
    asked_requests.ask_again(site, connection, flow.channel, part.answers if part is not None else None)
    compared = f"; whether both sides agree, the next comparison by {site.peer} shows" if site.one_way else ""
    return f"taken in place of {shown([places])}, which it contains{compared}"


def retire_superseded(site: Site, arrival: Arrival) -> None:
    """Move the files of refused batches that a snapshot superseded out of quarantine. Call it after the commit."""
    part = part_of(arrival.manifest) if arrival.manifest.kind is BatchKind.SNAPSHOT else None
    if part is None or part.contains is None:
        return
    with suppress(FolderTrouble):
        lying = [one for one in site.spool.list_quarantined() if one.folder == site.spool.folders.quarantine]
        superseded: Mapping[str, str | None] = {}
        if lying:
            with reading(site.engine) as connection:
                here = _at(Flow(*arrival.place[:2]), (1, arrival.place[2]))
                gone = (batch.c.state == BatchState.DISCARDED, batch.c.reason == Reason.SUPERSEDED)
                rows = connection.execute(sa.select(batch.c.stem, batch.c.digest).where(*here, *gone))
                superseded = {row.stem: row.digest for row in rows}
        for one in lying:
            with suppress(FileNotFoundError, BatchError):
                line, _ = split_manifest(site.spool.read_manifest(one))
                if superseded.get(one.stem) == digest(line):
                    site.spool.retire(one)
