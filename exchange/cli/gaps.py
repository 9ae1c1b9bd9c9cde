"""``exchange gaps`` and ``exchange resend``: what is missing, going on without it, and sending it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.batches import ChannelOption, Limit
from exchange.cli.channels import say_pauses
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, one_of, refuse_unknown
from exchange.format.moments import in_table, lasting
from exchange.format.names import MAX_SEQUENCE

if TYPE_CHECKING:
    from exchange.database.tables import GapState
    from exchange.link.gap_report import Gaps
    from exchange.results import Resent
    from exchange.site import Site

app = typer.Typer(help="Batches that others came before.", invoke_without_command=True)


@app.callback()
@output.listing
def gaps(
    ctx: typer.Context,
    channel: ChannelOption = None,
    state: Annotated[
        str, typer.Option(help="missing, or what became of them: arrived, accepted, lost, superseded, left.")
    ] = "missing",
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List the batches that are missing, with their age; on a one-way link with a code to ask for them by."""
    if ctx.invoked_subcommand is None:
        _list(channel, state, limit, as_json)


def _list(channel: str | None, state: str, limit: int, as_json: bool) -> None:
    from exchange.database.tables import GapState

    wanted = one_of("state", state, GapState) or GapState.MISSING
    with open_exchange() as exchange:
        look = exchange.gaps.list(channel, wanted, limit=limit)
        if not look.found:
            refuse_unknown(channel, exchange.site)
        _show_gaps(exchange.site, look, wanted, channel, as_json)


def _show_gaps(site: Site, look: Gaps, wanted: GapState, channel: str | None, as_json: bool) -> None:
    if as_json:
        for one in look.found:
            output.emit({**one.as_dict(), "code": look.codes.get((one.channel, one.epoch))})
        return
    if not look.found:
        output.say("nothing is missing" if wanted == "missing" else f"no batch is {wanted}")
        return
    output.table(
        ["channel", "epoch", "first", "last", "state", "since", "age", "refused", "cause"],
        [
            (
                one.channel,
                one.epoch,
                one.first,
                one.last,
                one.state,
                in_table(one.noticed_at),
                lasting(one.age),
                one.refused,
                one.cause,
            )
            for one in look.found
        ],
    )
    if look.after:
        number = f"{look.count.number}{'' if look.count.exact else ' or more'}"
        output.warn(f"these are the first {len(look.found)} of {number} batches; --limit shows more")
    if wanted == "missing":
        _tell_what_next(site, look)
        say_pauses(site, channel)


def _tell_what_next(site: Site, look: Gaps) -> None:
    for (channel, epoch), code in look.codes.items():
        output.tell(f"request code of {channel} in epoch {epoch}: {code}")
    if look.codes:
        output.say(f"on {site.peer}: `exchange resend --code CODE` sends them again; a code names a few ranges at most")
    elif not site.one_way:
        wait = f"{site.limits.gap_seconds:g} seconds"
        output.say(
            f"what is missing is asked for by itself, after {wait} at most; `exchange doctor` tells of what was refused"
        )


@app.command()
def accept(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="As `exchange gaps` shows it.")],
    sequence: Annotated[int, typer.Argument(metavar="SEQUENCE", min=1, max=MAX_SEQUENCE)],
    reason: Annotated[str, typer.Option(help="Why it will never come; its sender is told that it was given up.")],
    through: Annotated[
        int | None,
        typer.Option(
            metavar="SEQUENCE", min=1, max=MAX_SEQUENCE, help="And what is missing behind it, through this sequence."
        ),
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot/--no-snapshot", help="Ask for a snapshot, which has what was in it.")
    ] = True,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Go on without a missing batch. If it comes after all, it changes nothing."""
    with open_exchange() as exchange:
        done = exchange.gaps.accept(channel, sequence, reason, through=through, snapshot=snapshot, who=who)
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(f"{channel} goes on without {done.shown}; {done.message}")


def resend(
    channel: Annotated[str | None, typer.Argument(metavar="[CHANNEL]", show_default=False)] = None,
    sequences: Annotated[
        list[int] | None, typer.Argument(metavar="[SEQUENCE]...", min=1, max=MAX_SEQUENCE, show_default=False)
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Those of a request code that the other side read out.", show_default=False),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Publish batches again, the same bytes under the next name.

    They are those of a channel, or those of a request code.
    """
    if (channel is None or not sequences) if code is None else (channel or sequences):
        raise Refused("expected CHANNEL and SEQUENCE, or --code; `exchange resend --help` shows both")
    with open_exchange() as exchange:
        done = exchange.batches.resend(channel, sequences or (), code=code, who=who, reason=reason)
    _show(done, as_json)


def _show(done: Sequence[Resent], as_json: bool) -> None:
    if as_json:
        for one in done:
            output.emit(one.as_dict())
    else:
        output.table(
            ["batch", "channel", "sequence", "attempt"],
            [(one.batch, one.channel, one.sequence, one.attempt or "lost") for one in done],
        )
        for one in done:
            if one.attempt is None:
                output.warn(f"{one.batch}: {one.message}")
    if any(one.attempt is None for one in done):
        fail()
