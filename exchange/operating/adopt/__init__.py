"""``exchange adopt``: an application that is there is read, and what it needs to be exchanged is written.

``examine`` looks at models and database and writes nothing; ``write`` writes a module of channels and one Alembic
migration. Of a module that is there only what is missing is added, so both may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from exchange.channels.channel import Channel, ChannelFaults
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine, missing_file
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.format.errors import TransientError, printable
from exchange.operating.adopt import data, declaration, history
from exchange.operating.adopt import database as live
from exchange.operating.adopt.data import Looked
from exchange.operating.adopt.history import History, Late
from exchange.operating.adopt.models import Model, Models, load_models
from exchange.operating.adopt.plan import Candidate, Group, candidate, cross_references, grouped
from exchange.operating.adopt.remark import Remark, Severity
from exchange.settings import REFERENCE_APP

_AS_FAST_AS_READ = 2.2
"""A first load takes about so many times as long as reading and encoding alone: rows are written as well, and over
there written once more. Measured with a million rows between two databases of one machine."""


@dataclass(frozen=True)
class Wish:
    """What a person wants to have exchanged, and in which direction. ``network`` is this side."""

    models: str
    network: str
    peer: str
    source: str
    tables: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    app: str | None = None
    """Where channels are declared already, if a setting says so."""
    channels: Path | None = None
    alembic: Path | None = None
    head: str | None = None
    scan: bool = False

    @property
    def target(self) -> str:
        """The network that receives."""
        return self.peer if self.source == self.network else self.network


@dataclass(frozen=True)
class Size:
    """How much is to be loaded first: rows (an estimate), and how many a second were read and encoded on the sample."""

    rows: int
    rate: float

    @property
    def seconds(self) -> float | None:
        """About how long a first load takes; None where too few rows were seen."""
        return self.rows / self.rate * _AS_FAST_AS_READ if self.rate else None


@dataclass(frozen=True)
class Adoption:
    """What was found and what is proposed. ``spec`` names the channels, ``file`` is where they are or will be."""

    wish: Wish
    remarks: tuple[Remark, ...]
    groups: tuple[Group, ...]
    declared: tuple[Channel, ...]
    spec: str
    file: Path
    history: History
    models: Models = field(repr=False)
    size: Size = Size(0, 0.0)
    into: Mapping[str, str] = field(default_factory=dict)
    """Of new streams the channel that is declared already and that they belong to."""
    triggers: Mapping[str, list[live.Trigger]] = field(default_factory=dict)
    late: tuple[Late, ...] = ()
    uncaptured: tuple[Group, ...] = ()
    """What no migration captures yet."""

    @property
    def nothing_new(self) -> bool:
        """Whether all is declared and captured already."""
        return not self.groups and not self.uncaptured

    @property
    def left_out(self) -> list[str]:
        """The tables that stay at home, each with the reason."""
        stopped = {one.table: one for one in reversed(self.remarks) if one.severity is Severity.STOPS and one.table}
        crossing = {one.model.key for group in self.groups for one in group.members}
        return [f"{table}: {one.message}" for table, one in stopped.items() if table not in crossing]


def examine(wish: Wish, database_url: str | None) -> Adoption:
    """Read models and database, and propose; nothing is written, and the database lets nothing be written.

    Raises ChannelFaults for models, channels or a history that can't be read, TransientError for a database that is
    away.
    """
    models = load_models(wish.models)
    asked = None if wish.app in {None, REFERENCE_APP} else wish.app
    file, spec = (declaration.file_of(asked), asked) if asked else declaration.place(models, wish.channels)
    declared = declaration.present(spec, file, models)
    if database_url is None:
        return _examined(wish, models, file, spec, declared, None)
    engine = make_engine(database_url, read_only=True)
    try:
        if (missing := missing_file(engine)) is not None:
            raise TransientError(f"{missing}: there is no such database; name the application's own with --database")
        with transient_errors(), reading(engine) as connection:
            return _examined(wish, models, file, spec, declared, connection)
    finally:
        engine.dispose()


def _examined(
    wish: Wish,
    models: Models,
    file: Path,
    spec: str,
    declared: tuple[Channel, ...],
    connection: Connection | None,
) -> Adoption:
    before = {stream.table.key: channel.declared for channel in declared for stream in channel.streams}
    chosen = [model for model in _chosen(wish, models) if model.key not in before]
    sqlite = connection is not None and dialect_of(connection).is_sqlite
    taken = {stream.name for one in declared for stream in one.streams}
    remarks, candidates = _candidates(chosen, taken, sqlite=sqlite)
    seen: dict[str, live.Seen] = {}
    looked: dict[str, Looked] = {}
    if connection is None:
        remarks.append(Remark(Severity.NOTE, "", "no database was looked at", "name it with --database URL"))
    else:
        seen = live.see(connection, models.tables)
        candidates = [one for one in candidates if not _away(one, seen, remarks)]
        for one in candidates:
            more, sample = _looked_at(connection, wish, one, seen[one.model.key])
            remarks += more
            looked |= {one.model.key: sample} if sample else {}
        remarks += live.remarks_on_all(connection, models.tables, candidates)
    stopped = {one.table for one in remarks if one.severity is Severity.STOPS}
    candidates = [one for one in candidates if one.model.key not in stopped]
    remarks += cross_references(candidates, before)
    past = history.find(wish.alembic, models)
    remarks += history.remarks_on(past, connection)
    if wish.head and past.script is not None:
        remarks = [one for one in remarks if "--head" not in one.remedy]
    groups = grouped(candidates, {channel.declared for channel in declared})
    remarks += _circles(groups)
    if candidates:
        said = f"on {wish.target} the application must only read these tables: of one row there is one writer"
        remedy = "where it writes, too, give each side a table and a channel of its own"
        remarks.append(Remark(Severity.NOTE, "", said, remedy))
    uncaptured = _uncaptured(wish, groups, declared, history.captured(past))
    rows = sum(live.counted(connection, one, seen[one.model.key]) for one in candidates) if connection else 0
    return Adoption(
        wish=wish,
        remarks=tuple(_in_order(remarks)),
        groups=tuple(groups),
        declared=declared,
        spec=spec,
        file=file,
        history=past,
        models=models,
        size=Size(rows, data.rate(looked)),
        into={one.stream.name: channel for one in candidates if (channel := _belongs(one, before, declared, wish))},
        triggers={one.model.key: live.to_pass(one, seen[one.model.key]) for one in candidates if one.model.key in seen},
        late=tuple(history.late_references(connection, groups, seen)) if connection else (),
        uncaptured=tuple(uncaptured),
    )


def _chosen(wish: Wish, models: Models) -> list[Model]:
    """Give the tables that are wanted, in their order. Raises ChannelFaults for a name that none has."""
    for pattern in (*wish.tables, *wish.exclude):
        if not any(_called(model, pattern) for model in models.tables):
            names = ", ".join(model.key for model in models.tables)
            raise ChannelFaults([f"no table is called {printable(pattern)}; there are {names}"])
    return [
        model
        for model in models.tables
        if (not wish.tables or any(_called(model, pattern) for pattern in wish.tables))
        and not any(_called(model, pattern) for pattern in wish.exclude)
    ]


def _called(model: Model, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (model.key, str(model.table.name)))


def _candidates(chosen: Sequence[Model], taken: set[str], *, sqlite: bool) -> tuple[list[Remark], list[Candidate]]:
    remarks: list[Remark] = []
    candidates = []
    for model in chosen:
        one, said = candidate(model, taken, sqlite=sqlite)
        remarks += said
        if one is not None:
            taken.add(one.stream.name)
            candidates.append(one)
    return remarks, candidates


def _away(one: Candidate, seen: Mapping[str, live.Seen], remarks: list[Remark]) -> bool:
    said = live.left_out(one.model, seen)
    if said is not None:
        remarks[:] = [said, *(other for other in remarks if other.table != one.model.key)]
    return said is not None


def _looked_at(
    connection: Connection, wish: Wish, one: Candidate, seen: live.Seen
) -> tuple[list[Remark], Looked | None]:
    """Look at a table and its rows; what can't be looked at is said, and keeps no other table from it."""
    remarks: list[Remark] = []
    try:
        with connection.begin_nested():
            remarks += live.remarks_on(connection, one, seen)
            if any(said.severity is Severity.STOPS for said in remarks) or wish.source != wish.network:
                return remarks, None
            rows = data.look(connection, one.stream, whole=wish.scan)
    except SQLAlchemyError as error:
        said = f"it can't be read: {printable(str(error.__cause__ or error), 300)}"
        return [*remarks, Remark(Severity.STOPS, one.model.key, said, "see the database's own log")], None
    return [*remarks, *data.remarks_on_rows(one, rows)], rows


