"""What crosses, declared by the application: streams (one table each) in channels (one direction each).

A declaration is checked once, at start, and every fault is named. Nothing here opens a database or a file.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from exchange.channels.codecs import Codec, EncodeColumn, Json, UnsupportedColumn, as_is, codec_for
from exchange.database.tables import VERSION_COLUMN
from exchange.files.ownership import why_not_imported
from exchange.format.errors import RecordError, printable

CONTROL = "control"
"""The channel of receipts and heartbeats: reserved."""

_CHANNEL = re.compile(r"[a-z][a-z0-9_]{0,30}")
_NETWORK = re.compile(r"[a-z][a-z0-9_-]{0,30}")
# A stream's name is also a folder below schemas/ and a word in a list of streams.
_STREAM = re.compile(r"[a-z][a-z0-9_]{0,62}")

MAX_SHARDS = 32
"""More gain nothing: the database's processors and disk are the bound long before."""

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
Column = list[Any]
"""One column's values of many records."""

HIDDEN = "(hidden)"
"""What a person sees in place of a sensitive column's value."""


class ChannelFaults(Exception):  # noqa: N818 - the plural is the point
    """A declaration that cannot work. ``faults`` has one sentence for each thing to mend."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Stream:
    """The rows of one table, as they cross.

    ``name`` is the table's unless given. All columns cross but those of ``exclude``, or only those of
    ``columns``; never a computed column nor ``exchange_version``. ``upgrades[n]`` lifts the data of a record
    of schema version n to version n + 1. Values of ``sensitive`` columns are hidden wherever a person looks.

    A wrong declaration raises nothing here; ``faults`` says what is wrong, and ``check`` gathers it.
    """

    def __init__(
        self,
        model_or_table: Any,
        *,
        name: str | None = None,
        columns: Collection[str] | None = None,
        exclude: Collection[str] | None = None,
        schema_version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        sensitive: Collection[str] = (),
    ) -> None:
        table = getattr(model_or_table, "__table__", model_or_table)
        if not isinstance(table, sa.Table):
            msg = f"a stream is made of a mapped class or a Table, not of {printable(repr(model_or_table))}"
            raise TypeError(msg)
        self.table: sa.Table = table
        # A plain str: SQLAlchemy's own name class is no JSON.
        self.name = str(table.name if name is None else name)
        self.schema_version = schema_version
        self.upgrades: Mapping[int, Upgrade] = dict(upgrades or {})
        self.sensitive = frozenset(sensitive)
        able = [c for c in table.columns if c.computed is None and c.name != VERSION_COLUMN]
        chosen = {c.name for c in able}.difference(exclude or ()) if columns is None else set(columns)
        self.columns: tuple[sa.Column[Any], ...] = tuple(c for c in able if c.name in chosen)
        self.excluded: tuple[sa.Column[Any], ...] = tuple(c for c in able if c.name not in chosen)
        self.key: tuple[sa.Column[Any], ...] = tuple(table.primary_key.columns)
        self.codecs: Mapping[str, Codec]
        self.faults: tuple[str, ...]
        self.codecs, unsupported = self._codecs()
        self.faults = (*self._faults(columns, exclude), *unsupported)

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"

    @property
    def oldest_version(self) -> int:
        """The oldest schema version that ``upgrade`` can lift to the current one."""
        version = self.schema_version
        while version - 1 in self.upgrades:
            version -= 1
        return version

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give a record's data or key as a person may see it."""
        return {name: HIDDEN if name in self.sensitive else value for name, value in values.items()}

    def upgrade(self, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Lift a record's data from an older schema version to the current one; ``data`` is left as it was.

        Raises RecordError when a step is missing, fails or gives no dict.
        """
        for version in range(from_version, self.schema_version):
            step = self.upgrades.get(version)
            what = f"{self.name}: data of schema version {version}"
            if step is None:
                raise RecordError("upgrade", "/data", f"{what} can't be lifted: no upgrade step is declared for it")
            try:
                lifted = step(dict(data))
            except Exception as error:
                # Its words may quote a value.
                said = type(error).__name__ if self.sensitive else f"{type(error).__name__}: {error}"
                reason = printable(said, 120)
                raise RecordError("upgrade", "/data", f"{what} can't be lifted: its step failed: {reason}") from error
            if not isinstance(lifted, dict):
                raise RecordError("upgrade", "/data", f"{what} can't be lifted: its step gave no dict")
            data = lifted
        return data

    def encoder(self, dialect: Dialect) -> Callable[[Sequence[Any]], dict[str, Json]]:
        """Make the function from a row (``codec.selected`` values in column order) to a record's data.

        The function raises RecordError for a value that must not cross.
        """
        return _encoder([(str(c.name), self.codecs[c.name].encoder(dialect, "/data")) for c in self.columns])

    def key_encoder(self, dialect: Dialect) -> Callable[[Sequence[Any]], dict[str, Json]]:
        """Make the function from a row's key (in ``key`` order) to a record's key."""
        return _encoder([(str(c.name), self.codecs[c.name].encoder(dialect, "/key")) for c in self.key])

    def rows_encoder(self, dialect: Dialect) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Json]]]:
        """Make the function from the columns of many rows to as many records' data: ``encoder``, but faster.

        It raises one of ``LOOK_AT_EACH`` where ``encoder`` may refuse a row. What the stream's schema refuses
        may get through, so the data is to be checked.
        """
        return _rows_encoder([(c.name, self.codecs[c.name].column_encoder(dialect, "/data")) for c in self.columns])

    def keys_encoder(self, dialect: Dialect) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Json]]]:
        """Make the same from the columns of many rows' keys (in ``key`` order) to as many records' keys."""
        return _rows_encoder([(c.name, self.codecs[c.name].column_encoder(dialect, "/key")) for c in self.key])

    def decoder(self, dialect: Dialect) -> Callable[[Sequence[Mapping[str, Json]]], list[Column]]:
        """Make the function from many records' data to the values that the driver binds, column by column.

        The data has been checked against the stream's schema, so every column is in it. The function raises
        RecordError for a value that its column cannot keep exactly, whichever record's it is.
        """
        return _decoder([(self.codecs[c.name], "/data") for c in self.columns], dialect)

    def key_decoder(self, dialect: Dialect) -> Callable[[Sequence[Mapping[str, Json]]], list[Column]]:
        """Make the same function from many records' keys, in ``key`` order."""
        return _decoder([(self.codecs[c.name], "/key") for c in self.key], dialect)

    def parents(self) -> Mapping[str, bool]:
        """Say which tables the rows refer to, by metadata key, and if that may be checked late.

        References to the table itself are left out, and those through columns that don't cross.
        """
        late: dict[str, bool] = {}
        crossing = {c.name for c in self.columns}
        for constraint in self.table.foreign_key_constraints:
            target = constraint.elements[0].target_table_key
            if target is None or target == self.table.key or not crossing.issuperset(constraint.column_keys):
                continue
            late[target] = late.get(target, True) and bool(constraint.deferrable)
        return late

    def _codecs(self) -> tuple[dict[str, Codec], list[str]]:
        codecs: dict[str, Codec] = {}
        faults = []
        for column in dict.fromkeys((*self.columns, *self.key)):
            try:
                codecs[column.name] = codec_for(column, sensitive=column.name in self.sensitive)
            except UnsupportedColumn as error:
                faults.append(f'stream "{self.name}": {error}')
        return codecs, faults

    def _faults(self, columns: Collection[str] | None, exclude: Collection[str] | None) -> list[str]:
        faults = []
        if not _STREAM.fullmatch(self.name):
            faults.append("its name must be a lower-case letter, then at most 62 letters, digits or _; give name=")
        if self.table.name.startswith("exchange_"):
            faults.append(f"{self.table.name} is the exchange's own table and can't cross")
        if columns is not None and exclude is not None:
            faults.append("give columns= or exclude=, not both")
        for said, names in (("columns", columns), ("exclude", exclude), ("sensitive", self.sensitive)):
            faults.extend(self._naming_faults(said, names or ()))
        if not self.key:
            faults.append(f"table {self.table.name} has no primary key, so its rows can't be told apart")
        faults.extend(filter(None, (_excluded_fault(column) for column in self.excluded)))
        faults.extend(
            f"column {column.name} is GENERATED ALWAYS AS IDENTITY, so a received value can't be stored;"
            " make it BY DEFAULT"
            for column in self.columns
            if column.identity is not None and column.identity.always
        )
        faults.extend(self._version_faults())
        return [f'stream "{printable(self.name)}": {fault}' for fault in faults]

    def _naming_faults(self, said: str, names: Collection[str]) -> list[str]:
        if isinstance(names, str):
            return [f"{said}= takes a list of column names, found one text"]
        known = {c.name: c for c in self.table.columns}
        faults = []
        for name in names:
            if name not in known:
                faults.append(f"{said}= names {printable(str(name))}, which is no column of table {self.table.name}")
            elif said == "columns" and known[name].computed is not None:
                faults.append(f"columns= names {name}, which each side's database computes itself")
            elif said == "columns" and name == VERSION_COLUMN:
                faults.append(f"columns= names {name}, which is the exchange's own")
        return faults

    def _version_faults(self) -> list[str]:
        version: object = self.schema_version
        steps: Mapping[int, object] = self.upgrades
        if type(version) is not int or version < 1:
            return [f"schema_version must be a whole number from 1, found {version!r}"]
        faults = [
            f"upgrades has a step from version {step!r}, expected one from 1 to {version - 1}"
            for step in self.upgrades
            if type(step) is not int or not 1 <= step < version
        ]
        if faults or not self.upgrades:
            return faults
        faults = [
            f"upgrades[{at}] is {step!r}, expected a function" for at, step in steps.items() if not callable(step)
        ]
        holes = sorted(set(range(min(self.upgrades), version)) - set(self.upgrades))
        return faults + [f"upgrades has no step from version {at}, so those before it lead nowhere" for at in holes]


@dataclass(frozen=True)
class Shard:
    """Which part of a channel: of the streams in ``split`` the keys whose hash falls to it.

    The other streams travel whole, in shard 0, however many shards there are.
    """

    number: int
    of: int
    split: frozenset[str]


class Channel:
    """An ordered flow of batches from one network to the other.

    ``streams`` come parents first, whatever order they are given in. ``on_invalid`` says what one bad record
    means: ``park`` it as a dead letter or ``reject`` its whole batch. Batches of an ``ordered`` channel apply
    in sequence; those of another one as they come.

    With ``shards`` above 1 it is so many channels in the files, ``<name>_0``, ``<name>_1`` ..., each with a
    sequence and a lock of its own, so that several workers can work on it at once. Each row stays in one of
    them, by the hash of its key. Streams whose rows must keep an order among each other are not split: those
    linked by foreign keys within the channel, and those with a unique value beside the key.
    """

    def __init__(
        self,
        name: str,
        source: str,
        target: str,
        streams: Iterable[Stream],
        *,
        on_invalid: Literal["park", "reject"] = "park",
        ordered: bool = True,
        shards: int = 1,
    ) -> None:
        self.name = name
        self.declared = name
        self.source = source
        self.target = target
        self.on_invalid: Literal["park", "reject"] = on_invalid
        self.ordered = ordered
        self.streams: tuple[Stream, ...]
        self.streams, cycle = _parents_first(tuple(streams))
        self.shards = shards
        self.shard: Shard | None = None
        self.faults: tuple[str, ...] = tuple(self._faults(cycle))

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.source!r} -> {self.target!r})"

    def stream(self, name: str) -> Stream:
        """Find a stream by its name; raises KeyError."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(name)

    def in_files(self) -> tuple[Channel, ...]:
        """Give the channels that it is in the files: itself, or its shards."""
        return tuple(self.part(number, self.shards) for number in range(self.shards)) if self.shards > 1 else (self,)

    def part(self, number: int, of: int) -> Channel:
        """Give one of its shards; ``of`` may be another number than this side declares."""
        part = copy.copy(self)
        part.name = f"{self.name}_{number}"
        part.shard = Shard(number, of, _independent(self.streams))
        return part

    @property
    def names(self) -> frozenset[str]:
        """The names by which a person may mean it: its own in the files, and the declared one."""
        return frozenset({self.name, self.declared})

    def called(self, name: str | None) -> bool:
        """Say whether it is meant by a name; None means all."""
        return name is None or name in self.names

    @property
    def beside_others(self) -> bool:
        """Whether it may be applied while other shards of its channel are: not if another number splits the keys."""
        return self.shard is None or self.shard.of == self.shards

    def _faults(self, cycle: Sequence[Stream]) -> Iterable[str]:
        say = f'channel "{printable(self.name)}": '
        if not _CHANNEL.fullmatch(self.name):
            yield say + "its name must be a lower-case letter, then at most 30 letters, digits or _"
        if self.name == CONTROL:
            yield say + "the name is reserved for the exchange's own records"
        for word, network in (("source", self.source), ("target", self.target)):
            if not _NETWORK.fullmatch(network):
                yield say + f'{word} "{printable(network)}" is no network name'
        if self.source == self.target:
            yield say + f'source and target are both "{printable(self.source)}"'
        on_invalid: str = self.on_invalid
        if on_invalid not in {"park", "reject"}:
            yield say + f"on_invalid must be park or reject, found {printable(repr(on_invalid))}"
        if not self.streams:
            yield say + "it has no stream"
        if cycle:
            names = ", ".join(stream.name for stream in cycle)
            yield say + (
                f"the foreign keys of {names} form a cycle, so no order puts parents first; make one of them deferrable"
            )
        if (fault := self._shards_fault()) is not None:
            yield say + fault

    def _shards_fault(self) -> str | None:
        shards: object = self.shards
        if type(shards) is not int or not 1 <= shards <= MAX_SHARDS:
            return f"shards must be a whole number from 1 to {MAX_SHARDS}, found {printable(repr(shards), 80)}"
        if shards == 1:
            return None
        longest = f"{self.name}_{shards - 1}"
        if not _CHANNEL.fullmatch(longest):
            return f"its last shard would be called {printable(longest)}, and a name has at most 31 characters"
        if self.streams and not _independent(self.streams):
            names = ", ".join(stream.name for stream in self.streams)
            return (
                f"shards={shards} would split nothing, for the rows of {names} keep an order among each other (foreign"
                " keys within the channel, or unique values beside the key); leave shards out"
            )
        return None


def check(channels: Iterable[Channel]) -> None:
    """Check a whole declaration; raises ChannelFaults with every fault found."""
    channels = tuple(channels)
    faults = [fault for channel in channels for fault in channel.faults]
    faults += [fault for channel in channels for stream in channel.streams for fault in stream.faults]
    named: dict[str, int] = defaultdict(int)
    by_name: dict[str, list[str]] = defaultdict(list)
    by_table: dict[str, list[str]] = defaultdict(list)
    for channel in channels:
        named[channel.name] += 1
        for stream in channel.streams:
            where = f"channel {channel.name}"
            by_name[stream.name].append(where)
            by_table[stream.table.key].append(f"stream {stream.name} of {where}")
    faults += [
        f'channel "{printable(name)}": {count} channels have this name' for name, count in named.items() if count > 1
    ]
    faults += [
        f'channel "{part.name}": a shard of {channel.name} and another channel both have this name'
        for channel in channels
        if not channel.faults
        for part in channel.in_files()
        if part is not channel and part.name in named
    ]
    faults += [
        f'stream "{printable(name)}": more than one has this name ({printable(", ".join(where))})'
        for name, where in by_name.items()
        if len(where) > 1
    ]
    faults += [
        f"table {table}: it is in more than one stream ({printable(', '.join(where))})"
        for table, where in by_table.items()
        if len(where) > 1
    ]
    if not channels:
        faults.append("no channel is declared")
    if faults:
        raise ChannelFaults(list(dict.fromkeys(faults)))


def known_names(channels: Iterable[Channel]) -> list[str]:
    """Give the names by which a person may mean these channels, in order: a shard's own and the declared ones."""
    return sorted({name for channel in channels for name in channel.names})


