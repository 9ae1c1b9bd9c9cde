"""``exchange quarantine``: batches whose files were refused, and what to do with them."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output, transfer
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.batches import ChannelOption, Limit, show_history
from exchange.cli.output import Json
from exchange.cli.runtime import refuse_unknown
from exchange.format.moments import in_table

app = typer.Typer(help="Batches whose files were refused.", invoke_without_command=True)
Batch = Annotated[str, typer.Argument(metavar="BATCH", help="Its name, as the list shows it.")]


@app.callback()
@output.listing
def quarantine(ctx: typer.Context) -> None:
    """Batches whose files were refused; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_()


@app.command("list")
@output.listing
def list_(channel: ChannelOption = None, limit: Limit = 50, as_json: Json = False) -> None:
    """List what lies in quarantine, in the order of names."""
    with open_exchange() as exchange:
        page = exchange.quarantine.list(channel, limit=limit)
        if not page.batches:
            refuse_unknown(channel, exchange.site)
    found = page.batches
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("nothing is in quarantine")
        return
    output.table(
        ["batch", "channel", "sequence", "reason", "bytes", "since", "message"],
        [
            (
                one.label,
                one.channel,
                one.sequence,
                one.reason,
                one.bytes,
                in_table(one.since) if one.since else None,
                one.message,
            )
            for one in found
        ],
    )
    if len(found) < page.total:
        output.warn(f"these are the first {len(found)} of {page.total}; --limit shows more")


@app.command()
def show(batch: Batch, as_json: Json = False) -> None:
    """Show one closely: why it was refused, and what every check says of its files now."""
    with open_exchange() as exchange:
        found = exchange.quarantine.show(batch)
    if as_json:
        output.emit(found.as_dict())
        return
    output.table(["field", "value"], found.found.as_dict().items())
    output.tell("checks now:")
    output.table(
        ["check", "result", "what was seen"],
        [(one.name, "-" if one.ok is None else "ok" if one.ok else "fault", one.detail) for one in found.report.checks],
    )
    output.tell("history:")
    show_history(found.history)


@app.command()
def release(batch: Batch, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Judge one anew, as if it had just arrived: every check is made, the signature's too."""
    with open_exchange() as exchange:
        done = exchange.quarantine.release(batch, who=who, reason=reason)
    transfer.show_released(done, as_json)


@app.command()
def discard(
    batch: Batch,
    reason: Annotated[str, typer.Option(help="Why nobody needs it; it is kept in the batch's history.")],
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give one up. Nobody is told; its files stay in the archive until their retention ends."""
    with open_exchange() as exchange:
        done = exchange.quarantine.discard(batch, reason, who=who)
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(f"batch {done.batch} is discarded; its files are in the archive until their retention ends")


@app.command()
@output.listing
def strangers(limit: Limit = 50, as_json: Json = False) -> None:
    """Show what came that nobody vouches for, by day and cause, the newest first."""
    with open_exchange() as exchange:
        found = exchange.quarantine.strangers(limit=limit)
    if as_json:
        for group in found:
            output.emit(group.as_dict())
        return
    if not found:
        output.say("nothing came that nobody vouches for")
        return
    output.table(
        ["day", "cause", "batches", "bytes", "last", "such as"],
        [(one.day, one.cause, one.batches, one.bytes, in_table(one.last_at), one.samples[0]["batch"]) for one in found],
    )
    for group in found[:1]:
        output.warn(f"{group.samples[0]['batch']}: {group.samples[0]['message']}")


@app.command()
def clear(
    reason: Annotated[str, typer.Option(help="Why nobody needs them; it is kept in the audit.")],
    who: As = None,
    as_json: Json = False,
) -> None:
    """Remove all files that nobody vouches for from quarantine. What was counted of them stays."""
    with open_exchange() as exchange:
        done = exchange.quarantine.clear(reason, who=who)
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(f"{done.removed} files that nobody vouches for are removed")