def _circles(groups: Sequence[Group]) -> Iterator[Remark]:
    for group in groups:
        for constraint in group.late:
            said = f"its foreign key to {constraint.elements[0].target_table_key} closes a circle"
            remedy = (
                "the migration has PostgreSQL check it late, and channels.py says so; say deferrable=True in the model,"
                " too"
            )
            yield Remark(Severity.NOTE, constraint.table.key, said, remedy, ", ".join(constraint.column_keys))


def _belongs(one: Candidate, before: Mapping[str, str], declared: Sequence[Channel], wish: Wish) -> str | None:
    """Name the declared channel of this direction whose rows those of a new stream refer to, or are referred to by."""
    there = {channel.declared for channel in declared if channel.source == wish.source}
    near = [before[parent] for parent in one.stream.parents() if parent in before]
    for channel in declared:
        near += [channel.declared for stream in channel.streams if one.model.key in stream.parents()]
    return next((name for name in near if name in there), None)


def _uncaptured(wish: Wish, groups: Sequence[Group], declared: Sequence[Channel], captured: set[str]) -> list[Group]:
    """Give the streams of this source that no migration speaks of, the declared ones among them."""
    found = list(groups)
    for channel in declared:
        if channel.source == wish.source:
            missing = [stream for stream in channel.streams if str(stream.table.name) not in captured]
            members = [Candidate(Model(one.table, "", "", ""), one) for one in missing]
            found += [Group(channel.declared, tuple(members))] if members else []
    return found


