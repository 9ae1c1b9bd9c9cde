"""Batches on their way: export, import, replay, and letting go of old files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, stem
from exchange.format.errors import Verdict
from exchange.format.names import CONTROL, MAX_SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exchange.api.batches import Released
    from exchange.results import ExportRun, Imported, ImportRun

_AS_USUAL = {Verdict.APPLIED, Verdict.DUPLICATE}

Channel = Annotated[str | None, typer.Argument(metavar="[CHANNEL]", help="Only this channel.", show_default=False)]


def export(channel: Channel = None, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Export what changed as signed batches."""
    with open_exchange() as exchange, output.between_batches("exporting", exchange.site.progress) as stopping:
        run = exchange.export(channel, stopping=stopping, who=who, reason=reason)
    show_exported(run, as_json)
    if channel is not None and run.paused:
        fail()
    if run.untold and run.untold != run.trouble:
        output.print_error(run.untold)
    if run.trouble or run.busy or run.faults or run.untold:
        fail()
    if not (run.batches or run.parked or run.resent or run.paused):
        output.say("nothing to export")


def import_(
    channel: Channel = None,
    batch: Annotated[str | None, typer.Option(metavar="STEM", help="Only this batch.", show_default=False)] = None,
    release: Annotated[
        str | None,
        typer.Option(
            metavar="STEM",
            help="Only this batch, though it deletes more, or is newer, than the settings allow.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Import what arrived.

    Each batch is verified, then applied in one transaction or not at all.
    """
    if batch and release and batch != release:
        raise Refused("--batch and --release: expected one batch, found two")
    wanted = stem(release or batch or "") if release or batch else None
    with open_exchange() as exchange, output.between_batches("importing", exchange.site.progress) as stopping:
        run = exchange.import_batches(
            channel, batch=wanted, release=bool(release), stopping=stopping, who=who, reason=reason
        )
        if channel is None and wanted is None and run.trouble is None:
            exchange.dead_letters.work_off(stopping=stopping)  # where cron runs it, nobody else does
    show_imported(run.batches, as_json)
    if run.untold:
        output.warn(run.untold)
    _show_the_rest(run)
    if channel is not None and run.paused and not run.batches:
        fail()
    if run.trouble:
        output.print_error(run.trouble)
        fail()
    if wanted and not run.batches:
        output.print_error(f"batch {wanted} does not lie in incoming; `exchange batches` says what became of it")
        fail()
    if not run.batches and not run.left_alone and not run.paused:
        output.say("nothing to import")
    if run.busy or any(one.needs_a_person for one in run.left_alone):
        fail()


def _show_the_rest(run: ImportRun) -> None:
    """Print what an import found beside batches, and what it led to."""
    for pause in run.paused:
        output.warn(str(pause))
    for sentence in run.strangers.sentences():
        output.warn(sentence)
    for group in run.left_alone:
        output.warn(str(group.problem))
    if run.ignored or run.unpaired:
        output.say(
            f"left alone in incoming: {run.ignored} files that are no batch,"
            f" {run.unpaired} data files whose manifest has not arrived"
        )
    if run.reunited:
        applied = sum(not one.failed for one in run.reunited)
        retried = len(run.reunited)
        output.say(f"{retried} parked records were retried, as what they refer to has come: {applied} applied")


def replay(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The stem of a batch that was kept.")],
    through: Annotated[
        int | None,
        typer.Option(
            metavar="SEQUENCE",
            min=1,
            max=MAX_SEQUENCE,
            help="And those after it, through this sequence.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Apply a kept batch again, or a range of them.

    They may be archived, held or quarantined; one that is applied already stays as it is.
    """
    wanted = stem(batch)
    with open_exchange() as exchange, output.between_batches("replaying", exchange.site.progress) as stopping:
        done = exchange.replay(wanted, through, stopping=stopping, who=who, reason=reason)
    show_imported(done.batches, as_json)
    for sentence in filter(None, (done.trouble, done.untold)):
        output.warn(sentence)
    if done.busy:
        fail()


def prune(reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Remove files and settled dead letters beyond their retention.

    The ledger stays.
    """
    with open_exchange() as exchange, output.shown_progress("pruning", exchange.site.progress):
        counts = exchange.prune(who=who, reason=reason).as_dict()
    if as_json:
        output.emit(counts)
    else:
        output.table(["removed", "count"], counts.items())


def show_released(done: Released, as_json: bool) -> None:
    """Print what became of a batch that a person let in; if somebody else is at work, that ends the command."""
    if done.untold:
        output.warn(done.untold)
    show_imported([done.outcome], as_json)
    if done.outcome.busy:
        fail()


def show_exported(run: ExportRun, as_json: bool) -> None:
    """Print which batches were sent, and what was in the way."""
    if as_json:
        for batch in run.batches:
            output.emit(batch.as_dict())
    elif run.batches:
        output.table(
            ["batch", "channel", "sequence", "records", "bytes"],
            [(one.batch, one.channel, one.sequence, one.records, one.bytes) for one in run.batches],
        )
    for busy in run.busy:
        output.warn(str(busy))
    if run.resent:
        output.say(f"published again, as the other side may miss them: {', '.join(one.batch for one in run.resent)}")
    if run.parked:
        output.warn(f"{run.parked} records could not be sent and are parked; `exchange dead-letters list` shows them")
    for sentence in (*map(str, run.paused), *run.cautions):
        output.warn(sentence)
    for sentence in filter(None, (*run.faults, run.trouble)):
        output.print_error(sentence)


def counted(counts: dict[str, int]) -> str:
    """Word counts of records by what became of them."""
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)


def show_imported(outcomes: Sequence[Imported], as_json: bool) -> None:
    """Print what became of batches that were looked at."""
    if as_json:
        for outcome in outcomes:
            output.emit(outcome.as_dict())
        return
    # What the other side says of itself is for `exchange status`, unless something is wrong with it.
    shown = [one for one in outcomes if one.channel != CONTROL or one.verdict not in _AS_USUAL or one.records.parked]
    if shown:
        output.table(
            ["batch", "verdict", "reason", "records"],
            [(one.batch, one.verdict, one.reason, counted(one.records.as_dict())) for one in shown],
        )
    for one in shown:
        if one.message:
            output.warn(f"{one.batch}: {one.message}")
