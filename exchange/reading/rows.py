"""Rows of either kind as bodies: cells and members under the names of their columns, as records' data has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from exchange.channels.codecs import JSON_NULL, ColumnCodec, DocumentText, Json, json_null_member
from exchange.channels.codecs.document import JsonCodec
from exchange.channels.codecs.numeric import BooleanCodec, DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.text import BytesCodec, EnumCodec, TextCodec, XmlCodec
from exchange.channels.stream import Stream
from exchange.format import json_pointer
from exchange.format.errors import RecordError, printable
from exchange.format.record import ByColumns
from exchange.reading import Body, FileFormat
from exchange.reading.cells import Cells, cells_of
from exchange.reading.csv_rows import CsvRows
from exchange.reading.json_rows import TOO_DEEP, is_deep, may_be_deep, read_objects
from exchange.reading.model_defaults import makers

NO_JSON = "the line is not strict JSON; why is not shown, as the stream has columns that nobody is to see"


class Made(NamedTuple):
    """Bodies of rows, by the places of those, and what is wrong with others."""

    places: Sequence[int]
    bodies: Sequence[Body]
    bad: dict[int, RecordError]


class Rows:
    """Makes bodies of one file's rows for one stream."""

    def __init__(self, written: FileFormat, stream: Stream) -> None:
        """Find the codecs of the columns that the file has."""
        codecs = {codec.name: codec for codec in stream.codecs.values()}
        self._hides = bool(stream.sensitive)
        self._chosen = [at for at, name in enumerate(written.columns) if name is not None]
        names = [str(written.columns[at]) for at in self._chosen]
        self._documents = [name for name in names if isinstance(codecs[name].type_codec, JsonCodec)]
        self._null_members = {json_null_member(name): name for name in self._documents}
        self._cells = [cells_of(codecs[name], written) for name in names]
        self._names = tuple(names)
        self._defaults = default_values(written, codecs)
        self._given = makers(written, codecs)
        documents = (
            isinstance(codecs[name].type_codec, JsonCodec) for name in (*names, *written.defaults, *written.given)
        )
        self._has_documents = any(documents)
        self._csv = CsvRows(written) if written.kind == "csv" else None
        self._members = {} if self._csv else _members(written, codecs)

    def make(self, records: Sequence[bytes], bad: dict[int, RecordError]) -> Made:
        """Make bodies of rows as bytes, but of those of which it is known what is wrong with them."""
        if self._csv is None:
            return self._of_objects(records, bad)
        return self._of_cells(*self._csv.cut(records, bad))

    def make_one_by_one(self, records: Sequence[bytes], bad: dict[int, RecordError]) -> Made:
        """Give the same as ``make``, by the way of rows that are not as usual."""
        if self._csv is None:
            made = [self._of_objects([record], {0: bad[at]} if at in bad else {}) for at, record in enumerate(records)]
        else:
            made = [
                self._of_cells(*self._csv.one_by_one([record], {0: bad[at]} if at in bad else {}))
                for at, record in enumerate(records)
            ]
        places = [at for at, one in enumerate(made) if one.bodies]
        return Made(
            places, [made[at].bodies[0] for at in places], {at: one.bad[0] for at, one in enumerate(made) if one.bad}
        )

    def check_members(self, record: bytes) -> None:
        """Refuse a row with a member that no row of its file has: somebody put it there. Raises RecordError."""
        if self._csv is None and (objects := read_objects([record], {})[1]):
            for name in objects[0]:
                if name not in self._members and name not in self._null_members:
                    raise _unknown(name)

    def _of_cells(self, places: Sequence[int], columns: list[list[str | None]], bad: dict[int, RecordError]) -> Made:
        return self._of_columns(
            places, [cells.values(columns[at]) for cells, at in zip(self._cells, self._chosen, strict=True)], bad
        )

    def _of_columns(
        self,
        places: Sequence[int],
        found: Sequence[tuple[Sequence[Json], Mapping[int, RecordError]]],
        bad: dict[int, RecordError],
    ) -> Made:
        """Make bodies of the values of each column, and what is wrong with some of them."""
        wrong: dict[int, RecordError] = {}
        for _, faults in found:
            wrong = {**faults, **wrong} if faults else wrong
        values = [column for column, _ in found]
        made = ByColumns({name: [*column] for name, column in zip(self._names, values, strict=True)})
        if self._has_documents:
            return self._finished(places, [*made], wrong, bad)
        if wrong:
            bad |= {places[at]: error for at, error in wrong.items()}
            places = [place for at, place in enumerate(places) if at not in wrong]
            made = made.without(wrong)
        same = {name: [value] * len(places) for name, value in self._defaults.items()}
        given = {name: make(len(places)) for name, make in self._given.items()}
        return Made(places, ByColumns({**made.columns, **same, **given}), bad)

    def _finished(
        self, places: Sequence[int], bodies: list[Body], wrong: Mapping[int, RecordError], bad: dict[int, RecordError]
    ) -> Made:
        if wrong:
            bad |= {places[at]: error for at, error in wrong.items()}
            places = [place for at, place in enumerate(places) if at not in wrong]
            bodies = [body for at, body in enumerate(bodies) if at not in wrong]
        for name in self._documents:
            for body in bodies:
                _name_document(body, name)
        if self._defaults:
            for body in bodies:
                body.update(self._defaults)
        for name, make in self._given.items():
            for body, value in zip(bodies, make(len(bodies)), strict=True):
                body[name] = value
        return Made(places, bodies, bad)

    def _of_objects(self, records: Sequence[bytes], bad: dict[int, RecordError]) -> Made:
        known = bad.keys()
        places, objects, bad = read_objects(records, bad)
        if self._hides:  # the reader's words may quote a number
            bad |= {at: RecordError(one.error, "", NO_JSON) for at, one in bad.items() if at not in known}
        usual = all(map(self._null_members.keys().isdisjoint, {*map(tuple, objects)}))
        if usual and not any(map(may_be_deep, records)):
            used = {member.name: (cell, member) for cell, member in self._members.items() if member is not None}
            lines = records if len(places) == len(records) else [records[at] for at in places]
            return self._of_columns(
                places,
                [member.values([one.get(cell) for one in objects], lines, cell) for cell, member in used.values()],
                bad,
            )
        return self._of_unusual_objects(records, places, objects, bad)

    def _of_unusual_objects(
        self,
        records: Sequence[bytes],
        places: Sequence[int],
        objects: Sequence[Mapping[str, Json]],
        bad: dict[int, RecordError],
    ) -> Made:
        """Make bodies of rows of which some have JSON's null by its own name, or are deep."""
        wrong: dict[int, RecordError] = {}
        bodies: list[Body] = []
        members = self._members
        for at, found in enumerate(objects):
            body: Body = dict.fromkeys(self._names)
            faults: dict[str, RecordError] = {}
            for name, value in found.items():
                if name in self._null_members:
                    body.pop(self._null_members[name], None)
                    body[name] = value
                elif (member := members.get(name)) is not None and member.name in body:
                    try:
                        body[member.name] = (
                            value
                            if member.read is None or value is None
                            else member.read(value, records[places[at]], name)
                        )
                    except RecordError as error:
                        faults[member.name] = error
            if faults:  # as elsewhere, the first column's
                wrong[at] = faults[next(name for name in self._names if name in faults)]
            if may_be_deep(records[places[at]]):
                deep = (name for name, value in body.items() if is_deep(value))
                if (at_fault := next(deep, None)) is not None:
                    wrong.setdefault(at, _too_deep(at_fault))
            bodies.append(body)
        return self._finished(places, bodies, wrong, bad)


