"""PostgreSQL's own types cross between two of it to the letter, and by way of SQLite, or are refused in words."""

from __future__ import annotations

import ipaddress
import json
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite

from exchange.channels import Stream
from exchange.channels.codecs import LOOK_AT_EACH, codec_for
from exchange.channels.schemas import Checker
from exchange.format import record as records
from exchange.format.errors import RecordError
from exchange.format.record import Op, Record
from exchange.tables.loader.copy import put

SQLITE, POSTGRESQL = sqlite.dialect(), postgresql.dialect()  # type: ignore[no-untyped-call]


def text(kind: Any) -> Any:
    return kind.with_variant(sa.String(), "sqlite")


def document(kind: Any) -> Any:
    return kind.with_variant(sa.JSON(), "sqlite")


class Xml(sa.types.UserDefinedType[str]):
    """As an application declares what SQLAlchemy has no name for."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "XML"


class Tags(sa.TypeDecorator[Any]):
    """A set, kept as an array on PostgreSQL and as JSON on SQLite."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(postgresql.ARRAY(sa.Text) if dialect.name == "postgresql" else sa.JSON())


class Guid(sa.TypeDecorator[Any]):
    """The recipe that keeps a UUID differently on each database."""

    impl = sa.CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(postgresql.UUID() if dialect.name == "postgresql" else sa.CHAR(32))


UUID = "6513270e-0000-4000-8000-00000000abcd"
HUGE = "123456789012345678901234567890"

