"""``exchange adopt``: an application that is there is looked at, and made ready to be exchanged."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail

if TYPE_CHECKING:
    from exchange.operating.adopt import Adoption, Wish
    from exchange.settings import Settings


def adopt(
    models: Annotated[
        str, typer.Argument(metavar="MODULE[:NAME]", help="Its declarative base or MetaData, or a module of models.")
    ],
    *,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="Its database here; it is only read.", show_default=False)
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NETWORK", help="Who owns the rows (default: this side).", show_default=False)
    ] = None,
    peer: Annotated[str | None, typer.Option(metavar="NETWORK", help="The other side.", show_default=False)] = None,
    tables: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these; * and ? match.", show_default=False)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="All but these.", show_default=False)
    ] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Look at all rows, not at a sample.")] = False,
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to declare the channels.", show_default=False)
    ] = None,
    alembic: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The application's alembic.ini.", show_default=False)
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Which head to go on from.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Write channels and a migration for an application.

    Reads the models and this side's database, and changes neither. It may be run again after models changed: it then
    adds what is missing. Exit code 1 if there is nothing that can cross.
    """
    from exchange.operating.adopt import Wish, commands, examine, write
    from exchange.settings import settings_file

    asking = sys.stdin.isatty() and not (yes or dry_run or as_json)
    current = _settings(source, peer, database, asking=asking)
    wish = Wish(
        models=models,
        network=current.network,
        peer=current.peer,
        source=_one_of_both(source or current.network, current),
        tables=_split(tables),
        exclude=_split(exclude),
        app=current.app if "app" in current.model_fields_set else None,
        channels=channels,
        alembic=alembic,
        head=head,
        scan=scan,
    )
    url = current.database_url if database or "database_url" in current.model_fields_set else None
    found = examine(wish, url)
    _show(found, as_json=as_json)
    if asking and not found.nothing_new:
        wish = _asked(wish, found)
        if wish != found.wish:
            found = examine(wish, url)
            _show(found, as_json=as_json)
    if found.nothing_new:
        output.say("nothing is missing: every table that can cross is declared and captured, or was left out")
        if not found.declared:
            fail()
        return
    if dry_run:
        return
    if not (yes or (asking and typer.confirm(f"write {_shown(found.file)} and a migration?"))):
        if not asking:
            raise Refused("nothing was written: give --yes to write, or --dry-run to look alone")
        return
    files = write(found)
    shown = current.shown_database_url if database else None
    remaining = commands(found, shown, initialised=settings_file().exists())
    _show_written(found, files, remaining, as_json=as_json)


def _settings(source: str | None, peer: str | None, database: str | None, *, asking: bool) -> Settings:
    """Read the settings, completed by options: a side that has none yet is called what ``source`` says."""
    from exchange.settings import SettingsFaults, load_settings

    given = {"database_url": database} if database else {}
    try:
        return load_settings(given)
    except SettingsFaults as faults:
        unset = [fault for fault in faults.faults if "is not set" in fault]
        if len(unset) != len(faults.faults):
            raise
    if asking:
        source = source or typer.prompt("this side's name")
        peer = peer or typer.prompt("the other side's name")
    if not (source and peer):
        raise Refused(
            "name both sides: --source is this one, until `exchange init` has given it its name, --peer the other"
        )
    return load_settings({"network": source, "peer": peer, **given})


def _one_of_both(source: str, current: Settings) -> str:
    if source not in {current.network, current.peer}:
        raise Refused(f"source: expected {current.network} or {current.peer}, found {source}")
    return source


def _split(names: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(name for some in names or () for name in some.replace(",", " ").split())


def _asked(wish: Wish, found: Adoption) -> Wish:
    """Ask a person which tables, and in which direction."""
    names = [one.model.key for group in found.groups for one in group.members]
    said = typer.prompt(f"which tables cross ({', '.join(names)})", default="all")
    source = typer.prompt("from which network", default=wish.source)
    if source not in {wish.network, wish.peer}:
        raise Refused(f"source: expected {wish.network} or {wish.peer}, found {source}")
    return replace(wish, tables=wish.tables if said == "all" else _split([said]), source=source)


def _show(found: Adoption, *, as_json: bool) -> None:
    if as_json:
        for one in found.remarks:
            output.emit(one.as_dict())
        for channel in _proposed(found):
            output.emit({"kind": "channel", **channel})
        output.emit({"kind": "size", "rows": found.size.rows, "rate": found.size.rate, "seconds": found.size.seconds})
        return
    from exchange.operating.adopt import Severity

    ranks = list(Severity)
    for (severity, message, remedy), some in groupby(
        sorted(found.remarks, key=lambda one: (ranks.index(one.severity), one.message, one.remedy)),
        key=lambda one: (one.severity, one.message, one.remedy),
    ):
        places = ", ".join(dict.fromkeys(one.where for one in some if one.where))
        output.paragraph(severity, f"{places}: {message}" if places else message, remedy)
    count = Counter(one.severity.value for one in found.remarks)
    output.tell(f"stops: {count['stops']}, loses: {count['loses']}, notes: {count['note']}")
    output.tell("")
    for channel in _proposed(found):
        streams = (
            f"{name} (into channel {channel['into'][name]})" if name in channel["into"] else name
            for name in channel["streams"]
        )
        output.tell(f"channel {channel['name']}, {channel['source']} to {channel['target']}: {', '.join(streams)}")
    if found.size.rows:
        output.tell(_said(found))


def _said(found: Adoption) -> str:
    size = found.size
    rows = f"about {size.rows:,} rows" if size.rows > 1 else "1 row"
    if size.seconds is None:
        return f"{rows} to load at first: too few to say how long it takes"
    lasting = _lasting(size.seconds)
    return f"{rows} to load at first: {lasting}, estimated from {size.rate:,.0f} rows a second that were read here"


def _lasting(seconds: float) -> str:
    return f"about {max(seconds, 1):.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"  # noqa: PLR2004 - readable


def _proposed(found: Adoption) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "source": found.wish.source,
            "target": found.wish.target,
            "streams": [one.stream.name for one in group.members],
            "into": {name: found.into[name] for name in (o.stream.name for o in group.members) if name in found.into},
        }
        for group in found.groups
    ]


def _show_written(
    found: Adoption, files: Sequence[Path], commands: tuple[list[str], list[str]], *, as_json: bool
) -> None:
    if as_json:
        for file in files:
            output.emit({"kind": "file", "path": str(file)})
        for network, some in zip((found.wish.network, found.wish.peer), commands, strict=True):
            for command in some:
                output.emit({"kind": "command", "network": network, "command": command})
        return
    output.tell("")
    for file in files:
        output.tell(f"written: {_shown(file)}")
    for network, some in zip((found.wish.network, found.wish.peer), commands, strict=True):
        again = "" if network == found.wish.network else ", with the same files"
        output.tell("")
        output.tell(f"read them; then on {network}{again}:" if not again else f"on {network}{again}:")
        for command in some:
            output.tell(f"  {command}")


def _shown(file: Path) -> str:
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)
