"""What crosses, declared by the application: streams (one table each) in channels (one direction each).

A declaration is checked once, at start, and every fault is named. Nothing here opens a database or a file.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import sqlalchemy as sa

from exchange.channels.stream import ALL, Stream
from exchange.files.ownership import why_not_imported
from exchange.format.errors import Problem, printable
from exchange.format.names import CONTROL, NAME, NAME_RULE

_CHOICES = {"on_invalid": ("park", "reject"), "on_refused": ("snapshot", "wait")}

MAX_SHARDS = 64
"""Keys fall into 256 parts by their hash: among more shards than these they would be spread unevenly."""


class ChannelFaults(Exception):  # noqa: N818 - the plural is the point
    """A declaration that cannot work. ``faults`` has one sentence for each thing to mend."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


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
    means: ``park`` it as a dead letter or ``reject`` its whole batch. ``on_refused`` says what its sender does about
    a batch that was refused: send a ``snapshot`` in its place, or ``wait`` for a person. Batches of an ``ordered``
    channel apply in sequence; those of another one as they come.

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
        on_refused: Literal["snapshot", "wait"] = "snapshot",
        ordered: bool = True,
        shards: int = 1,
    ) -> None:
        self.name = name
        self.declared = name
        self.source = source
        self.target = target
        self.on_invalid: Literal["park", "reject"] = on_invalid
        self.on_refused: Literal["snapshot", "wait"] = on_refused
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

    def without(self, streams: Collection[str]) -> Channel:
        """Give the same channel, as it is if some of its streams stand still."""
        if not streams:
            return self
        rest = copy.copy(self)
        rest.streams = tuple(stream for stream in self.streams if stream.name not in streams)
        return rest

    def including(self, streams: Sequence[Stream]) -> Channel:
        """Give the same channel, as it is while streams of other ones still come by it."""
        if not streams:
            return self
        wider = copy.copy(self)
        wider.streams, _ = _parents_first((*self.streams, *streams))
        return wider

    def with_only(self, stream: Stream) -> Channel:
        """Give the same channel, as it is where rows of one of its streams are written, and maybe some columns."""
        alone = copy.copy(self)
        alone.streams = (stream,)
        return alone

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
        if not NAME.fullmatch(self.name):
            yield say + f"its name must be {NAME_RULE}"
        if self.name == CONTROL:
            yield say + "the name is reserved for the exchange's own records"
        networks = {"source": self.source, "target": self.target}
        for word in (word for word, network in networks.items() if not NAME.fullmatch(network)):
            yield say + f'{word} "{printable(networks[word])}" is no network name, which must be {NAME_RULE}'
        if self.source == self.target:
            yield say + f'source and target are both "{printable(self.source)}"'
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                yield say + f"{name} must be {' or '.join(allowed)}, found {printable(repr(getattr(self, name)))}"
        if not self.streams:
            yield say + "it has no stream"
        if cycle:
            names = ", ".join(stream.name for stream in cycle)
            yield say + (
                f"the foreign keys of {names} form a cycle, so no order puts parents first; make one of them deferrable"
            )
        if (fault := self._shards_fault()) is not None:
            yield say + fault
        yield from (say + fault for fault in self._place_faults())

    def _place_faults(self) -> Iterator[str]:
        for stream in self.streams:
            networks = set(stream.places) if isinstance(stream.places, Mapping) else set()
            if strangers := networks - {self.source, self.target}:
                names = printable(", ".join(sorted(map(str, strangers))))
                yield f"table= of stream {printable(stream.name)} names {names}, which is neither of its networks"

    def _shards_fault(self) -> str | None:
        shards: object = self.shards
        if type(shards) is not int or not 1 <= shards <= MAX_SHARDS:
            return (
                f"shards must be a whole number from 1 to {MAX_SHARDS}, found {printable(repr(shards), 80)}: keys fall"
                " into 256 parts by their hash, and more shards would share them unevenly"
            )
        if shards == 1:
            return None
        longest = f"{self.name}_{shards - 1}"
        if not NAME.fullmatch(longest):
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
    for channel in channels:
        named[channel.name] += 1
        for stream in channel.streams:
            by_name[stream.name].append(f"channel {channel.name}")
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
    if not any(stream.faults for channel in channels for stream in channel.streams):
        for network in dict.fromkeys(name for channel in channels for name in (channel.source, channel.target)):
            faults += _table_faults(channels, network)
    if not channels:
        faults.append("no channel is declared")
    if faults:
        raise ChannelFaults(list(dict.fromkeys(faults)))


def rollout_cautions(channels: Sequence[Channel], network: str) -> Iterator[Problem]:
    """Say which streams of a network may go before what they refer to, as only a share of that is sent."""
    streams = [stream for channel in channels if channel.source == network for stream in channel.streams]
    for parent in streams:
        children = [one.name for one in streams if parent.table.key in one.parents()]
        if parent.rollout is not None and parent.rollout < ALL and children:
            yield Problem(
                f"stream {parent.name} is declared with rollout={parent.rollout}, and {', '.join(children)} refers to"
                " it: rows that refer to one beyond the share are parked over there until that comes",
                f"roll out {', '.join(children)} after {parent.name}",
            )


