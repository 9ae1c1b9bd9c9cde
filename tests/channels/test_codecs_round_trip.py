"""Every type crosses between every pair of databases and is what it was."""

# ruff: noqa: DTZ001, DTZ901 - columns without zone keep date-times without zone

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite

from exchange.channels import Stream
from exchange.channels.codecs import codec_for
from exchange.channels.codecs.temporal import duration_text
from exchange.channels.schemas import Checker, stream_schema
from exchange.database import make_engine
from exchange.database.tables import UtcDateTime
from exchange.format import record as lines_of
from exchange.format.buckets import row_hash
from exchange.format.errors import RecordError
from exchange.format.record import Op, Record
from exchange.tables.loader.copy import put

SQLITE, POSTGRESQL = sqlite.dialect(), postgresql.dialect()  # type: ignore[no-untyped-call]


class Colour(enum.Enum):
    RED = "r"
    GREEN = "the green one"
    CRIMSON = "r"  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = -5


ID = uuid.UUID("6513270e-0000-4000-8000-00000000abcd")

TYPES: dict[str, tuple[sa.types.TypeEngine[Any], list[Any]]] = {
    "small": (sa.SmallInteger(), [0, -(2**15), 2**15 - 1]),
    "whole": (sa.Integer(), [0, -(2**31), 2**31 - 1]),
    "big": (sa.BigInteger().with_variant(sa.Integer(), "sqlite"), [0, -(2**63), 2**63 - 1, 2**53 + 1]),
    "money": (
        sa.Numeric(12, 2),
        [Decimal("12.50"), Decimal("-0.01"), Decimal("9999999999.99"), Decimal("0.00")],
    ),
    "fraction": (sa.Numeric(3, 3), [Decimal("0.125"), Decimal("-0.999")]),
    "count": (sa.Numeric(15), [Decimal(999_999_999_999_999), Decimal(-1)]),
    "decimal": (sa.Numeric(), [Decimal("0.1"), Decimal("-123456.75"), Decimal(10**15)]),
    "real": (sa.Float(), [0.1, -1.5, 1e308, 5e-324, 1 / 3, 0.0, 1e22, 3.0]),
    "double": (sa.Double(), [1.7976931348623157e308, -2.2250738585072014e-308]),
    "single": (sa.REAL(), [0.1, -1.5, 3.4028235e38, 1e-45, 16777216.0]),
    "truth": (sa.Boolean(), [True, False]),
    "name": (sa.String(5), ["", "abcde", "äöü€😀", " a ", "\u2028\x1f\r\n"]),
    "text": (sa.Text(), ["", "x" * 10_000, '\ufeff 𐍈 \x7f \\u0000 "', "O'Brien", "\t\\N", "\\."]),
    "fixed": (sa.CHAR(4), ["abcd", "", "ab", " a"]),
    "day": (sa.Date(), [date.min, date.max, date(2024, 2, 29)]),
    "clock": (sa.Time(), [time.min, time.max, time(12, 30, 1, 5)]),
    "naive": (
        sa.DateTime(),
        [datetime.min, datetime.max, datetime(2026, 11, 22, 6, 15), datetime(2026, 1, 1, 0, 0, 0, 120_000)],
    ),
    "aware": (
        UtcDateTime(),
        [
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime(2026, 11, 22, 6, 15, 0, 5, tzinfo=UTC),
        ],
    ),
    "seconds": (
        sa.DateTime().with_variant(postgresql.TIMESTAMP(precision=0), "postgresql"),
        [datetime(2026, 1, 1)],
    ),
    "span": (
        sa.Interval(),
        [
            timedelta(0),
            timedelta(microseconds=1),
            timedelta(days=-1, microseconds=-1),
            timedelta(days=400, hours=23, minutes=59, seconds=59, microseconds=999_999),
            timedelta(days=2_932_896),
            timedelta(days=-719_162),
            timedelta(hours=-2),
        ],
    ),
    "old_span": (sa.Interval(native=False), [timedelta(days=-3, seconds=5), timedelta(days=90)]),
    "uuid": (sa.Uuid(), [ID, uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)]),
    "hex": (sa.Uuid(native_uuid=False), [ID]),
    "uuid_text": (sa.Uuid(as_uuid=False), [str(ID)]),
    "colour": (sa.Enum(Colour, name="colour"), [Colour.RED, Colour.GREEN]),
    "level": (sa.Enum(Level, native_enum=False), [Level.LOW, Level.HIGH]),
    "by_value": (
        sa.Enum(Colour, name="by_value", values_callable=lambda kind: [member.value for member in kind]),
        list(Colour),
    ),
    "word": (sa.Enum("a", "b c", "ü", name="word"), ["a", "b c", "ü"]),
    "octets": (sa.LargeBinary(), [b"", b"\x00\xff", bytes(range(256)), b"a text"]),
    "document": (
        sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
        [
            {},
            [],
            "",
            "5",
            5,
            0.1,
            True,
            {"a": [None, {"b": 1e-7}], "ü\n": "😀\\u0000"},
            -(2**63),
            1 / 3,
            2**53 + 1,
        ],
    ),
    "plain_json": (sa.JSON(none_as_null=True), [{"b": 1, "a": [1.5, "x", False]}, "12", 0.30000000000000004]),
}

