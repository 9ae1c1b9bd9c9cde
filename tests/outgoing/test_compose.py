"""Rows that are encoded many at a time are the very bytes, and the very refusals, that one at a time would be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard
from sqlalchemy import Connection

from exchange.channels import Channel, Stream
from exchange.database import tables
from exchange.format import record as records
from exchange.format.batch import ReadLimits
from exchange.format.errors import RecordError
from exchange.format.record import Op, Record
from exchange.tables import capture
from tests.channels.test_codecs_round_trip import TYPES
from tests.crossing.sides import Side
from tests.databases import Databases

ROWS = 130
"""More than are encoded at a time, and no multiple of it."""

metadata = sa.MetaData()

one_type_each = [
    sa.Table(f"t_{name}", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", kind))
    for name, (kind, _) in TYPES.items()
]

item = sa.Table(
    "item",
    metadata,
    sa.Column("place", sa.String(10), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("parent_place", sa.String(10)),
    sa.Column("parent_number", sa.BigInteger),
    sa.Column("name", sa.String(20)),
    sa.Column("amount", sa.Double),
    sa.Column("day", sa.Date),
    sa.Column("moment", sa.DateTime(timezone=True)),
    sa.Column("secret", sa.String(5)),
    sa.Column("document", sa.JSON),
    sa.ForeignKeyConstraint(["parent_place", "parent_number"], ["item.place", "item.number"]),
)

channels = (
    Channel("forth", "one", "two", [*map(Stream, one_type_each), Stream(item, sensitive=["secret"])]),
    Channel("back", "two", "one", [Stream(sa.Table("other", metadata, sa.Column("id", sa.Integer, primary_key=True)))]),
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def side(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Side]:
    """Give a sender with a table for each type of column, on each kind of database."""
    made = Side("one", "two", databases, request.param, tmp_path / "one", channels, metadata=metadata)
    made.limit(batch_records=100_000)
    yield made
    made.engine.dispose()


def one_at_a_time(side: Side) -> tuple[list[bytes], list[tuple[str, str, str, str]]]:
    """Give the lines of what is pending and the letters instead of others, and leave it pending."""
    lines: list[bytes] = []
    letters: list[tuple[str, str, str, str]] = []
    streams = channels[0].streams
    isolation = {"isolation_level": "REPEATABLE READ"} if side.engine.dialect.name == "postgresql" else {}
    with side.engine.execution_options(**isolation).connect() as connection, connection.begin() as transaction:
        capture.claim(connection, streams, 100_000)
        for stream, op, row in _taken(connection, streams):
            try:
                lines.append(one_line(side, connection, stream, op, row))
            except RecordError as error:
                letters.append((row[0], error.error, error.pointer, error.sentence))
        transaction.rollback()
    return [without_versions(line) for line in lines], letters


def without_versions(lines: bytes) -> bytes:
    """Write nothing but zeros for versions: what is claimed once more gets new ones."""
    return re.sub(rb'(?<="version":)\d+', lambda version: b"0" * len(version[0]), lines)


def one_line(side: Side, connection: Connection, stream: Stream, op: Op, row: Any) -> bytes:
    checker = side.site.checkers[stream.name]
    if op is Op.UPSERT:
        body = stream.encoder(connection.dialect)(row[2:])
        checker.check_data(body)
    else:
        body = stream.key_encoder(connection.dialect)(row[2:])
        checker.check_key(body)
    line = records.encode(Record(stream.name, op, row[1], body))
    if len(line) - 1 > side.site.limits.read.max_record_bytes:
        raise RecordError("size", "", f"the record is {len(line) - 1} bytes long")
    return line


def _taken(connection: Connection, streams: tuple[Stream, ...]) -> Iterator[tuple[Stream, Op, Any]]:
    for stream in streams:
        read = [row for some in capture.rows(connection, stream) for row in some]
        selected = [stream.codecs[column.name].selected(connection.dialect) for column in stream.columns]
        plainly = connection.execute(sa.select(*selected).select_from(stream.table)).all()
        assert sorted(map(repr, map(tuple, plainly))) == sorted(repr(tuple(row[2:])) for row in read)
        yield from ((stream, Op.UPSERT, row) for row in read)
    for stream in reversed(streams):
        for some in capture.deleted_keys(connection, stream):
            yield from ((stream, Op.DELETE, row) for row in some)


def contents(side: Side) -> list[bytes]:
    """Export, and give the content of each batch in turn."""
    run = side.export()
    assert run.trouble is None
    files = [side.home / "outgoing" / f"{one.batch}.jsonl.zst" for one in run.batches]
    opened = (zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes()) for file in files)
    return [without_versions(lines) for lines in opened]


def letters_of(side: Side) -> list[tuple[str, str, str, str]]:
    """Give what was parked, without what every outgoing letter ends in."""
    letter = tables.dead_letter.c
    found = side.all(sa.select(letter.key, letter.error, letter.pointer, letter.message).order_by(letter.id))
    return [(key, error, pointer, message.partition("; it is not sent")[0]) for key, error, pointer, message in found]


def insert_items(side: Side, count: int, **more: Any) -> None:
    """Insert rows that have nothing unusual about them, children before the rows that they hang from."""
    with side.engine.begin() as connection:
        rows = [
            {
                "place": "ab"[number % 2],
                "number": number,
                "name": f"näme {number}",
                "amount": number / 8,
                "document": {"number": number, "some": ["a, b", {"c: d": None}]},
                **more,
            }
            for number in range(1, count + 1)
        ]
        connection.execute(sa.insert(item), rows)
        connection.execute(sa.text("UPDATE item SET moment = '2026-11-22 06:15:00.120000', day = '2026-11-22'"))
        hang = sa.update(item).values(parent_place=item.c.place, parent_number=item.c.number + 2)
        connection.execute(hang.where(item.c.number <= count - 2))


def test_every_value_of_every_type_is_written_as_one_at_a_time(side: Side) -> None:
    for table, (_, values) in zip(one_type_each, TYPES.values(), strict=True):
        # The first half has every value, the second half has not many, and the last rows are none.
        cycle = itertools.cycle([*values, None])
        rows = [{"id": n, "value": next(cycle) if n < ROWS // 2 else values[0]} for n in range(ROWS)]
        side.execute(sa.insert(table), [*rows, *({"id": ROWS + n, "value": None} for n in range(ROWS))])
    expected, refused = one_at_a_time(side)
    assert contents(side) == [b"".join(expected)]
    assert letters_of(side) == refused == []


@pytest.mark.same_on("postgresql")
def test_rows_and_deletes_of_a_tree_are_written_as_one_at_a_time(side: Side) -> None:
    insert_items(side, ROWS)
    expected, _ = one_at_a_time(side)
    assert contents(side) == [b"".join(expected)]
    side.execute(sa.update(item).values(name="other"))
    side.execute(sa.update(item).values(parent_place=None).where(item.c.number > ROWS - 60))
    side.execute("DELETE FROM item WHERE number <= 60")
    expected, _ = one_at_a_time(side)
    assert sum(b'"delete"' in line for line in expected) == 60
    assert contents(side) == [b"".join(expected)]


BAD = {
    "sqlite": [
        "name = 'a' || char(0)",
        "name = CAST(x'ff' AS TEXT)",
        "name = CAST(x'eda080' AS TEXT)",
        "name = x'00'",
        "name = 'more than twenty letters'",
        "amount = 9e999",
        "amount = 'words'",
        "day = 'infinity'",
        "day = '2026-02-30'",
        "moment = '10000-01-01 00:00:00.000000'",
        "moment = '2026-02-30 00:00:00.000000'",
        "secret = 'hidden'",
        "document = '{\"a\": NaN}'",
        'document = \'{"a": 1, "a": 1}\'',
    ],
    "postgresql": [
        "name = repeat('x', 21)",
        "amount = 'NaN'",
        "amount = '-Infinity'",
        "day = 'infinity'",
        "day = '10000-01-01'",
        "day = '0001-01-01 BC'",
        "moment = '-infinity'",
        "moment = '10000-01-01 00:00:00.000000'",
        "moment = '0044-03-15 00:00:00.123 BC'",
        "secret = 'hidden'",
        'document = \'{"a": 1, "a": 1}\'',
    ],
}
BAD_ANYWHERE = [
    "document = '\"\\u0000\"'",
    f"document = '{'[' * 63}{']' * 63}'",
    f"document = '\"{'x' * 3000}\"'",
]


def test_each_bad_row_among_good_ones_is_refused_as_one_at_a_time(side: Side) -> None:
    if side.engine.dialect.name == "postgresql":  # a database that takes more than the model says
        side.execute("ALTER TABLE item ALTER name TYPE text, ALTER secret TYPE text")
    insert_items(side, 600)
    bad = [*BAD[side.engine.dialect.name], *BAD_ANYWHERE]
    with side.engine.begin() as connection:
        for number, change in enumerate(bad, 1):
            connection.exec_driver_sql(
                f"UPDATE item SET {change} WHERE number = {number * 23}", execution_options={"no_parameters": True}
            )
    side.limit(read=ReadLimits(max_record_bytes=2000))
    expected, refused = one_at_a_time(side)
    assert len(refused) == len(bad)
    assert contents(side) == [b"".join(expected)]
    found = letters_of(side)
    assert [letter[:3] for letter in found] == [letter[:3] for letter in refused]
    assert all(letter[3].startswith(one[3]) for letter, one in zip(found, refused, strict=True))
    assert not any("hidden" in letter[3] for letter in found)


@pytest.mark.same_on("postgresql")
def test_a_batch_is_filled_to_the_last_record_that_fits_and_the_rest_follows(side: Side) -> None:
    insert_items(side, 2000, document={"text": "x" * 2000})
    side.limit(batch_bytes=2_000_000)
    expected, _ = one_at_a_time(side)
    found = contents(side)
    assert len(found) > 2
    assert b"".join(found) == b"".join(expected)
    for full, following in itertools.pairwise(found):
        assert len(full) <= 2_000_000 < len(full) + following.index(b"\n") + 1


@pytest.mark.same_on("postgresql")
def test_large_rows_are_written_as_one_at_a_time(side: Side) -> None:
    insert_items(side, 60, document={"text": "x" * 100_000})
    expected, _ = one_at_a_time(side)
    assert contents(side) == [b"".join(expected)]
