"""``exchange versions``: how far ahead those of a channel may be, and what frees a row that one has frozen."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, open_exchange
from exchange.cli.output import Json
from exchange.format.moments import in_table

app = typer.Typer(help="Versions that are ahead of this side's clock.", invoke_without_command=True)

MAX_VERSION = 2**63 - 1
Why = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]


@app.callback()
@output.listing
def versions(ctx: typer.Context, as_json: Json = False) -> None:
    """List the channels of which a person let in versions far ahead of this side's clock."""
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    with open_exchange() as exchange:
        found = exchange.versions.list()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("no channel's versions may be further ahead than EXCHANGE_AHEAD_DAYS says")
        return
    output.table(
        ["channel", "version", "since", "who", "reason"],
        [(one.channel, one.version, in_table(one.at), one.who, one.reason) for one in found],
    )


@app.command(name="let-in")
def let_in(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel that this side receives.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, max=MAX_VERSION, help="The version to believe.")],
    reason: Why,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Believe a version, and what is as far ahead from now on: the clock of the channel's sender is.

    What is held for it is applied by the next import; parked records are retried by hand.
    """
    with open_exchange() as exchange:
        done = exchange.versions.let_in(channel, version, reason, who=who).as_dict()
    if as_json:
        output.emit(done)
    else:
        output.tell(
            f"versions of channel {done['channel']} may be as far ahead as {version} is; `exchange import` applies what"
            " is held for it, `exchange dead-letters retry` takes what is parked"
        )


@app.command()
def free(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="A stream that this side receives.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help='The row\'s key as JSON, such as {"id":7}.')],
    reason: Why,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Let a row that an absurd version has frozen take the next record again, whatever its version.

    The same of a key that was deleted.
    """
    with open_exchange() as exchange:
        done = exchange.versions.free(stream, key, reason, who=who).as_dict()
    if as_json:
        output.emit(done)
    else:
        what = "its delete" if done["deleted"] else "its row"
        output.tell(
            f"{what} of {stream} {done['key']} had version {done['version']} and has none now: the next record of it is"
            " taken; `exchange reconcile` has what differs sent again"
        )
