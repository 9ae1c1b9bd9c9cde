"""What a transaction of ours relies on, whatever the database and the role set."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError

from exchange.database.engine import make_engine
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, glancing, lock_statement, locked, reading, writing, writing_at_once
from exchange.database.tables import UtcDateTime
from exchange.format.errors import TransientError

CONTRARY = {
    "TimeZone": "Asia/Kolkata",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-10",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "client_encoding": "LATIN1",
    "row_security": "on",
    "lock_timeout": "1ms",
    "statement_timeout": "900ms",
    "idle_in_transaction_session_timeout": "900ms",
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "search_path": "own, public",
}


def test_after_sqlite_ended_a_transaction_by_itself_nothing_more_of_it_is_done_or_committed(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE thing (id INTEGER PRIMARY KEY)")

    def write(*rest: str) -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("INSERT INTO thing VALUES (1)")
            # As after a full disk, SQLITE_IOERR or a trigger's RAISE(ROLLBACK).
            connection.connection.driver_connection.rollback()  # type: ignore[union-attr]
            for statement in rest:
                connection.exec_driver_sql(statement)

    for rest in ((), ("INSERT INTO thing VALUES (2)",), ("SAVEPOINT one",)):
        with pytest.raises(TransientError, match="ended the transaction by itself"):
            write(*rest)
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM thing").scalar() == 0
    engine.dispose()


def test_why_sqlite_ended_a_transaction_is_what_counts_and_not_that_its_savepoint_is_gone(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def write() -> None:
        with transient_errors(), writing(engine) as connection, connection.begin_nested():
            connection.connection.driver_connection.rollback()  # type: ignore[union-attr]
            raise DBAPIError.instance("INSERT", None, full, sqlite3.Error)

    with pytest.raises(TransientError, match="database or disk is full"):
        write()
    engine.dispose()


@pytest.fixture
def elsewhere(postgres_url: str) -> Iterator[Engine]:
    """Give an engine on a database that sets everything otherwise."""
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA own")
        for name, value in CONTRARY.items():
            written = value if name == "search_path" else f"'{value}'"
            connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET {name} = {written}")
    engine.dispose()
    yield engine
    engine.dispose()


def _read(connection: sa.Connection, name: str) -> object:
    return connection.exec_driver_sql(f"SHOW {name}").scalar_one()


@pytest.mark.postgres
def test_a_transaction_fixes_what_it_relies_on_and_leaves_the_search_path(elsewhere: Engine) -> None:
    literal = sa.select(sa.literal("back\\slash", literal_execute=True))
    with writing(elsewhere) as connection:
        connection.exec_driver_sql("CREATE TABLE kept (id integer)")
        set_now = {name: _read(connection, name) for name in CONTRARY}
        isolation = _read(connection, "transaction_isolation")
        quoted = connection.scalar(literal)
        number = connection.exec_driver_sql("SELECT 0.1::float8 + 0.2::float8").scalar_one()
    with locked(elsewhere, "x", isolation_level="REPEATABLE READ") as connection:
        repeatable = _read(connection, "transaction_isolation")
    with reading(elsewhere) as connection:
        after = (_read(connection, "transaction_isolation"), _read(connection, "extra_float_digits"))
        place = connection.exec_driver_sql("SELECT 'kept'::regclass::oid = 'own.kept'::regclass::oid").scalar_one()

    assert set_now == CONTRARY | {
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
        "array_nulls": "on",
        "quote_all_identifiers": "off",
        "client_encoding": "UTF8",
        "row_security": "off",
        "lock_timeout": "30s",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "synchronous_commit": "on",
    }
    assert (isolation, repeatable, after) == ("read committed", "repeatable read", ("read committed", "1"))
    assert (quoted, number, place) == ("back\\slash", 0.1 + 0.2, True)


@pytest.mark.postgres
def test_where_no_trigger_would_fire_nothing_is_begun(elsewhere: Engine) -> None:
    with writing(elsewhere) as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {elsewhere.url.database} SET session_replication_role = 'replica'")
    elsewhere.dispose()
    with pytest.raises(TransientError, match="session_replication_role"), reading(elsewhere):
        pass


@pytest.mark.postgres
def test_a_connection_that_the_server_ended_is_replaced_and_none_is_asked_for_that(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = make_engine(postgres_url), make_engine(postgres_url)
    asked: list[object] = []
    ping = engine.dialect.do_ping

    def counted(driver: DBAPIConnection) -> bool:
        asked.append(driver)
        return ping(driver)

    monkeypatch.setattr(engine.dialect, "do_ping", counted)

    def number() -> int:
        with reading(engine) as connection:
            return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    first = number()
    assert (number(), asked) == (first, [])
    with reading(other) as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": first})
    second = number()
    assert (second != first, len(asked)) == (True, 1)
    monkeypatch.setattr("exchange.database.engine._BELIEVED_SECONDS", 0.0)
    assert (number(), len(asked)) == (second, 2)
    engine.dispose()
    other.dispose()


@pytest.mark.postgres
def test_what_is_looked_at_without_a_transaction_is_read_the_same_wherever_it_is(elsewhere: Engine) -> None:
    moment = datetime(2026, 2, 1, 12, tzinfo=UTC)
    written = sa.select(sa.literal(moment, UtcDateTime()), sa.literal("back\\slash", literal_execute=True))
    with glancing(elsewhere) as connection:
        in_transaction = connection.connection.driver_connection.info.transaction_status  # type: ignore[union-attr]
        assert tuple(connection.execute(written).one()) == (moment, "back\\slash")
    assert in_transaction != TransactionStatus.IDLE
    with elsewhere.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {elsewhere.url.database} RESET DateStyle")
        connection.exec_driver_sql(f"ALTER DATABASE {elsewhere.url.database} RESET standard_conforming_strings")
    elsewhere.dispose()
    with glancing(elsewhere) as connection:
        assert tuple(connection.execute(written).one()) == (moment, "back\\slash")
        status = connection.connection.driver_connection.info.transaction_status  # type: ignore[union-attr]
    assert status == TransactionStatus.IDLE


@pytest.mark.postgres
def test_a_transaction_that_is_begun_at_once_fixes_the_same_and_holds_what_it_is_to(elsewhere: Engine) -> None:
    with writing(elsewhere) as connection:
        connection.exec_driver_sql("CREATE TABLE kept (id integer PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO kept VALUES (1)")
        usual = {name: _read(connection, name) for name in CONTRARY}
    row = "SELECT 1 FROM kept WHERE id = 1 FOR NO KEY UPDATE"
    with writing_at_once(elsewhere, lock_statement("it's"), row, patience_seconds=0.05) as connection:
        at_once = {name: _read(connection, name) for name in CONTRARY}
        isolation = _read(connection, "transaction_isolation")
        connection.exec_driver_sql("INSERT INTO kept VALUES (2)")
        for held in (lock_statement("it's"), row):
            with pytest.raises(Busy), writing_at_once(elsewhere, held, patience_seconds=0.05):
                pass
    assert (at_once, isolation) == (usual | {"lock_timeout": "50ms"}, "read committed")

    def fail() -> None:
        with writing_at_once(elsewhere, lock_statement("it's")) as connection:
            connection.exec_driver_sql("INSERT INTO kept VALUES (3)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with writing_at_once(elsewhere, lock_statement("it's")) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM kept").scalar_one() == 2
