"""Lines that are written of many rows at once are just those that each row would be written as by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from exchange.channels import Stream
from exchange.channels.codecs import LOOK_AT_EACH
from exchange.channels.schemas import Checker
from exchange.format import record
from exchange.format.errors import RecordError
from exchange.format.record import Op, Record
from tests.channels.test_codecs_round_trip import TYPES

POSTGRESQL, SQLITE = postgresql.dialect(), sqlite.dialect()  # type: ignore[no-untyped-call]

TEXTS = [
    *(
        "",
        ",",
        '","',
        '",',
        "a\\",
        "\x00",
        "\\u0000",
        "\b\f\n\x1f\x7f\u2028",
        "ü😀",
        "\ud800",
        "abcdef",
        "ab  ",
        "x" * 100_000,
    ),
    *("RED", "GREEN", "CRIMSON", "r", "LOW", "HIGH", "a", "b c", "0", "1", "true", "false"),
    *("2026-11-22", "2026-02-30", "0000-01-01", "10000-01-01", "0044-03-15 BC", "infinity", "2026-11-2٣"),
    *("2026-11-22 06:15:00", "2026-11-22 06:15:00+00", "2026-11-22 06:15:00.5+00", "2026-11-22 06:15:00.123456+00"),
    *(
        "2026-11-22 06:15:00.123456",
        "2026-11-22T06:15:00.123456",
        "2026-11-22 06:15:00.123456+01",
        "2026-11-22 24:00:00",
    ),
    *(
        "2026-11-22 24:15:00.123456",
        "2026-11-22 06:60:00.123456",
        "2026-11-22 06:15:60.123456+00",
        "2026-11-22 06:15:00.12345Z",
    ),
    *("06:15:00", "06:15:00.123456", "24:00:00", "06:15:00.123456+02", "1 day 02:03:04.5", "-1 days", "1 mon", "P1D"),
    *("12.5", "-0.01", "0.00", "-0.00", "NaN", "Infinity", "1e5", "999999999999999"),
    *(
        "6513270e-0000-4000-8000-00000000abcd",
        "6513270e000040008000" + "00000000abcd",
        "6513270E-0000-4000-8000-00000000ABCD",
    ),
    *(
        "null",
        "{}",
        "[]",
        '{"a": [1, 2.50, "x"]}',
        '{"a":1,"a":2}',
        "1e400",
        "18446744073709551616",
        "9007199254740993",
    ),
    *('"\\u0000"', "[" * 63 + "]" * 63, "nonsense", '{"b":1} {}', '{"a":[' + "{}," * 40_000 + "{}]}", " 1", "1\t"),
]
"""What a column may hold, or no column should: the texts of every type, and of none."""

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64),
    st.sampled_from([0, 1, 2, 2**15, -(2**15), 2**31, 2**53 + 1]),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=6),
)

KINDS = {name: kind for name, (kind, _) in TYPES.items()}


def as_selected(dialect: Dialect, name: str, value: Any) -> Any:
    """Give a value as a driver gives it: PostgreSQL's own text but for types of the driver's, SQLite's as bytes."""
    if dialect is SQLITE:
        return value.encode("utf-8", "surrogatepass") if isinstance(value, str) and value != "x" else value
    own = name in {"small", "whole", "big", "real", "double", "single", "truth", "octets"}
    if name == "octets" and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if own or value is None else str(value)


def by_itself(
    encode: Callable[[Sequence[Any]], dict[str, Any]],
    check: Callable[[dict[str, Any]], None],
    op: Op,
    row: Sequence[Any],
) -> bytes | None:
    try:
        body = encode(row)
        check(body)
        return record.encode(Record("every", op, 7, body))
    except (RecordError, TypeError):
        return None


@cache
def stream_of(name: str, *, nullable: bool) -> tuple[Stream, Checker]:
    key, column = sa.Column("id", sa.Integer, primary_key=True), sa.Column(name, KINDS[name], nullable=nullable)
    stream = Stream(sa.Table("every", sa.MetaData(), key, column))
    return stream, Checker(stream)


