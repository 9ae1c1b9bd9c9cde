"""No error of a database, however it comes about, quotes a value of a row; what a dead letter needs is kept aside."""

from __future__ import annotations

import ast
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from exchange.database.engine import make_engine
from exchange.database.errors import driver_errors, transient_errors
from exchange.database.redact import words
from exchange.format.errors import TransientError
from exchange.reference.sql_handler import make_reader
from exchange.tables.loader.copy import put

CANARY = "canary-5e1f"
PACKAGE = Path(__file__).parents[2] / "exchange"

metadata = sa.MetaData()
person = sa.Table(
    "person",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("email", sa.String(40), unique=True),
    sa.Column("age", sa.Integer, sa.CheckConstraint("age < 200", name="person_age")),
    sa.Column("name", sa.String(40), nullable=False, server_default="x"),
    sa.Column("friend", sa.String(40), sa.ForeignKey("person.email", name="person_friend")),
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give one database of each kind, its rows put back after each test by a rollback."""
    if request.param == "sqlite":
        url, drop = f"sqlite:///{tmp_path_factory.mktemp('discretion')}/x.db", None
    else:
        cluster = request.getfixturevalue("postgres_cluster")
        url, drop = cluster.create(), cluster.drop
    made = make_engine(url)
    metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(person.insert().values(id=1, email=CANARY))
        for statement in _raising(made.dialect.name):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    yield made
    made.dispose()
    if drop:
        drop(url)


def _raising(dialect: str) -> list[str]:
    if dialect == "sqlite":
        body = f"SELECT RAISE(ABORT, 'row {CANARY} is refused');"
        return [f"CREATE TRIGGER tells BEFORE INSERT ON person WHEN NEW.name = 'tell' BEGIN {body} END"]
    body = "IF NEW.name = 'tell' THEN RAISE EXCEPTION 'row % is refused', NEW.email; END IF;"
    body += " IF NEW.name = 'lie' THEN RAISE unique_violation USING MESSAGE = NEW.email; END IF; RETURN NEW;"
    return [
        f"CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        "CREATE TRIGGER tells BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION tells()",
    ]


def insert(**values: Any) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(person.insert().values(**values))


def run(statement: str, *values: Any) -> Callable[[Connection], Any]:
    def doing(connection: Connection) -> Any:
        marked = statement if connection.dialect.name == "postgresql" else statement.replace("%s", "?")
        return connection.exec_driver_sql(marked, values).all()

    return doing


def put_rows(*rows: tuple[Any, ...]) -> Callable[[Connection], Any]:
    return lambda connection: put(connection, person, ["id", "email", "age", "name"], rows)


EITHER = {
    "a unique value twice": insert(id=2, email=CANARY),
    "a key twice": insert(id=1, email=f"{CANARY} too"),
    "null": insert(id=2, email=CANARY, name=None),
    "a check": insert(id=2, email=f"{CANARY} too", age=999),
    "a reference": insert(id=2, email=f"{CANARY} too", friend=f"{CANARY} gone"),
    "a trigger": insert(id=2, email=CANARY, name="tell"),
    "a value of no such type": insert(id=2, age={"of": CANARY}),
    "a bulk load": put_rows((2, f"{CANARY} b", 1, "b"), (3, CANARY, 1, "c")),
    "a bulk load of too much": put_rows((2, f"{CANARY} b", 999, "b")),
    "a statement that is none": run(f"SELECT missing FROM nowhere WHERE '{CANARY}' = %s", CANARY),
}
POSTGRESQL = {
    "a trigger that lies about its rule": insert(id=2, email=CANARY, name="lie"),
    "a text for a number": run("SELECT CAST(%s AS integer)", CANARY),
    "a text for a date": run("SELECT CAST(%s AS date)", CANARY),
    "a text for JSON": run("SELECT CAST(%s AS json)", CANARY),
    "a number out of range": run("SELECT CAST(%s AS integer)", "9" * 20),
    "a bulk load of a text for a number": put_rows((2, "b", CANARY, "b")),
    "a text that is too long": insert(id=2, email=CANARY * 9),
    "NUL": insert(id=2, email=f"{CANARY}\0"),
}
SQLITE = {
    "a text for a number": run("INSERT INTO person (id) VALUES (%s) RETURNING id", CANARY),
    "a text that is none": run(f"SELECT CAST(x'ff{CANARY.encode().hex()}' AS TEXT)"),
    "JSON that is none": run("SELECT json_extract(%s, '$.a')", CANARY),
    "a number that is none": run("SELECT abs(-9223372036854775808), %s", CANARY),
}


def shown(error: BaseException) -> str:
    """Show an error in every way in which logs, results and people do."""
    chain = [error, *filter(None, (error.__cause__, error.__context__, getattr(error, "orig", None)))]
    texts = [f"{one} {one!r} {one.args}" for one in chain]
    return "\n".join([*traceback.format_exception(error), *texts])


def refused(engine: Engine, act: Callable[[Connection], Any]) -> SQLAlchemyError:
    with engine.connect() as connection, connection.begin() as transaction:
        with pytest.raises(SQLAlchemyError) as caught:
            act(connection)
        transaction.rollback()
    return caught.value


@pytest.mark.parametrize("what", [*EITHER, *(f"{one}, on SQLite" for one in SQLITE), *POSTGRESQL])
def test_no_error_quotes_a_value(engine: Engine, what: str) -> None:
    own = POSTGRESQL if engine.dialect.name == "postgresql" else {f"{one}, on SQLite": SQLITE[one] for one in SQLITE}
    act = (EITHER | own).get(what)
    if act is None:
        return  # the other database's
    error = refused(engine, act)
    said = shown(error).replace(f"SELECT missing FROM nowhere WHERE '{CANARY}'", "")
    said = said.replace(CANARY.encode().hex(), "")
    assert CANARY not in said
    assert "9" * 20 not in said


@pytest.mark.parametrize("what", ["a unique value twice", "null", "a check", "a key twice"])
def test_the_rule_that_was_broken_is_named_all_the_same(engine: Engine, what: str) -> None:
    error = refused(engine, EITHER[what])
    assert isinstance(error, IntegrityError)
    assert "constraint" in str(error.orig)
    assert len(str(error.orig).splitlines()) == 1


def test_what_a_trigger_says_is_kept_for_the_dead_letter_alone(engine: Engine) -> None:
    error = refused(engine, EITHER["a trigger"])
    assert isinstance(error, DBAPIError)
    assert f"row {CANARY} is refused" in words(error.orig)
    assert "its words are not shown" in str(error)


def test_a_world_error_quotes_no_value(engine: Engine) -> None:
    with pytest.raises(TransientError) as caught, transient_errors(), engine.connect() as connection:
        EITHER["a statement that is none"](connection)
    assert CANARY not in caught.value.sentence
    assert "nowhere" in caught.value.sentence


def test_what_the_driver_raises_past_sqlalchemy_quotes_no_value(engine: Engine) -> None:
    statement = f"INSERT INTO person (id, email) VALUES (2, '{CANARY}')"
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        with pytest.raises(DBAPIError) as caught, driver_errors(connection, "a load"):
            driver.execute(statement)
    assert CANARY not in shown(caught.value).replace(statement, "")


def test_engines_are_made_in_two_places_ours_and_that_of_people_s_queries_and_hide_parameters(sqlite_url: str) -> None:
    making = {"create_engine", "engine_from_config", "create_async_engine"}
    made = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for text in [path.read_text()]
        if any(name in text for name in making)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in making
    }
    assert made == {"database/engine.py", "reference/sql_handler.py"}
    for url in (sqlite_url, "postgresql+psycopg://nobody@127.0.0.1:1/none"):
        assert make_engine(url).hide_parameters
        assert make_reader(url).hide_parameters


def test_a_plain_sqlite_error_is_left_as_it_is() -> None:
    error = sqlite3.OperationalError("database is locked")
    assert words(error) == "database is locked"
