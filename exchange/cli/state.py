"""``exchange status``: how far each channel has come, and what waits for somebody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.running import open_site

if TYPE_CHECKING:
    from exchange.status import Status

_COLUMNS = {
    "out": ("channel", "pending", "published", "acknowledged", "sequence"),
    "in": ("channel", "applied", "waiting", "held", "quarantined", "sequence"),
}


def status(as_json: Json = False) -> None:
    """Show how far each channel has come."""
    from exchange import status as stand

    with open_site() as site:
        found = stand.look(site)
    if as_json:
        output.emit(found.as_dict())
    else:
        _show_channels(found)
        _say_what_waits(found)
    if found.trouble:
        output.warn(found.trouble)


def _show_channels(found: Status) -> None:
    output.tell(f"{found.network}, epoch {found.epoch or 'none yet'}")
    for direction, columns in _COLUMNS.items():
        rows = [one.as_dict() for one in found.channels if one.direction == direction]
        if not rows:
            continue
        output.tell("")
        output.tell(f"{'to' if direction == 'out' else 'from'} {found.peer}")
        output.table(
            [*columns, "last success"],
            [[*(row[name] for name in columns), _moment(row["last_success_at"])] for row in rows],
        )


def _moment(written: str | None) -> str:
    return f"{written[:19]}Z" if written else "-"


def _say_what_waits(found: Status) -> None:
    for one in found.channels:
        if one.sealed:
            output.warn(f"{one.channel}: {one.sealed} batches are sealed and not published; the next export does it")
        if one.rejected:
            output.warn(f"{one.channel}: {one.rejected} batches were rejected by {found.peer}")
    if found.backlog.parked and not found.alarms:
        output.warn(f"{found.backlog.parked} dead letters are parked; `exchange dead-letters` shows them by cause")
    for sentence in found.alarms:
        output.complain(sentence)
    if found.arrivals and (found.arrivals.ignored or found.arrivals.unpaired):
        output.say(
            f"left alone in incoming: {found.arrivals.ignored} files that are no batch,"
            f" {found.arrivals.unpaired} data files whose manifest has not arrived"
        )
