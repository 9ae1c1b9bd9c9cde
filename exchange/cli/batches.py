"""``exchange batches``: the ledger, newest first; one batch closely; and a person's word on one that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output, transfer
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import moment, one_of, refuse_unknown
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.api.batches import BatchFilters
    from exchange.database.ledger import Event
    from exchange.incoming.release import ReleaseTrial
    from exchange.operating.batch_pages import BatchRow

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Show so many at most.")]
ChannelOption = Annotated[
    str | None,
    typer.Option(help="Only of this channel; control shows what the sides tell each other.", show_default=False),
]
Batch = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name, as the list shows it.")]

app = typer.Typer(help="What became of every batch.", invoke_without_command=True)


@app.callback()
@output.listing
def batches(
    ctx: typer.Context,
    *,
    channel: ChannelOption = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    direction: Annotated[str | None, typer.Option(help="Only in or out.", show_default=False)] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those that came signed with this key.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those refused or held for this.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only those known since then: 2026-11-22T06:15 (UTC), or 90m, 3h, 2d ago.", show_default=False
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only those known before then.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Option(metavar="START", help="Only those whose name begins so.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those of this trace, as the log has it.", show_default=False)
    ] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List what became of every batch, newest first."""
    if ctx.invoked_subcommand is None:
        from exchange.api.batches import BatchFilters
        from exchange.database.tables import BatchState, Direction

        wanted = BatchFilters(
            channel=channel,
            direction=one_of("direction", direction, Direction),
            state=one_of("state", state, BatchState),
            since=moment("since", since),
            until=moment("until", until),
            stem=name,
            trace=trace,
            reason=reason,
            key=key,
        )
        _list(wanted, limit, as_json)


def _list(wanted: BatchFilters, limit: int, as_json: bool) -> None:
    from exchange.operating.status import batch_troubles

    with open_exchange() as exchange:
        found = _found(exchange, wanted, limit)
        if not found:
            refuse_unknown(wanted.channel, exchange.site)
        troubles = batch_troubles(exchange.site, found)
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
                f"{row.shown_state}, erased" if row.erased_at else row.shown_state,
                row.reason,
                row.total,
                row.bytes,
                in_table(row.updated_at),
            )
            for row in found
        ],
    )
    for row in found:
        if row.message:
            output.say(f"{row.batch}: {row.message}")
    for sentence in troubles:
        output.warn(sentence)


def _found(exchange: Exchange, wanted: BatchFilters, limit: int) -> list[BatchRow]:
    """Give so many, however many pages are to be looked through for them."""
    page = exchange.batches.list(wanted, limit=limit)
    found = list(page.batches)
    while page.cut and len(found) < limit:
        page = exchange.batches.list(wanted, limit=limit - len(found), after=page.after)
        found += page.batches
    return found


@app.command()
def show(
    batch: Batch,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="List so many bad records at most.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show one batch: what became of it, and every bad record if it was refused for them.

    For that it is applied with the bad ones parked, and rolled back.
    """
    with open_exchange() as exchange:
        found = exchange.batches.trial(batch, limit=limit)
    if as_json:
        output.emit(found.as_dict())
        return
    output.table(
        ["direction", "state", "reason", "attempt", "updated"],
        [(row.direction, row.state, row.reason, row.attempt, in_table(row.updated_at)) for row in found.rows],
    )
    output.tell("history:")
    show_history(found.history)
    if found.letters:
        said = ", ".join(f"{number} {state}" for state, number in sorted(found.letters.items()))
        output.tell(f"dead letters: {said}")
    if found.untried:
        output.warn(f"its records can't be tried: {found.untried}")
    if found.trial:
        _show_trial(found.rows[0].stem, found.trial)


def _show_trial(batch: str, trial: ReleaseTrial) -> None:
    output.tell("bad records:")
    output.table(
        ["line", "stream", "key", "error", "pointer", "message"],
        [(one.line, one.stream, one.key, one.error, one.pointer, one.message) for one in trial.bad],
    )
    if len(trial.bad) < trial.counts.parked:
        output.warn(f"these are the first {len(trial.bad)} of {trial.counts.parked} bad records; --limit shows more")
    output.tell(
        f"with these parked it would come to: {transfer.counted(trial.counts.as_dict())};"
        f" `exchange batches release {batch} --park --reason ...` does it,"
        f" `exchange batches reject {batch} --reason ...` gives it back to its sender"
    )


@app.command()
def release(
    batch: Batch,
    reason: Reason = None,
    park: Annotated[bool, typer.Option("--park", help="Let it in with its bad records parked.")] = False,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Let in a batch that is held for its many deletes, or with --park one that was refused for its bad records.

    Every other check is made anew.
    """
    with open_exchange() as exchange:
        done = exchange.batches.release(batch, park=park, who=who, reason=reason)
    transfer.show_released(done, as_json)


@app.command()
def reject(
    batch: Batch,
    reason: Annotated[str, typer.Option(help="Why; its sender is told.")],
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give up a quarantined or held batch, so that its sender is told."""
    with open_exchange() as exchange:
        done = exchange.batches.reject(batch, reason, who=who)
    if done.untold:
        output.warn(done.untold)
    if as_json:
        output.emit({"batch": done.batch, "state": done.state.value})
    else:
        output.tell(f"batch {done.batch} is rejected; its files are in the archive until their retention ends")


def show_history(events: Sequence[Event]) -> None:
    """Print changes of state."""
    output.table(
        ["at", "from", "to", "cause", "who"],
        [(in_table(event.at), event.from_state, event.to_state, event.cause, event.who) for event in events],
    )