def load_channels(spec: str) -> tuple[Channel, ...]:
    """Import and check the channels that ``package.module:attribute`` names.

    The working folder is searched too, after the installed packages, if nobody else can have written there. Raises
    ChannelFaults.
    """
    module_name, colon, attribute = spec.partition(":")
    shown = printable(spec)
    if not (colon and module_name and attribute.isidentifier()):
        raise ChannelFaults([f'"{shown}" does not name channels: expected package.module:attribute'])
    here, stranger = str(Path.cwd()), why_not_imported()
    if not stranger and not {here, ""}.intersection(sys.path):
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        if stranger:
            reason += f"; it was not looked for in the working folder, {stranger.removeprefix('the working folder ')}"
        raise ChannelFaults([f'channels "{shown}": importing {printable(module_name)} failed: {reason}']) from error
    if not hasattr(module, attribute):
        raise ChannelFaults([f'channels "{shown}": module {module_name} has no {attribute}'])
    declared = getattr(module, attribute)
    if not isinstance(declared, (list, tuple)) or not all(isinstance(item, Channel) for item in declared):
        found = printable(repr(declared), 80)
        raise ChannelFaults([f'channels "{shown}": expected a list of Channel objects, found {found}'])
    check(declared)
    return tuple(declared)


def _excluded_fault(column: sa.Column[Any]) -> str | None:
    if column.primary_key:
        return f"key column {column.name} is left out, but the receiver needs the whole key"
    # A default of the model's own runs in the application, not in the receiver's bulk load.
    filled = column.nullable or column.server_default is not None or column.identity is not None
    if filled:
        return None
    return (
        f"column {column.name} is left out, but it is NOT NULL and has no default in the receiving database;"
        " give it a server_default or make it nullable"
    )


