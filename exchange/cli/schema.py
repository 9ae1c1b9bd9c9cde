"""``exchange schema``: the JSON Schema of a stream, written from its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, settings
from exchange.format.errors import printable


def schema(
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="Only this stream.", show_default=False)
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write FOLDER/streams/<stream>/<version>.json.", show_default=False),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Compare with the files in FOLDER.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show, write or check the JSON Schema of each stream."""
    from exchange.channels import schemas
    from exchange.channels.channel import load_channels

    streams = [one for channel in load_channels(settings().app) for one in channel.streams]
    chosen = [one for one in streams if stream in (None, one.name)]
    if not chosen:
        names = ", ".join(sorted(one.name for one in streams))
        raise Refused(f"stream: expected one of {names}, found {printable(repr(stream), 80)}")
    if check is not None:
        differences = [sentence for one in chosen for sentence in schemas.agreement(one, check)]
        for sentence in differences:
            output.print_error(sentence)
        if differences:
            fail()
        output.say("models and files agree")
        return
    for one in chosen:
        if write is None:
            _show(schemas.stream_schema(one) if as_json else None, schemas.schema_text(one))
            continue
        path = schemas.schema_path(write, one, one.schema_version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(schemas.schema_text(one), encoding="ascii")
        if as_json:
            output.emit({"stream": one.name, "version": one.schema_version, "path": str(path)})
        else:
            output.tell(str(path))


def _show(fields: dict[str, object] | None, text: str) -> None:
    if fields is None:
        typer.echo(text, nl=False)
    else:
        output.emit(fields)
