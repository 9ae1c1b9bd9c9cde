"""``exchange status``: how far each channel has come, and what waits for somebody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.cli import output
from exchange.cli.audited import open_exchange
from exchange.cli.output import Json

if TYPE_CHECKING:
    from exchange.operating.status import Status

_ONE_WAY = ("channel", "pending", "unconfirmable", "sequence")
_COLUMNS = {
    "out": ("channel", "pending", "published", "acknowledged", "sequence"),
    "in": ("channel", "applied", "waiting", "held", "quarantined", "sequence"),
}


def status(as_json: Json = False) -> None:
    """Show how far each channel has come."""
    with open_exchange() as exchange:
        found = exchange.status()
        absent = [str(one) for one in exchange.absences() if one.since is not None]
    if as_json:
        output.emit(found.as_dict() | {"work": absent})
    else:
        _show_channels(found)
        _show_link(found)
        for sentence in absent:
            output.print_error(sentence)
        _say_what_waits(found)
    if found.trouble:
        output.warn(found.trouble)


def _show_channels(found: Status) -> None:
    output.tell(f"{found.network}, epoch {found.epoch or 'none yet'}")
    shown = _COLUMNS | ({"out": _ONE_WAY} if found.of_peer.one_way else {})
    for direction, columns in shown.items():
        rows = [one.as_dict() for one in found.channels if one.direction == direction]
        if not rows:
            continue
        output.tell("")
        output.tell(f"{'to' if direction == 'out' else 'from'} {found.peer}")
        output.table(
            [*columns, "last success"],
            [[*(row[name] for name in columns), _moment(row["last_success_at"])] for row in rows],
        )


def _show_link(found: Status) -> None:
    """Say when the other side was last heard of, and how long things have been under way."""
    from exchange.format.moments import lasting

    life = found.of_peer.life
    output.tell("")
    if life is None and found.of_peer.one_way:
        output.tell(f"nothing comes back from {found.peer}: what is published is unconfirmable")
    elif life is None:
        output.tell(f"{found.peer} was never heard of")
    else:
        due = f"expected again by {_moment(life.expected_by.isoformat())}"
        output.tell(f"{found.peer} was heard of {lasting(found.at - life.heard_at)} ago, {due}")
    for one in found.channels:
        if one.load:
            what = "sent" if one.direction == "out" else "received"
            said = f"{one.load.pace}; its last part {lasting(found.at - one.load.at)} ago"
            if one.direction == "in" and found.arrivals:
                said += f", {found.arrivals.batches} batches in incoming"
            output.tell(f"{one.channel}: a snapshot is {what}: {said}")
        if one.pending and one.pending_since:
            output.tell(f"{one.channel}: the oldest change waits for at most {lasting(found.at - one.pending_since)}")
        if one.unacknowledged_since:
            age = lasting(found.at - one.unacknowledged_since)
            output.tell(f"{one.channel}: the oldest unacknowledged batch was sealed {age} ago")


def _moment(written: str | None) -> str:
    return f"{written[:19].replace('T', ' ')}Z" if written else "-"


def _say_what_waits(found: Status) -> None:
    _say_what_is_paused(found)
    for one in found.channels:
        if one.sealed:
            output.warn(f"{one.channel}: {one.sealed} batches are sealed and not published; the next export does it")
        if one.rejected and one.there is None:
            output.warn(f"{one.channel}: {one.rejected} batches were rejected by {found.peer}")
    for waiting in (*(one.problem for one in found.leftovers), *found.left_rows):
        output.warn(str(waiting))
    for sentence in (*map(str, found.failed_runs), *found.stumbles):
        output.print_error(sentence)
    for sentence in (*map(str, found.of_peer.unread), *found.of_peer.troubles()):
        output.warn(sentence)
    for sentence in map(str, found.of_peer.alarms(found.at)):
        output.print_error(sentence)
    if found.backlog.parked and not found.alarms:
        output.warn(f"{found.backlog.parked} dead letters are parked; `exchange dead-letters` shows them by cause")
    for sentence in found.alarms:
        output.print_error(sentence)
    _print_strangers(found)


def _say_what_is_paused(found: Status) -> None:
    for pause in dict.fromkeys(one.paused for one in found.channels if one.paused):
        output.warn(str(pause))
    for there in dict.fromkeys(one.paused_there for one in found.channels if one.paused_there):
        output.warn(str(there.told(found.peer)))


def _print_strangers(found: Status) -> None:
    for group in found.strangers:
        output.warn(str(group.problem))
    for left in found.arrivals.left_alone if found.arrivals else ():
        output.warn(str(left.problem))
    if found.arrivals and (found.arrivals.ignored or found.arrivals.unpaired):
        output.say(
            f"left alone in incoming: {found.arrivals.ignored} files that are no batch,"
            f" {found.arrivals.unpaired} data files whose manifest has not arrived"
        )
