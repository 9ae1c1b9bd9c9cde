"""``exchange carry``: what a carrier types, with no database, no settings and no keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json


def carry(
    source: Annotated[Path, typer.Option("--from", metavar="FOLDER", help="Where batches lie.", show_default=False)],
    target: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where they go.", show_default=False)],
    move: Annotated[
        bool, typer.Option("--move/--keep", help="Take away what is whole over there, or leave it where it was.")
    ] = False,
    mark: Annotated[bool, typer.Option("--mark", help="Mark the folder of --to, once: it is the right one.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Carry anew what was carried before.")] = False,
    as_json: Json = False,
) -> None:
    """Carry batches from one folder to another, such as a stick.

    Data files first, manifests last, each checked against its manifest; run it again after a cut. Exit codes: 0 all is
    there, 1 something needs a person, 3 something was left out that may come with the next run.
    """
    from exchange.files.carry import carry as carry_batches

    done = carry_batches(source, target, move=move, mark=mark, again=again)
    if as_json:
        output.emit(done.as_dict())
        raise typer.Exit(done.code)
    gone_on = f", {done.continued} of them gone on with" if done.continued else ""
    before = f", {done.before} batches were carried before" if done.before else ""
    taken = f"; {done.removed} taken away from --from" if done.removed else ""
    output.tell(
        f"carried {done.files} files, {done.bytes:,} bytes{gone_on}; {done.there} were there already{before}{taken}"
    )
    if done.left:
        output.tell("left out:")
        output.table(["file", "why"], [(one.file, one.why) for one in done.left])
    if done.trouble:
        output.warn(done.trouble)
    raise typer.Exit(done.code)