ROWS = max(len(values) for _, values in TYPES.values())


def every_type(*, nullable: bool) -> Table:
    columns = (sa.Column(name, kind, nullable=nullable) for name, (kind, _) in TYPES.items())
    return Table("every", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)


def rows(*, nullable: bool) -> list[dict[str, Any]]:
    """Give rows in which each column has each of its values, and NULL where it has fewer than others."""
    made = []
    for number in range(ROWS + nullable):
        row: dict[str, Any] = {"id": number}
        for name, (_, values) in TYPES.items():
            missing = None if nullable else values[0]
            row[name] = values[number] if number < len(values) else missing
        made.append(row)
    return made


def exported(connection: Connection, stream: Stream) -> list[dict[str, Any]]:
    selected = (stream.codecs[column.name].selected(connection.dialect) for column in stream.columns)
    encode = stream.encoder(connection.dialect)
    found = connection.execute(sa.select(*selected).order_by(stream.table.c.id))
    checker = Checker(stream)
    lines = stream.line_writer(connection.dialect, Op.UPSERT, checker.accepts_column)
    records = []
    for row in found:
        data = encode(tuple(row))
        checker.check_data(data)
        records.append(json.loads(json.dumps(data)))
        line = lines_of.encode(Record(stream.name, Op.UPSERT, 7, data))
        if not (WIDE & {data.get("big"), str(data.get("document"))}) and b"\\u0000" not in line:
            assert lines([7], [*zip(row, strict=True)]) == line, "what is made of many at once is the same"
    return records


WIDE = {2**63 - 1, -(2**63), 2**53 + 1, str(2**53 + 1), str(-(2**63))}
"""Numbers of more than 53 bits, which are looked at by themselves, as is what looks like U+0000."""


