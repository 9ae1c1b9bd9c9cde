"""``exchange channels``: which there are, how each stands, and having one stand still or go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import one_of
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.operating.channels import ListedChannel, PausedOrResumed
    from exchange.site import Site

app = typer.Typer(help="Channels of this side: listed, paused, resumed.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel as it is declared.")]
Way = Annotated[
    str | None,
    typer.Option(
        "--direction", metavar="in|out", help="Refuse unless the channel goes this way here.", show_default=False
    ),
]
Why = Annotated[str, typer.Option("--reason", help="Why, for whoever finds it so, and for the audit.")]


@app.callback()
@output.listing
def channels(ctx: typer.Context, as_json: Json = False) -> None:
    """List the channels: what each carries, whether it runs, what waits, and when it was last done."""
    if ctx.invoked_subcommand is not None:
        return
    with open_exchange() as exchange:
        found = exchange.channels()
        waiting = exchange.waiting_files()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    output.table(
        ["channel", "direction", "state", "pending", "last done", "streams"],
        [
            (
                one.channel,
                one.direction,
                one.state,
                one.pending,
                in_table(one.last_success_at) if one.last_success_at else "-",
                _streams(one),
            )
            for one in found
        ],
    )
    say_paused(found)
    if waiting is not None:
        output.say(str(waiting))


def _streams(one: ListedChannel) -> str:
    shards = f" ({one.shards} shards)" if one.shards > 1 else ""
    shares = {name: f" ({share} % of its keys)" for name, share in one.rollouts.items()}
    return f"{', '.join(name + shares.get(name, '') for name in one.streams)}{shards}"


def say_paused(found: Sequence[ListedChannel]) -> None:
    """Say which channels stand still, here or over there, and what lets them go on."""
    for one in found:
        if one.paused is not None:
            output.warn(str(one.paused))
        if one.paused_there is not None:
            output.warn(str(one.paused_there.told(one.peer)))


def say_pauses(site: Site, channel: str | None = None) -> None:
    """Say beside a list which of the channels that it is about stand still, here or over there."""
    from exchange.operating.channels import list_channels

    say_paused([one for one in list_channels(site) if channel is None or channel in site.names_in_files(one.channel)])


@app.command()
def pause(channel: Name, reason: Why, direction: Way = None, who: As = None, as_json: Json = False) -> None:
    """Have a channel stand still: nothing of it is sent, or nothing taken in, from now on.

    A batch at hand ends. The other side is told; receipts and signs of life go on.
    """
    with open_exchange() as exchange:
        _tell(exchange.pause(channel, reason, direction=_direction(direction), who=who), as_json)


@app.command()
def resume(channel: Name, reason: Why, direction: Way = None, who: As = None, as_json: Json = False) -> None:
    """Let a channel go on that was paused."""
    with open_exchange() as exchange:
        _tell(exchange.resume(channel, reason, direction=_direction(direction), who=who), as_json)


def _direction(text: str | None) -> str | None:
    from exchange.database.tables import Direction

    return one_of("--direction", text, Direction)


def _tell(done: PausedOrResumed, as_json: bool) -> None:
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(done.message if done.changed else f"{done.message}; nothing was changed")
    if done.busy:
        output.say(f"{done.busy} is at work on a batch of it, which is the last one")
    if done.untold:
        output.warn(done.untold)
