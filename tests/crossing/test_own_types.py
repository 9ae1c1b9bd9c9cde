"""Rows with PostgreSQL's own types cross whole: new, changed and gone ones, compared by both sides' digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from exchange.channels import Channel, Stream
from exchange.database import tables
from exchange.database.locks import reading
from exchange.tables import bucket_digests
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.databases import Databases

metadata = sa.MetaData()


@sa.event.listens_for(metadata, "before_create")
def _extend(_metadata: sa.MetaData, connection: sa.Connection, **_options: Any) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS hstore")


def text(kind: Any) -> Any:
    return kind.with_variant(sa.String(), "sqlite")


def document(kind: Any) -> Any:
    return kind.with_variant(sa.JSON(), "sqlite")


def columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("host", text(postgresql.INET()), primary_key=True),
        sa.Column("seats", text(postgresql.INT4RANGE()), primary_key=True),
        sa.Column("tags", document(postgresql.ARRAY(sa.String(9)))),
        sa.Column("grid", document(postgresql.ARRAY(sa.Numeric(6, 2)))),
        sa.Column("spare", document(postgresql.HSTORE())),
        sa.Column("during", text(postgresql.TSTZRANGE())),
        sa.Column("closed", text(postgresql.DATEMULTIRANGE())),
        sa.Column("mask", text(postgresql.BIT(4))),
        sa.Column("every", text(postgresql.INTERVAL())),
        sa.Column("opens", text(sa.Time(timezone=True))),
        sa.Column("facts", document(postgresql.JSONB())),
        sa.Column("words", text(postgresql.TSVECTOR())),
        sa.Column("size", sa.Integer, sa.Computed("1 + 1", persisted=True)),
    ]


there, back = sa.Table("there", metadata, *columns()), sa.Table("back", metadata, *columns())
channels = (Channel("there", "one", "two", [Stream(there)]), Channel("back", "two", "one", [Stream(back)]))

ON_POSTGRESQL = {
    "host": "'::ffff:10.0.0.1'",
    "seats": "'[1,5]'",
    "tags": "ARRAY['a', NULL, 'ü,\"\\']",
    "grid": "'{{1,2.5},{NULL,0}}'",
    "spare": "'a=>1, b=>NULL'",
    "during": "'[2026-01-01 01:00+02,infinity)'",
    "closed": "'{[2026-01-01,2026-01-02],[2026-02-01,9999-12-31]}'",
    "mask": "'0101'",
    "every": "'1 mon -3 days 24 hours'",
    "opens": "'12:00+05:30'",
    "facts": """'{"pi": 3.14159265358979323846, "n": [123456789012345678901234567890]}'""",
    "words": "'a:1 b:2'",
}
ON_SQLITE = {
    **ON_POSTGRESQL,
    "seats": "'[1,6)'",
    "tags": """'["a", null, "ü,\\"\\\\"]'""",
    "grid": """'[["1.00","2.50"],[null,"0.00"]]'""",
    "spare": """'{"a": "1", "b": null}'""",
    "during": "'[2025-12-31T23:00:00.000000Z,infinity)'",
    "closed": "'{[2026-01-01,2026-01-03),[2026-02-01,10000-01-01)}'",
    "every": "'P1M-3DT24H'",
    "opens": "'12:00:00.000000+05:30'",
}


def insert(side: Side, table: sa.Table, **other: str) -> None:
    on_postgresql = side.engine.dialect.name == "postgresql"
    row = (ON_POSTGRESQL if on_postgresql else ON_SQLITE) | other
    with side.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({', '.join(row.values())})",
            execution_options={"no_parameters": True},
        )


def digested(side: Side) -> dict[str, Any]:
    with reading(side.engine) as connection:
        return {one.stream: one for channel in channels for one in bucket_digests.digests(connection, channel)}


def texts(side: Side, table: sa.Table) -> list[Any]:
    names = ", ".join(f"CAST({column.name} AS text)" for column in table.columns if column.name != "words")
    with reading(side.engine) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT {names} FROM {table.name} ORDER BY 1, 2")]


@needs_postgres
@pytest.mark.parametrize(
    "kinds", ["postgresql-sqlite", pytest.param("postgresql-postgresql", marks=pytest.mark.thorough)]
)
def test_rows_of_its_own_types_cross_both_ways_and_are_found_equal(
    tmp_path: Path, databases: Databases, kinds: str
) -> None:
    one, two = (
        Side(name, peer, databases, kind, tmp_path / name, channels, metadata=metadata)
        for name, peer, kind in zip(("one", "two"), ("two", "one"), kinds.split("-"), strict=True)
    )
    link = Link(one, two)
    for side, table in ((one, there), (two, back)):
        insert(side, table)
        insert(side, table, host="'10.0.0.1/8'", tags="NULL", grid="NULL", facts="'null'")
        insert(side, table, host="'10.0.0.9'")
    link.round()

    for side, table in ((one, there), (two, back)):
        side.execute(f"UPDATE {table.name} SET mask = '1111' WHERE host <> '10.0.0.9'")
        side.execute(f"DELETE FROM {table.name} WHERE host = '10.0.0.9'")
    link.round()

    assert digested(one) == digested(two)
    assert digested(one)["there"].rows == digested(one)["back"].rows == 2
    assert not one.all(sa.select(tables.dead_letter)) + two.all(sa.select(tables.dead_letter))
    assert one.all(sa.select(back.c.words)) == [(None,)] * 2, "each side makes its own"
    if kinds == "postgresql-postgresql":
        assert texts(one, there) == texts(two, there)
    one.engine.dispose()
    two.engine.dispose()
