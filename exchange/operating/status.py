"""Status: how far each channel has come, and what waits for somebody.

Everything is counted as it happens or from indexes alone: years of history in the ledger cost a glance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import ledger, pauses
from exchange.database.batch_counts import Standing, count_standing
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.failed_runs import FailedRuns, list_failed_runs
from exchange.database.locks import reading
from exchange.database.network import known_epoch
from exchange.database.pauses import Pause
from exchange.database.states import WORRYING
from exchange.database.tables import (
    BatchState,
    Direction,
    ResyncState,
    batch,
    loading,
    position,
    resync,
    success,
)
from exchange.dead_letters import counts as letter_counts
from exchange.dead_letters.background import BackgroundRetry, list_retries
from exchange.dead_letters.counts import Backlog, backlog_alarms
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError
from exchange.format.names import CONTROL
from exchange.incoming.arrivals import left_alone
from exchange.incoming.failure_list import list_failures
from exchange.incoming.stranger_counts import StrangersOfDay, recent_strangers
from exchange.intake.standing import DroppedFile, open_files, refused_files
from exchange.link import peer_state
from exchange.link.peer_state import PausedThere, PeerChannel, PeerState
from exchange.link.reconcile import LeftRows, left_rows
from exchange.outgoing import rollout
from exchange.outgoing.leftover import Leftover, list_leftovers
from exchange.people.proposals import Proposal, read_proposals
from exchange.progress import Pace
from exchange.results import LeftAloneFiles
from exchange.site import Site
from exchange.tables import capture

if TYPE_CHECKING:
    from exchange.operating.batch_pages import BatchRow

_SHOWN = {
    Direction.OUT: (BatchState.SEALED, BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED),
    Direction.IN: (BatchState.APPLIED, BatchState.WAITING, BatchState.HELD, BatchState.QUARANTINED),
}

MOST_FILES = 100
"""So many files that people dropped and that are not loaded yet are told of."""


@dataclass(frozen=True)
class Load:
    """A snapshot that is being sent or received: so many parts, the last one ``at``."""

    parts: int
    at: datetime
    pace: Pace

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {"parts": self.parts, "at": self.at.isoformat(), **self.pace.as_dict()}


@dataclass(frozen=True)
class ChannelStatus(AsDict):
    """One channel: ``pending`` counts changes that no batch carries yet, the others count batches by state.

    What is published on a one-way link is ``unconfirmable`` instead. ``pending_since`` is when the last export took all
    that there was, ``unacknowledged_since`` when the oldest batch was sealed that the peer has not acknowledged;
    ``load`` is the snapshot at hand.
    """

    channel: str
    direction: Direction
    pending: int = 0
    sealed: int = 0
    published: int = 0
    unconfirmable: int = 0
    acknowledged: int = 0
    rejected: int = 0
    applied: int = 0
    waiting: int = 0
    held: int = 0
    quarantined: int = 0
    sequence: int = 0
    last_success_at: datetime | None = None
    pending_since: datetime | None = None
    unacknowledged_since: datetime | None = None
    there: PeerChannel | None = None
    load: Load | None = None
    paused: Pause | None = None
    paused_there: PausedThere | None = None
    """By its peer's last word."""
    rollouts: tuple[str, ...] = ()
    """Of streams that are sent to a share of their keys, how far that is."""


@dataclass(frozen=True)
class IncomingFiles(AsDict):
    """What lies in ``incoming/``: ``batches`` that have a manifest, data files without one, and what is no batch."""

    batches: int
    unpaired: int
    ignored: int
    left_alone: tuple[LeftAloneFiles, ...] = ()
    """What carriers made of batches' files that can't be taken so."""
    oldest_at: datetime | None = None
    newest_at: datetime | None = None
    """When the oldest and the newest of the batches came, by the folder's clock."""


