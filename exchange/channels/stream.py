"""A stream: one table of a channel, its key and columns, and how its rows are written and read."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from exchange.channels import naming
from exchange.channels.codecs import (
    JSON_NULL,
    ColumnCodec,
    DocumentText,
    EncodeColumn,
    Json,
    UnsupportedColumn,
    as_is,
    codec_for,
    is_computed,
    json_null_member,
)
from exchange.channels.hooks import Hook, Hooks
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import RecordError, printable
from exchange.format.record import ByColumns, LineWriter, Op

# A stream's name is also a folder below schemas/ and a word in a list of streams.
_STREAM = re.compile(r"[a-z][a-z0-9_]{0,62}")


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


Takes = Callable[[str, Sequence[Json]], bool]

WriteLines = Callable[[Sequence[int], Sequence[Sequence[Any]]], bytes]

Column = list[Any]
"""One column's values of many records."""

Decode = Callable[[Sequence[Mapping[str, Json]]], list[Column]]
"""From many records' data or keys to columns. Of data that is kept by columns documents are texts."""


ALL = 100
"""All keys of a stream, in per cent."""

HIDDEN = "(hidden)"
"""What a person sees in place of a sensitive column's value."""


Place = str | sa.TableClause
"""What a table is called in a database: ``item``, ``stock.item``, or ``sa.table("a.b", schema="stock")``."""


