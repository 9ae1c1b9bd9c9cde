"""Import: from files that arrived to rows, each batch in one transaction, exactly once.

The order of steps is what makes a crash harmless anywhere: lock the channel, count the attempt, claim the
files, verify them, then ledger, rows, dead letters and position in one transaction; the files move to the
archive only after its commit. Whatever a crash leaves, the next run finds and carries on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TypeGuard

from exchange.channels.channel import Channel
from exchange.database import network, positions
from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.errors import world_errors
from exchange.database.locks import Busy, reading
from exchange.database.tables import Direction
from exchange.dead_letters import auto_retry
from exchange.files.batch_files import Listing
from exchange.format.errors import Verdict, WorldError
from exchange.format.manifest import BatchKind
from exchange.format.placement import NEXT
from exchange.incoming import failures, strangers
from exchange.incoming.held import Waiting
from exchange.incoming.judge import judge, judge_stranger
from exchange.incoming.manifests import Arrival, Stranger, is_nobodys, look
from exchange.incoming.transaction import attempt
from exchange.incoming.verdicts import settle
from exchange.link import gaps
from exchange.results import Imported, ImportRun, Retried, Strangers
from exchange.site import Site


def never() -> bool:
    """Go on: nobody asked to stop."""
    return False


def run(
    site: Site,
    *,
    channel: str | None = None,
    stem: str | None = None,
    release: bool = False,
    stopping: Callable[[], bool] = never,
    hand_over: Callable[[str], None] | None = None,
) -> ImportRun:
    """Take in what arrived: all of it, one channel's, or one batch. May be repeated at any time.

    ``release`` is a person's word that a batch may delete what it names, and that its versions are meant.
    ``stopping`` is asked between batches. Where batches of more than one channel have come, ``hand_over`` is given
    their names to have each imported beside the others; SQLite has one writer, so there they go one after the other,
    here. What nobody vouches for comes behind all of them.
    Of a channel that somebody else works on the rest is left to them. Bad batches are outcomes; raises
    WorldError only if the folders can't be listed.
    """
    site.spool.prepare()
    sightings = site.spool.list_arrivals()
    outcomes: list[Imported] = []
    busy: set[str] = set()
    handed: set[str] = set()
    snapshots_of: dict[str, Channel] = {}
    reunited: tuple[Retried, ...] = ()
    nobodys = Strangers()
    trouble = None
    try:
        with world_errors(), reading(site.engine) as connection:
            network.known_epoch(connection, site.network)
            waiting = Waiting(site, connection)
        if channel is stem is None:
            with world_errors(), suppress(Busy):
                outcomes.extend(waiting.miss(sightings))
                failures.forget_gone(site, sightings.found)
        sighted = look(site, tuple(s for s in sightings.found if stem in (None, s.stem)))
        called = [seen for seen in sighted if _is_called(seen, channel)]
        arrived = sorted((seen for seen in called if not is_nobodys(seen)), key=waiting.is_past)
        if hand_over is not None and site.many_writers:
            handed = _hand_over([seen for seen in arrived if _still(waiting, seen) is None], hand_over)
        for number, seen in enumerate(arrived):
            if stopping():
                trouble = "stopped between two batches, as asked; the next run goes on"
                break
            if seen.place[0] not in busy and _lane(seen) not in handed:
                outcomes.append(
                    _still(waiting, seen, islice(arrived, number, None)) or take_in(site, seen, release=release)
                )
                waiting.look_again_after(outcomes[-1])
                if outcomes[-1].verdict is Verdict.BUSY:
                    busy.add(seen.place[0])
                if outcomes[-1].verdict is Verdict.APPLIED and _is_snapshot(seen):
                    snapshots_of[seen.channel.name] = seen.channel
        nobodys = Strangers() if trouble else strangers.receive(site, list(filter(is_nobodys, called)))
        outcomes.extend(nobodys.told)
        if stem is None and trouble is None:
            wanted = [one for one in site.incoming() if one.called(channel) and handed.isdisjoint(one.names)]
            positions.note_success(site.engine, Direction.IN, {one.name for one in wanted} - busy)
        reunited = _follow_up(site, channel, outcomes, snapshots_of.values(), stopping)
    except (WorldError, Crashed) as error:
        trouble = error.sentence
    lanes = tuple(sorted(handed))
    return ImportRun(
        _told(outcomes, sightings), sightings.ignored, sightings.unpaired, trouble, lanes, reunited, nobodys
    )


def _still(waiting: Waiting, seen: Arrival | Stranger, here: Iterable[Arrival | Stranger] = ()) -> Imported | None:
    """Give the outcome of a batch about which nothing changed; one that can't be told is judged by itself."""
    try:
        return waiting.still(seen, here)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        return None