# Of each the type, and of each value the SQL and what it is on the wire.
TYPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "address": (
        text(postgresql.INET()),
        {
            one: wire or one
            for one, wire in {
                "10.0.0.1": "",
                "10.0.0.1/8": "",
                "10.0.0.1/32": "10.0.0.1",
                "0.0.0.0/0": "",
                "::": "",
                "::1": "",
                "1::": "",
                "2001:DB8:0:0:1:0:0:1/64": "2001:db8::1:0:0:1/64",
                "1:0:2:0:0:3:0:0": "1:0:2::3:0:0",
                "::ffff:1.2.3.4": "",
                "::1.2.3.4": "",
                "::1:0": "::0.1.0.0",
                "1:2:3:4:5:6:7:8/128": "1:2:3:4:5:6:7:8",
                "0:1:2:3:4:5:6:7": "",
            }.items()
        },
    ),
    "network": (
        text(postgresql.CIDR()),
        {"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "2001:db8::/32": "2001:db8::/32", "::/0": "::/0"},
    ),
    "device": (text(postgresql.MACADDR()), {"08-00-2B-01-02-03": "08:00:2b:01:02:03"}),
    "device8": (text(postgresql.MACADDR8()), {"08002b0102030405": "08:00:2b:01:02:03:04:05"}),
    "bits": (text(postgresql.BIT(5)), {"01011": "01011"}),
    "some_bits": (text(postgresql.BIT(5, varying=True)), {"": "", "010": "010"}),
    "any_bits": (text(postgresql.BIT(varying=True)), {"1" * 999: "1" * 999}),
    "xml": (
        text(Xml()),
        {one: one for one in ('<a b="1">ü\n&amp;</a>', "no <b/> document", "<?xml version='1.0'?>\r\n<a/>")},
    ),
    "spare": (
        document(postgresql.HSTORE()),
        {
            "": {},
            '"a"=>"1", "ü \\"q\\" \\\\"=>NULL, ""=>"x=>y, NULL"': {"a": "1", 'ü "q" \\': None, "": "x=>y, NULL"},
        },
    ),
    "whole": (
        text(postgresql.INT4RANGE()),
        {"[1,5]": "[1,6)", "(,5)": "(,5)", "[-3,)": "[-3,)", "(,)": "(,)", "empty": "empty", "[1,1)": "empty"},
    ),
    "big": (text(postgresql.INT8RANGE()), {f"[{-(2**63)},{2**63 - 1})": f"[{-(2**63)},{2**63 - 1})"}),
    "decimal": (
        text(postgresql.NUMRANGE()),
        {"[1.50,2]": "[1.50,2]", "(-0.1,1e3)": "(-0.1,1000)", "[7,7]": "[7,7]", "empty": "empty"},
    ),
    "days": (
        text(postgresql.DATERANGE()),
        {
            "[2026-01-01,2026-01-31]": "[2026-01-01,2026-02-01)",
            "[2026-01-01,infinity)": "[2026-01-01,infinity)",
            "[-infinity,infinity]": "[-infinity,infinity]",
            "(2026-01-01,)": "[2026-01-02,)",
            "[0001-01-01,9999-12-31]": "[0001-01-01,10000-01-01)",
        },
    ),
    "naive": (
        text(postgresql.TSRANGE()),
        {
            "(2026-01-01 00:00:00.5,2026-01-02]": "(2026-01-01T00:00:00.500000,2026-01-02T00:00:00.000000]",
            "(,infinity)": "(,infinity)",
        },
    ),
    "aware": (
        text(postgresql.TSTZRANGE()),
        {"[2026-01-01 01:00+02,)": "[2025-12-31T23:00:00.000000Z,)", "empty": "empty"},
    ),
    "wholes": (
        text(postgresql.INT4MULTIRANGE()),
        {"{[1,3],[4,5),[7,8)}": "{[1,5),[7,8)}", "{}": "{}", "{(,)}": "{(,)}"},
    ),
    "decimals": (text(postgresql.NUMMULTIRANGE()), {"{[1,2),(2,3.5]}": "{[1,2),(2,3.5]}"}),
    "dayss": (text(postgresql.DATEMULTIRANGE()), {"{[2026-01-01,2026-01-02)}": "{[2026-01-01,2026-01-02)}"}),
    "moments": (
        text(postgresql.TSTZMULTIRANGE()),
        {
            "{(,2026-01-01 00:00+00),[2026-01-02 00:00+00,)}": (
                "{(,2026-01-01T00:00:00.000000Z),[2026-01-02T00:00:00.000000Z,)}"
            )
        },
    ),
    "naives": (text(postgresql.TSMULTIRANGE()), {"{}": "{}"}),
    "clock": (
        text(sa.Time(timezone=True)),
        {
            "12:30:00.5+02": "12:30:00.500000+02:00",
            "00:00-15:59:59": "00:00:00.000000-15:59:59",
            "23:59:59.999999+00": "23:59:59.999999+00:00",
            "01:02:03-00:30": "01:02:03.000000-00:30",
        },
    ),
    "span": (
        text(postgresql.INTERVAL()),
        {
            "1 year 2 mons 3 days 4 hours": "P1Y2M3DT4H",
            "-1 year -1 day": "-P1Y1D",
            "1 mon -30 days 1 hour": "P1M-30DT1H",
            "24 hours": "PT24H",
            "1 day": "P1D",
            "-0.5 seconds": "-PT0.500000S",
            "1 day -01:00:00.000001": "P1DT-1H-0.000001S",
            "0": "PT0S",
            "178956970 years 7 mons 2147483646 days 2562047788:00:54.775807": (
                "P178956970Y7M2147483646DT2562047788H54.775807S"
            ),
        },
    ),
    "unclear": (
        document(postgresql.JSONB()),
        {
            f'{{"b": [{HUGE}, 1.5], "a": 0.1234567890123456789}}': f'{{"a":0.1234567890123456789,"b":[{HUGE},1.5]}}',
            '[1e30, -1e-400, "ü"]': {"a": 1},
        },
    ),
    "integers": (
        document(postgresql.ARRAY(sa.Integer)),
        {"{1,NULL,-3}": [1, None, -3], "{}": [], "{{1,2},{3,4}}": [[1, 2], [3, 4]], "{{{{{{1}}}}}}": [[[[[[1]]]]]]},
    ),
    "texts": (
        document(postgresql.ARRAY(sa.String(20))),
        {'{a,NULL,"NULL","",", {}","\\"\\\\ü\n"}': ["a", None, "NULL", "", ", {}", '"\\ü\n']},
    ),
    "tags": (Tags(), {"{b,a}": ["b", "a"]}),
    "decimals_": (document(sa.ARRAY(sa.Numeric(6, 2))), {"{1,2.5}": ["1.00", "2.50"]}),
    "floats": (document(postgresql.ARRAY(sa.Double)), {"{1,0.1,-0,1e300}": [1.0, 0.1, -0.0, 1e300]}),
    "truths": (document(postgresql.ARRAY(sa.Boolean)), {"{t,f,NULL}": [True, False, None]}),
    "octets": (document(postgresql.ARRAY(sa.LargeBinary)), {'{"\\\\x00ff",""}': ["AP8=", ""]}),
    "dates": (document(postgresql.ARRAY(sa.Date)), {"{2026-01-01}": ["2026-01-01"]}),
    "whens": (
        document(postgresql.ARRAY(sa.DateTime(timezone=True))),
        {"{2026-01-01 00:00+01}": ["2025-12-31T23:00:00.000000Z"]},
    ),
    "times": (document(postgresql.ARRAY(sa.Time)), {"{01:02}": ["01:02:00.000000"]}),
    "spans": (document(postgresql.ARRAY(sa.Interval)), {"{1 mon,90 min}": ["P1M", "PT1H30M"]}),
    "ids": (document(postgresql.ARRAY(sa.Uuid)), {f"{{{UUID.upper()}}}": [UUID]}),
    "words": (document(postgresql.ARRAY(sa.Enum("a b", "c", name="word"))), {'{"a b",c}': ["a b", "c"]}),
    "networks": (document(postgresql.ARRAY(postgresql.INET)), {"{10.0.0.1,::1/64}": ["10.0.0.1", "::1/64"]}),
    "documents": (
        document(postgresql.ARRAY(postgresql.JSONB)),
        {'{"{\\"a\\": [1]}",NULL,"[]"}': [{"a": [1]}, None, []]},
    ),
    "spares": (document(postgresql.ARRAY(postgresql.HSTORE)), {'{"\\"a\\"=>\\"1\\""}': [{"a": "1"}]}),
    "ranges": (document(postgresql.ARRAY(postgresql.INT4RANGE)), {'{"[1,2)",empty}': ["[1,2)", "empty"]}),
    "even": (
        sa.Integer().with_variant(postgresql.DOMAIN("even", sa.Integer(), check="VALUE > 0"), "postgresql"),
        {"4": 4},
    ),
    "tagged": (
        sa.JSON().with_variant(postgresql.DOMAIN("tagged", postgresql.ARRAY(sa.Text)), "postgresql"),
        {"{x}": ["x"]},
    ),
    "guid": (Guid(), {UUID: UUID}),
    "dashed": (sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite"), {UUID: UUID}),
}
ROWS = max(len(values) for _, values in TYPES.values())


def the_table(*, without: str = "") -> sa.Table:
    columns = (sa.Column(name, kind) for name, (kind, _) in TYPES.items() if name != without)
    return sa.Table("own", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)


def exported(connection: Connection, stream: Stream) -> list[dict[str, Any]]:
    """Give the records of all rows, each made by itself and checked; those made together are the same."""
    dialect = connection.dialect
    selected = (stream.codecs[column.name].selected(dialect) for column in stream.columns)
    found = [tuple(row) for row in connection.execute(sa.select(*selected).order_by(stream.table.c.id))]
    encode, checker = stream.encoder(dialect), Checker(stream)
    lines = stream.line_writer(dialect, Op.UPSERT, checker.accepts_column)
    made = []
    for row in found:
        made.append(encode(row))
        checker.check_data(made[-1])
        try:
            assert stream.rows_encoder(dialect)([*zip(row, strict=True)]) == [made[-1]]
            line = records.encode(Record("own", Op.UPSERT, 1, made[-1]))
            assert lines([1], [*zip(row, strict=True)]) == line
        except LOOK_AT_EACH:
            assert "unclear:json" in made[-1], "only such a document is looked at by itself"
    return [records.decode(records.encode(Record("own", Op.UPSERT, 1, one))[:-1]).body for one in made]


def imported(connection: Connection, stream: Stream, data: list[dict[str, Any]]) -> None:
    rows = zip(*stream.decoder(connection.dialect)(data), strict=True)
    put(connection, stream.table, [column.name for column in stream.columns], rows)


def texts(connection: Connection, table: sa.Table) -> list[Any]:
    columns = ", ".join(f"CAST({column.name} AS text)" for column in table.columns)
    return [tuple(row) for row in connection.exec_driver_sql(f"SELECT {columns} FROM own ORDER BY id")]


@pytest.fixture
def extended(postgres_engine: Engine) -> Engine:
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS hstore")
    return postgres_engine


@pytest.mark.postgres
def test_every_type_of_its_own_crosses_to_the_letter_and_by_way_of_sqlite(
    extended: Engine, sqlite_engine: Engine
) -> None:
    with extended.begin() as connection:
        has_xml = True
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("SELECT xml '<a/>'")
        except sa.exc.NotSupportedError:
            has_xml = False
    table = the_table(without="" if has_xml else "xml")
    stream = Stream(table)
    assert not stream.faults
    assert not [codec.sqlite_fault for codec in stream.codecs.values() if codec.sqlite_fault]
    with extended.begin() as connection:
        table.metadata.create_all(connection)
        for number in range(ROWS):
            row = {
                name: [*values][number]
                for name, (_, values) in TYPES.items()
                if number < len(values) and name in table.c
            }
            columns = ", ".join(["id", *row])
            marks = ", ".join(["%s", *(f"CAST(%s AS {kind})" for kind in map(type_of, row))])
            connection.exec_driver_sql(f"INSERT INTO own ({columns}) VALUES ({marks})", (number, *row.values()))
        before, data = texts(connection, table), exported(connection, stream)
        table.drop(connection)
        for name, (_, values) in TYPES.items():
            if name != "unclear" and name in table.c:
                assert [one[name] for one in data[: len(values)]] == [*values.values()], name
        assert data[0]["unclear:json"] == next(iter(TYPES["unclear"][1].values()))
        table.create(connection)
        imported(connection, stream, data)
        assert texts(connection, table) == before
        connection.exec_driver_sql("DELETE FROM own")
    with sqlite_engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(table))  # create_all fails for a DOMAIN, variant or not
        imported(connection, stream, data)
        assert exported(connection, stream) == data
    with extended.begin() as connection:
        imported(connection, stream, data)
        assert texts(connection, table) == before
        assert exported(connection, stream) == data