class Stream:
    """The rows of one table, as they cross.

    ``name`` is the table's unless given. All columns cross but those of ``exclude``, or only those that ``columns``
    lists; never ``exchange_version``, a computed column or a TSVECTOR, which each side makes itself. As a mapping
    ``columns`` says what some are called in files; all others cross under their own names. ``table`` is what the table
    is called where that is not as in the model: everywhere, or by network. ``upgrades[n]`` lifts the data of a record
    of schema version n to version n + 1. Values of ``sensitive`` columns are hidden wherever a person looks.
    ``before_apply``, ``on_applied`` and ``after_commit`` are called where rows come (see ``channels/hooks.py``).
    ``rollout`` is how many per cent of its keys its source sends; all unless given.

    A wrong declaration raises nothing here, but TypeError for what is no table; ``faults`` says what is wrong, and
    ``check`` gathers it.
    """

    def __init__(
        self,
        model_or_table: Any,
        *,
        name: str | None = None,
        table: Place | Mapping[str, Place] | None = None,
        columns: Collection[str] | Mapping[str, str] | None = None,
        exclude: Collection[str] | None = None,
        schema_version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        sensitive: Collection[str] = (),
        before_apply: Hook | None = None,
        on_applied: Hook | None = None,
        after_commit: Hook | None = None,
        rollout: int | None = None,
    ) -> None:
        mapper = naming.mapper_of(model_or_table)
        declared = model_or_table if mapper is None else mapper.local_table
        if not isinstance(declared, sa.Table):
            msg = f"a stream is made of a mapped class or a Table, not of {printable(repr(model_or_table))}"
            raise TypeError(msg)
        self.table: sa.Table = declared
        # A plain str: SQLAlchemy's own name class is no JSON.
        self.name = str(declared.name if name is None else name)
        self.places = table
        self.schema_version = schema_version
        self.upgrades: Mapping[int, Upgrade] = dict(upgrades or {})
        self.hooks = Hooks(before_apply, on_applied, after_commit)
        self.rollout = rollout
        self.continues: str | None = naming.table_above(mapper)
        """The key of the table that has the other half of each row, where models inherit by joining."""
        names = naming.Names(declared, mapper, columns if isinstance(columns, Mapping) else {})
        listed = None if columns is None or isinstance(columns, Mapping) else names.meant("columns", columns)
        excluded = names.meant("exclude", exclude or ())
        self.computed: tuple[sa.Column[Any], ...] = tuple(c for c in declared.columns if is_computed(c))
        able = [c for c in declared.columns if c not in self.computed and c.name != VERSION_COLUMN]
        chosen = {c.name for c in able}.difference(excluded) if listed is None else set(listed)
        self.columns: tuple[sa.Column[Any], ...] = tuple(c for c in able if c.name in chosen)
        self.excluded: tuple[sa.Column[Any], ...] = tuple(c for c in able if c.name not in chosen)
        self.key: tuple[sa.Column[Any], ...] = tuple(declared.primary_key.columns)
        self.in_files: Mapping[str, str] = names.in_files
        """What columns are called in files, by their names in the table."""
        self.names = tuple(self.in_files[c.name] for c in self.columns)
        """What ``columns`` are called in files, in their order; and those of ``key``."""
        self.key_names = tuple(self.in_files[c.name] for c in self.key)
        hidden = names.meant("sensitive", sensitive)
        names.find_twins({c.name: c for c in (*self.columns, *self.key)})
        wire = {self.in_files.get(one, one) for one in hidden}
        self.sensitive = frozenset(wire | set(hidden).difference(self.in_files.values()))
        """As they are called in files, and in the table where that is no other one's name in files."""
        self.codecs: Mapping[str, ColumnCodec]
        """By the columns' names in the table."""
        self.faults: tuple[str, ...]
        self.codecs, unsupported = self._codecs()
        both = listed is not None and exclude is not None
        self.faults = (*self._faults([*names.faults, *naming.inheritance_faults(mapper)], both=both), *unsupported)

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"

    @property
    def oldest_version(self) -> int:
        """The oldest schema version that ``upgrade`` can lift to the current one."""
        version = self.schema_version
        while version - 1 in self.upgrades:
            version -= 1
        return version

    @property
    def two_nulls(self) -> frozenset[str]:
        """The columns in which JSON's null and SQL's NULL are two values."""
        crossing = zip(self.columns, self.names, strict=True)
        return frozenset(name for c, name in crossing if c.name in self.codecs and self.codecs[c.name].has_two_nulls)

    def place(self, network: str) -> tuple[str | None, str]:
        """Say in which schema the table is in a network's database, and what it is called there."""
        given = self.places.get(network) if isinstance(self.places, Mapping) else self.places
        if isinstance(given, str):
            schema, _, name = given.rpartition(".")
            return schema or None, name
        table = self.table if given is None else given
        return table.schema, table.name

    def at(self, table: sa.Table) -> Stream:
        """Give the stream over another table that has the same columns."""
        here = copy.copy(self)
        here.table, here.places = table, None
        here.columns = tuple(table.c[c.key] for c in self.columns)
        here.excluded = tuple(table.c[c.key] for c in self.excluded)
        here.key = tuple(table.c[c.key] for c in self.key)
        crossing = {c.name: c for c in (*here.columns, *here.key)}
        here.codecs = {name: replace(codec, column=crossing[name]) for name, codec in self.codecs.items()}
        return here

    def only(self, names: Collection[str], key: Sequence[str] = ()) -> Stream:
        """Give the stream of those of its columns that are called so in files, told apart by ``key`` if that is given.

        It has no key where not all of that is among them.
        """
        here = copy.copy(self)
        here.columns = tuple(c for c in self.columns if self.in_files[c.name] in names)
        here.names = tuple(self.in_files[c.name] for c in here.columns)
        wanted = key or self.key_names
        by_name = dict(zip(here.names, here.columns, strict=True))
        here.key = tuple(by_name[name] for name in wanted) if by_name.keys() >= set(wanted) else ()
        here.key_names = tuple(self.in_files[c.name] for c in here.key)
        return here

    @property
    def lacking(self) -> list[str]:
        """The columns of the table, as files call them, that rows of the stream lack and that no new row is without."""
        there = {c.name for c in self.columns}
        left = [c for c in self.table.columns if c.name not in there and not _fills_itself(c)]
        return [self.in_files.get(c.name, str(c.name)) for c in left]

    @property
    def hidden(self) -> frozenset[str]:
        """The members of a record's data or key whose values nobody sees."""
        return self.sensitive | {json_null_member(name) for name in self.sensitive}

    def shown(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give a record's data or key as a person may see it."""
        hidden = self.hidden
        return {name: HIDDEN if name in hidden else value for name, value in values.items()}

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
        return _encoder(
            [(self.in_files[c.name], self.codecs[c.name].encoder(dialect, "/data")) for c in self.columns],
            self.two_nulls,
        )

    def key_encoder(self, dialect: Dialect) -> Callable[[Sequence[Any]], dict[str, Json]]:
        """Make the function from a row's key (in ``key`` order) to a record's key."""
        return _encoder([(self.in_files[c.name], self.codecs[c.name].encoder(dialect, "/key")) for c in self.key])

    def rows_encoder(self, dialect: Dialect) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Json]]]:
        """Make the function from the columns of many rows to as many records' data: ``encoder``, but faster.

        It raises one of ``LOOK_AT_EACH`` where ``encoder`` may refuse a row. What the stream's schema refuses
        may get through, so the data is to be checked.
        """
        members = [(self.in_files[c.name], self.codecs[c.name].column_encoder(dialect, "/data")) for c in self.columns]
        return _rows_encoder(members, self.two_nulls)

    def line_writer(self, dialect: Dialect, op: Op, takes: Takes) -> WriteLines:
        """Make the function from versions and the columns of many rows, or of their keys on a delete, to their lines.

        The lines are those of ``encoder`` and ``record.encode``, or of ``key_encoder``. The function raises one of
        ``LOOK_AT_EACH`` where one of those or the stream's schema may refuse a row. ``takes`` asks the schema if it
        takes all of many values of a column.
        """
        columns, under = (self.columns, "/data") if op is Op.UPSERT else (self.key, "/key")
        codecs = [self.codecs[c.name] for c in columns]
        write = LineWriter(self.name, op, [codec.name for codec in codecs]).write
        writers = [codec.column_writer(dialect, partial(takes, codec.name), under) for codec in codecs]
        looked_at = [
            (at, json_null_member(codec.name))
            for at, codec in enumerate(codecs)
            if op is Op.UPSERT and codec.has_two_nulls
        ]

        def write_lines(versions: Sequence[int], rows: Sequence[Sequence[Any]]) -> bytes:
            """Write the lines of many rows, given by columns; raises one of LOOK_AT_EACH."""
            texts = [write_column(column) for write_column, column in zip(writers, rows, strict=True)]
            json_nulls = [
                (number, at, member)
                for at, member in looked_at
                if b"null" in texts[at]
                for number, (text, value) in enumerate(zip(texts[at], rows[at], strict=True))
                if text == b"null" and value is not None
            ]
            return write(versions, texts, json_nulls)

        return write_lines

    def decoder(self, dialect: Dialect) -> Decode:
        """Make the function from many records' data to the values that the driver binds, column by column.

        The data has been checked against the stream's schema, so every column is in it. The function raises
        RecordError for a value that its column cannot keep exactly, whichever record's it is.
        """
        return _decoder([(self.codecs[c.name], "/data") for c in self.columns], dialect)

    def key_decoder(self, dialect: Dialect) -> Decode:
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
            here = (c.name for c in constraint.columns)
            if target is None or target == self.table.key or not crossing.issuperset(here):
                continue
            late[target] = late.get(target, True) and bool(constraint.deferrable)
        return late

    def sqlite_faults(self) -> list[str]:
        """Say which columns SQLite can't have, and what to do about each."""
        return [f'stream "{self.name}": {one.sqlite_fault}' for one in self.codecs.values() if one.sqlite_fault]

    def _codecs(self) -> tuple[dict[str, ColumnCodec], list[str]]:
        codecs: dict[str, ColumnCodec] = {}
        faults = []
        for column in dict.fromkeys((*self.columns, *self.key)):
            try:
                name = self.in_files[column.name]
                codecs[column.name] = codec_for(column, name=name, sensitive=name in self.sensitive)
            except UnsupportedColumn as error:
                faults.append(f'stream "{self.name}": {error}')
        return codecs, faults

    def _faults(self, said: Sequence[str], *, both: bool) -> list[str]:
        faults = []
        if not _STREAM.fullmatch(self.name):
            faults.append("its name must be a lower-case letter, then at most 62 letters, digits or _; give name=")
        if self.table.name.startswith("exchange_"):
            faults.append(f"{self.table.name} is the exchange's own table and can't cross")
        if both:
            faults.append("give columns= or exclude=, not both")
        faults += said
        faults += self._place_faults()
        if not self.key:
            faults.append(f"table {self.table.name} has no primary key, so its rows can't be told apart")
        faults.extend(filter(None, (_excluded_fault(column) for column in self.excluded)))
        faults.extend(
            f"column {column.name} is GENERATED ALWAYS AS IDENTITY, so a received value can't be stored;"
            " make it BY DEFAULT"
            for column in self.columns
            if column.identity is not None and column.identity.always
        )
        taken = {json_null_member(name) for name in self.two_nulls}.intersection(self.names)
        faults.extend(f"column {name} has the name that stands for JSON's null in files; rename it" for name in taken)
        faults.extend(self._version_faults())
        faults.extend(self.hooks.faults())
        share: object = self.rollout
        if share is not None and (type(share) is not int or not 1 <= share <= ALL):
            faults.append(f"rollout must be a whole number of per cent from 1 to {ALL}, found {share!r}")
        return [f'stream "{printable(self.name)}": {fault}' for fault in faults]

    def _place_faults(self) -> list[str]:
        places = self.places.values() if isinstance(self.places, Mapping) else filter(None, [self.places])
        return [
            f'table= names {printable(repr(place))}, which is no table: give "name", "schema.name" or, where a name has'
            " a dot, sa.table(name, schema=...)"
            for place in places
            if not isinstance(place, sa.TableClause) and not (isinstance(place, str) and _PLACE.fullmatch(place))
        ]

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


