"""What is said of a row does not hang on the rows beside it: the fast ways and the slow one give the same verdict."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from exchange.channels.intake import Written
from exchange.channels.schemas import Checker
from exchange.channels.stream import Stream
from exchange.format.errors import RecordError
from exchange.format.record import ByColumns
from exchange.reading.detect import detect
from exchange.reading.read import read
from tests.reading.conftest import EVERY_KIND, intake

NARROW = Stream(
    sa.Table(
        "narrow",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seconds", postgresql.TIMESTAMP(precision=0).with_variant(sa.DateTime(), "sqlite")),
        sa.Column("thousandths", postgresql.TIMESTAMP(timezone=True, precision=3)),
        sa.Column("short_clock", postgresql.TIME(precision=0)),
        sa.Column("zoned_clock", postgresql.TIME(timezone=True)),
        sa.Column("single", sa.REAL),
        sa.Column("whole", sa.Numeric(4, 0)),
        sa.Column("big", sa.BigInteger),
        sa.Column("text3", sa.String(3)),
        sa.Column("char3", sa.CHAR(3)),
        sa.Column("bits", postgresql.BIT(3)),
        sa.Column("span", postgresql.INTERVAL(precision=0)),
        sa.Column("days", postgresql.DATERANGE),
        sa.Column("bytes", sa.LargeBinary(2)),
    )
)
CELLS = {
    "small": ["7", "-7", "007", "32768", "7.5", "x", "99999999999999999999"],
    "exact": ["1.50", "01.5", "1.505", "1234567.1", "9" * 40, "NaN", "-0"],
    "any_exact": ["1.50", "1" * 50, "1E3", "x"],
    "real": ["0.1", "1e22", "1e400", "inf", "0.1000000000000000001"],
    "yes": ["true", "No", "1", "perhaps"],
    "day": ["2026-02-28", "2026-02-30", "0000-01-01", "2026-13-01", "20260228", "2026-02-29", "9999-12-31", " "],
    "clock": ["03:04", "03:04:05", "24:00", "23:59:60", "03:04:05.1234567", "03:04:05.123456"],
    "moment": [
        "2026-01-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-02-30T03:04:05.5+02:00",
        "0001-01-01T00:00:00+01:00",
        "2026-01-02T03:04:05.000000Z",
        "2026-02-30T03:04:05.000000Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05",
        "0000-01-02T03:04:05.000000Z",
    ],
    "local": ["2026-01-02 03:04:05", "2026-02-30 03:04:05", "2026-02-30T03:04:05.000000", "2026-01-02T03:04:05Z"],
    "colour": ["red", "RED"],
    "uuid": ["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "{1B4E28BA-2FA1-11D2-883F-0016D3CCA427}", "1b4e28ba"],
    "raw": ["3q0=", "\\xDEAD", "3q=", "\\xDEA", "\u00e9"],
    "doc": ['{"a":1}', "[1", "null", '{"a":1,"a":2}'],
    "many": ["[1,null]", '["1"]', "{1,2}"],
    "lasting": ["P1DT2H", "P1M", "x", "P1DT25H"],
    "host": ["10.0.0.1", "10.0.0.300"],
}
NARROW_CELLS = {
    "seconds": ["2026-01-02T03:04:05", "2026-01-02T03:04:05.0", "2026-01-02T03:04:05.5", "2026-02-30 03:04:05"],
    "thousandths": ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1234Z", "2026-01-02T03:04:05.123Z"],
    "short_clock": ["03:04", "03:04:05.5", "03:04:05.000000", "03:04:05", "24:00:00"],
    "zoned_clock": ["03:04:05.000000+01:00:00", "03:04:05+01", "24:00:00+00", "03:04:05.000000-00:00:00"],
    "single": ["0.1", "0.10000000149011612", "1e39", "16777217"],
    "whole": ["1", "1.0", "1.5", "99999", "-0"],
    "big": ["1", "9223372036854775808", "-9223372036854775808", "1.0"],
    "text3": ["abc", "abcd", ""],
    "char3": ["a", "abc", "abcd", "a  "],
    "bits": ["101", "10", "1012"],
    "span": ["PT1S", "PT1.5S", "P1D", "1 day"],
    "days": ["[2026-01-01,2026-01-02)", "[2026-02-30,)", "x", "empty"],
    "bytes": ["3q0=", "3q2+", "\\xDEADBE"],
}
KINDS = [(EVERY_KIND, column) for column in CELLS] + [(NARROW, column) for column in NARROW_CELLS]
WRITTEN = {
    "plain": Written(),
    "told": Written(
        decimal=",", dates=["%d.%m.%Y", "%Y-%d-%m", "%H.%M"], time_zone="Europe/Berlin", nulls=["", "NULL"]
    ),
}


def verdicts(content: bytes, name: str, stream: Stream, written: Written) -> dict[int, tuple[str, str, str] | str]:
    """Give what is said of each row, by its line: what is wrong, or the values that it has."""
    file = io.BytesIO(content)
    found = detect(file, name, intake(stream, written=written), stream)
    columns = [one for one in found.format.columns if one is not None]
    checker = Checker(stream.only(tuple(columns), ()))
    said: dict[int, Any] = {}
    for piece in read(file, found.format, stream):
        said |= {one.number: (one.error.error, one.error.pointer, one.error.sentence) for one in piece.bad}
        bodies = piece.bodies
        suspects = checker.refused_columns(bodies) if isinstance(bodies, ByColumns) else checker.refused([*bodies])
        for at, (number, body) in enumerate(zip(piece.numbers, bodies, strict=True)):
            said[number] = json.dumps(body, sort_keys=True)
            if at in suspects:
                try:
                    checker.check_data(body)
                except RecordError as error:
                    said[number] = (error.error, error.pointer, error.sentence)
    return said


def as_csv(cells: Sequence[str | None], column: str) -> bytes:
    quoted = ["" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in cells]
    return "".join([f"id,{column}\n", *(f"{at},{cell}\n" for at, cell in enumerate(quoted))]).encode()


def as_lines(cells: Sequence[Any], column: str) -> bytes:
    return "".join(json.dumps({"id": at, column: cell}) + "\n" for at, cell in enumerate(cells)).encode()


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("made", [as_csv, as_lines])
@pytest.mark.parametrize("stream, column", KINDS, ids=[column for _, column in KINDS])
@given(data=st.data())
def test_what_is_said_of_a_row_is_the_same_whatever_stands_beside_it(
    written: str, made: Any, stream: Stream, column: str, data: st.DataObject
) -> None:
    pool: list[str | None] = [*(CELLS if stream is EVERY_KIND else NARROW_CELLS)[column], "31.02.2026", "", None]
    pool += [] if written == "plain" else ["01.02.2026", "1.234,5"]
    cells = data.draw(st.lists(st.sampled_from(pool), min_size=2, max_size=40))
    first = 2 if made is as_csv else 1
    together = verdicts(made(cells, column), "rows", stream, WRITTEN[written])
    for at, cell in enumerate(cells):
        assert _without_id(together[first + at]) == alone(made, stream, column, written, cell), cell


@cache
def alone(made: Any, stream: Stream, column: str, written: str, cell: str | None) -> Any:
    """Say what is said of a row that is the only one."""
    (said,) = verdicts(made([cell], column), "rows", stream, WRITTEN[written]).values()
    return _without_id(said)


def _without_id(said: Any) -> Any:
    return {**json.loads(said), "id": 0} if type(said) is str else said
