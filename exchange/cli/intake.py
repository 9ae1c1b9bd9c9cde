"""``exchange intake``: a file of people becomes rows, or is rehearsed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail
from exchange.format.errors import of_system, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exchange.channels.intake import Intake
    from exchange.intake.given import Given, Rehearsed

_AS_USUAL = {"loaded", "duplicate"}


def _option(name: str, metavar: str | None, said: str) -> Any:
    return typer.Option(name, metavar=metavar, help=said, show_default=False)


Word = str | None
Words = list[str] | None


def intake(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or JSON lines, compressed or not.")],
    *,
    stream: Annotated[Word, _option("--stream", "NAME", "Whose rows, as `exchange channels` names it.")] = None,
    name: Annotated[
        Word, _option("--intake", "NAME", "As this declared intake has it; options go before that.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of it, and change nothing.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Load it though the same bytes were loaded before.")] = False,
    mode: Annotated[Word, _option("--mode", "WORD", "insert, upsert or replace; insert if nothing is said.")] = None,
    key: Annotated[Word, _option("--key", "A,B", "Columns that tell rows apart, if not the table's key.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="All in one transaction.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Refuse it for one bad row.")] = False,
    bad_rows: Annotated[int | None, typer.Option(min=0, help="More bad rows refuse it.", show_default=False)] = None,
    bad_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="So does a greater share of them.", show_default=False)
    ] = None,
    mapping: Annotated[
        Words, _option("--map", "HEADER=COLUMN", "Which column a header's cell means; repeatable.")
    ] = None,
    defaults: Annotated[Words, _option("--default", "COLUMN=VALUE", "What a column has that it lacks.")] = None,
    file_format: Annotated[Word, _option("--format", "WORD", "csv or jsonl, if it can't be found out.")] = None,
    encoding: Annotated[Word, _option("--encoding", "NAME", "windows-1252, for example.")] = None,
    delimiter: Annotated[Word, _option("--delimiter", "CHARACTER", "What stands between cells; tab for a tab.")] = None,
    quote: Annotated[Word, _option("--quote", "CHARACTER", "What stands around them; none for nothing.")] = None,
    decimal: Annotated[Word, _option("--decimal", "SIGN", "The decimal sign, . or ,")] = None,
    dates: Annotated[Words, _option("--date", "FORMAT", "How dates are written, as %d.%m.%Y; repeatable.")] = None,
    nulls: Annotated[Words, _option("--null", "WORD", "What stands for NULL, beside nothing; repeatable.")] = None,
    time_zone: Annotated[Word, _option("--time-zone", "NAME", "That of moments which say none: Europe/Berlin.")] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Load a file of rows into a stream that this network writes.

    It goes past bad rows, which become dead letters; run again it goes on where it was left.
    """
    path = Path(file)
    options = {
        "mapping": _pairs("--map", mapping),
        "defaults": _pairs("--default", defaults),
        "key": [one.strip() for one in key.split(",")] if key else None,
        "mode": mode,
        "format": file_format,
        "bad_rows": bad_rows,
        "bad_share": bad_share,
        "on_invalid": "reject" if reject else None,
        "whole": whole or None,
    }
    written = _written(encoding, delimiter, quote, decimal, dates, nulls, time_zone)
    done: Given | Rehearsed
    with (
        open_exchange() as exchange,
        output.between_batches("loading", exchange.site.progress) as stopping,
        _refusals_told(path, stream, name, as_json=as_json, dry_run=dry_run),
    ):
        chosen = _with(exchange.files.intake_for(name, stream if name is None else None), options, written)
        if dry_run:
            done = exchange.files.rehearse(path, chosen)
        else:
            done = exchange.files.load(path, chosen, again=again, stopping=stopping, who=who, reason=reason)
    if "would_load" in done.as_dict():
        _show_rehearsed(cast("Rehearsed", done), as_json)
    else:
        _show(cast("Given", done), as_json)


@contextmanager
def _refusals_told(path: Path, stream: str | None, name: str | None, *, as_json: bool, dry_run: bool) -> Iterator[None]:
    """Say in a sentence why a file is not loaded, and end the command."""
    from exchange.reading import FileRefused

    try:
        yield
    except FileRefused as refusal:
        if as_json:
            output.emit((_rehearsed_not if dry_run else _given_not)(path.name, stream, name, str(refusal)))
        output.print_error(f"{printable(path.name, 200)}: {refusal}")
        fail()
    except OSError as error:
        output.print_error(f"{of_system(error)}; nothing was loaded")
        fail()