def _in_order(remarks: Sequence[Remark]) -> list[Remark]:
    ranks = list(Severity)
    return sorted(dict.fromkeys(remarks), key=lambda one: ranks.index(one.severity))


def write(adoption: Adoption) -> list[Path]:
    """Write the module of channels and the migration; give the files. What was written is read again and checked.

    Raises ChannelFaults, and then leaves a module that was there as it was.
    """
    in_the_way = [one for one in adoption.remarks if one.severity is Severity.STOPS and not one.table]
    if in_the_way:
        raise ChannelFaults([f"{one.message}; {one.remedy}" for one in in_the_way])
    files: list[Path] = []
    before = adoption.file.read_text(encoding="utf-8") if adoption.file.exists() else None
    try:
        if adoption.groups:
            adoption.file.write_text(_module(adoption), encoding="utf-8")
            declaration.read_again(adoption.spec)
            files.append(adoption.file)
        if adoption.uncaptured:
            files += _migration(adoption)
    except ChannelFaults:
        if before is not None:
            adoption.file.write_text(before, encoding="utf-8")
        elif adoption.groups:
            adoption.file.unlink()
        raise
    return files


def _migration(adoption: Adoption) -> list[Path]:
    wish, past = adoption.wish, adoption.history
    files: list[Path] = []
    if past.script is None:
        past, files = history.make_environment(adoption.models)
    up, down = history.operations(wish.source, adoption.uncaptured, dict(adoption.triggers), adoption.late)
    return [*files, history.write(past, up, down, f"exchange {wish.source} to {wish.target}", wish.head)]


def _module(adoption: Adoption) -> str:
    wish = adoption.wish
    if adoption.declared:
        text = adoption.file.read_text(encoding="utf-8")
        return declaration.added(text, adoption.spec, wish.source, wish.target, adoption.groups, dict(adoption.into))
    return declaration.written(adoption.spec, wish.source, wish.target, adoption.groups, adoption.left_out)


def commands(adoption: Adoption, shown_url: str | None, *, initialised: bool) -> tuple[list[str], list[str]]:
    """Give what remains to be typed, on this side and on the other one.

    ``initialised`` says that this side has its settings already; then it is the same on both.
    """
    wish = adoption.wish
    if initialised:
        again = ["exchange migrate", adoption.history.command, "exchange up"]
        return again, again
    sides = []
    for network, peer, url in ((wish.network, wish.peer, shown_url), (wish.peer, wish.network, shown_url and "URL")):
        database = f" --database {url}" if url else ""
        init = f"exchange init --network {network} --peer {peer} --app {adoption.spec}{database} --migrate"
        trust = f"exchange keys trust {peer.upper()}S_KEY.pem --fingerprint SHA256:..."
        sides.append([init, adoption.history.command, trust, "exchange up"])
    return sides[0], sides[1]


__all__ = ["Adoption", "Remark", "Severity", "Size", "Wish", "commands", "examine", "write"]
