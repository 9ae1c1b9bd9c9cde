"""``exchange dead-letters show``: all there is to know about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from exchange.cli import output
from exchange.cli.audited import open_exchange
from exchange.cli.dead_letters import Id
from exchange.cli.output import Json
from exchange.cli.runtime import fail
from exchange.format.errors import printable
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.dead_letters.show import Line, View

LONGEST_RECORD = 20_000
"""Characters of a record shown to people; `--json` gives all that is kept."""

MOST_LINES = 200
"""Lines of a record that is laid out."""


def show(letter_id: Id, as_json: Json = False) -> None:
    """Show one dead letter: what is wrong, the record, its row as it stands now, and its history."""
    with open_exchange() as exchange:
        found = exchange.dead_letters.show(letter_id)
    if found is None:
        output.print_error(f"there is no dead letter {letter_id}; `exchange dead-letters list` shows those there are")
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
        "file": found.file,
        "intake": letter.intake,
        "line": letter.line,
        "stream": letter.stream,
        "op": letter.op,
        "key": letter.key,
        "version": letter.version,
        "schema_version": letter.schema_version,
        "sender": letter.producer if found.file is None else None,
        "parked": in_table(letter.created_at),
        "seen": letter.seen if letter.seen > 1 else None,
        "first seen": in_table(letter.first_seen) if letter.seen > 1 else None,
        "last seen": in_table(letter.last_seen) if letter.seen > 1 else None,
        "attempts": letter.attempts,
        "tried again": found.next_try,
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
        output.command(line.text, "-> " if line.fails else "   ")
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