_PLACE = re.compile(r"[^.]+(?:\.[^.]+)?")


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


def _encoder(
    members: Sequence[tuple[str, Callable[[Any], Json]]], two_nulls: Collection[str] = ()
) -> Callable[[Sequence[Any]], dict[str, Json]]:
    # SQLAlchemy's names may be of its own kind of str, which orjson does not take.
    names = tuple(str(name) for name, _ in members)
    work = tuple((at, names[at], encode) for at, (_, encode) in enumerate(members) if encode is not as_is)

    def encode_row(row: Sequence[Any]) -> dict[str, Json]:
        """Encode the selected values of one row; raises RecordError."""
        data: dict[str, Json] = dict(zip(names, row, strict=True))
        for at, name, encode in work:
            value = row[at]
            if value is not None:
                data[name] = wire = encode(value)
                if wire is None and name in two_nulls:
                    data[json_null_member(name)] = data.pop(name)
                elif type(wire) is DocumentText:
                    data[json_null_member(name)] = str(data.pop(name))
        return data

    return encode_row


def _rows_encoder(
    members: Sequence[tuple[str, EncodeColumn]], two_nulls: Collection[str] = ()
) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Json]]]:
    names = tuple(str(name) for name, _ in members)
    encoders = tuple(encode for _, encode in members)
    looked_at = [(at, name, json_null_member(name)) for at, name in enumerate(names) if name in two_nulls]

    def encode_rows(columns: Sequence[Sequence[Any]]) -> list[dict[str, Json]]:
        """Encode many rows, given by columns; raises one of LOOK_AT_EACH."""
        encoded = [encode(column) for encode, column in zip(encoders, columns, strict=True)]
        rows = [*map(dict, map(zip, repeat(names), zip(*encoded, strict=True)))]
        for at, name, member in looked_at:
            if None in encoded[at]:
                for row, value, wire in zip(rows, columns[at], encoded[at], strict=True):
                    if wire is None and value is not None:
                        row[member] = row.pop(name)
        return rows

    return encode_rows