def type_of(name: str) -> str:
    kind = TYPES[name][0]
    return str(kind.dialect_impl(POSTGRESQL).compile(dialect=POSTGRESQL))


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6) | st.integers(0, 2**48).map(ipaddress.IPv6Address)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
MOMENTS = st.datetimes(max_value=datetime(9999, 12, 31)).map(lambda one: one.isoformat(timespec="microseconds"))  # noqa: DTZ001
DECIMALS = st.integers(-(10**6), 10**6).map(lambda cents: f"{Decimal(cents) / 100:.2f}")


def ranges(bounds: st.SearchStrategy[Any], *, whole: bool) -> st.SearchStrategy[str]:
    """Make texts of ranges, not all of them in their one spelling."""
    begin, end = ("[", ")") if whole else ("[(", ")]")
    places = st.tuples(st.sampled_from(begin), bounds | st.just(""), bounds | st.just(""), st.sampled_from(end))
    return st.just("empty") | places.map(lambda one: f"{one[0]}{one[1]},{one[2]}{one[3]}")


WRITTEN: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "inet": (postgresql.INET(), st.tuples(ADDRESSES, st.integers(0, 32)).map(lambda one: f"{one[0]}/{one[1]}")),
    "host": (postgresql.INET(), ADDRESSES.map(str)),
    "bits": (postgresql.BIT(varying=True), st.text("01", max_size=9)),
    "int4range": (postgresql.INT4RANGE(), ranges(st.integers(-3, 3), whole=True)),
    "tsrange": (postgresql.TSRANGE(), ranges(MOMENTS | st.sampled_from(["infinity", "-infinity"]), whole=False)),
    "numrange": (postgresql.NUMRANGE(), ranges(DECIMALS, whole=False)),
    "int4multirange": (
        postgresql.INT4MULTIRANGE(),
        st.lists(ranges(st.integers(-9, 9), whole=True), max_size=3).map(lambda some: f"{{{','.join(some)}}}"),
    ),
    "interval": (
        postgresql.INTERVAL(),
        st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2, st.integers(-(2**60), 2**60)).map(
            lambda one: f"P{one[0]}M{one[1]}DT{one[2] // 10**6}S" if one[2] % 2 else f"P{one[0]}M{one[1]}D"
        ),
    ),
    "text[]": (postgresql.ARRAY(sa.Text), st.lists(st.none() | TEXTS, max_size=4)),
    "float8[]": (postgresql.ARRAY(sa.Double), st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4)),
    "hstore": (postgresql.HSTORE(), st.dictionaries(TEXTS, st.none() | TEXTS, max_size=4)),
}


@pytest.mark.postgres
@pytest.mark.thorough
@pytest.mark.parametrize("kind", WRITTEN)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_taken_is_what_postgresql_writes_again(extended: Engine, kind: str, data: st.DataObject) -> None:
    column = sa.Column("c", WRITTEN[kind][0])
    codec = codec_for(column)
    wire = data.draw(WRITTEN[kind][1])
    with extended.connect() as connection, connection.begin():
        try:
            bound = codec.decoder(POSTGRESQL)(wire)
        except RecordError:
            if kind in {"hstore", "text[]", "float8[]", "bits", "interval"}:
                assert kind == "interval"
            return
        found = sa.cast(sa.cast(sa.literal(bound, sa.Text), column.type), column.type).label("c")
        inner = sa.select(found).subquery()
        selected = codec.type_codec.selected(cast("sa.Column[Any]", inner.c.c), sqlite=False)
        again = codec.encoder(POSTGRESQL)(connection.execute(sa.select(selected)).scalar_one())
    if kind == "interval":  # taken in other spellings, too
        assert codec.decoder(POSTGRESQL)(again) == bound
    else:
        assert json.dumps(again, sort_keys=True) == json.dumps(wire, sort_keys=True)
