"""Cells as people write them: what each kind of column makes of them, exactly, or refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql

from exchange.channels.intake import Written
from exchange.format.errors import RecordError
from exchange.reading import FileFormat
from exchange.reading.cells import cells_of
from tests.reading.conftest import EVERY_KIND, intake, read_all

MOMENT = "2026-01-02T03:04:05.000000Z"


def _read(column: str, cell: str, **written: Any) -> object:
    """Read one cell, beside enough others that it is looked at by itself, and alone."""
    codec = next(one for one in EVERY_KIND.codecs.values() if one.name == column)
    cells = cells_of(codec, FileFormat("csv", **written))
    alone: list[str | None] = [cell]
    values, bad = cells.values(alone)
    if not bad:  # what the schema and the codec see is left to them
        try:
            codec.decoder(postgresql.dialect())(values[0])  # type: ignore[no-untyped-call]
        except RecordError as error:
            return error.sentence
    again, bad_again = cells.values([*alone * 40, "?!"])
    assert (dict(bad) == {}) == (0 not in bad_again)
    if bad:
        assert bad[0].error == "cell"
        assert bad[0].pointer == f"/data/{column}"
        return bad[0].sentence
    assert list(again[:40]) == list(values) * 40
    assert [type(one) for one in again[:40]] == [type(values[0])] * 40
    return values[0]


@pytest.mark.parametrize(
    "column, cell, value",
    [
        ("id", "007", 7),
        ("id", "-0", 0),
        ("id", " +5 ", 5),
        ("id", "5.0", 5),
        ("exact", "1.50", "1.50"),
        ("exact", "01.5", "1.5"),
        ("exact", "1.500", "1.50"),
        ("exact", ".5", "0.5"),
        ("exact", "5.", "5"),
        ("exact", "-0.00", "0.00"),
        ("any_exact", "12345678901234567890.0123456789", "12345678901234567890.0123456789"),
        ("real", "0.1", 0.1),
        ("real", "1e22", 1e22),
        ("real", "0.30000000000000004", 0.30000000000000004),
        ("yes", "Yes", True),
        ("yes", "tRUE", True),
        ("yes", "0", False),
        ("day", "2026-02-28", "2026-02-28"),
        ("clock", "03:04", "03:04:00.000000"),
        ("clock", "03:04:05.5", "03:04:05.500000"),
        ("moment", "2026-01-02T03:04:05Z", MOMENT),
        ("moment", "2026-01-02 03:04:05+00", MOMENT),
        ("moment", "2026-01-02T04:04:05+01:00", MOMENT),
        ("moment", "2026-01-02 03:04:05.123456+00:00", "2026-01-02T03:04:05.123456Z"),
        ("moment", "2026-01-02T03:04:05.100000000Z", "2026-01-02T03:04:05.100000Z"),
        ("moment", "2026-01-01T22:04-05:00", "2026-01-02T03:04:00.000000Z"),
        ("local", "2026-01-02 03:04:05", "2026-01-02T03:04:05.000000"),
        ("colour", "red", "red"),
        ("uuid", "{1B4E28BA-2FA1-11D2-883F-0016D3CCA427}", "1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
        ("uuid", "1b4e28ba2fa111d2883f0016d3cca427", "1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
        ("raw", "\\xDEAD", "3q0="),
        ("raw", "3q0=", "3q0="),
        ("doc", '{"a": [1, 2]}', {"a": [1, 2]}),
        ("many", "[1,2,null]", [1, 2, None]),
        ("lasting", "P1DT2H", "P1DT2H"),
        ("host", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_cell_becomes_the_very_value_that_it_means(column: str, cell: str, value: object) -> None:
    assert _read(column, cell) == value


@pytest.mark.parametrize(
    "column, cell, said",
    [
        ("id", "1.5", "whole number"),
        ("id", "2147483648", "whole number"),
        ("id", "1E+05", "shortened by a spreadsheet"),
        ("id", "1_000", "whole number"),
        ("id", "٣", "whole number"),
        ("id", "1,234", "say so: decimal"),
        ("small", "32768", "whole number"),
        ("exact", "1.505", "at most 2 after it"),
        ("exact", "1234567.1", "at most 6 digits"),
        ("exact", "1.234,50", "say so: decimal"),
        ("exact", "NaN", "decimal"),
        ("exact", "", "decimal"),
        ("real", "0.1000000000000000001", "do not keep all its digits"),
        ("real", "inf", "finite number"),
        ("real", "1e400", "finite number"),
        ("yes", "perhaps", "true, t, yes"),
        ("day", "01/02/2026", "that was told"),
        ("day", "2026-02-30", "a date"),
        ("day", "20260228", "a date"),
        ("clock", "24:00", "before 24:00:00"),
        ("moment", "2026-01-02T03:04:05", "no zone"),
        ("moment", "2026-01-02T03:04:05.0000001Z", "finer than a microsecond"),
        ("moment", "2026-02-30T03:04:05.5+02:00", "date-time"),
        ("moment", "0001-01-01T00:00:00+01:00", "date-time"),
        ("moment", "01/02/2026 03:04", "that was told"),
        ("local", "2026-01-02T03:04:05Z", "keeps no zone"),
        ("local", "2026-02-30T03:04:05", "date-time"),
        ("colour", "RED", "one of"),
        ("uuid", "1b4e28ba", "UUID"),
        ("raw", "\\xDEA", "hex"),
        ("raw", "3q=", "base64"),
        ("doc", '{"a":1,"a":2}', "strict JSON"),
        ("many", "{1,2}", "JSON"),
        ("many", '["1"]', "whole number"),
        ("lasting", "P1M", "interval"),
        ("host", "10.0.0.300", "address"),
    ],
)
def test_what_a_column_does_not_keep_exactly_is_refused(column: str, cell: str, said: str) -> None:
    assert said in str(_read(column, cell))


@pytest.mark.parametrize(
    "column, cell, value",
    [
        ("exact", "1.234,50", "1234.50"),
        ("exact", "1 234,5", "1234.5"),
        ("exact", "-0,50", "-0.50"),
        ("id", "1.234.567", 1_234_567),
        ("real", "1.234,5", 1234.5),
    ],
)
def test_numbers_with_a_decimal_comma_and_grouped_digits_are_exact_when_it_was_said(
    column: str, cell: str, value: object
) -> None:
    assert _read(column, cell, decimal=",", grouping=True) == value
    assert "expected" in str(_read(column, "1.23,4", decimal=",", grouping=True))


@pytest.mark.parametrize(
    "column, cell, value",
    [
        ("day", "01.02.2026", "2026-02-01"),
        ("day", "2026-02-01", "2026-02-01"),
        ("local", "01.02.2026 03:04", "2026-02-01T03:04:00.000000"),
        ("moment", "01.02.2026 03:04", "2026-02-01T02:04:00.000000Z"),
        ("clock", "3.04 PM", "15:04:00.000000"),
    ],
)
def test_dates_are_read_in_the_formats_that_were_told(column: str, cell: str, value: str) -> None:
    told = {"dates": ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%I.%M %p"), "time_zone": "Europe/Berlin"}
    assert _read(column, cell, **told) == value
    assert "not read" not in str(_read(column, "2026/02/01", **told))


def test_a_date_that_two_told_formats_read_differently_is_refused() -> None:
    both = ("%d/%m/%Y", "%m/%d/%Y")
    assert _read("day", "13/02/2026", dates=both) == "2026-02-13"
    assert "differently" in str(_read("day", "01/02/2026", dates=both))


def test_an_hour_that_clocks_have_twice_or_never_is_refused() -> None:
    told = {"time_zone": "Europe/Berlin"}
    assert _read("moment", "2026-07-01 12:00:00", **told) == "2026-07-01T10:00:00.000000Z"
    for twice_or_never in ("2026-10-25 02:30:00", "2026-03-29 02:30:00"):
        assert "two moments or none" in str(_read("moment", twice_or_never, **told))


def test_a_told_format_that_reads_what_looks_like_iso_counts() -> None:
    assert _read("day", "2026-02-01", dates=("%Y-%d-%m",)) == "2026-01-02"


def test_the_two_nulls_of_a_json_column_are_told_apart() -> None:
    found = read_all(b"id,doc\n1,\n2,null\n3,12345678901234567890\n4,1\n", intake(EVERY_KIND))

    assert found.bodies == [
        {"id": 1, "doc": None},
        {"id": 2, "doc:json": None},
        {"id": 3, "doc:json": "12345678901234567890"},
        {"id": 4, "doc": 1},
    ]
    lines = b'{"id":1,"doc":null}\n{"id":2,"doc:json":null}\n{"id":3,"doc":{"a":1}}\n'
    assert read_all(lines, intake(EVERY_KIND)).bodies == [
        {"id": 1, "doc": None},
        {"id": 2, "doc:json": None},
        {"id": 3, "doc": {"a": 1}},
    ]
    needed = read_all(b"id,needed_doc\n1,\n2,null\n", intake(EVERY_KIND))
    assert needed.faults == [(2, "cell", "/data/needed_doc")]


def test_words_of_null_are_texts_where_they_are_quoted() -> None:
    found = read_all(b'id,name\n1,NULL\n2,"NULL"\n3,\\N\n4,\n', intake(written=Written(nulls=("NULL", "\\N"))))

    assert [body["name"] for body in found.bodies] == [None, "NULL", None, ""]


def test_an_empty_cell_that_is_quoted_is_null_where_it_can_be_no_value() -> None:
    found = read_all(b'"id","name","price","at"\n"1","","",""\n"2","b","1.5",""\n')

    assert found.bodies == [
        {"id": 1, "name": "", "price": None, "at": None},
        {"id": 2, "name": "b", "price": "1.5", "at": None},
    ]
    told = intake(written=Written(nulls=("NULL",)))
    assert read_all(b'"id","price"\n"1",""\n', told).faults == [(2, "cell", "/data/price")]


def test_values_that_may_not_be_seen_are_in_no_sentence() -> None:
    hidden = type(EVERY_KIND)(EVERY_KIND.table, sensitive=["exact"])
    found = read_all(
        json.dumps({"id": 1, "exact": "12.345"}).encode() + b"\n" + b'{"id":2,"exact":98.765}', intake(hidden)
    )

    assert [one.error.pointer for one in found.bad] == ["/data/exact"] * 2
    assert not any("345" in one.error.sentence or "765" in one.error.sentence for one in found.bad)
