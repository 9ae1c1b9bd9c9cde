"""``exchange dead-letters``: records that did not take effect, and what to do with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.dead_letters_filters import OF_CAUSES, FilterOptions, takes_filters
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, open_site
from exchange.format.errors import printable
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.dead_letters import Group, Page, View
    from exchange.dead_letters.show import Line

LARGEST_ID = 2**63 - 1
LONGEST_RECORD = 20_000
"""Characters of a record shown to people; `--json` gives all that is kept."""

MOST_LINES = 200
"""Lines of a record that is laid out."""

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#@"
"""The same for an output that has no such characters."""

app = typer.Typer(help="Records that did not take effect: by cause, or `list`ed.", invoke_without_command=True)
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID)]
Ids = Annotated[list[int], typer.Argument(metavar="ID", min=1, max=LARGEST_ID)]
PageLimit = Annotated[int, typer.Option(min=1, max=10_000, help="Show so many at most.")]


@app.callback()
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
    from exchange import dead_letters
    from exchange.database.errors import world_errors
    from exchange.database.locks import reading

    with open_site() as site:
        wanted = filters.read(site)
        with world_errors(), reading(site.engine) as connection:
            groups = dead_letters.grouped(connection, wanted)
        if not groups:
            filters.refuse_unknown_names(site)
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
    if sys.stdout.isatty():
        output.tell(told)
        _tell_groups(groups)
    else:
        output.say(told)
        _list_groups(groups)


def _list_groups(groups: Sequence[Group]) -> None:
    output.table(
        [
            *("count", "first", "last", "trend", "channel", "stream", "direction", "error", "fingerprint", "example"),
            *("fault", "message", "next"),
        ],
        [
            (
                group.letters,
                in_table(group.first_at),
                in_table(group.last_at),
                _bar(group.trend),
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
        output.head(
            f"{group.letters:,} {group.error}, {where}", f"cause {group.fingerprint}, fault: {group.advice.fault}"
        )
        output.tell(f"  {in_table(group.first_at)} to {in_table(group.last_at)}, last 24 hours |{_bar(group.trend)}|")
        output.tell(f"  e.g. {group.example}: {group.message}")
        output.tell(f"  next: {group.advice.next}")


@app.command("list")
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
    from exchange import dead_letters
    from exchange.database.errors import world_errors
    from exchange.database.locks import reading
    from exchange.dead_letters import selections

    with open_site() as site:
        wanted = filters.read(site, selection)
        with world_errors(), reading(site.engine) as connection:
            if selection is not None:
                selections.find_selection(connection, selection)
            cursor = dead_letters.cursor(connection, after) if after is not None else None
            if after is not None and cursor is None:
                raise Refused(f"after: there is no dead letter {after} to go on after; begin without --after")
            page = dead_letters.page(connection, wanted, after=cursor, limit=limit, oldest_first=oldest)
        if not page.letters and not page.cut:
            filters.refuse_unknown_names(site)
        mask = dead_letters.Mask(site.channels)
    letters = [mask.brief(letter) for letter in page.letters]
    if as_json:
        for letter in letters:
            output.emit(letter.as_dict())
    elif letters:
        output.table(
            ["id", "parked", "direction", "channel", "stream", "key", "state", "error", "message"],
            [
                (
                    letter.id,
                    in_table(letter.created_at),
                    letter.direction,
                    letter.channel,
                    letter.stream,
                    letter.key,
                    letter.state,
                    letter.error,
                    letter.message,
                )
                for letter in letters
            ],
        )
    _say_where(page)


def _say_where(page: Page) -> None:
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


@app.command()
def show(letter_id: Id, as_json: Json = False) -> None:
    """Show one dead letter: what is wrong, the record, its row as it stands now, and its history."""
    from exchange import dead_letters
    from exchange.database.errors import world_errors
    from exchange.database.locks import reading

    with open_site() as site, world_errors(), reading(site.engine) as connection:
        found = dead_letters.view(site, connection, letter_id)
    if found is None:
        output.complain(f"there is no dead letter {letter_id}; `exchange dead-letters list` shows those there are")
        fail()
    if as_json:
        output.emit(found.as_dict())
        return
    _tell_letter(found)
    _tell_record(found)
    _tell_row(found)
    _tell_past(found)


def _tell_letter(found: View) -> None:
    letter = found.letter
    fields = {
        "id": letter.id,
        "state": letter.state,
        "direction": letter.direction,
        "channel": letter.channel,
        "batch": letter.batch,
        "line": letter.line,
        "stream": letter.stream,
        "op": letter.op,
        "key": letter.key,
        "version": letter.version,
        "schema_version": letter.schema_version,
        "sender": letter.producer,
        "parked": in_table(letter.created_at),
        "attempts": letter.attempts,
        "revision": letter.revision or None,
        "error": letter.error,
        "pointer": letter.pointer,
        "message": letter.message,
        "rule": found.rule,
        "fault": found.advice.fault,
        "next": found.advice.next if letter.state == "parked" else None,
        "fingerprint": letter.fingerprint,
    }
    output.table(["field", "value"], [(name, value) for name, value in fields.items() if value not in {None, ""}])


def _tell_record(found: View) -> None:
    letter = found.letter
    kept = "" if letter.record_bytes == len(letter.record) else f", of which {len(letter.record):,} are kept"
    output.tell(f"record ({letter.record_bytes:,} bytes{kept}):")
    for line in _around_fault(found.pretty):
        output.tell(f"{'->' if line.fails else '  '} {line.text}")
    if found.record is None:
        output.tell("   (not shown: it can't be read, and it may have columns that are sensitive)")
        return
    output.tell("exact bytes:")
    typer.echo(printable(found.record, LONGEST_RECORD))


def _around_fault(lines: Sequence[Line]) -> Sequence[Line]:
    """Cut a long record down to where it fails."""
    first = next((number for number, line in enumerate(lines) if line.fails), 0)
    start = max(0, min(first - MOST_LINES // 2, len(lines) - MOST_LINES))
    return lines[start : start + MOST_LINES]


def _tell_row(found: View) -> None:
    if found.since is None:
        return
    output.tell(f"row now: {found.since}")
    if found.differences:
        output.table(["column", "in the record", "in the row"], found.differences)


def _tell_past(found: View) -> None:
    if found.revisions:
        output.tell("revisions, newest first:")
        output.table(
            ["number", "at", "who", "why", "difference"],
            [(one.number, in_table(one.at), one.who, one.why, one.difference) for one in found.revisions],
        )
    if found.others:
        output.tell("other dead letters of this key, newest first:")
        output.table(
            ["id", "parked", "state", "version", "message"],
            [(one.id, in_table(one.created_at), one.state, one.version, one.message) for one in found.others],
        )
    output.tell("history, newest first:")
    output.table(
        ["at", "from", "to", "cause", "who"],
        [
            (in_table(event["at"]), event["from_state"], event["to_state"], event["cause"], event["who"])
            for event in found.history
        ],
    )


def many(number: int, what: str = "dead letter") -> str:
    """Write how many there are of something."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _bar(trend: Sequence[int]) -> str:
    """Draw numbers as a row of bars; the smallest one that is not 0 is seen."""
    bars = BARS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BARS
    most = max(trend, default=0) or 1
    return "".join(bars[math.ceil(number * (len(bars) - 1) / most)] for number in trend)