def _follow_up(
    site: Site,
    channel: str | None,
    outcomes: Iterable[Imported],
    snapshots_of: Iterable[Channel],
    stopping: Callable[[], bool],
) -> tuple[Retried, ...]:
    """Do what follows on the batches, which are done whatever becomes of it. Raises Crashed."""
    try:
        gaps.note(site, channel)
        return _reunite(site, outcomes, snapshots_of, stopping)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        what = f"{Crashed.of(error)} while gaps and dead letters were looked after; the batches are done"
        raise Crashed(f"{what}, and the next run tries the rest again") from error


def _reunite(
    site: Site,
    outcomes: Iterable[Imported],
    snapshots_of: Iterable[Channel],
    stopping: Callable[[], bool],
) -> tuple[Retried, ...]:
    """Retry letters that waited for a row which may have come just now."""
    with world_errors():
        traded = auto_retry.retry_rivals(site, snapshots_of, stopping)
        if not traded and not any(one.records.applied for one in outcomes):
            return ()
        return (*traded, *auto_retry.retry_orphans(site, site.incoming(), stopping))


def _told(outcomes: Iterable[Imported], sightings: Listing) -> tuple[Imported, ...]:
    """Give outcomes in the order of the batches' names, whichever was dealt with first."""
    order = {sighting.stem: number for number, sighting in enumerate(sightings.found)}
    return tuple(sorted(outcomes, key=lambda one: order.get(one.batch, -1)))


def _is_snapshot(seen: Arrival | Stranger) -> TypeGuard[Arrival]:
    return isinstance(seen, Arrival) and seen.manifest.kind is BatchKind.SNAPSHOT


def _is_called(seen: Arrival | Stranger, channel: str | None) -> bool:
    return seen.channel.called(channel) if isinstance(seen, Arrival) else channel in (None, seen.place[0])


def _hand_over(arrived: list[Arrival | Stranger], hand_over: Callable[[str], None]) -> set[str]:
    """Hand over each channel that has batches, if more than one has; give their names."""
    lanes = {lane for lane in map(_lane, arrived) if lane is not None}
    if len(lanes) < 2:  # noqa: PLR2004 - alone it has nobody to be beside
        return set()
    for lane in sorted(lanes):
        hand_over(lane)
    return lanes


def _lane(seen: Arrival | Stranger) -> str | None:
    """Name what can be applied beside the rest; None if there is nothing to apply."""
    if isinstance(seen, Stranger) or seen.manifest.kind is BatchKind.CONTROL:
        return None
    return seen.channel.name if seen.channel.beside_others else seen.channel.declared


def take_in(site: Site, seen: Arrival | Stranger, *, release: bool = False) -> Imported:
    """Bring one arrival to its verdict, whatever goes wrong with it. Raises WorldError if database or disk fails."""
    try:
        with world_errors():
            return _take_in(site, seen, release=release)
    except Busy as busy:
        return Imported(seen.sighting.stem, seen.place[0], Verdict.BUSY, None, str(busy), busy=busy)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        fall = Crashed.of(error)
    return _crashed(site, seen, fall)  # what the error held in memory is free again


def _take_in(site: Site, seen: Arrival | Stranger, *, release: bool) -> Imported:
    if isinstance(seen, Stranger):
        if isinstance(seen.fault, Crashed):
            raise seen.fault
        return settle(site, seen, judge_stranger(site, seen))
    seen = replace(seen, released=release)
    standing = judge(site, seen)
    return attempt(site, seen) if standing is NEXT else settle(site, seen, standing)


def _crashed(site: Site, seen: Arrival | Stranger, fall: Crashed) -> Imported:
    try:
        return failures.settle(site, seen, fall)
    except Busy as busy:
        return Imported(seen.sighting.stem, seen.place[0], Verdict.BUSY, None, str(busy), busy=busy)


# Judge: from the manifest, the ledger and the data file's size; nothing is claimed or changed


# Apply: under the channel's lock
