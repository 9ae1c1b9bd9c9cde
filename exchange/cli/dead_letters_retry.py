"""``exchange dead-letters``: selecting, retrying, giving up and taking back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.dead_letters import LARGEST_ID, many
from exchange.cli.dead_letters_filters import FilterOptions, takes_filters
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.api.dead_letters import DeadLetters
    from exchange.dead_letters.bulk_retry import BulkRetry, Pace
    from exchange.dead_letters.outcomes import Outcomes
    from exchange.results import Retried

SHOWN_FAILURES = 20
"""So many of those that stay parked are shown to people; `--json` gives all."""

SAMPLES = 3
"""So many letters of one outcome are shown of a dry run, and of what is to be discarded."""

FEW = 5
"""So many letters that are named by their ids are discarded or restored without a question."""

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", min=1, max=LARGEST_ID, show_default=False)]
SelectionOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The letters of this selection.", show_default=False)
]
SkipChanged = Annotated[
    bool, typer.Option("--skip-changed", help="Leave out letters that changed since they were selected.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nobody; without a terminal, and with --json, nobody is asked.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history and the audit.")]


@takes_filters(state="parked")
def select(
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="How the selection is to be called.")],
    filters: FilterOptions,
    as_name: As = None,
    as_json: Json = False,
) -> None:
    """Freeze the letters that filters mean now under a name, to retry or discard just these."""
    with open_exchange() as exchange:
        chosen = filters.read(exchange.site)
        filters.refuse_unknown_names(exchange.site)
        made = exchange.dead_letters.select(name, chosen, who=as_name)
    if as_json:
        output.emit(made.as_dict())
    else:
        output.tell(f"selection {made.name} has {many(made.letters)}")


@output.listing
def selections(as_json: Json = False) -> None:
    """List selections, newest first."""
    with open_exchange() as exchange:
        found = exchange.dead_letters.selections()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there is no selection; `exchange dead-letters select` makes one")
        return
    output.table(
        ["name", "letters", "not tried", "still parked", "made", "who", "filters"],
        [
            (
                one.name,
                one.letters,
                one.left,
                one.parked,
                in_table(one.at),
                one.who,
                ", ".join(f"{name} {value}" for name, value in one.filters.items()),
            )
            for one in found
        ],
    )


def unselect(name: Annotated[str, typer.Argument(metavar="NAME")], as_name: As = None, as_json: Json = False) -> None:
    """Forget a selection. Its letters stay as they are."""
    with open_exchange() as exchange:
        exchange.dead_letters.unselect(name, who=as_name)
    if as_json:
        output.emit({"name": name})
    else:
        output.tell(f"selection {name} is forgotten")


def retry(
    ids: Ids = None,
    *,
    selection: SelectionOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen to each; change nothing.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Of a selection: at most so many a second.", show_default=False)
    ] = None,
    canary: Annotated[
        int | None, typer.Option(min=1, help="Of a selection: so many first; go on if all hold.", show_default=False)
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Of a selection: end after so many failures.", show_default=False)
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Of a selection: also those tried that stayed parked.")
    ] = False,
    skip_changed: SkipChanged = False,
    background: Annotated[
        bool, typer.Option("--background", help="Of a selection: have the worker do it; `retries` shows how far it is.")
    ] = False,
    reason: Reason = None,
    as_name: As = None,
    as_json: Json = False,
) -> None:
    """Try parked records again, with every check that a batch's record meets.

    A selection is tried group by group. Ctrl-C ends between two of them, and the same command goes on.
    """
    from exchange.dead_letters.bulk_retry import Pace

    pace = Pace(rate, canary, stop_after)
    chosen = _ids_or_selection(ids, selection)
    if chosen is None and (pace != Pace() or again or skip_changed or background):
        raise Refused("--rate, --canary, --stop-after, --again, --skip-changed and --background are for a --selection")
    if background and chosen is not None:
        if dry_run:
            raise Refused("--background changes letters, and --dry-run none: expected one of them, found both")
        _begin_background(chosen, pace, again=again, skip_changed=skip_changed, why=reason, who=as_name, json=as_json)
        return
    with open_exchange() as exchange:
        if chosen is None:
            done = exchange.dead_letters.retry(ids or (), rehearse=dry_run, who=as_name, reason=reason)
            bulk = None
        else:
            done = ()
            bulk = _retry_selection(
                exchange.dead_letters,
                chosen,
                pace,
                as_json=as_json,
                rehearse=dry_run,
                again=again,
                skip_changed=skip_changed,
                who=as_name,
                reason=reason,
            )
    if bulk is not None:
        _tell_bulk(bulk, as_json, again=again)
        if bulk.stopped or (bulk.failed and not dry_run):
            fail()
        return
    if dry_run and not as_json:
        from exchange.dead_letters.outcomes import Outcomes

        outcomes = Outcomes()
        outcomes.add(done)
        _tell_outcomes(outcomes)
    else:
        _tell_retried(done, as_json, dry_run)
    if not dry_run and not all(one.changed and not one.failed for one in done):
        fail()


def _begin_background(
    name: str, pace: Pace, *, again: bool, skip_changed: bool, why: str | None, who: str | None, json: bool
) -> None:
    with open_exchange() as exchange:
        begun = exchange.dead_letters.retry_in_background(
            name, pace, again=again, skip_changed=skip_changed, who=who, reason=why
        )
        absent = exchange.absences()
    if json:
        output.emit(begun.as_dict())
    else:
        output.tell(f"retry {begun.id} of selection {name} is to try {many(begun.letters)}")
        output.say(f"`exchange dead-letters retries show {begun.id}` says how far it is")
    if absent:
        output.warn("where no worker runs, `exchange import` and `exchange dead-letters retries work` go on with it")


def _retry_selection(
    letters: DeadLetters, name: str, pace: Pace, *, as_json: bool, rehearse: bool, **how: Any
) -> BulkRetry:
    """Retry a selection, with a bar and what failed; ``how`` goes to ``DeadLetters.retry_selection``."""
    from exchange.dead_letters.outcomes import Outcomes

    total = letters.count_left(name)
    shown = done = 0
    outcomes = Outcomes()
    with output.between_groups("retrying", total) as (stopping, show):

        def show_group(retried: Sequence[Retried]) -> None:
            """Move the bar, and show what failed of a group, or all of it: so many failures at most."""
            nonlocal shown, done
            done += len(retried)
            show(done)
            if rehearse and not as_json:
                outcomes.add(retried)
                return
            few = retried if as_json else [one for one in retried if one.failed][: SHOWN_FAILURES - shown]
            shown += len(few)
            if few:
                _tell_retried(few, as_json, rehearse)

        bulk = letters.retry_selection(name, pace, rehearse=rehearse, stopping=stopping, report=show_group, **how)
    _tell_outcomes(outcomes)
    return bulk


def _tell_outcomes(outcomes: Outcomes) -> None:
    """Say what would become of letters, the largest group first."""
    for one in outcomes.groups():
        output.head(f"{many(one.letters)} {one.outcome}", one.rule)
        for sample in one.samples:
            output.under(f"{sample.id}: {sample.message}")
        if one.letters > len(one.samples):
            output.under(f"and {one.letters - len(one.samples):,} more like them")


def _tell_retried(done: Sequence[Retried], as_json: bool, rehearsal: bool) -> None:
    if as_json:
        for one in done:
            output.emit(one.as_dict() | ({"dry_run": True} if rehearsal else {}))
        return
    state = "would be" if rehearsal else "state"
    output.table(["id", state, "message"], [(one.id, one.state, one.message) for one in done])


def _tell_bulk(bulk: BulkRetry, as_json: bool, *, again: bool) -> None:
    fields = bulk.as_dict()
    if as_json:
        output.emit(fields)
        return
    if not bulk.letters:
        stayed = "" if again else "; `--again` retries those that stayed parked"
        output.say(
            f"selection {bulk.selection} is finished: all of its letters were tried{stayed};"
            f" `exchange dead-letters unselect {bulk.selection}` forgets it"
        )
        return
    counted = ("tried", "applied", "superseded", "parked", "left", "poison")
    output.table(["outcome", "letters"], [(name, fields[name]) for name in counted])
    if bulk.poison:
        output.say(f"{bulk.poison:,} are poison: they failed too often to be retried but by id")
    if bulk.stopped:
        output.print_error(bulk.stopped)
    elif bulk.failed and not bulk.rehearsal:
        output.warn(f"{bulk.failed:,} stay parked; `--again` retries them once their cause is gone")


def discard(
    ids: Ids = None,
    *,
    reason: Why,
    selection: SelectionOption = None,
    skip_changed: SkipChanged = False,
    yes: Yes = False,
    as_name: As = None,
    as_json: Json = False,
) -> None:
    """Give parked records up, all that are named or none; of many at a terminal it asks first."""
    chosen = _ids_or_selection(ids, selection)
    with open_exchange() as exchange:
        letters = exchange.dead_letters
        _ask(letters, "discard", ids or (), chosen, asking=not (yes or as_json))
        number = letters.discard(reason, ids or (), selection=chosen, skip_changed=skip_changed, who=as_name)
    _tell_number(ids, chosen, number, "discarded", as_json)


def restore(
    ids: Ids = None,
    *,
    reason: Why,
    selection: SelectionOption = None,
    yes: Yes = False,
    as_name: As = None,
    as_json: Json = False,
) -> None:
    """Take back records that were discarded: they are parked again. Of many at a terminal it asks first."""
    chosen = _ids_or_selection(ids, selection)
    with open_exchange() as exchange:
        _ask(exchange.dead_letters, "restore", ids or (), chosen, asking=not (yes or as_json))
        number = exchange.dead_letters.restore(reason, ids or (), selection=chosen, who=as_name)
    _tell_number(ids, chosen, number, "parked", as_json)


def _ask(letters: DeadLetters, what: str, ids: Sequence[int], selection: str | None, *, asking: bool) -> None:
    """Ask a person at a terminal about many letters, with how many and a few of them. Raises Refused for a no."""
    if not asking or not sys.stdin.isatty() or (selection is None and len(ids) <= FEW):
        return
    from exchange.database.tables import DeadLetterState
    from exchange.dead_letters.filters import Filters

    if selection is None:
        views = [view.letter for one in ids[:SAMPLES] if (view := letters.show(one))]
        number, few = many(len(ids)), [(one.id, one.stream, one.key, one.message) for one in views]
    else:
        state = DeadLetterState.PARKED if what == "discard" else DeadLetterState.DISCARDED
        page = letters.list(Filters(state=state, selection=selection), limit=SAMPLES, oldest_first=True)
        if not page.count.letters:
            return
        number = f"{'' if page.count.exact else 'at least '}{many(page.count.letters)} of selection {selection}"
        few = [(one.id, one.stream, one.key, one.message) for one in page.letters]
    output.say(f"{number}, such as")
    for one, stream, key, message in few:
        output.say(f"{one}: {stream} {key}: {message}")
    if not typer.confirm(f"{what} them?", err=True):
        raise Refused("nothing was changed; --yes asks nobody")


def _tell_number(ids: Sequence[int] | None, selection: str | None, number: int, state: str, as_json: bool) -> None:
    if as_json:
        if ids:
            for one in ids:
                output.emit({"id": one, "state": state})
        else:
            output.emit({"selection": selection, "letters": number, "state": state})
    elif ids and number == 1:
        output.tell(f"dead letter {ids[0]} is {state}")
    else:
        output.tell(f"{many(number)} {'is' if number == 1 else 'are'} {state}")


def _ids_or_selection(ids: Sequence[int] | None, selection: str | None) -> str | None:
    from exchange.api.letter_filters import check_selection_name

    if bool(ids) is (selection is not None):
        found = "both" if ids else "neither"
        raise Refused(f"expected the ids of dead letters or --selection NAME, found {found}")
    return None if selection is None else check_selection_name(selection)