@dataclass(frozen=True)
class Status:
    """This side at a glance.

    ``trouble`` says what is wrong with a shared folder; if ``incoming/`` can't be read at all, ``arrivals`` is None.
    ``strangers`` is what came of late that nobody vouches for.
    """

    network: str
    peer: str
    epoch: str | None
    channels: tuple[ChannelStatus, ...]
    backlog: Backlog
    alarms: tuple[str, ...]
    arrivals: IncomingFiles | None
    of_peer: PeerState
    at: datetime
    strangers: tuple[StrangersOfDay, ...] = ()
    trouble: str | None = field(default=None)
    stumbles: tuple[str, ...] = ()
    """Batches that could not be taken in, whatever it was about them."""
    leftovers: tuple[Leftover, ...] = ()
    """Changes that no export takes."""
    failed_runs: tuple[FailedRuns, ...] = ()
    """The last error of each channel that was not done since."""
    left_rows: tuple[LeftRows, ...] = ()
    """Rows that were repaired in vain."""
    retries: tuple[BackgroundRetry, ...] = ()
    """What is tried in the background, or paused."""
    proposals: tuple[Proposal, ...] = ()
    """What waits for a second person."""
    files: tuple[DroppedFile, ...] = ()
    """Files that people dropped and that are still to be loaded, in the order of their turn."""
    files_refused: tuple[DroppedFile, ...] = ()
    """Those that were refused and not mended since, the newest."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "network": self.network,
            "peer": self.peer,
            "epoch": self.epoch,
            "channels": [channel.as_dict() for channel in self.channels],
            "dead_letters": self.backlog.as_dict() | {"alarms": list(self.alarms)},
            "arrivals": self.arrivals.as_dict() if self.arrivals else None,
            "stumbles": list(self.stumbles),
            "leftovers": [one.as_dict() for one in self.leftovers],
            "failed_runs": [one.as_dict() for one in self.failed_runs],
            "left_rows": [one.as_dict() for one in self.left_rows],
            "retries": [one.as_dict() for one in self.retries],
            "files": [one.as_dict() for one in self.files],
            "files_refused": [one.as_dict() for one in self.files_refused],
            "proposals": [one.brief() for one in self.proposals],
            "strangers": [group.as_dict() for group in self.strangers],
            "link": {
                "kind": "one-way" if self.of_peer.one_way else "two-way",
                "heard": self.of_peer.life.as_dict() if self.of_peer.life else None,
                "alarms": list(map(str, self.of_peer.alarms(self.at))),
                "troubles": list(self.of_peer.troubles()),
                "unread": list(map(str, self.of_peer.unread)),
                "halted": self.of_peer.halted,
            },
        }


def read_status(site: Site, *, most_pending: int | None = None) -> Status:
    """Count where everything stands; changes nothing. Raises TransientError if the database fails.

    With ``most_pending`` no more than so many pending changes of a channel are counted.
    """
    with transient_errors(), reading(site.engine) as connection:
        epoch = known_epoch(connection, site.network)
        there = peer_state.read_peer_state(site, connection)
        channels = _channels(site, connection, there, most_pending)
        backlog = letter_counts.backlog(connection)
        failures = tuple(map(str, list_failures(site, connection)))
        recent = recent_strangers(connection)
        leftovers = tuple(list_leftovers(site, connection))
        left = tuple(left_rows(connection))
        retries = tuple(list_retries(connection, only_open=True))
        waiting = tuple(read_proposals(connection))
        files, refused = tuple(open_files(connection, MOST_FILES)), tuple(refused_files(connection))
        failed = tuple(list_failed_runs(connection, names_that_run(site, connection)))
    moment = now()
    alarms = tuple(map(str, backlog_alarms(backlog, site.limits, moment)))
    try:
        sightings = site.spool.list_arrivals()
        came = sorted(one.identity.changed_ns for one in sightings.batches if one.identity is not None)
        arrivals = IncomingFiles(
            len(sightings.batches),
            sightings.unpaired,
            sightings.ignored,
            left_alone(sightings, site.limits),
            *(datetime.fromtimestamp(at / 1e9, UTC) for at in (*came[:1], *came[-1:])),
        )
        trouble = _lost_marker(site)
    except TransientError as error:
        arrivals, trouble = None, error.sentence
    return Status(
        network=site.network,
        peer=site.peer,
        epoch=epoch,
        channels=channels,
        backlog=backlog,
        alarms=alarms,
        arrivals=arrivals,
        of_peer=there,
        at=moment,
        strangers=recent,
        trouble=trouble,
        stumbles=failures,
        leftovers=leftovers,
        failed_runs=failed,
        left_rows=left,
        retries=retries,
        proposals=waiting,
        files=files,
        files_refused=refused,
    )


def batch_troubles(site: Site, rows: Sequence[BatchRow]) -> list[str]:
    """Say what the far side could not take of the channels whose batches are listed, and what carriers left of others.

    Of that the ledger knows nothing. Raises TransientError if the database fails.
    """
    sent = {row.channel for row in rows if row.direction is Direction.OUT}
    with transient_errors(), reading(site.engine) as connection:
        there = peer_state.read_peer_state(site, connection)
    told = {channel: one for channel, one in there.channels.items() if channel in sent}
    troubles = list(replace(there, channels=told).troubles())
    try:
        listing = site.spool.list_arrivals()
    except TransientError as error:
        return [*troubles, error.sentence]
    return [*troubles, *(str(one.problem) for one in left_alone(listing, site.limits))]


def names_that_run(site: Site, connection: Connection) -> list[str]:
    """Give the channels, as their files call them, but those that are paused. Reads in the caller's transaction."""
    still = pauses.paused(connection, site.off)
    ways = ((Direction.OUT, site.outgoing()), (Direction.IN, site.incoming()))
    return [one.name for way, channels in ways for one in channels if (way, one.declared) not in still]


