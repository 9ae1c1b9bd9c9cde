"""``exchange schema``: the JSON Schema of a stream, written from its model, compared, and raised to a new version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, open_site, settings
from exchange.format.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exchange.channels.stream import Stream
    from exchange.operating.raise_schema import RaisedSchema


def schema(
    stream: Annotated[
        list[str] | None, typer.Argument(metavar="[STREAM]...", help="Only these streams.", show_default=False)
    ] = None,
    *,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write FOLDER/streams/<stream>/<version>.json.", show_default=False),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Compare with the files in FOLDER.", show_default=False)
    ] = None,
    raised: Annotated[
        bool,
        typer.Option("--raise", help="Raise the version of streams whose model changed, and write what that takes."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --raise: write it, and ask nobody.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the streams' models as they are: no record of them has crossed yet.")
    ] = False,
    types: Annotated[bool, typer.Option("--types", help="Show which column types cross, and how.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Show, write, check or raise the JSON Schema of each stream."""
    if types:
        _show_types(as_json=as_json)
        return
    from exchange.channels import schemas
    from exchange.channels.channel import load_channels

    if raised + accept + (check is not None) > 1 or (write is not None and (accept or check is not None)):
        raise Refused("expected one of --write, --check, --raise (or --raise --write FOLDER) and --accept")
    streams = [one for channel in load_channels(settings().app) for one in channel.streams]
    chosen = _chosen(streams, stream or [])
    if raised:
        _raise(chosen, named=bool(stream), folder=write, yes=yes, as_json=as_json)
        return
    if accept:
        _accept(chosen, named=bool(stream), who=who, why=reason, as_json=as_json)
        return
    if check is not None:
        _check(chosen, check)
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


def _chosen(streams: Sequence[Stream], names: Sequence[str]) -> list[Stream]:
    known = {one.name for one in streams}
    for name in names:
        if name not in known:
            raise Refused(f"stream: expected one of {', '.join(sorted(known))}, found {printable(repr(name), 80)}")
    return [one for one in streams if not names or one.name in names]


def _check(streams: Sequence[Stream], folder: Path) -> None:
    from exchange.channels import schemas

    differences = [sentence for one in streams for sentence in schemas.agreement(one, folder)]
    for sentence in differences:
        output.print_error(sentence)
    if differences:
        fail()
    output.say("models and files agree")


def _show_types(*, as_json: bool) -> None:
    from exchange.channels.codecs import ROWS

    for row in ROWS:
        if as_json:
            output.emit(row._asdict())
            continue
        output.tell(row.types.replace("`", ""))
        told = ("crosses as", row.crosses_as), ("refused", row.refused), ("on SQLite", row.sqlite)
        for heading, words in told:
            output.paragraph("", f"{heading}: {words}".replace("`", "") if words not in {"", "the same"} else "")


def _show(fields: dict[str, object] | None, text: str) -> None:
    if fields is None:
        typer.echo(text, nl=False)
    else:
        output.emit(fields)


# Raised, or accepted


def _raise(chosen: Sequence[Stream], *, named: bool, folder: Path | None, yes: bool, as_json: bool) -> None:
    from exchange.operating.assemble import schemas_folder
    from exchange.operating.raise_schema import changes_of, plan_raise

    folder = folder or schemas_folder(settings())
    done = 0
    for one in chosen:
        remembered = _remembered(one.name)
        changes = changes_of(one, folder, remembered)
        if changes == [] or (changes is None and not named):
            if named:
                output.say(f"stream {one.name} is as schema version {one.schema_version} says; nothing to raise")
            continue
        plan = plan_raise(settings().app, one, folder, remembered)
        if not as_json:
            _tell(one, plan, changes or ())
        if not (yes or _agreed()):
            raise Refused("nothing was written; --yes writes it")
        plan.write()
        done += 1
        if as_json:
            output.emit(plan.as_dict())
        else:
            for path in [*([plan.edit.path] if plan.edit else []), *plan.files]:
                output.tell(f"{path} (written)")
    if not done and not named:
        output.say("each stream's model is that of its schema version, as far as is known; name a stream to raise it")


def _tell(stream: Stream, plan: RaisedSchema, changes: Sequence[str]) -> None:
    what = "; ".join(changes) or "what changed is not known here"
    output.tell(f"stream {stream.name}: {what}; schema version {stream.schema_version} becomes {plan.version}")
    if plan.edit is None:
        output.warn("its declaration can't be edited exactly: write this into it, and fill in what it asks for:")
    typer.echo(plan.diff() or plan.by_hand)


def _agreed() -> bool:
    return sys.stdin.isatty() and typer.confirm("write it?")


def _remembered(stream: str) -> Mapping[int, Mapping[str, Any]]:
    """Give what the database remembers of a stream; nothing if there is none to ask."""
    from exchange.database.locks import reading
    from exchange.format.errors import TransientError
    from exchange.link import known_schemas

    try:
        with open_site() as site, reading(site.engine) as connection:
            return known_schemas.remembered_schemas(connection, stream)
    except TransientError:
        return {}


def _accept(chosen: Sequence[Stream], *, named: bool, who: str | None, why: str | None, as_json: bool) -> None:
    if not named:
        raise Refused("--accept: name the streams whose models are to be taken as they are")
    with open_exchange() as exchange:
        for one in chosen:
            changes = list(exchange.schemas.accept(one.name, who=who, reason=why).changes)
            if as_json:
                output.emit({"stream": one.name, "version": one.schema_version, "changes": changes})
            else:
                said = "; ".join(changes) or "nothing had changed"
                output.tell(f"stream {one.name}, schema version {one.schema_version}: {said}")