def _parents_first(streams: tuple[Stream, ...]) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
    """Order streams so that parents precede children, else as declared.

    The second value is what no order satisfies: the streams of a cycle and those below it. A cycle is opened
    at references that the database may check late.
    """
    here = {stream.table.key for stream in streams}
    waiting = list(streams)
    ordered: list[Stream] = []
    while waiting:
        missing = {stream.table.key for stream in waiting} & here
        ready = [s for s in waiting if missing.isdisjoint(s.parents())] or [
            s for s in waiting if missing.isdisjoint(parent for parent, late in s.parents().items() if not late)
        ]
        if not ready:
            return streams, tuple(waiting)
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return tuple(ordered), ()


def _independent(streams: Sequence[Stream]) -> frozenset[str]:
    """Name the streams whose rows may overtake each other on their way."""
    by_table = {stream.table.key: stream.name for stream in streams}
    bound = {stream.name for stream in streams if _has_rivals(stream)}
    for stream in streams:
        for constraint in stream.table.foreign_key_constraints:
            parent = by_table.get(constraint.elements[0].target_table_key or "")
            if parent is not None:
                bound |= {stream.name, parent}
    return frozenset(by_table.values()) - bound


def _has_rivals(stream: Stream) -> bool:
    """Say whether two rows can want one value: by a constraint or an index that does not hold the whole key."""
    key = {column.name for column in stream.key}
    uniques: list[Iterable[Any]] = [index.expressions for index in stream.table.indexes if index.unique]
    uniques += [
        constraint.columns
        for constraint in stream.table.constraints
        # Those that compare rows: unique ones, and a dialect's own such as EXCLUDE.
        if isinstance(constraint, sa.schema.ColumnCollectionConstraint) and not isinstance(constraint, _OF_ONE_ROW)
    ]
    return any(not key <= {part.name for part in parts if isinstance(part, sa.Column)} for parts in uniques)


