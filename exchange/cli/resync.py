"""Whole tables sent anew, and a database's new life: ``exchange resync`` and ``exchange epoch``."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output, transfer
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, open_site
from exchange.format.moments import in_table

app = typer.Typer(help="Epochs: the lives of this database.", invoke_without_command=True)

_WISH = ("channel", "want", "streams", "prune", "state", "parts", "records", "who", "reason")


@output.listing
def resync(
    channel: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHANNEL]", help="The channel; without one, list what is to be sent.", show_default=False
        ),
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="Only this stream; may be repeated.", show_default=False)
    ] = None,
    prune_missing: Annotated[
        bool, typer.Option("--prune-missing", help="Have rows removed over there that are not here.")
    ] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Send whole tables of a channel as they are now.

    They go beside the changes; a newer row over there stays as it is. What is interrupted goes on with the next export.
    """
    if channel is None:
        if stream or prune_missing:
            raise Refused("channel: expected the one to send, as --stream and --prune-missing are about it")
        _list(as_json)
        return
    with open_exchange() as exchange, output.between_batches("sending", exchange.site.progress) as stopping:
        done = exchange.resync(channel, stream, prune=prune_missing, stopping=stopping, who=who, reason=reason)
    run, left = done.run, done.left
    if not done.asked:
        output.say("the same was asked for already, and has its turn")
    transfer.show_exported(run, as_json)
    if left and not run.trouble:
        output.warn(f"{left} snapshots and checkpoints of it are not complete; the next export goes on with them")
    if run.trouble or run.busy or run.faults:
        fail()


def _list(as_json: bool) -> None:
    from exchange.link import send_requests

    with open_site() as site:
        rows = [send_requests.request_fields(row) for row in send_requests.list_open_requests(site)]
    if as_json:
        for row in rows:
            output.emit(row)
        return
    if not rows:
        output.say("no snapshot or checkpoint is to be sent")
        return
    for row in rows:
        row |= {"streams": ", ".join(row["streams"] or ["all"]), "prune": "yes" if row["prune"] else "no"}
    output.table(_WISH, [[row[name] for name in _WISH] for row in rows])


@app.callback()
@output.listing
def epoch(ctx: typer.Context) -> None:
    """Show the lives of this database; `new` begins another one after a restore, `adopt` decides on one received."""
    if ctx.invoked_subcommand is None:
        list_()


@app.command("list")
@output.listing
def list_(
    received: Annotated[
        bool, typer.Option("--received", help="The other side's instead, as each channel knows them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the epochs that this database knows of itself, the newest first."""
    if received:
        _list_received(as_json)
        return
    with open_exchange() as exchange:
        lives = exchange.epochs.list()
    if as_json:
        for one in lives:
            output.emit(one.as_dict())
        return
    output.table(
        ["epoch", "current", "since", "who", "reason"],
        [
            (one.epoch, "yes" if one.current else "", in_table(one.since) if one.since else None, one.who, one.reason)
            for one in lives
        ],
    )


def _list_received(as_json: bool) -> None:
    with open_exchange() as exchange:
        rows = exchange.epochs.received()
    if as_json:
        for one in rows:
            output.emit(one.as_dict())
        return
    if not rows:
        output.say("nothing was received yet")
        return
    output.table(
        ["channel", "epoch", "state", "sequence", "since"],
        [(one.channel, one.epoch, one.state, one.sequence, in_table(one.since)) for one in rows],
    )


@app.command()
def new(
    reason: Annotated[str, typer.Option(help="Why, as for instance which copy was restored; for the audit.")],
    continues: Annotated[
        str | None,
        typer.Option(
            metavar="EPOCH",
            help="Which one the other side is in, read out there (`exchange epoch list --received`), where this"
            " database does not know it, as it was made anew.",
            show_default=False,
        ),
    ] = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Begin a new life after an earlier copy of the database was restored, or it was made anew: everything is sent."""
    with open_exchange() as exchange:
        done = exchange.epochs.new(reason, continues, who=who)
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(f"epoch {done.epoch} has begun; before it was {done.before or 'none'}")
    if done.discarded:
        output.say(f"{done.discarded} batches that were sealed and not published are discarded")
    names = ", ".join(done.channels) or "no channel"
    output.say(f"the next export sends everything anew: {names}; `exchange resync` shows how far it is")


_Undecided = Annotated[str, typer.Argument(metavar="EPOCH", help="One that waits, as `exchange status` names it.")]
_Why = Annotated[str, typer.Option("--reason", help="How that is known; for the audit.")]


@app.command()
def adopt(epoch: _Undecided, reason: _Why, who: As = None, as_json: Json = False) -> None:
    """Take an epoch of the other side for its newest: what nothing proves to come after the present one is held."""
    with open_exchange() as exchange:
        done = exchange.epochs.adopt(epoch, reason, who=who)
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(f"epoch {done.epoch} is the present one of {', '.join(done.channels) or 'no channel yet'}")
    output.say("the next import takes its batches; those of the epoch before are stale from now on")


@app.command()
def refuse(epoch: _Undecided, reason: _Why, who: As = None, as_json: Json = False) -> None:
    """Take an epoch of the other side for one that it left: its batches are stale, and the present one goes on."""
    with open_exchange() as exchange:
        done = exchange.epochs.refuse(epoch, reason, who=who)
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(f"epoch {done.epoch} was left: the next import quarantines its batches")