def compare(dialect: Dialect, name: str, values: Sequence[Any], *, nullable: bool) -> bool:
    """See that many rows at once are written as one by one; say if they were not left to be looked at by themselves."""
    stream, checker = stream_of(name, nullable=nullable)
    rows = [(number, as_selected(dialect, name, value)) for number, value in enumerate(values)]
    try:
        lines = stream.line_writer(dialect, Op.UPSERT, checker.accepts_column)(
            [7] * len(rows), [*zip(*rows, strict=True)]
        )
    except LOOK_AT_EACH:
        return False
    alone = [by_itself(stream.encoder(dialect), checker.check_data, Op.UPSERT, row) for row in rows]
    assert None not in alone, f"refused by itself: {rows}"
    assert lines == b"".join(line for line in alone if line)
    return True


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE], ids=["postgresql", "sqlite"])
@pytest.mark.parametrize("nullable", [True, False], ids=["nullable", "not null"])
@pytest.mark.parametrize("name", KINDS)
def test_every_text_is_written_as_by_itself_or_looked_at_by_itself(name: str, dialect: Dialect, nullable: bool) -> None:
    values = [None, True, 0, 1, -1, 2**15, 2**31, 2**63, 0.5, 1e16, 1e-7, float("nan"), float("inf"), -0.0, *TEXTS]
    taken = [value for value in values if compare(dialect, name, [value], nullable=nullable)]
    assert taken, "not all were left to be looked at"
    for value in taken:
        assert compare(dialect, name, [taken[0], value, value, taken[-1]], nullable=nullable)


@given(
    dialect=st.sampled_from([POSTGRESQL, SQLITE]),
    name=st.sampled_from([*KINDS]),
    values=st.lists(VALUES, min_size=1, max_size=5),
    nullable=st.booleans(),
)
@example(dialect=POSTGRESQL, name="text", values=[",", '",', '","', "\\"], nullable=True)
def test_any_rows_are_written_as_by_themselves_or_looked_at_by_themselves(
    dialect: Dialect, name: str, values: list[Any], nullable: bool
) -> None:
    compare(dialect, name, values, nullable=nullable)


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE], ids=["postgresql", "sqlite"])
def test_a_key_that_is_gone_is_written_as_by_itself(dialect: Dialect) -> None:
    columns = (sa.Column(name, KINDS[name], primary_key=True) for name in ("uuid", "whole", "aware", "name"))
    stream = Stream(sa.Table("every", sa.MetaData(), *columns, sa.Column("more", sa.Integer)))
    checker = Checker(stream)
    found = ("6513270e-0000-4000-8000-00000000abcd", 5, "2026-11-22 06:15:00.000001+00", 'a"')
    kept = (b"6513270e000040008000" + b"00000000abcd", 5, b"2026-11-22 06:15:00.000001", b'a"')
    row = found if dialect is POSTGRESQL else kept
    lines = stream.line_writer(dialect, Op.DELETE, checker.accepts_column)([7, 7], [*zip(row, row, strict=True)])
    alone = by_itself(stream.key_encoder(dialect), checker.check_key, Op.DELETE, row)
    assert alone is not None
    assert lines == alone * 2


def test_jsons_null_stands_at_the_end_of_each_row_that_has_it() -> None:
    names = ("one", "two")
    columns = (sa.Column(name, sa.JSON, nullable=True) for name in names)
    stream = Stream(sa.Table("every", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns))
    checker, encode = Checker(stream), stream.encoder(POSTGRESQL)
    rows = [(number, one, two) for number, one in enumerate(("null", None, "{}")) for two in ("null", None, "[1]")]
    lines = stream.line_writer(POSTGRESQL, Op.UPSERT, checker.accepts_column)([7] * 9, [*zip(*rows, strict=True)])
    assert lines == b"".join(by_itself(encode, checker.check_data, Op.UPSERT, row) or b"" for row in rows)
    assert b',"one:json":null,"two:json":null}}\n' in lines