def imported(connection: Connection, stream: Stream, records: list[dict[str, Any]]) -> None:
    rows = zip(*stream.decoder(connection.dialect)(records), strict=True)
    put(connection, stream.table, [column.name for column in stream.columns], rows)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def source(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = make_engine(request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("nullable", [True, False])
def test_every_type_crosses_exactly(source: Engine, engine: Engine, nullable: bool) -> None:
    table = every_type(nullable=nullable)
    stream = Stream(table)
    assert not stream.faults
    with source.begin() as connection:
        table.metadata.create_all(connection)
        connection.execute(sa.insert(table), rows(nullable=nullable))
        before = connection.execute(sa.select(table).order_by(table.c.id)).all()
        records = exported(connection, stream)
        if source.url == engine.url:
            table.metadata.drop_all(connection)
    with engine.begin() as connection:
        table.metadata.create_all(connection)
        imported(connection, stream, records)
        after = connection.execute(sa.select(table).order_by(table.c.id)).all()
        again = exported(connection, stream)
    assert [row._asdict() for row in after] == [stripped(row._asdict(), engine) for row in before]
    assert again == records


def stripped(row: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """Pad a CHAR as the reading database does: blanks at its end mean nothing."""
    if row["fixed"] is not None:
        row["fixed"] = row["fixed"].rstrip(" ")
        if engine.dialect.name == "postgresql":
            row["fixed"] = row["fixed"].ljust(4)
    return row


def test_the_wire_forms_are_those_of_the_format(source: Engine) -> None:
    table = every_type(nullable=True)
    with source.begin() as connection:
        table.metadata.create_all(connection)
        connection.execute(sa.insert(table), rows(nullable=True)[:1])
        connection.execute(
            sa.update(table).values(
                money=Decimal("12.5"),
                span=timedelta(days=1, hours=2, minutes=3, seconds=4, microseconds=5),
                clock=time(1, 2, 3),
            )
        )
        (record,) = exported(connection, Stream(table))
    assert {name: record[name] for name in ("whole", "money", "decimal", "real", "truth", "day", "clock")} == {
        "whole": 0,
        "money": "12.50",
        "decimal": "0.1",
        "real": 0.1,
        "truth": True,
        "day": "0001-01-01",
        "clock": "01:02:03.000000",
    }
    assert record["naive"] == "0001-01-01T00:00:00.000000"
    assert record["aware"] == "0001-01-01T00:00:00.000000Z"
    assert record["span"] == "P1DT2H3M4.000005S"
    assert record["uuid"] == record["hex"] == record["uuid_text"] == str(ID)
    assert (record["colour"], record["level"], record["by_value"], record["word"]) == ("r", 1, "r", "a")
    assert (record["octets"], record["document"]) == ("", {})


def test_negative_zero_is_kept_by_postgresql_and_refused_for_sqlite_which_would_drop_its_sign(
    engine: Engine,
) -> None:
    table = Table("every", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Float))
    with engine.begin() as connection:
        table.metadata.create_all(connection)
        if engine.dialect.name == "sqlite":
            with pytest.raises(RecordError, match="sign of zero"):
                imported(connection, Stream(table), [{"id": 1, "x": -0.0}])
            return
        imported(connection, Stream(table), [{"id": 1, "x": -0.0}])
        (record,) = exported(connection, Stream(table))
    assert str(record["x"]) == "-0.0"


def test_null_of_json_and_of_sql_are_two_values_where_a_column_may_have_both(source: Engine, engine: Engine) -> None:
    kinds = {
        "plain": sa.JSON(),
        "strict": sa.JSON(none_as_null=True),
        "binary": sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
    }
    table = Table(
        "every",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, kind) for name, kind in kinds.items()),
        sa.Column("must", sa.JSON, nullable=False),
    )
    stream = Stream(table)
    values: list[dict[str, Any]] = [
        {"id": 1, **dict.fromkeys(kinds, sa.JSON.NULL), "must": sa.JSON.NULL},
        {"id": 2, **dict.fromkeys(kinds, sa.null()), "must": {}},
        {"id": 3, **dict.fromkeys(kinds, None), "must": "null"},
        {"id": 4, **dict.fromkeys(kinds, "null"), "must": None},
    ]
    with source.begin() as connection:
        table.metadata.create_all(connection)
        for row in values:
            connection.execute(sa.insert(table).values(row))
        records = exported(connection, stream)
        rows = connection.execute(sa.select(*(stream.codecs[c.name].selected(source.dialect) for c in table.c))).all()
        assert stream.rows_encoder(source.dialect)([*zip(*rows, strict=True)]) == records
        if source.url == engine.url:
            table.metadata.drop_all(connection)

    assert records == [
        {"id": 1, "must": None, **{f"{name}:json": None for name in kinds}},
        {"id": 2, "must": {}, **dict.fromkeys(kinds)},
        {"id": 3, "must": "null", "plain:json": None, "strict": None, "binary:json": None},
        {"id": 4, "must": None, **dict.fromkeys(kinds, "null")},
    ]
    older = jsonschema_rs.Draft202012Validator(stream_schema(stream))
    assert [older.is_valid(one) for one in records] == [False, True, False, True], "refused, and not taken for NULL"
    with pytest.raises(RecordError, match="'plain' is a required property"):
        Checker(stream).check_data({name: value for name, value in records[1].items() if name != "plain"})
    with pytest.raises(RecordError, match="False schema"):
        Checker(stream).check_data(records[0] | {"plain": None})
    with engine.begin() as connection:
        table.metadata.create_all(connection)
        imported(connection, stream, records)
        nulls = connection.execute(sa.select(*(table.c[name].is_(sa.null()) for name in kinds)).order_by(table.c.id))
        assert [tuple(map(bool, row)) for row in nulls] == [
            (False,) * 3,
            (True,) * 3,
            (False, True, False),
            (False,) * 3,
        ]
        assert exported(connection, stream) == records
    assert len({row_hash({**one, "id": 0, "must": 0}) for one in records}) == 4


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(2.0**-96)
@example(2.0**87)
@example(36105888.0)
@pytest.mark.postgres
def test_what_postgresql_writes_for_a_float_of_32_bits_is_taken_back(
    real_texts: Callable[[float], float], number: float
) -> None:
    written = real_texts(number)
    assert repr(REAL.decoder(POSTGRESQL)(written)) == repr(written)


REAL = codec_for(sa.Column("c", sa.REAL))


@pytest.fixture(scope="module")
def real_texts(postgres_cluster: Any) -> Iterator[Callable[[float], float]]:
    url = postgres_cluster.lend()
    engine = make_engine(url)
    with engine.connect() as connection:
        yield lambda number: connection.execute(sa.select(sa.cast(sa.literal(number, sa.Double), sa.REAL))).scalar_one()
    engine.dispose()
    postgres_cluster.give_back(url)


@given(st.timedeltas())
def test_any_interval_is_written_so_that_it_is_read_back(span: timedelta) -> None:
    text = duration_text(span // timedelta(microseconds=1))
    bound = codec_for(sa.Column("c", sa.Interval)).decoder(POSTGRESQL)(text)
    days, _, microseconds, _ = bound.split(" ")
    assert timedelta(days=int(days), microseconds=int(microseconds)) == span


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**16), max_value=10**16))
def test_a_decimal_crosses_sqlite_unchanged_or_is_refused(number: Decimal) -> None:
    codec = codec_for(sa.Column("c", sa.Numeric(18, 2)))
    wire = f"{abs(number) if number == 0 else number:f}"
    try:
        kept = codec.decoder(SQLITE)(wire)
    except RecordError:
        assert abs(number) > 10**13
    else:
        assert codec.encoder(SQLITE)(kept) == wire
