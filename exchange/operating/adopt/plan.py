"""Which tables can cross, as which streams, and in which channels: proposed by the product's own checks."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from exchange.channels.channel import Channel
from exchange.channels.codecs import UnsupportedColumn, codec_for
from exchange.channels.stream import Stream
from exchange.format.names import CONTROL, NAME
from exchange.operating.adopt.models import Model
from exchange.operating.adopt.remark import Remark, Severity

_LONGEST_NAME = 31
_SECRET = re.compile(r"passw|secret|token|api_?key|private_?key|\bpin\b|(^|_)ssn($|_)", re.IGNORECASE)
LIMITS = 'deploy/EXISTING.md, "What stays at home"'


@dataclass(frozen=True)
class Candidate:
    """A table that can cross: its stream, and why each column that is excluded does not."""

    model: Model
    stream: Stream
    excluded: Mapping[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        """What its ``Stream`` takes besides the model, as code."""
        said = [] if self.stream.name == self.stream.table.name else [f"name={code(self.stream.name)}"]
        said += [f"exclude={code([*self.excluded])}"] if self.excluded else []
        return said + ([f"sensitive={code(sorted(self.stream.sensitive))}"] if self.stream.sensitive else [])


@dataclass(frozen=True)
class Group:
    """Streams that are proposed as one channel. ``late`` are references that have to be checked late."""

    name: str
    members: tuple[Candidate, ...]
    late: tuple[sa.ForeignKeyConstraint, ...] = ()


def code(value: str | Sequence[str]) -> str:
    """Write a text or a list of texts as Python."""
    return json.dumps(value if isinstance(value, str) else [*value], ensure_ascii=False)


def candidate(model: Model, taken: Collection[str], *, sqlite: bool) -> tuple[Candidate | None, list[Remark]]:
    """Make a table's stream without what can't cross; None if nothing of it can. ``taken`` are other streams' names.

    ``sqlite`` says that this side's database is SQLite, which can't have all that PostgreSQL has.
    """
    table = model.table
    sensitive = [str(column.name) for column in table.columns if _SECRET.search(column.name)]
    name = _stream_name(table, taken)
    whole = Stream(model.declared, name=name)
    excluded = _unable(whole, sqlite=sqlite)
    stream = Stream(model.declared, name=name, exclude=excluded or None, sensitive=sensitive)
    remarks = [
        Remark(Severity.LOSES, model.key, why, f"it is left out (exclude=); {LIMITS}", column)
        for column, why in excluded.items()
    ]
    faults = [*stream.faults, *(stream.sqlite_faults() if sqlite else ())]
    if faults:
        said = [fault.removeprefix(f'stream "{name}": ') for fault in faults]
        remarks = [one for one in remarks if not any(one.message in fault for fault in said)]
        remarks += [Remark(Severity.STOPS, model.key, fault, f"the table is left out; {LIMITS}") for fault in said]
        return None, remarks
    return Candidate(model, stream, excluded), [*remarks, *_notes(model, stream, sqlite=sqlite)]


def _notes(model: Model, stream: Stream, *, sqlite: bool) -> Iterator[Remark]:
    table = stream.table
    for column in stream.computed:
        said = "each side's database makes it itself: it does not cross"
        yield Remark(Severity.NOTE, model.key, said, "", str(column.name))
    for codec in stream.codecs.values() if not sqlite else ():
        if codec.sqlite_fault:
            said = "crosses between two PostgreSQL; SQLite has it by a variant alone"
            yield Remark(Severity.NOTE, model.key, said, 'CHANNELS.md, "Column types"', str(codec.column.name))
    if stream.name != table.name:
        said = f'its stream is called "{stream.name}" in files'
        yield Remark(Severity.NOTE, model.key, said)
    if table.schema is not None:
        said = f"it lies in schema {table.schema}: SQLite has none, and another side may call it otherwise"
        yield Remark(Severity.NOTE, model.key, said, "Stream(..., table={network: name}); CHANNELS.md has an example")
    for name in sorted(stream.sensitive):
        said = "looks like a secret: its values are hidden from people (sensitive=), but cross"
        yield Remark(Severity.NOTE, model.key, said, "leave it out with exclude= if it is to stay at home", name)


def _unable(stream: Stream, *, sqlite: bool) -> dict[str, str]:
    """Say of each column that can't cross, and need not, why."""
    said = {}
    for column in stream.columns:
        name = str(column.name)
        if column.primary_key:
            continue
        try:
            codec = codec_for(column)
        except UnsupportedColumn as error:
            said[name] = str(error)
        else:
            if sqlite and codec.sqlite_fault:
                said[name] = codec.sqlite_fault
    return said


