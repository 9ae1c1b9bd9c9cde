"""``exchange dead-letters``: records that did not take effect, and what to do with them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import open_exchange
from exchange.cli.dead_letters_filters import OF_CAUSES, FilterOptions, takes_filters
from exchange.cli.output import Json
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.dead_letters.groups import Group
    from exchange.dead_letters.search import LetterPage
    from exchange.dead_letters.store import Brief

LONGEST_PLACE = 60
"""Channel and stream stand together in a line as long as they have no more characters."""

LARGEST_ID = 2**63 - 1
app = typer.Typer(help="Records that did not take effect: by cause, or `list`ed.", invoke_without_command=True)
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID)]
PageLimit = Annotated[int, typer.Option(min=1, max=10_000, help="Show so many at most.")]


@app.callback()
@output.listing
@takes_filters(*OF_CAUSES, state="parked")
def by_cause(
    context: typer.Context,
    *,
    filters: FilterOptions,
    as_json: Json = False,
) -> None:
    """Show what is wrong, by cause: how much, since when, whose fault, and what to do."""
    if context.invoked_subcommand is not None:
        return
    with open_exchange() as exchange:
        wanted = filters.read(exchange.site)
        groups = exchange.dead_letters.groups(wanted)
        if not groups:
            filters.refuse_unknown_names(exchange.site)
    if as_json:
        for group in groups:
            output.emit(group.as_dict())
        return
    letters = sum(group.letters for group in groups)
    if not letters:
        output.say(
            f"there are no such dead letters: none is {filters.state}"
            if wanted.given
            else f"no dead letter is {filters.state}"
        )
        return
    since = min(group.first_at for group in groups)
    told = f"{many(letters)} {filters.state}, of {many(len(groups), 'cause')}, the oldest since {in_table(since)}"
    if sys.stdout.isatty() and not output.is_shaped():
        output.tell(told)
        _tell_groups(groups)
    else:
        output.say(told)
        _list_groups(groups)


def _list_groups(groups: Sequence[Group]) -> None:
    output.table(
        [
            *(
                "count",
                "seen",
                "first",
                "last",
                "trend",
                "channel",
                "stream",
                "direction",
                "error",
                "fingerprint",
                "example",
            ),
            *("fault", "message", "next"),
        ],
        [
            (
                group.letters,
                group.seen,
                in_table(group.first_at),
                in_table(group.last_at),
                output.bars(group.trend),
                group.channel,
                group.stream,
                group.direction,
                group.error,
                group.fingerprint,
                group.example,
                group.advice.fault,
                group.message,
                group.advice.next,
            )
            for group in groups
        ],
    )


def _tell_groups(groups: Sequence[Group]) -> None:
    """Write a few lines for each: a table of so many columns fits no terminal."""
    for group in groups:
        output.tell("")
        where = f"{group.channel}/{group.stream or '?'} ({group.direction})"
        if len(where) > LONGEST_PLACE:
            where = where.replace("/", " / ", 1)
        output.head(
            f"{group.letters:,} {group.error}, {where}", f"cause {group.fingerprint}, fault: {group.advice.fault}"
        )
        seen = f", seen {group.seen:,} times" if group.seen > group.letters else ""
        output.under(
            f"{in_table(group.first_at)} to {in_table(group.last_at)}{seen}, last 24 hours |{output.bars(group.trend)}|"
        )
        output.under(f"e.g. {group.example}: {group.message}")
        output.under(f"next: {group.advice.next}")


@app.command("list")
@output.listing
@takes_filters()
def list_(
    *,
    filters: FilterOptions,
    selection: Annotated[str | None, typer.Option(help="Only of this selection.", show_default=False)] = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="Oldest first.")] = False,
    after: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Go on after this dead letter.", show_default=False)
    ] = None,
    limit: PageLimit = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first, a page at a time."""
    with open_exchange() as exchange:
        wanted = filters.read(exchange.site, selection)
        page = exchange.dead_letters.list(wanted, limit=limit, after=after, oldest_first=oldest)
        if not page.letters and not page.cut:
            filters.refuse_unknown_names(exchange.site)
    letters = page.letters
    if as_json:
        for letter in letters:
            output.emit(letter.as_dict())
    elif letters:
        again = any(letter.seen > 1 for letter in letters)  # else two columns would say nothing
        by_itself = any(letter.next_try_at for letter in letters)
        output.table(
            [
                "id",
                "parked",
                *(["seen", "last seen"] if again else []),
                "direction",
                "channel",
                "stream",
                "key",
                "state",
                *(["tried again"] if by_itself else []),
                "error",
                "message",
            ],
            [
                (
                    letter.id,
                    in_table(letter.first_seen),
                    *((letter.seen, in_table(letter.last_seen)) if again else ()),
                    letter.direction,
                    letter.channel,
                    letter.stream,
                    letter.key,
                    letter.state,
                    *((_next_try(letter),) if by_itself else ()),
                    letter.error,
                    letter.message,
                )
                for letter in letters
            ],
        )
    _say_where(page)


def _next_try(letter: Brief) -> str:
    """Say when a letter is tried again by itself, and for which time of how many."""
    from exchange.dead_letters.schedule import MOST_TRIES

    if letter.next_try_at is None or letter.state != "parked":
        return "-"
    return f"{in_table(letter.next_try_at)}, {letter.tries + 1} of {MOST_TRIES}"


def _say_where(page: LetterPage) -> None:
    """Say how many there are, and how to see more."""
    if not page.letters and not page.cut:
        output.say("there are no such dead letters")
        return
    of = f"{many(page.count.letters)}" if page.count.exact else f"at least {many(page.count.letters)}"
    if page.cut:
        output.say(
            f"found {len(page.letters)} so far, not all were looked through; `--after {page.after}` looks further"
        )
    elif page.after is not None:
        output.say(f"{len(page.letters)} of {of}; `--after {page.after}` shows more")
    elif len(page.letters) < page.count.letters:
        output.say(f"the last {len(page.letters)} of {of}")
    else:
        output.say(of)


def many(number: int, what: str = "dead letter") -> str:
    """Write how many there are of something."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