_OF_ONE_ROW = (sa.PrimaryKeyConstraint, sa.ForeignKeyConstraint, sa.CheckConstraint)


def _encoder(
    members: Sequence[tuple[str, Callable[[Any], Json]]],
) -> Callable[[Sequence[Any]], dict[str, Json]]:
    # SQLAlchemy's names may be of its own kind of str, which orjson does not take.
    names = tuple(str(name) for name, _ in members)
    work = tuple((at, names[at], encode) for at, (_, encode) in enumerate(members) if encode is not as_is)

    def encode_row(row: Sequence[Any]) -> dict[str, Json]:
        data: dict[str, Json] = dict(zip(names, row, strict=True))
        for at, name, encode in work:
            value = row[at]
            if value is not None:
                data[name] = encode(value)
        return data

    return encode_row


def _rows_encoder(
    members: Sequence[tuple[str, EncodeColumn]],
) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Json]]]:
    names = tuple(str(name) for name, _ in members)
    encoders = tuple(encode for _, encode in members)

    def encode_rows(columns: Sequence[Sequence[Any]]) -> list[dict[str, Json]]:
        encoded = [encode(column) for encode, column in zip(encoders, columns, strict=True)]
        return [*map(dict, map(zip, repeat(names), zip(*encoded, strict=True)))]

    return encode_rows


def _decoder(
    members: Sequence[tuple[Codec, str]], dialect: Dialect
) -> Callable[[Sequence[Mapping[str, Json]]], list[Column]]:
    columns = [(itemgetter(codec.column.name), codec.column_decoder(dialect, under)) for codec, under in members]

    def decode(data: Sequence[Mapping[str, Json]]) -> list[Column]:
        return [work(list(map(pick, data))) for pick, work in columns]

    return decode