def _table_faults(channels: Sequence[Channel], network: str) -> Iterator[str]:
    """Say which tables of a network are in two streams, or in one without the table that has the rest of their rows."""
    by_table: dict[str, list[str]] = defaultdict(list)
    declared = {stream.table.key for channel in channels for stream in channel.streams}
    for channel in channels:
        for stream in channel.streams:
            table = ".".join(filter(None, stream.place(network)))
            by_table[table].append(f"stream {stream.name} of channel {channel.name}")
            if stream.continues is not None and stream.continues not in declared:
                yield (
                    f'stream "{stream.name}": the other half of each of its rows is in table {stream.continues}, from'
                    " which its model inherits and which is in no stream; declare one of that model, too"
                )
    for table, where in by_table.items():
        if len(where) > 1:
            yield f"table {table}: it is in more than one stream ({printable(', '.join(where))})"


def at_network(channels: Sequence[Channel], network: str) -> tuple[Channel, ...]:
    """Give declared channels with each table under the name that it has at one network; may be repeated."""
    every = [stream for channel in channels for stream in channel.streams]
    if all(stream.place(network) == (stream.table.schema, stream.table.name) for stream in every):
        return tuple(channels)
    copies = {stream: _copied(stream.table, *stream.place(network)) for stream in every}
    here = []
    for channel in channels:
        # Several schemas may have tables of one model: then a channel's own comes first.
        near = sorted(every, key=lambda stream: stream in channel.streams)
        for stream in channel.streams:
            alike = sorted(near, key=lambda one: stream.place(network)[0] == one.place(network)[0])
            _refer(stream.table, copies[stream], {one.table.key: copies[one] for one in alike})
        bound = copy.copy(channel)
        bound.streams = tuple(stream.at(copies[stream]) for stream in channel.streams)
        here.append(bound)
    return tuple(here)


def _copied(table: sa.Table, schema: str | None, name: str) -> sa.Table:
    """Copy a table under another name, without the references to others."""
    made = table.to_metadata(sa.MetaData(), schema=schema, name=name)  # type: ignore[arg-type]
    for constraint in made.foreign_key_constraints:
        made.constraints.discard(constraint)
    for column in made.columns:
        column.foreign_keys.clear()
    made.foreign_keys.clear()
    return made


def _refer(table: sa.Table, made: sa.Table, copies: Mapping[str, sa.Table]) -> None:
    """Give a copy the references that its table has, to copies where there are some."""
    for constraint in table.foreign_key_constraints:
        try:
            targets = [element.column for element in constraint.elements]
        except sa.exc.NoReferenceError:
            continue  # to a table that no model speaks of
        there = copies.get(constraint.referred_table.key, constraint.referred_table)
        made.append_constraint(
            sa.ForeignKeyConstraint(
                [made.c[column.key] for column in constraint.columns],
                [there.c[column.key] for column in targets],
                name=constraint.name,
                deferrable=constraint.deferrable,
                initially=constraint.initially,
            )
        )


def known_names(channels: Iterable[Channel]) -> list[str]:
    """Give the names by which a person may mean these channels, in order: a shard's own and the declared ones."""
    return sorted({name for channel in channels for name in channel.names})


def load_channels(spec: str) -> tuple[Channel, ...]:
    """Import and check the channels that ``package.module:attribute`` names, as ``imported`` does.

    Raises ChannelFaults.
    """
    module_name, colon, attribute = spec.partition(":")
    shown = printable(spec)
    if not (colon and module_name and attribute.isidentifier()):
        raise ChannelFaults([f'"{shown}" does not name channels: expected package.module:attribute'])
    module = imported(module_name, f'channels "{shown}"')
    if not hasattr(module, attribute):
        raise ChannelFaults([f'channels "{shown}": module {module_name} has no {attribute}; name what lists them'])
    declared = getattr(module, attribute)
    if not isinstance(declared, (list, tuple)) or not all(isinstance(item, Channel) for item in declared):
        found = printable(repr(declared), 80)
        raise ChannelFaults([f'channels "{shown}": expected a list of Channel objects, found {found}'])
    check(declared)
    return tuple(declared)


def imported(module_name: str, what: str) -> ModuleType:
    """Import a module of the application's, in which ``what`` is.

    The working folder is searched too, after the installed packages, if nobody else can have written there. Raises
    ChannelFaults.
    """
    here, stranger = str(Path.cwd()), why_not_imported()
    if not stranger and not {here, ""}.intersection(sys.path):
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        if stranger:
            reason += f"; it was not looked for in the working folder, {stranger.removeprefix('the working folder ')}"
        if isinstance(error, ModuleNotFoundError):
            reason += "; install it here, or run where it lies, or correct the name"
        raise ChannelFaults([f"{what}: importing {printable(module_name)} failed: {reason}"]) from error


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