def _stream_name(table: sa.Table, taken: Collection[str]) -> str:
    plain = _plain(str(table.name))[:63]
    if plain in taken and table.schema is not None:
        plain = _plain(f"{table.schema}_{table.name}")[:63]
    return plain


def _plain(text: str) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()).strip("_")
    return name if name[:1].isalpha() else f"t_{name}"


def grouped(candidates: Sequence[Candidate], taken: Collection[str] = ()) -> list[Group]:
    """Put streams that refer to each other into one channel, and those that refer to nothing into one of their own.

    A circle of references is opened by marking one of them, in the model in this process, to be checked late.
    """
    parts = _components(candidates)
    lone = [part[0] for part in parts if len(part) == 1]
    together = [part for part in parts if len(part) > 1]
    names = {CONTROL, *taken}
    groups = []
    for part in [*together, *([lone] if lone else [])]:
        name = _channel_name(part, names, lone=part is lone)
        names.add(name)
        groups.append(_opened(name, part))
    return groups


def _components(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    part = {one.model.key: {one.model.key} for one in candidates}
    for one in candidates:
        for parent in one.stream.parents():
            if parent in part and part[parent] is not part[one.model.key]:
                joined = part[parent] | part[one.model.key]
                part.update(dict.fromkeys(joined, joined))
    found: dict[int, list[Candidate]] = defaultdict(list)
    for one in candidates:
        found[id(part[one.model.key])].append(one)
    return [*found.values()]


def _channel_name(part: Sequence[Candidate], taken: Collection[str], *, lone: bool) -> str:
    """Name a channel after its only table, or the one that most others refer to."""
    if lone and len(part) > 1:
        name = "tables"
    else:
        referred = Counter(parent for one in part for parent in one.stream.parents())
        name = max(part, key=lambda one: referred[one.model.key]).stream.name
    name = name[:_LONGEST_NAME].rstrip("_")
    number = 2
    while name in taken or not NAME.fullmatch(name):
        name = f"{name[: _LONGEST_NAME - 3].rstrip('_')}_{number}"
        number += 1
    return name


def _opened(name: str, part: Sequence[Candidate]) -> Group:
    late: list[sa.ForeignKeyConstraint] = []
    while True:
        channel = Channel(name, "a", "b", [one.stream for one in part])
        reference = next(iter(sorted(_circular(part), key=_preferred)), None)
        if reference is None or not any("form a cycle" in fault for fault in channel.faults):
            order = {stream.name: number for number, stream in enumerate(channel.streams)}
            return Group(name, tuple(sorted(part, key=lambda one: order[one.stream.name])), tuple(late))
        reference.deferrable = True
        late.append(reference)


def _circular(part: Sequence[Candidate]) -> Iterator[sa.ForeignKeyConstraint]:
    """Find references that are not checked late and lead back to where they come from."""
    parents = {one.model.key: {to for to, late in one.stream.parents().items() if not late} for one in part}

    def leads_to(start: str, end: str) -> bool:
        """Say whether a table refers to another one, by however many others."""
        seen, waiting = set(), [start]
        while waiting:
            at = waiting.pop()
            if at == end:
                return True
            if at not in seen:
                seen.add(at)
                waiting += parents.get(at, ())
        return False

    for one in part:
        for constraint in one.stream.table.foreign_key_constraints:
            to = constraint.elements[0].target_table_key
            if to in parents[one.model.key] and leads_to(str(to), one.model.key):
                yield constraint


def _preferred(constraint: sa.ForeignKeyConstraint) -> tuple[Any, ...]:
    """Put first what may be NULL, and then go by the names, so that both sides choose alike."""
    return (not all(column.nullable for column in constraint.columns), str(constraint.table), *constraint.column_keys)


def cross_references(candidates: Sequence[Candidate], elsewhere: Mapping[str, str]) -> Iterator[Remark]:
    """Say which rows refer to rows that don't cross beside them; ``elsewhere`` are other channels' tables."""
    here = {one.model.key for one in candidates}
    for one in candidates:
        for parent in sorted(set(one.stream.parents()) - here):
            if parent in elsewhere:
                said = f"refers to {parent}, which crosses in channel {elsewhere[parent]}"
                yield Remark(Severity.NOTE, one.model.key, said, "its rows may come first: they are parked until then")
            else:
                said = f"refers to {parent}, which does not cross"
                remedy = "have it cross, too, or exclude the column; rows whose parent is not over there are parked"
                yield Remark(Severity.LOSES, one.model.key, said, remedy)