def _lost_marker(site: Site) -> str | None:
    return next((fault for shared in site.spool.shared if (fault := shared.fault())), None)


def _channels(
    site: Site, connection: Connection, there: PeerState, most_pending: int | None
) -> tuple[ChannelStatus, ...]:
    counts = _count_states(connection)
    positions = {
        (row.direction, row.channel): row
        for row in connection.execute(
            sa.select(position.c.direction, position.c.channel, position.c.sequence).where(position.c.current == 1)
        )
    }
    successes = {(row.direction, row.channel): row.at for row in connection.execute(sa.select(success))}
    loads = _loads(connection)
    shares = [(stream, said) for _, stream, _, said in rollout.told(site, connection)]
    still = pauses.paused(connection, site.off)
    still_there = {one.channel: one for one in there.paused}
    declared = [(Direction.OUT, one) for one in site.outgoing()] + [(Direction.IN, one) for one in site.incoming()]
    found = []
    for direction, name, channel in [(way, one.name, one) for way, one in declared] + _undeclared(counts, declared):
        at = positions.get((direction, name))
        success_at = successes.get((direction, name))
        fields: dict[str, Any] = {state.value: counts[direction, name, state] for state in _SHOWN[direction]}
        fields |= {"sequence": at.sequence if at else 0, "last_success_at": success_at}
        fields |= {"load": loads.get((direction, name))}
        if direction is Direction.OUT:
            pending = _pending(connection, channel, most_pending)
            fields |= {"rollouts": tuple(said for stream, said in shares if channel and stream in channel.streams)}
            fields |= {"pending": pending, "pending_since": success_at if pending else None}
            if site.one_way:
                fields |= {"published": 0, "unconfirmable": fields["published"]}
            else:
                since = unacknowledged_since(connection, name) if fields["published"] else None
                fields |= {"unacknowledged_since": since, "there": there.channels.get(name)}
        whole = channel.declared if channel is not None else name
        fields |= {"paused": still.get((direction, whole)), "paused_there": still_there.get(whole)}
        found.append(ChannelStatus(name, direction, **fields))
    return tuple(found)


def _loads(connection: Connection) -> dict[tuple[Direction, str], Load]:
    """Give the snapshots at hand, by direction and channel."""
    running = (resync.c.state == ResyncState.RUNNING, resync.c.expected.is_not(None), resync.c.begun_at.is_not(None))
    sent = connection.execute(sa.select(resync).where(*running).order_by(resync.c.id.desc()))
    found = {(Direction.OUT, row.channel): _load(row, row.parts) for row in sent}
    return found | {(Direction.IN, row.channel): _load(row, row.part) for row in connection.execute(sa.select(loading))}


def _load(row: Any, parts: int) -> Load:
    seconds = (row.updated_at - row.begun_at).total_seconds()
    return Load(parts, row.updated_at, Pace(row.records, row.expected, seconds))


def unacknowledged_since(connection: Connection, channel: str) -> datetime | None:
    """Say when the oldest batch of a channel was sealed that was published and not acknowledged."""
    oldest = (
        sa.select(batch.c.created_at)
        .where(batch.c.state == BatchState.PUBLISHED, batch.c.direction == Direction.OUT, batch.c.channel == channel)
        .order_by(batch.c.id)
        .limit(1)
    )
    return connection.scalar(oldest)


def _pending(connection: Connection, channel: Channel | None, most: int | None) -> int:
    return 0 if channel is None else capture.pending(connection, channel.streams, most, channel.shard)


def _count_states(connection: Connection) -> Counter[Standing]:
    counts = count_standing(connection)
    for direction, channel, number in connection.execute(_MENDED):
        counts[Direction(direction), channel, BatchState.QUARANTINED] -= number
    return counts


_MENDED = (
    sa.select(batch.c.direction, batch.c.channel, sa.func.count())
    .where(batch.c.state == BatchState.QUARANTINED, ledger.was_applied_since)
    .group_by(batch.c.direction, batch.c.channel)
)
"""What was quarantined and has been applied since, carried again or replayed, is nobody's worry any more."""


def _undeclared(
    counts: Mapping[Standing, int], declared: list[tuple[Direction, Channel]]
) -> list[tuple[Direction, str, None]]:
    """Name channels that the ledger knows and no declaration: batches from strangers, or of a channel now gone."""
    known = {(direction, channel.name) for direction, channel in declared}
    found = {
        (way, name) for (way, name, state), number in counts.items() if name != CONTROL or _is_wrong(state, number)
    }
    return [(*place, None) for place in sorted(found - known)]


def _is_wrong(state: BatchState, number: int) -> bool:
    """Whether control batches that came to a state are somebody's worry."""
    return number > 0 and state in WORRYING
