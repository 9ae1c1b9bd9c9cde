"""A received table's own counter is kept ahead of the keys that come, for the day the roles change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.util import CommandError

import exchange.alembic
from exchange.channels import Channel, Stream
from exchange.database.locks import reading
from exchange.operating.doctor.writes import check_sequences
from exchange.settings import Settings
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.databases import Databases

assert exchange.alembic.NETWORK_ATTRIBUTE  # imported for its operations

metadata = sa.MetaData()
KINDS = {
    "plain": (),
    "always": (sa.Identity(always=True),),
    "by_default": (sa.Identity(),),
    "other": (sa.Identity(),),
}
TABLES = [
    sa.Table(name, metadata, sa.Column("id", sa.BigInteger, *how, primary_key=True)) for name, how in KINDS.items()
]
CHANNELS = (Channel("forth", "one", "two", map(Stream, TABLES)),)


@pytest.fixture(params=[pytest.param("postgresql", marks=needs_postgres)])
def link(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two sides, the receiving one on PostgreSQL."""
    one = Side("one", "two", databases, "sqlite", tmp_path / "one", CHANNELS, metadata=metadata)
    two = Side("two", "one", databases, request.param, tmp_path / "two", CHANNELS, metadata=metadata)
    yield Link(one, two)
    one.engine.dispose()
    two.engine.dispose()


def install(side: Side, *tables: str, wanted: bool | None = True) -> None:
    with side.engine.begin() as connection:
        for table in tables:
            operations = Operations(MigrationContext.configure(connection))
            operations.install_capture(table, source="one", advance_identity=wanted)  # type: ignore[attr-defined]


def test_a_counter_never_gives_a_key_that_came(link: Link) -> None:
    one, two = link.one, link.other
    with two.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO by_default (id) VALUES (40)")
        connection.exec_driver_sql("SELECT setval('always_id_seq', 50000)")
        connection.exec_driver_sql("SELECT setval('plain_id_seq', 3, false)")
    install(two, "plain", "always", "by_default")
    assert two.all(sa.select(sa.func.nextval("by_default_id_seq"))) == [(41,)]

    def cross(*keys: int) -> list[str]:
        for table in TABLES:
            one.execute(sa.insert(table), [{"id": key} for key in keys])
        one.export()
        link.there.carry()
        return [batch.message for batch in two.take_in().batches]

    def stands() -> list[int]:
        with reading(two.engine) as connection:
            ask = "SELECT coalesce(pg_sequence_last_value('{}_id_seq'::regclass), 0)"
            return [connection.scalar(sa.text(ask.format(name))) or 0 for name in KINDS]

    assert cross(7, 9) == [""]
    assert stands() == [9, 50_000, 41, 0]
    one.execute("DELETE FROM plain WHERE id = 9")
    assert cross(10, 60_000) == [""]
    assert stands() == [60_000, 60_000, 60_000, 0]
    one.execute("DELETE FROM plain WHERE id = 60000")
    assert cross(11) == [""]
    assert stands() == [60_000, 60_000, 60_000, 0]

    # The roles change: doctor finds the one that nobody kept ahead.
    back = (Channel("forth", "two", "one", map(Stream, TABLES)),)
    found = [*check_sequences(Settings.model_construct(), replace(two.site, channels=back))]
    assert [one.message.split()[1] for one in found] == ["public.other_id_seq"]

    install(two, "plain", wanted=None)
    install(two, "always", wanted=False)
    with two.engine.begin() as connection:
        connection.exec_driver_sql("ALTER SEQUENCE plain_id_seq MAXVALUE 70000")
    [said] = cross(80_000)
    assert said.startswith("sequence public.plain_id_seq stays behind the keys that came: ")
    assert stands()[1] == 60_000
    assert [row["id"] for row in two.rows(TABLES[0])] == [7, 10, 11, 80_000]


def test_a_key_without_a_counter_has_none_to_keep_ahead(link: Link) -> None:
    side = link.other
    side.execute("CREATE TABLE pair (a integer, b integer, PRIMARY KEY (a, b))")
    with pytest.raises(CommandError, match="no single column with a counter of its own"):
        install(side, "pair")


@pytest.mark.parametrize("link", ["sqlite"], indirect=True)
def test_a_counter_of_sqlite_follows_by_itself(link: Link) -> None:
    link.other.execute("DROP TABLE plain")
    link.other.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY AUTOINCREMENT, exchange_version BIGINT)")
    install(link.other, "plain")
    link.one.execute(sa.insert(TABLES[0]), [{"id": 7}])
    link.one.export()
    link.there.carry()
    link.other.take_in()
    assert link.other.all(
        sa.select(sa.text("seq")).select_from(sa.text("sqlite_sequence")).where(sa.text("name = 'plain'"))
    ) == [(7,)]
