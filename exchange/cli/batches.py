"""``exchange batches``: the ledger, newest first; one batch closely; and a person's word on one that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output, transfer
from exchange.cli.audited import As, Reason, by_hand
from exchange.cli.output import Json
from exchange.cli.runtime import fail, one_of, open_site, refuse_unknown, stem
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from exchange.database.ledger import Event
    from exchange.incoming.release import BatchDetail, ReleaseTrial
    from exchange.operating.status import BatchRow
    from exchange.site import Site

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
    channel: ChannelOption = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    direction: Annotated[str | None, typer.Option(help="Only in or out.", show_default=False)] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those that came signed with this key.", show_default=False)
    ] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List what became of every batch, newest first."""
    if ctx.invoked_subcommand is None:
        _list(channel, state, direction, key, limit, as_json)


def _list(
    channel: str | None, state: str | None, direction: str | None, key: str | None, limit: int, as_json: bool
) -> None:
    from exchange.database.errors import transient_errors
    from exchange.database.locks import reading
    from exchange.database.tables import BatchState, Direction
    from exchange.operating import status

    wanted_state = one_of("state", state, BatchState)
    wanted_direction = one_of("direction", direction, Direction)
    with open_site() as site, transient_errors(), reading(site.engine) as connection:
        channels = None if channel is None else site.names_in_files(channel)
        found = status.batches(
            site, connection, channels=channels, state=wanted_state, direction=wanted_direction, key=key, limit=limit
        )
        if not found:
            refuse_unknown(channel, site)
        troubles = [*_troubles(site, connection, found), *_left_alone(site)]
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


def _troubles(site: Site, connection: Connection, rows: Sequence[BatchRow]) -> list[str]:
    """Say what the far side could not take of the channels whose batches are listed, and why."""
    from exchange.database.tables import Direction
    from exchange.link import peer_state

    sent = {row.channel for row in rows if row.direction is Direction.OUT}
    there = peer_state.read_peer_state(site, connection)
    told = {channel: one for channel, one in there.channels.items() if channel in sent}
    return list(replace(there, channels=told).troubles())


def _left_alone(site: Site) -> list[str]:
    """Say what lies in incoming that a carrier made of batches' files: the ledger knows nothing of it."""
    from exchange.format.errors import TransientError
    from exchange.incoming.arrivals import left_alone

    try:
        listing = site.spool.list_arrivals()
    except TransientError as error:
        return [error.sentence]
    return [str(one.problem) for one in left_alone(listing, site.limits)]


@app.command()
def show(
    batch: Batch,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="List so many bad records at most.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show one batch: what became of it, and every bad record if it was refused for them.

    For that it is applied with the bad ones parked, and rolled back.
    """
    from exchange.incoming.release import batch_detail

    wanted = stem(batch)
    with open_site() as site:
        found = batch_detail(site, wanted, limit)
    if as_json:
        output.emit(_fields(found))
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
        _show_trial(wanted, found.trial)


def _fields(found: BatchDetail) -> dict[str, Any]:
    newest = found.rows[0]
    return {
        "batch": newest.stem,
        "direction": newest.direction.value,
        "channel": newest.channel,
        "epoch": newest.epoch,
        "sequence": newest.sequence,
        "state": newest.state.value,
        "reason": newest.reason,
        "message": newest.message,
        "history": [event.as_dict() for event in found.history],
        "dead_letters": found.letters,
        "trial": found.trial.as_dict() if found.trial else None,
        "untried": found.untried,
    }


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
    from exchange.incoming.release import release_batch

    wanted = stem(batch)
    with open_site() as site:
        arguments = {"batch": wanted, "park": park or None}
        with by_hand(site, "release_batch", arguments, who=who, why=reason) as act:
            done = release_batch(site, wanted, park=park)
            act.came_to(done.as_dict())
            transfer.tell(site)
    transfer.show_imported([done], as_json)
    if done.busy:
        fail()


@app.command()
def reject(
    batch: Batch,
    reason: Annotated[str, typer.Option(help="Why; its sender is told.")],
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give up a quarantined or held batch, so that its sender is told."""
    from exchange.incoming.release import reject_batch

    wanted = stem(batch)
    with open_site() as site, by_hand(site, "reject_batch", {"batch": wanted}, who=who, why=reason) as act:
        reject_batch(site, wanted, reason)
        done = {"batch": wanted, "state": "rejected"}
        act.came_to(done)
        transfer.tell(site)
    if as_json:
        output.emit(done)
    else:
        output.tell(f"batch {wanted} is rejected; its files are in the archive until their retention ends")


def show_history(events: Sequence[Event]) -> None:
    """Print changes of state."""
    output.table(
        ["at", "from", "to", "cause", "who"],
        [(in_table(event.at), event.from_state, event.to_state, event.cause, event.who) for event in events],
    )
