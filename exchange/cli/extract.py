"""``exchange extract``: rows of a stream into a file of people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail
from exchange.format.errors import of_system

if TYPE_CHECKING:
    from exchange.intake.extract import Extracted


def extract(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Whose rows, as `exchange channels` names it.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FILE", help="NAME.csv, .jsonl or .parquet; the first two with .gz or .zst; - is stdout."
        ),
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Only such rows: = != < <= > >=, IS NULL, IS NOT NULL; more than once.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Only these columns, in this order.", show_default=False)
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="csv, jsonl or parquet, if no name says it.", show_default=False),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Leave texts of CSV that a spreadsheet would compute.")] = False,
    sensitive: Annotated[bool, typer.Option("--sensitive", help="Write columns that are hidden, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Write rows of a stream as CSV, JSON lines or Parquet.

    They are those of one moment of the database; `exchange intake` reads the first two back.
    """
    if to == "-" and as_json:
        raise Refused("--json: expected a file in --to, as standard output has the rows")
    with open_exchange() as exchange, output.shown_progress("extracting", exchange.site.progress):
        try:
            done = exchange.extract(
                stream,
                None if to == "-" else Path(to),
                where=where or (),
                columns=_names(columns),
                format=file_format,
                raw=raw,
                sensitive=sensitive,
                replace=force,
                out=sys.stdout.buffer,
                who=who,
                reason=reason,
            )
        except BrokenPipeError:
            raise
        except OSError as error:
            output.print_error(f"{of_system(error)}; nothing was written")
            fail()
    _show(done, as_json)
    if done.refused:
        fail()


def _names(columns: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in columns.split(",")) if columns is not None else ()


def _show(done: Extracted, as_json: bool) -> None:
    if as_json:
        output.emit(done.as_dict())
    elif done.file is not None:
        output.tell(f"{done.file}: {done.rows:,} rows of {done.stream}")
    if done.hidden:
        output.warn(f"left out, as they are sensitive: {', '.join(done.hidden)}; --sensitive writes them")
    if done.defused:
        output.warn(
            f"{done.defused:,} texts that a spreadsheet would compute have an apostrophe before them, which stays when"
            " the file is taken in again; --raw leaves them as they are"
        )
    for sentence in done.sentences:
        output.print_error(sentence)
    if done.refused:
        output.print_error(
            f"{done.refused:,} rows were left out, as they can't cross; `exchange check` finds all of them"
        )