def _fills_itself(column: sa.Column[Any]) -> bool:
    if column.nullable or column.server_default is not None or column.identity is not None or column.computed:
        return True
    return column is column.table.autoincrement_column


def _picker(codec: ColumnCodec) -> Callable[[Mapping[str, Json]], Any]:
    """Make the function that takes a column's value out of a record's data."""
    name = codec.name
    if not codec.reads_two_nulls:
        return itemgetter(name)
    member = json_null_member(name)

    def document(data: Mapping[str, Json]) -> Any:
        if member not in data:
            return data[name]
        return JSON_NULL if data[member] is None else DocumentText(data[member])

    return document


def _decoder(members: Sequence[tuple[ColumnCodec, str]], dialect: Dialect) -> Decode:
    columns = [(_picker(codec), codec.column_decoder(dialect, under)) for codec, under in members]
    kept = [
        (c.name, c.text_decoder(dialect) if c.reads_two_nulls else c.column_decoder(dialect, under))
        for c, under in members
    ]

    def decode(data: Sequence[Mapping[str, Json]]) -> list[Column]:
        """Decode the data of many records, to columns; raises RecordError."""
        if isinstance(data, ByColumns):
            return [work(data.columns[name]) for name, work in kept]
        return [work(list(map(pick, data))) for pick, work in columns]

    return decode
