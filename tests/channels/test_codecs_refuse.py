"""A value that a column can't keep exactly is refused with a sentence, before and after the wire."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from exchange.channels import Stream
from exchange.channels.codecs import UnsupportedColumn, codec_for
from exchange.channels.schemas import Checker
from exchange.format.errors import RecordError

DIALECTS: dict[str, Dialect] = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}  # type: ignore[no-untyped-call]

UUID = "6513270e-0000-4000-8000-00000000abcd"


class Numbered(enum.Enum):
    ONE = 1
    TWO = 2


def codec(kind: Any, **options: Any) -> Any:
    return codec_for(sa.Column("c", kind, **options))


NOT_A_STRING: list[Any] = [5, 5.0, True, [], {}, ["a"]]

NO_ADDRESS = [
    *("", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1/08", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1 ", "10.0.0.1\n"),
    *(
        "::1/129",
        "2001:DB8::1",
        "2001:db8:0:0:0:0:0:1",
        "0::1",
        "1::2:0:0:0:3",
        "::ffff:102:304",
        "fe80::1%eth0",
        "a",
        "/8",
    ),
]
NO_RANGE = [
    "",
    "EMPTY",
    "empty ",
    "[,5)",
    "(1,]",
    "[1,5",
    "1,5)",
    "[1;5)",
    "[1,2,3)",
    '["1",5)',
    "[ 1,5)",
    "(,)\n",
    "{(,)}",
]

REFUSED_BY_ALL: list[tuple[str, Any, list[Any]]] = [
    ("small", sa.SmallInteger(), [2**15, -(2**15) - 1, 1.0, True, False, "1", [], {}]),
    ("whole", sa.Integer(), [2**31, -(2**31) - 1, 5.0, True, "5"]),
    ("big", sa.BigInteger(), [2**63, -(2**63) - 1, 1e18, True, 10**30]),
    ("truth", sa.Boolean(), [0, 1, 1.0, "true", [], {}]),
    ("real", sa.Float(), [float("nan"), float("inf"), float("-inf"), True, "1.5", 2**53 + 1, 10**400, []]),
    ("single", sa.REAL(), [1e39, 0.1000000001, 16777217.0, 1e-46, float("inf")]),
    (
        "money",
        sa.Numeric(6, 2),
        [
            *NOT_A_STRING,
            1.5,
            "1.234",
            "1.230",
            "12345",
            "-12345.00",
            "1e2",
            "+1",
            "01",
            ".5",
            "1.",
            "",
            " 1",
            "1\n",
            "-0",
            "-0.00",
            "NaN",
            "Infinity",
            "1_0",
            "\u0661",
            "1,5",
            "0x1",
        ],
    ),
    ("count", sa.Numeric(3), ["1.0", "1000", "-0"]),
    ("part", sa.Numeric(2, 2), ["1.00", "0.123"]),
    ("decimal", sa.Numeric(), ["NaN", "1e5", "-0.0", "1" * 131_073, "0." + "1" * 16_384]),
    ("name", sa.String(3), [*NOT_A_STRING, "abcd", "a\0", "\ud800", "\udfff"]),
    ("text", sa.Text(), ["\0", "a\ud800b"]),
    ("fixed", sa.CHAR(3), ["a ", "   ", "abcd", "a\0"]),
    (
        "day",
        sa.Date(),
        [
            *NOT_A_STRING,
            "2026-02-29",
            "2026-13-01",
            "0000-01-01",
            "10000-01-01",
            "20260101",
            "2026-W01-1",
            "2026-1-1",
            "infinity",
            "2026-01-01\n",
            "2026-01-01T00:00:00",
            "\u0662026-01-01",
        ],
    ),
    (
        "clock",
        sa.Time(),
        [
            *NOT_A_STRING,
            "24:00:00",
            "12:00",
            "12:00:60",
            "12:00:00Z",
            "12:00:00+01:00",
            "12:00:00.1",
            "12:00:00.1234567",
            "12:00:00,000000",
            "T12:00:00",
            "12:00:00\n",
        ],
    ),
    (
        "aware",
        sa.DateTime(timezone=True),
        [
            *NOT_A_STRING,
            "2026-01-01T00:00:00.000000",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000000+00:00",
            "2026-01-01T01:00:00.000000+01:00",
            "2026-01-01 00:00:00.000000Z",
            "2026-01-01T00:00:00.000000z",
            "2026-02-30T00:00:00.000000Z",
            "2026-01-01T24:00:00.000000Z",
            "2026-06-30T23:59:60.000000Z",
            "0000-01-01T00:00:00.000000Z",
            "infinity",
            "2026-01-01T00:00:00.000000Z\n",
        ],
    ),
    (
        "naive",
        sa.DateTime(),
        [
            *NOT_A_STRING,
            "2026-01-01T00:00:00.000000Z",
            "2026-01-01T00:00:00.000000+00:00",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-02-30T00:00:00.000000",
        ],
    ),
    ("millis", postgresql.TIMESTAMP(precision=3), ["2026-01-01T00:00:00.000100"]),
    (
        "span",
        sa.Interval(),
        [
            *NOT_A_STRING,
            "P1Y",
            "P1M",
            "P1W",
            "P",
            "PT",
            "P1DT",
            "1D",
            "PT1",
            "PT1.0000001S",
            "PT1.5H",
            "-",
            "",
            "P1000000000D",
            "+P1D",
            "PT1S\n",
            "P--1D",
            "PT.5S",
            "p1d",
            "PT\uff11S",
        ],
    ),
    ("millispan", sa.Interval(second_precision=3), ["PT0.0001S"]),
    (
        "uuid",
        sa.Uuid(),
        [
            *NOT_A_STRING,
            UUID.upper(),
            UUID.replace("-", ""),
            f"{{{UUID}}}",
            f"urn:uuid:{UUID}",
            UUID + "\n",
            "",
            UUID[:-1],
        ],
    ),
    ("word", sa.Enum("a", "b"), [*NOT_A_STRING, "c", "A", ""]),
    ("numbered", sa.Enum(Numbered), [3, True, 1.0, "1", "ONE", []]),
    (
        "octets",
        sa.LargeBinary(),
        [*NOT_A_STRING, "QQ", "QQ=", "QR==", "QUJ=", "QQ==\n", " QQ==", "Q-_=", "====", "=", "ü===", "QQ==QQ=="],
    ),
    ("address", postgresql.INET(), [*NOT_A_STRING, *NO_ADDRESS, "10.0.0.0/32", "::/128"]),
    (
        "network",
        postgresql.CIDR(),
        [*NOT_A_STRING, *NO_ADDRESS, "10.0.0.1", "10.0.0.1/8", "2001:db8::1/32", "1.2.3.4/33"],
    ),
    ("device", postgresql.MACADDR(), [*NOT_A_STRING, "08-00-2b-01-02-03", "08:00:2B:01:02:03", "08:00:2b:01:02", ""]),
    ("device8", postgresql.MACADDR8(), [*NOT_A_STRING, "08:00:2b:01:02:03"]),
    ("bits", postgresql.BIT(3), [*NOT_A_STRING, "10", "1010", "102", "101\n", ""]),
    ("some_bits", postgresql.BIT(3, varying=True), [*NOT_A_STRING, "1010", "x"]),
    (
        "whole",
        postgresql.INT4RANGE(),
        [
            *NOT_A_STRING,
            *NO_RANGE,
            "[1,5]",
            "(1,5)",
            "(1,5]",
            "[5,5)",
            "[6,5)",
            "[01,5)",
            "[+1,5)",
            "[1.0,5)",
            "[1,2147483648)",
        ],
    ),
    ("moments", postgresql.TSRANGE(), [*NOT_A_STRING, *NO_RANGE, "[2026-01-01,)", "[2026-02-30T00:00:00.000000,)"]),
    (
        "days",
        postgresql.DATERANGE(),
        [*NOT_A_STRING, *NO_RANGE, "[2026-01-01,2026-01-31]", "[10000-01-02,)", "[Infinity,)"],
    ),
    ("decimals", postgresql.NUMRANGE(), [*NOT_A_STRING, *NO_RANGE, "[1.5,1.50)", "(1,1)", "[2,1]", "[1e2,)", "[NaN,)"]),
    (
        "wholes",
        postgresql.INT4MULTIRANGE(),
        [
            *NOT_A_STRING,
            "",
            "{",
            "}",
            "[1,2)",
            "{[1,2)",
            "{[1,2),}",
            "{,}",
            "{[1,2)[4,5)}",
            "{[1,2), [4,5)}",
            "{[4,5),[1,2)}",
            "{[1,3),[3,4)}",
            "{[1,4),[2,5)}",
            "{empty}",
            "{[1,),[2,3)}",
            "{[1,2),(,5)}",
        ],
    ),
    (
        "zoned",
        sa.Time(timezone=True),
        [
            *NOT_A_STRING,
            "12:00:00.000000",
            "12:00:00+00:00",
            "12:00:00.000000Z",
            "12:00:00.000000-00:00",
            "12:00:00.000000+16:00",
            "12:00:00.000000+01:00:00",
            "24:00:00.000000+00:00",
        ],
    ),
    (
        "months",
        postgresql.INTERVAL(),
        [*NOT_A_STRING, "P1Y1", "P", "P1DT", "P178956971Y", "P2147483648D", "P1M1Y", "infinity"],
    ),
    (
        "array",
        postgresql.ARRAY(sa.Integer),
        ["{1}", 1, {}, ["1"], [1.5], [True], [[]], [[1], 2], [[1], [2, 3]], [None, [1]], [[[[[[[1]]]]]]], [2**31]],
    ),
    ("decimal_array", postgresql.ARRAY(sa.Numeric(6, 2)), [["1.5"], [1.5], ["1e2"]]),
    ("interval_array", postgresql.ARRAY(sa.Interval), [["PT90M"], ["P0D"]]),
    ("time_array", postgresql.ARRAY(sa.Time), [["12:00:00"]]),
    ("document_array", postgresql.ARRAY(sa.JSON), ["[]", {}]),
    (
        "hstore",
        postgresql.HSTORE(),
        [*NOT_A_STRING[:-2], [], ["a"], {"a": 1}, {"a": True}, {"a": "\0"}, {"\0": "a"}, {"\ud800": ""}],
    ),
    ("document", sa.JSON(), [{"a": "\0"}, {"\0": 1}, [float("nan")], float("inf"), "\ud800", 2**64, [2**63], {1: 2}]),
]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize(
    "kind, values", [case[1:] for case in REFUSED_BY_ALL], ids=[case[0] for case in REFUSED_BY_ALL]
)
def test_a_wire_value_that_is_not_the_columns_is_refused(dialect: Dialect, kind: Any, values: list[Any]) -> None:
    decode = codec(kind).decoder(dialect)
    for value in values:
        with pytest.raises(RecordError) as refused:
            decode(value)
        assert (refused.value.error, refused.value.pointer) == ("value", "/data/c"), value
        assert refused.value.sentence.startswith("c: expected "), value
        assert refused.value.sentence.isprintable()
        assert len(refused.value.sentence) < 700


ONLY_SQLITE: list[tuple[Any, list[Any]]] = [
    (sa.Numeric(18, 2), ["9007199254740993.01", "1234567890123456.78"]),
    (sa.Numeric(), ["0.1234567890123456789", "1" * 400]),
    (sa.Interval(), ["P3000000D", "-P719163D"]),
]


@pytest.mark.parametrize("kind, values", ONLY_SQLITE)
def test_a_value_that_only_sqlite_would_change_is_refused_there_alone(kind: Any, values: list[str]) -> None:
    for value in values:
        codec(kind).decoder(DIALECTS["postgresql"])(value)
        with pytest.raises(RecordError):
            codec(kind).decoder(DIALECTS["sqlite"])(value)


OTHER_SPELLINGS: list[tuple[Any, Any, Any]] = [
    (sa.Float(), 5, "5.0"),
    (sa.Time(), "12:00:00", "12:00:00.000000"),
    (sa.Numeric(6, 2), "1.5", "1.5"),
    (sa.Interval(), "PT90M", "0 days 5400000000 microseconds"),
    (sa.Interval(), "P1DT-1H", "0 days 82800000000 microseconds"),
    (sa.Interval(), "-P1DT-1H", "-0 days -82800000000 microseconds"),
    (sa.Interval(), "PT-0.5S", "-0 days -500000 microseconds"),
    (sa.Interval(), "-PT-0.5S", "0 days 500000 microseconds"),
    (sa.Interval(), "P999999999D", "999999999 days 0 microseconds"),
]


@pytest.mark.parametrize("kind, wire, bound", OTHER_SPELLINGS)
def test_another_exact_spelling_of_a_value_is_understood(kind: Any, wire: Any, bound: str) -> None:
    assert str(codec(kind).decoder(DIALECTS["postgresql"])(wire)) == bound


@pytest.mark.parametrize("kind, wire", [(sa.Time(), "12:00:00"), (sa.Numeric(6, 2), "1.5"), (sa.Numeric(6, 2), "1")])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_key_has_one_spelling(dialect: Dialect, kind: Any, wire: str) -> None:
    with pytest.raises(RecordError):
        codec(kind, primary_key=True).decoder(dialect)(wire)


STORED_BY_SQLITE: list[tuple[Any, list[Any]]] = [
    (sa.Integer(), ["'words'", "1.5", "x'00'", "2147483648", "CAST(x'ff' AS TEXT)", "9e999"]),
    (sa.Boolean(), ["2", "-1", "0.5", "'true'", "x'01'"]),
    (sa.Float(), ["'words'", "9e999", "-9e999", "x'00'"]),
    (sa.REAL(), ["0.1000000001", "1e300"]),
    (sa.Numeric(6, 2), ["1.234", "12345", "9e999", "'words'", "x'00'", "0.1 + 0.2"]),
    (sa.String(3), ["'abcd'", "x'616263'", "'a' || char(0)", "CAST(x'ff' AS TEXT)", "CAST(x'eda080' AS TEXT)"]),
    (sa.CHAR(3), ["'a '"]),
    (
        sa.Date(),
        ["'words'", "'2026-02-30'", "'0000-01-01'", "'10000-01-01'", "20260101", "'2026-01-01 00:00:00'", "x'00'"],
    ),
    (sa.Time(), ["'24:00:00'", "'12:00'", "'12:00:00+01:00'", "'12:00:00.0000001'"]),
    (sa.DateTime(), ["'2026-01-01'", "'2026-01-01 00:00:00Z'", "'2026-01-01 00:00:00.0000001'", "'infinity'", "5.5"]),
    (sa.DateTime(timezone=True), ["'words'", "'0001-01-01 00:00:00+02:00'", "'2026-02-30 00:00:00'"]),
    (sa.Interval(), ["'words'", "5", "'1970-01-01 00:00:00Z'", "'1970-02-30 00:00:00'"]),
    (sa.Uuid(), [f"'{UUID}'", f"'{UUID.replace('-', '').upper()}'", "'words'", "x'00'"]),
    (sa.Enum("a", "b"), ["'c'", "1", "x'61'", "CAST(x'ff' AS TEXT)"]),
    (sa.LargeBinary(), ["'words'", "5", "CAST(x'ff' AS TEXT)"]),
    (
        sa.JSON(),
        [
            "'words'",
            '\'{"a": 1, "a": 2}\'',
            "'NaN'",
            "x'00'",
            "'[1e999999999]'",
            "'[1e200000]'",
            "'9e999'",
            "'\"\\ud800\"'",
            "'\"\\u0000\"'",
            "CAST(x'22ff22' AS TEXT)",
            "''",
        ],
    ),
]


@pytest.mark.parametrize("kind, stored", STORED_BY_SQLITE, ids=[str(case[0]) for case in STORED_BY_SQLITE])
def test_what_sqlite_kept_against_the_type_is_refused_one_row_at_a_time(
    sqlite_engine: Engine, kind: Any, stored: list[str]
) -> None:
    assert_stored_values_are_refused(sqlite_engine, kind, stored)


STORED_BY_POSTGRESQL: list[tuple[Any, list[Any]]] = [
    (sa.Float(), ["'NaN'", "'infinity'", "'-infinity'"]),
    (sa.REAL(), ["'NaN'", "'infinity'"]),
    (sa.Numeric(6, 2), ["'NaN'"]),
    (sa.Numeric(), ["'NaN'", "'infinity'", "'-infinity'"]),
    (sa.Date(), ["'infinity'", "'-infinity'", "'10000-01-01'", "'0044-03-15 BC'", "'294276-12-31'"]),
    (sa.Time(), ["'24:00:00'"]),
    (sa.DateTime(), ["'infinity'", "'10000-01-01'", "'0044-03-15 12:00:00 BC'", "'0044-03-15 12:00:00.5 BC'"]),
    (sa.DateTime(timezone=True), ["'-infinity'", "'10000-01-01'", "'0044-03-15 12:00:00 BC'"]),
    (sa.Interval(), ["'1 mon'", "'-1 year 3 days'", "'infinity'", "'1000000000 days'", "'1 mon -30 days 1 hour'"]),
    (
        sa.JSON(),
        [
            '\'{"a":1,"a":2}\'',
            "'[1e999999999]'",
            '\'{"a": 18446744073709551616, "a": 2}\'',
            "'\"\\u0000\"'",
            "'\"\\ud800\"'",
        ],
    ),
    (sa.Time(timezone=True), ["'24:00:00+00'"]),
    (postgresql.INTERVAL(), ["'infinity'"]),
    (postgresql.NUMRANGE(), ["'[NaN,)'", "'[1,infinity)'"]),
    (postgresql.DATERANGE(), ["'[0044-03-15 BC,2026-01-01)'", "'[2026-01-01,10000-01-02)'"]),
    (postgresql.TSTZRANGE(), ["'[10000-01-01,)'", "'[,0044-03-15 BC]'"]),
    (postgresql.TSMULTIRANGE(), ["'{[0044-03-15 BC,2026-01-01)}'"]),
    (postgresql.ARRAY(sa.Integer), ["'[0:1]={1,2}'", "'[1:1][-1:-1]={{1}}'"]),
    (postgresql.ARRAY(sa.Double), ["'{1,NaN}'"]),
    (postgresql.ARRAY(sa.Date), ["'{infinity}'"]),
    (postgresql.ARRAY(postgresql.JSONB), ["'{\"null\"}'", "'{{1}}'", "'{18446744073709551616}'"]),
]


@pytest.mark.postgres
@pytest.mark.parametrize("kind, stored", STORED_BY_POSTGRESQL, ids=[str(case[0]) for case in STORED_BY_POSTGRESQL])
def test_what_only_postgresql_can_keep_is_refused_one_row_at_a_time(
    postgres_engine: Engine, kind: Any, stored: list[str]
) -> None:
    assert_stored_values_are_refused(postgres_engine, kind, stored)


def assert_stored_values_are_refused(engine: Engine, kind: Any, stored: list[str]) -> None:
    table = sa.Table("every", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("c", kind))
    stream = Stream(table)
    assert not stream.faults
    encode = stream.encoder(engine.dialect)
    with engine.begin() as connection:
        table.metadata.create_all(connection)
        for number, literal in enumerate(stored):
            connection.exec_driver_sql(f"INSERT INTO every (id, c) VALUES ({number}, {literal})")
        selected = (stream.codecs[column.name].selected(engine.dialect) for column in stream.columns)
        rows = connection.execute(sa.select(*selected).order_by(table.c.id)).all()
        assert len(rows) == len(stored)
        for row, literal in zip(rows, stored, strict=True):
            with pytest.raises(RecordError) as refused:
                encode(tuple(row))
            assert refused.value.pointer == "/data/c", literal
            assert refused.value.sentence.isprintable()


def test_a_value_written_by_sqlites_own_functions_crosses(sqlite_engine: Engine) -> None:
    table = sa.Table(
        "every",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("naive", sa.DateTime),
        sa.Column("aware", sa.DateTime(timezone=True)),
        sa.Column("clock", sa.Time),
        sa.Column("document", sa.JSON),
        sa.Column("amount", sa.Numeric(6, 2)),
    )
    stream = Stream(table)
    with sqlite_engine.begin() as connection:
        table.metadata.create_all(connection)
        connection.exec_driver_sql(
            "INSERT INTO every VALUES (1, '2026-01-01 01:02:03', '2026-01-01T01:02:03.5+02:00', '01:02:03',"
            ' \'{"a":1,  "b":[1.50]}\', 1.5)'
        )
        selected = (stream.codecs[column.name].selected(sqlite_engine.dialect) for column in stream.columns)
        row = connection.execute(sa.select(*selected)).one()
    assert stream.encoder(sqlite_engine.dialect)(tuple(row)) == {
        "id": 1,
        "naive": "2026-01-01T01:02:03.000000",
        "aware": "2025-12-31T23:02:03.500000Z",
        "clock": "01:02:03.000000",
        "document": {"a": 1, "b": [1.5]},
        "amount": "1.50",
    }


def test_a_sensitive_value_is_in_no_sentence() -> None:
    secret = codec_for(sa.Column("c", sa.String(3)), sensitive=True)
    with pytest.raises(RecordError) as refused:
        secret.decoder(DIALECTS["sqlite"])("hunter2")
    assert "hunter2" not in str(refused.value)


def test_a_pointer_is_escaped_and_names_the_key_of_a_delete() -> None:
    odd = codec_for(sa.Column("a/b~c", sa.Integer))
    with pytest.raises(RecordError) as refused:
        odd.decoder(DIALECTS["sqlite"], "/key")("x\x1b[2J")
    assert refused.value.pointer == "/key/a~1b~0c"
    assert refused.value.sentence.isprintable()


class Mixed(enum.Enum):
    ONE = 1
    HALF = 0.5


class Point(sa.types.UserDefinedType[Any]):
    """A type of an extension's, or of the application's own."""

    def get_col_spec(self, **_options: Any) -> str:
        return "GEOMETRY(POINT)"


OWN_CODEC = r"register_codec \(CHANNELS.md, \"A type of your own\"\), or leave the column out"

UNSUPPORTED: list[tuple[Any, str]] = [
    (Point(), OWN_CODEC),
    (postgresql.ARRAY(Point), OWN_CODEC),
    (postgresql.TSQUERY(), OWN_CODEC),
    (postgresql.JSONPATH(), OWN_CODEC),
    (postgresql.MONEY(), "the server's locale"),
    (postgresql.OID(), "the catalogue of one database"),
    (postgresql.REGCLASS(), "the catalogue of one database"),
    (postgresql.TSVECTOR(), "each side's database computes it"),
    (postgresql.ARRAY(sa.Interval(native=False)), "no exact form"),
    (postgresql.DOMAIN("price", postgresql.MONEY()), "the server's locale"),
    (postgresql.INTERVAL(fields="DAY"), "the interval's fields"),
    (sa.PickleType(), "would run its code"),
    (postgresql.ARRAY(sa.PickleType), "would run its code"),
    (sa.Numeric(3, 5), "its scale"),
    (sa.Numeric(3, -2), "its scale"),
    (sa.Enum(Mixed), "a string or an integer"),
    (sa.Enum(), "one name kept for each"),
    (sa.DateTime(timezone=True).with_variant(sa.DateTime(), "postgresql"), "another kind"),
    (sa.Integer().with_variant(sa.String(), "sqlite"), "another kind"),
    (sa.DateTime().with_variant(sqlite.DATETIME(truncate_microseconds=True), "sqlite"), "a storage format"),  # type: ignore[no-untyped-call]
    (sa.types.NullType(), "isn't known"),
]


@pytest.mark.parametrize("kind, why", UNSUPPORTED, ids=[repr(kind) for kind, _ in UNSUPPORTED])
def test_a_type_that_cannot_cross_exactly_is_refused_by_name(kind: Any, why: str) -> None:
    with pytest.raises(UnsupportedColumn, match=rf"^column c of type .* can't cross: .*{why}"):
        codec(kind)


ONLY_ON_POSTGRESQL: list[tuple[Any, str]] = [
    (postgresql.INET(), 'String(), "sqlite"'),
    (postgresql.ARRAY(sa.Text), 'JSON(), "sqlite"'),
    (postgresql.ARRAY(sa.Text).with_variant(sa.Text(), "sqlite"), 'JSON(), "sqlite"'),
    (postgresql.HSTORE(), 'JSON(), "sqlite"'),
    (postgresql.TSTZRANGE().with_variant(sa.JSON(), "sqlite"), 'String(), "sqlite"'),
    (postgresql.INTERVAL(), 'String(), "sqlite"'),
    (sa.Time(timezone=True), 'String(), "sqlite"'),
    (postgresql.CITEXT(), '..., "sqlite"'),
    (postgresql.BYTEA(), '..., "sqlite"'),
]


@pytest.mark.parametrize("kind, variant", ONLY_ON_POSTGRESQL, ids=[repr(kind) for kind, _ in ONLY_ON_POSTGRESQL])
def test_a_column_that_sqlite_can_not_have_says_so_and_names_the_variant(kind: Any, variant: str) -> None:
    fault = codec(kind).sqlite_fault

    assert fault.startswith("column c of type ")
    assert f".with_variant({'sqlalchemy.' * (variant[0] != '.')}{variant})" in fault


@pytest.mark.parametrize(
    "kind",
    [
        sa.Float(),
        sa.JSON(),
        sa.Interval(),
        sa.Numeric(),
        postgresql.CITEXT(),
        postgresql.DATERANGE(),
        postgresql.ARRAY(sa.Text),
    ],
    ids=repr,
)
def test_a_key_whose_values_have_several_spellings_is_refused(kind: Any) -> None:
    with pytest.raises(UnsupportedColumn, match="can't be part of a key"):
        codec(kind, primary_key=True)


def test_another_database_is_refused_by_name() -> None:
    from sqlalchemy.dialects import mysql  # noqa: PLC0415

    with pytest.raises(ValueError, match="not on mysql"):
        codec(sa.Integer()).decoder(mysql.dialect())


SCHEMAS = {
    name: (
        codec(kind),
        Checker(
            Stream(
                sa.Table("every", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("c", kind))
            )
        ),
    )
    for name, kind, _ in REFUSED_BY_ALL
}

SOME_WIRES = ["12.5", "-0.01", "2026-01-01", "12:00:00.000000", "2026-01-01T00:00:00.000000Z", "P1D", UUID, "QQ=="]

JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(SOME_WIRES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(JSON_VALUES)
def test_any_json_value_is_refused_in_words_or_taken_by_the_schema_too(value: Any) -> None:
    for one, checker in SCHEMAS.values():
        for dialect in DIALECTS.values():
            try:
                one.decoder(dialect)(value)
            except RecordError:
                continue
            checker.check_data({"id": 1, "c": value})
