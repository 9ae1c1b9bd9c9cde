"""What a migration would do is told as the database does it, and what a way back loses before it is lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import Connection, Engine

from exchange.database import make_engine, tables
from exchange.database.locks import Busy
from exchange.format.errors import TransientError
from exchange.operating import migrate
from exchange.operating.migration_plan import plan_downgrade, plan_upgrade

FIRST = "core_0013"


def brought_to(engine: Engine, revision: str) -> None:
    with migrate.configured(engine, None) as config:
        command.upgrade(config, revision)


def state(engine: Engine) -> tuple[Any, ...]:
    """Give what a plan may not change."""
    with engine.connect() as connection:
        found = sa.inspect(connection).get_table_names()
        return migrate.applied_revisions(connection), sorted(found)


def test_a_plan_has_every_pending_statement_and_changes_nothing(engine: Engine) -> None:
    brought_to(engine, FIRST)
    before = state(engine)
    planned = plan_upgrade(engine, (migrate.CORE,), "request")
    assert state(engine) == before
    assert next(one.revision for one in planned) == "core_0014"
    said = [one for one in planned if one.sql.startswith("ALTER TABLE exchange_agreement ADD COLUMN in_vain")]
    assert [(one.table, one.rewrites) for one in said] == [("exchange_agreement", False)]
    assert {one.lock for one in planned if one.sql.startswith("CREATE TABLE")} == {None}
    postgres = engine.dialect.name == "postgresql"
    assert said[0].lock == ("ACCESS EXCLUSIVE" if postgres else "the whole file, for writers")
    migrate.upgrade(engine)
    assert plan_upgrade(engine, (migrate.CORE,), "request") == []


_LOCKS = """
    SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relname LIKE 'exchange%' AND l.mode <> 'AccessShareLock'
    AND c.relname <> 'exchange_alembic_version'"""


@pytest.mark.postgres
def test_each_statement_locks_what_the_server_says(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    brought_to(engine, FIRST)
    told: dict[str, set[str]] = {}
    for one in plan_upgrade(engine, (migrate.CORE,), "request"):
        if one.lock is not None and one.table is not None:
            told.setdefault(one.table, set()).add(f"{one.lock.title().replace(' ', '')}Lock")
    there = set(state(engine)[1])
    with engine.connect() as connection, connection.begin() as transaction:
        migrate.upgrade(connection)
        held = [(name, mode) for name, mode in connection.exec_driver_sql(_LOCKS.replace("%", "%%")) if name in there]
        transaction.rollback()
    engine.dispose()
    # Others write beside these, and triggers of what is written take them, too.
    weaker = {"RowExclusiveLock", "ShareUpdateExclusiveLock", "RowShareLock"}
    wrong = [(name, mode) for name, mode in held if mode not in weaker | told.get(name, set())]
    assert held
    assert wrong == []


def filled(connection: Connection) -> None:
    """Put a row into each table of ours, as its columns take one."""
    moment, kinds = datetime.now(UTC), {sa.Integer: 1, sa.String: "x", sa.LargeBinary: b"x", sa.Date: date(2026, 1, 1)}
    for table in tables.metadata.sorted_tables:
        row: dict[str, Any] = {}
        for column in table.columns:
            kind = column.type
            if isinstance(kind, tables.UtcDateTime):
                row[column.name] = moment
            else:
                row[column.name] = next((value for of, value in kinds.items() if isinstance(kind, of)), 1)
        if connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0:
            connection.execute(sa.insert(table), row)


def test_the_way_back_says_what_is_lost_and_works_with_rows_in_every_table(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        filled(connection)
        empty = [one.name for one in tables.metadata.sorted_tables if not _rows(connection, one.name)]
        assert empty == []
    lost = plan_downgrade(engine, "request", FIRST)
    assert ("exchange_schema", None, 1) in {(one.table, one.column, one.rows) for one in lost}
    assert ("exchange_dead_letter", "identity", 1) in {(one.table, one.column, one.rows) for one in lost}
    migrate.downgrade(engine, network="request", revision=FIRST)
    with engine.connect() as connection:
        left = sa.inspect(connection)
        assert not {one.table for one in lost if one.column is None} & set(left.get_table_names())
        assert "identity" not in {one["name"] for one in left.get_columns("exchange_dead_letter")}
        assert _rows(connection, "exchange_dead_letter") == 1
    migrate.upgrade(engine)
    assert not migrate.is_behind(engine)
    for unknown in ("core_9000", "core_0001; DROP TABLE x", migrate.applied_revisions(engine)[0]):
        with pytest.raises(TransientError, match="expected a revision before"):
            plan_downgrade(engine, "request", unknown)


def _rows(connection: Connection, table: str) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0)


@pytest.mark.postgres
def test_a_lock_of_somebody_else_ends_a_migration_with_who_holds_it(postgres_url: str) -> None:
    engine = make_engine(postgres_url, lock_seconds=0.2)
    brought_to(engine, FIRST)
    before = state(engine)
    holder = make_engine(postgres_url)
    with holder.connect() as connection, connection.begin():
        connection.exec_driver_sql("SET application_name = 'a report of the night'")
        connection.exec_driver_sql("LOCK TABLE exchange_dead_letter IN SHARE MODE")
        with pytest.raises(Busy, match="a report of the night"):
            migrate.upgrade(engine)
    assert state(engine) == before
    migrate.upgrade(engine)
    holder.dispose()
    engine.dispose()