def _given_not(file: str, stream: str | None, name: str | None, message: str) -> dict[str, Any]:
    """Give the same object of a file that was refused before it had a row in the ledger."""
    from exchange.intake.standing import DroppedFile

    known = {"intake": name, "stream": stream, "file": file, "state": "refused", "message": message}
    none = dict.fromkeys(("rows_read", "rows_loaded", "rows_parked"), 0)
    return {"file": {one.name: None for one in fields(DroppedFile)} | known | none, "notes": []}


def _rehearsed_not(file: str, stream: str | None, _name: str | None, message: str) -> dict[str, Any]:
    """Give the same object of a file of which nothing could be rehearsed."""
    found: dict[str, Any] = {"file": file, "stream": stream, "notes": [], "rows_read": 0, "would_load": 0, "bad": []}
    return {**found, "refused": message, "duplicate": None}


def _with(chosen: Intake, options: Mapping[str, Any], written: Mapping[str, Any]) -> Intake:
    """Give an intake with what a person said beside it."""
    said = {option: value for option, value in options.items() if value is not None}
    said["mapping"] = {**chosen.mapping, **said["mapping"]}
    said["defaults"] = {**chosen.defaults, **said["defaults"]}
    return replace(chosen, **said, written=replace(chosen.written, **written))


def _written(
    encoding: str | None,
    delimiter: str | None,
    quote: str | None,
    decimal: str | None,
    dates: Sequence[str] | None,
    nulls: Sequence[str] | None,
    time_zone: str | None,
) -> dict[str, Any]:
    """Give what a person said of how cells are written."""
    if decimal not in {None, ".", ","}:
        raise Refused(f"--decimal: expected . or a comma, found {printable(repr(decimal), 80)}")
    given = {
        "encoding": encoding,
        "delimiter": {"tab": "\t"}.get(delimiter or "", delimiter),
        "quote": {"none": ""}.get(quote or "", quote),
        "decimal": decimal,
        "dates": tuple(dates) if dates else None,
        "nulls": ("", *nulls) if nulls else None,
        "time_zone": time_zone,
    }
    return {option: value for option, value in given.items() if value is not None}


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for one in given or ():
        left, sign, right = one.rpartition("=") if option == "--map" else one.partition("=")
        if not sign or not left:
            raise Refused(f"{option}: expected NAME=VALUE, found {printable(repr(one), 80)}")
        pairs[left] = right
    return pairs


def _show(done: Given, as_json: bool) -> None:
    from exchange.intake.ledger import rows_are

    one = done.file
    if as_json:
        output.emit(done.as_dict())
    else:
        for note in done.notes:
            output.say(note)
        if one.state == "duplicate":
            output.tell(f"{one.file}: {one.message}; nothing was loaded, and --again loads it all the same")
        elif one.state == "loaded":
            parked = f", {one.rows_parked:,} bad ones are parked as dead letters" if one.rows_parked else ""
            output.tell(f"{one.file}: {rows_are(one.rows_loaded)} loaded into {one.stream}{parked} (file {one.id})")
        elif one.is_open:
            output.tell(
                f"{one.file}: {rows_are(one.rows_loaded)} loaded so far; the same command goes on (file {one.id})"
            )
    if one.state not in _AS_USUAL:
        if not one.is_open:
            output.print_error(f"{one.file} is {one.state}: {one.message}")
        fail()


def _show_rehearsed(done: Rehearsed, as_json: bool) -> None:
    if as_json:
        output.emit(done.as_dict())
    else:
        for note in done.notes:
            output.say(note)
        if done.bad:
            rows = [(one.rows, one.error, one.line, one.sentence) for one in done.bad]
            output.table(["bad rows", "error", "first line", "there"], rows)
        if done.duplicate:
            output.warn(f"it would be a duplicate: {done.duplicate}")
        told = f"{done.file}: {done.rows_read:,} rows were read; {done.would_load:,} would be loaded into {done.stream}"
        output.tell(f"{told}; nothing was changed")
    if done.refused:
        output.print_error(f"it would be refused: {done.refused}")
        fail()
