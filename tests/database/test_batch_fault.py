"""Whose fault an error is: the world's, the batch's own, or nobody's."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, PendingRollbackError

from exchange.database.batch_fault import Crashed, interrupted_by, is_batch_fault
from exchange.database.engine import make_engine
from exchange.database.errors import is_transient, refuses_a_record, transient_errors
from exchange.database.locks import Busy
from exchange.format.errors import Corrupt, TransientError

STATES = {
    "08006": True,
    "25006": True,
    "25P02": False,
    "40P01": True,
    "42P01": True,
    "53100": True,
    "55P03": True,
    "57P01": True,
    "58030": True,
    "22003": False,
    "23505": False,
    "54000": False,
    "P0001": False,
}
"""SQLSTATEs, and whether they are the world's."""


def raised(state: str) -> DBAPIError:
    original = psycopg.errors.lookup(state)("a sentence")
    dialect = make_engine("postgresql://").dialect
    error = DBAPIError.instance("SELECT", {}, original, psycopg.Error, dialect=dialect)
    assert isinstance(error, DBAPIError)
    return error


@pytest.mark.parametrize("state", STATES)
def test_the_state_that_a_database_names_says_whose_fault_it_is(state: str) -> None:
    error = raised(state)
    assert is_transient(error) is STATES[state]
    assert is_batch_fault(error) is not STATES[state]
    with pytest.raises(TransientError if STATES[state] else DBAPIError), transient_errors():
        raise error


def test_what_is_too_large_for_an_index_is_a_rows_fault() -> None:
    assert refuses_a_record(raised("54000"))
    assert not refuses_a_record(raised("53100"))


def test_a_connection_that_never_was_is_transient_fault() -> None:
    error = psycopg.OperationalError("connection failed")
    found = DBAPIError.instance("SELECT", {}, error, psycopg.Error, dialect=make_engine("postgresql://").dialect)
    assert is_transient(found)


def test_what_follows_on_a_lost_connection_is_of_the_same_kind() -> None:
    def follow_on(before: DBAPIError) -> None:
        try:
            raise before
        except DBAPIError:
            raise PendingRollbackError("can't reconnect")  # noqa: B904 - as SQLAlchemy does it

    for before, worlds in ((raised("57P01"), True), (raised("22003"), False)):
        with pytest.raises(PendingRollbackError) as caught:
            follow_on(before)
        assert is_transient(caught.value) is worlds


def test_sqlite_names_codes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("sqlite") / "a.db"
    engine: Engine = make_engine(f"sqlite:///{path}")
    with engine.connect() as connection, pytest.raises(TransientError, match="exchange migrate"), transient_errors():
        connection.execute(sa.text("SELECT * FROM nowhere"))
    with engine.connect() as connection, pytest.raises(DBAPIError), transient_errors():
        connection.execute(sa.text("SELECT json_extract('{', '$')"))  # what was stored is at fault, not the database
    with engine.connect() as connection, pytest.raises(DBAPIError), transient_errors():
        connection.execute(sa.text("SELECT :one"), {"one": object()})
    engine.dispose()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(TransientError, match="right file"), transient_errors(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    engine.dispose()


@pytest.mark.parametrize("error", [OSError("disk"), TransientError("disk"), Busy("import", "me", None)])
def test_the_world_and_others_at_work_are_nobodys_fault(error: Exception) -> None:
    assert not is_batch_fault(error)


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError(), OverflowError(), KeyError("a secret"), Corrupt("x")]
)
def test_anything_else_is_the_fault_of_the_batch_at_hand(error: Exception) -> None:
    assert is_batch_fault(error)


def test_a_wish_to_stop_is_nobodys_fault_as_long_as_it_is_one() -> None:
    with interrupted_by(KeyError):
        assert not is_batch_fault(KeyError())
    assert is_batch_fault(KeyError())


def test_a_stumble_is_worded_by_kind_and_place_and_never_by_a_value() -> None:
    with pytest.raises(NoSuchModuleError) as caught:
        make_engine("secret://password")
    said = Crashed.of(caught.value).sentence
    assert "NoSuchModuleError in exchange/database/engine.py, line " in said
    assert "secret" not in said
    assert Crashed.of(raised("22003")).sentence == "the database's NumericValueOutOfRange 22003"
    assert Crashed.of(Crashed("once", 1), 3).attempts == 1
