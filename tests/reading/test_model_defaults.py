"""Columns that a file lacks have what the model's own default gives, as an insert by the ORM has."""

from __future__ import annotations

import enum
import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Stream
from exchange.reading import FileRefused
from tests.reading.conftest import intake, read_all


class Colour(enum.Enum):
    """What an enum column may have."""

    RED = "red"
    GREEN = "green"


class Shouted(sa.types.TypeDecorator[str]):
    """A text that is kept in capitals."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else value.upper()


NOW = datetime(2026, 11, 28, 6, 15, tzinfo=UTC)
_numbers = itertools.count(1)


@pytest.mark.parametrize(
    "kind, default, expected",
    [
        (sa.Integer, 7, 7),
        (sa.Boolean, False, False),
        (sa.Numeric(6, 2), Decimal("1.50"), "1.50"),
        (sa.Float, 0.1, 0.1),
        (sa.Text, "", ""),
        (sa.Text, "NULL", "NULL"),
        (sa.Date, lambda: date(2026, 2, 28), "2026-02-28"),
        (sa.DateTime(timezone=True), lambda: NOW, "2026-11-28T06:15:00.000000Z"),
        (sa.Uuid, lambda: uuid.UUID(int=5), str(uuid.UUID(int=5))),
        (sa.Enum(Colour), Colour.GREEN, "green"),
        (sa.Enum(Colour, values_callable=lambda every: [one.value for one in every]), Colour.GREEN, "green"),
        (sa.LargeBinary, b"\xde\xad", "3q0="),
        (sa.JSON, dict, {}),
        (sa.JSON, lambda: {"a": [1]}, {"a": [1]}),
        (Shouted(5), "loud", "LOUD"),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("content", [b"id,name\n1,a\n2,b\n", b'{"id":1,"name":"a"}\n{"id":2}\n'], ids=["csv", "jsonl"])
def test_a_value_or_what_a_function_gives_is_in_each_row(
    content: bytes, kind: Any, default: Any, expected: object
) -> None:
    stream = Stream(
        sa.Table(
            "made",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text),
            sa.Column("extra", kind, default=default, nullable=False),
        )
    )
    found = read_all(content, intake(stream))

    assert [body["extra"] for body in found.bodies] == [expected, expected]
    assert 'not in the file, by the model\'s own defaults: "extra"' in found.notes


def test_a_function_is_called_for_each_row_and_a_cell_of_the_file_counts_before_it() -> None:
    stream = made_by(lambda: next(_numbers))
    found = read_all(b"id\n1\n2\n3\n", intake(stream))
    assert len({body["extra"] for body in found.bodies}) == 3
    assert [body["extra"] for body in read_all(b"id,extra\n1,5\n2,\n", intake(stream)).bodies] == [5, None]


def made_by(default: Callable[..., Any] | sa.sql.ColumnElement[Any] | int) -> Stream:
    """Give a stream of which one column has this default."""
    columns = [
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("extra", sa.Integer, default=default),
    ]
    return Stream(sa.Table("made", sa.MetaData(), *columns))


@pytest.mark.parametrize(
    "default",
    [lambda context: context.get_current_parameters()["id"], sa.func.random(), sa.literal(5)],
    ids=["context", "function", "literal"],
)
def test_a_default_that_needs_a_statement_refuses_the_file_and_says_what_to_do(default: Any) -> None:
    with pytest.raises(FileRefused, match=r"asks for the statement at hand.*defaults="):
        read_all(b"id\n1\n", intake(made_by(default)))
    assert read_all(b"id\n1\n", intake(made_by(default), defaults={"extra": "5"})).bodies == [{"id": 1, "extra": 5}]
    assert read_all(b"id\n1\n", intake(made_by(default), mode="upsert")).bodies == [{"id": 1}]


def test_a_default_that_its_column_can_not_keep_refuses_the_file() -> None:
    with pytest.raises(FileRefused, match="the model's default gives is no value of its column"):
        read_all(b"id\n1\n", intake(made_by(2**40)))