_TEXTS = frozenset({str, type(None)})


class _Member:
    """One column's member in JSON lines: a text is read as a cell would be, a number as digits where it is one."""

    def __init__(self, codec: ColumnCodec, cells: Cells) -> None:
        self.name = codec.name
        kind = codec.type_codec
        as_it_is = (TextCodec, XmlCodec, IntegerCodec, BooleanCodec, FloatCodec, EnumCodec, BytesCodec, JsonCodec)
        self.read = None if isinstance(kind, as_it_is) else self._read
        self._digits = isinstance(kind, DecimalCodec)
        self._one = cells.one
        self._cells = cells

    def values(
        self, values: list[Json], records: Sequence[bytes], member: str
    ) -> tuple[Sequence[Json], Mapping[int, RecordError]]:
        """Read the members of many rows; what is wrong with some is given by their places."""
        if self.read is None:
            return values, {}
        if _TEXTS.issuperset(map(type, values)):
            return self._cells.values(values)
        bad: dict[int, RecordError] = {}
        for at, value in enumerate(values):
            try:
                values[at] = None if value is None else self.read(value, records[at], member)
            except RecordError as error:
                bad[at], values[at] = error, None
        return values, bad

    def _read(self, value: Json, record: bytes, member: str) -> Json:
        if self._digits and type(value) is float:
            # The nearest double's shortest digits need not be those that were written.
            value = json.loads(record, parse_float=Decimal)[member]
        if self._digits and type(value) in {int, Decimal}:
            value = format(value, "f" if type(value) is Decimal else "d")
        return self._one(value) if type(value) is str else value


def _members(written: FileFormat, codecs: Mapping[str, ColumnCodec]) -> dict[str, _Member | None]:
    exact = FileFormat("jsonl", nulls=(), dates=written.dates, time_zone=written.time_zone)
    return {
        cell: None if name is None else _Member(codecs[name], cells_of(codecs[name], exact))
        for cell, name in zip(written.header, written.columns, strict=True)
    }


def _too_deep(name: str) -> RecordError:
    return RecordError("cell", "/data" + json_pointer.join(name), f"{printable(name, 80)}: {TOO_DEEP}")


def _unknown(name: str) -> RecordError:
    return RecordError(
        "ragged",
        "/data" + json_pointer.join(name),
        f"the member {printable(name, 80)} is none that rows of the file have",
    )


def _name_document(body: Body, name: str) -> None:
    value = body.get(name)
    if value is JSON_NULL:
        body[json_null_member(name)] = None
        del body[name]
    elif type(value) is DocumentText:
        body[json_null_member(name)] = str(value)
        del body[name]


def default_values(written: FileFormat, codecs: Mapping[str, ColumnCodec]) -> dict[str, Any]:
    """Give the values of the columns that a file lacks; raises RecordError for one that its column can't keep."""
    body: Body = {}
    for name, text in written.defaults.items():
        if text in written.nulls:
            body[name] = None
            continue
        body[name] = cells_of(codecs[name], written).one(text)
        _name_document(body, name)
    return body
