"""``exchange batches``: the ledger, newest first."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.running import one_of, open_site, refuse_unknown

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Show so many at most.")]
ChannelOption = Annotated[str | None, typer.Option(help="Only of this channel.", show_default=False)]


def batches(
    channel: ChannelOption = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    direction: Annotated[str | None, typer.Option(help="Only in or out.", show_default=False)] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List what became of every batch."""
    from exchange import status
    from exchange.database import reading, world_errors
    from exchange.models import BatchState, Direction

    wanted_state = one_of("state", state, BatchState)
    wanted_direction = one_of("direction", direction, Direction)
    with open_site() as site, world_errors(), reading(site.engine) as connection:
        channels = None if channel is None else site.names_in_files(channel)
        found = status.batches(
            connection, channels=channels, state=wanted_state, direction=wanted_direction, limit=limit
        )
        if not found:
            refuse_unknown(channel, site)
    if as_json:
        for row in found:
            output.emit(row.as_dict())
        return
    if not found:
        output.say("the ledger has no such batch")
        return
    output.table(
        ["batch", "direction", "state", "reason", "records", "bytes", "updated"],
        [
            (
                row.batch,
                row.direction,
                row.state,
                row.reason,
                row.total,
                row.bytes,
                f"{row.updated_at:%Y-%m-%d %H:%M:%S}Z",
            )
            for row in found
        ],
    )
    for row in found:
        if row.message:
            output.say(f"{row.batch}: {row.message}")
