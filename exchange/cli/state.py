"""``exchange status``: how far each channel has come, and what waits for somebody."""

from __future__ import annotations

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.running import open_site

_COLUMNS = (
    "channel",
    "direction",
    "pending",
    "published",
    "acknowledged",
    "applied",
    "waiting",
    "held",
    "quarantined",
    "sequence",
)


def status(as_json: Json = False) -> None:
    """Show how far each channel has come."""
    from exchange import status as stand

    with open_site() as site:
        found = stand.look(site)
    if as_json:
        output.emit(found.as_dict())
        if found.trouble:
            output.warn(found.trouble)
        return
    output.tell(f"{found.network} to and from {found.peer}, epoch {found.epoch or 'none yet'}")
    rows = [one.as_dict() for one in found.channels]
    output.table(
        [*_COLUMNS, "last success"],
        [
            [
                *(row[name] for name in _COLUMNS),
                f"{one.last_success_at:%Y-%m-%d %H:%M:%S}Z" if one.last_success_at else "-",
            ]
            for row, one in zip(rows, found.channels, strict=True)
        ],
    )
    for one in found.channels:
        if one.sealed:
            output.warn(f"{one.channel}: {one.sealed} batches are sealed and not published; the next export does it")
        if one.rejected:
            output.warn(f"{one.channel}: {one.rejected} batches were rejected by {found.peer}")
    if found.parked:
        output.warn(f"{found.parked} dead letters are parked; `exchange dead-letters list` shows them")
    if found.arrivals and (found.arrivals.ignored or found.arrivals.unpaired):
        output.say(
            f"left alone in incoming: {found.arrivals.ignored} files that are no batch,"
            f" {found.arrivals.unpaired} data files whose manifest has not arrived"
        )
    if found.trouble:
        output.warn(found.trouble)
