"""The link as a picture, each channel, and whether a person is needed; and all that the other side says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.responses import Response

from exchange.database import clock
from exchange.format.moments import lasting
from exchange.link.peer_state import PeerState
from exchange.operating.crossed import Crossed
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.operating.overview import MOST_PENDING, Overview
from exchange.operating.status import ChannelStatus
from exchange.serve.console.frame import number
from exchange.serve.console.picture import Box
from exchange.serve.console.visit import Visit, look

_INCOMING = frozenset({Alarm.QUARANTINED, Alarm.HELD, Alarm.IMPORT_LATE})
_CARRIED = frozenset({Alarm.GAP, Alarm.UNACKNOWLEDGED, Alarm.LINK_SILENT})
_RANK = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True)
class Row:
    """A channel in its table: how it stands, its last error, and what crossed of it in each hour of a day."""

    status: ChannelStatus
    error: str
    error_at: datetime | None
    crossed: Sequence[int]
    resent: int

    @property
    def words(self) -> str:
        """Say what crossed."""
        return f"{number(sum(self.crossed))} records of {self.status.channel} crossed within a day"

    @property
    def state(self) -> str:
        """Say in one word how it stands."""
        one, there = self.status, self.status.there
        if one.paused:
            return "paused" if one.paused.command else "off"
        if one.paused_there:
            return "paused there"
        if self.error or one.quarantined:
            return "fault" if self.error else "quarantined"
        if one.held or one.waiting:
            return "held" if one.held else "waiting"
        return "missing" if there and there.missing else "runs"


def overview(visit: Visit) -> Response:
    """Show the link."""
    found, crossed = visit.exchange.overview(), visit.side.crossed.get()
    rows = {way: [_row(found, crossed, one) for one in channels] for way, channels in _ways(found)}
    boxes = _boxes(visit, found, crossed)
    return visit.render(
        "overview.html", found=found, rows=rows, boxes=boxes, clocks=_clocks(found.status.of_peer), every=5
    )


def peer(visit: Visit) -> Response:
    """Show all that is known of the other side."""
    found = visit.exchange.overview()
    marks = [one for one in visit.side.health.worst_first() if _of_peer(visit, one)]
    return visit.render("peer.html", found=found, marks=marks, clocks=_clocks(found.status.of_peer), every=5)


def _ways(found: Overview) -> tuple[tuple[str, list[ChannelStatus]], ...]:
    return ("out", found.sent), ("in", found.received)


def _row(found: Overview, crossed: Crossed, one: ChannelStatus) -> Row:
    failed = found.failed(one)
    place = (one.direction, one.channel)
    parts = next((some.by_part for some in crossed.channels if (some.direction, some.channel) == place), ())
    resent = found.resent.get(one.channel, 0) if one.direction == "out" else 0
    return Row(one, failed.message if failed else "", failed.at if failed else None, parts, resent)


def _clocks(there: PeerState) -> str:
    """Say how the other side's clock is to this one's, as far as that can be told."""
    if there.life is None:
        return "not known: nothing was heard"
    ahead = there.life.clock_ahead_seconds
    if abs(ahead) < 1:
        return "the same, as far as can be told from what crosses"
    way = "ahead of" if ahead > 0 else "behind"
    return f"at least {lasting(timedelta(seconds=abs(ahead)))} {way} this one"


def _ago(at: datetime | None) -> str:
    return "never" if at is None else f"{lasting(max(clock.now() - at, timedelta()))} ago"


def _short(at: datetime | None) -> str:
    """Give an age in its largest unit."""
    return "" if at is None else " ".join(lasting(max(clock.now() - at, timedelta())).split()[:2])


def _some(count: int, what: str, several: str | None = None) -> str:
    return f"{number(count)} {what if count == 1 else several or f'{what}s'}"


def _of_peer(visit: Visit, one: Finding) -> bool:
    return one.level is not Level.OK and (one.check == "link" or one.subject == visit.side.settings.peer)


def _boxes(visit: Visit, found: Overview, crossed: Crossed) -> dict[str, Box]:
    """Say what is in each place."""
    levels = _levels(visit, found)
    went, came = ([one for one in crossed.channels if one.direction == way] for way in ("out", "in"))
    return {
        "here": Box(visit.side.settings.network, _here(found), levels["here"], "/channels"),
        "outgoing": Box(
            "outgoing/",
            _outgoing(found),
            levels["outgoing"],
            "/batches?direction=out",
            _sums(one.by_part for one in went),
            "out",
        ),
        "carrier": Box("carrier", _carrier(found), levels["carrier"], "/gaps"),
        "incoming": Box(
            "incoming/",
            _incoming(found),
            levels["incoming"],
            "/batches?direction=in",
            _sums(one.by_part for one in came),
            "in",
        ),
        "far": Box(visit.side.settings.peer, _far(found), levels["far"], "/peer"),
    }


def _sums(parts: Iterable[Sequence[int]]) -> list[int]:
    return [sum(hour) for hour in zip(*parts, strict=True)]


def _levels(visit: Visit, found: Overview) -> dict[str, Level]:
    """Give each place the colour of the worst that was found of it; what is wrong nowhere else is wrong here."""
    levels = dict.fromkeys(("here", "outgoing", "carrier", "incoming", "far"), Level.OK)
    if any(one.missing for one in found.status.of_peer.channels.values()):
        levels["carrier"] = Level.WARNING
    for one in visit.side.health.parts:
        for place in _places(one):
            levels[place] = max(levels[place], one.level, key=_RANK.__getitem__)
    return levels


def _places(one: Finding) -> set[str]:
    if one.alarm in {Alarm.FOLDER, Alarm.DISK} and one.subject in {"outgoing", "incoming"}:
        return {one.subject}
    places = {"carrier"} if one.alarm in _CARRIED else set[str]()
    if one.check == "link" and one.alarm is not Alarm.UNACKNOWLEDGED:
        places.add("far")
    if one.alarm in _INCOMING and one.check != "link":
        places.add("incoming")
    return places or {"here"}


def _here(found: Overview) -> tuple[str, ...]:
    status = found.status
    pending = sum(one.pending for one in found.sent)
    since = min((one.pending_since for one in found.sent if one.pending_since), default=None)
    done = [one.last_success_at for one in status.channels if not one.paused]
    more = "+" if any(one.pending >= MOST_PENDING for one in found.sent) else ""
    return (
        f"{number(pending)}{more} pending",
        f"for {lasting(max(clock.now() - since, timedelta()))} at most" if since else "all changes are sealed",
        f"last run {_ago(min(filter(None, done), default=None))}",
        _some(status.backlog.parked, "dead letter"),
    )


def _outgoing(found: Overview) -> tuple[str, ...]:
    one, sealed = found.outgoing, sum(channel.sealed for channel in found.sent)
    if one is None:
        return ("can't be read",)
    lies = f"{number(one.batches)}{'+' if one.more else ''} {'batch' if one.batches == 1 else 'batches'}"
    waits = f"sealed: {number(sealed)}" if sealed else "nothing is only sealed"
    if found.status.of_peer.one_way:
        return lies, "none is ever acknowledged", waits
    if not one.untaken:
        return lies, "all were carried", waits
    return lies, f"{number(one.untaken)} not acknowledged", f"the oldest {_short(one.untaken_since)}"


def _carrier(found: Overview) -> tuple[str, ...]:
    one = found.arrived
    if found.status.of_peer.one_way:
        back = "nothing comes back"
        return back, "what went can't be known"
    under_way = sum(channel.published for channel in found.sent)
    took = f"and word of it: {lasting(max(one.known_at - one.published_at, timedelta()))}" if one else "nothing yet"
    return (
        f"{number(under_way)} under way",
        f"there: {_ago(one.known_at if one else None)}",
        took,
        f"back: {_ago(found.came_at)}",
    )


def _incoming(found: Overview) -> tuple[str, ...]:
    arrivals = found.status.arrivals
    if arrivals is None:
        return ("can't be read",)
    waiting, held, refused = (
        sum(getattr(one, state) for one in found.received) for state in ("waiting", "held", "quarantined")
    )
    lies = _some(arrivals.batches, "batch", "batches")
    oldest = [f"oldest {_short(arrivals.oldest_at)}"] if arrivals.oldest_at else []
    oldest += [f"{number(arrivals.unpaired)} unpaired"] if arrivals.unpaired else []
    stuck = [f"{number(n)} {word}" for n, word in ((waiting, "waiting"), (held, "held")) if n]
    return (
        lies,
        ", ".join(stuck) or "none waits or is held",
        *([f"{number(refused)} quarantined"] if refused else [", ".join(oldest) or "none quarantined"]),
    )


def _far(found: Overview) -> tuple[str, ...]:
    there = found.status.of_peer
    if there.one_way and there.life is None:
        return ("nothing is heard", "on a one-way link")
    if there.life is None:
        return ("never heard of",)
    channels = there.channels.values()
    missing = sum(last - first + 1 for one in channels for first, last in one.missing)
    refused, parked = sum(len(one.refused) for one in channels), sum(one.parked_now for one in channels)
    ahead = there.life.clock_ahead_seconds
    clocks = "its clock: as ours"
    if abs(ahead) >= 1:
        clocks = f"its clock: {lasting(timedelta(seconds=abs(ahead)))}+ {'ahead' if ahead > 0 else 'behind'}"
    paused = [f"{_some(len(there.paused), 'channel')} paused there"] if there.paused else []
    return (
        f"heard {_ago(there.life.heard_at)}",
        f"misses {_some(missing, 'batch', 'batches')}" if missing else "misses nothing",
        f"{number(refused)} refused, {number(parked)} parked",
        clocks,
        *paused,
    )


ROUTES = (look("/", overview), look("/peer", peer))
