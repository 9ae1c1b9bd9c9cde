"""What a migration would do to this database, and what a way back would lose: found out without touching a table of it.

Alembic's offline mode can't write these migrations, as they look at the database. So they are run for real where nobody
is: on PostgreSQL in a schema that the same transaction takes back, on SQLite in memory. There tables are empty, so a
statement for each row of one is not among those that are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine
from exchange.database.errors import transient_errors
from exchange.database.locks import busy_for_others, reading
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.operating import migrate
from exchange.operating.revisions import VERSION_TABLE, location

SCHEMA = "exchange_plan"

SCAN_BYTES, REWRITE_BYTES, INDEX_BYTES, ROWS = 150e6, 40e6, 25e6, 50_000
"""What a machine of our days reads, writes anew and sorts into an index in a second, in bytes; and rows it changes."""
_MOMENT = 0.05


@dataclass(frozen=True)
class PlannedStatement(AsDict):
    """One statement of a revision: what it locks, for whom that is in the way, and about how long it takes.

    ``lock`` is PostgreSQL's word, None where nobody has to wait: what is new is known to nobody. Whatever is locked
    stays so until all of the migration is committed. ``seconds`` is reckoned from the table's size as it is now.
    """

    revision: str
    sql: str
    table: str | None
    lock: str | None
    rewrites: bool
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Lost(AsDict):
    """What a way back drops: a table with so many rows, or a column in which so many rows have something."""

    table: str
    column: str | None
    rows: int


@dataclass(frozen=True)
class _Rule:
    """What a statement of a kind does. ``rate`` is how many bytes a second it works through; None: none of them."""

    pattern: re.Pattern[str]
    lock: str | None
    rate: float | None = None
    rewrites: bool = False


_TABLE = r'"?(?P<table>\w+)"?'
_EXCLUSIVE: Final = "ACCESS EXCLUSIVE"


def _rule(pattern: str, lock: str | None, rate: float | None = None, *, new: bool = False) -> _Rule:
    return _Rule(re.compile(pattern.replace("TABLE_NAME", _TABLE), re.IGNORECASE | re.DOTALL), lock, rate, new)


RULES: Final = (
    _rule(r"CREATE (?:UNIQUE )?INDEX \S+ ON TABLE_NAME", "SHARE", INDEX_BYTES),
    _rule(r"ALTER TABLE TABLE_NAME.* ALTER (?:COLUMN )?\S+ (?:SET DATA )?TYPE", _EXCLUSIVE, REWRITE_BYTES, new=True),
    _rule(r"ALTER TABLE TABLE_NAME ADD COLUMN .*(?:GENERATED|DEFAULT [^,]*\()", _EXCLUSIVE, REWRITE_BYTES, new=True),
    _rule(r"ALTER TABLE TABLE_NAME.* SET NOT NULL", _EXCLUSIVE, SCAN_BYTES),
    _rule(r"ALTER TABLE TABLE_NAME ADD (?:CONSTRAINT \S+ )?(?:UNIQUE|PRIMARY KEY)", _EXCLUSIVE, INDEX_BYTES),
    _rule(r"ALTER TABLE TABLE_NAME ADD (?:CONSTRAINT \S+ )?CHECK", _EXCLUSIVE, SCAN_BYTES),
    _rule(r"ALTER TABLE TABLE_NAME", _EXCLUSIVE),
    _rule(r"DROP TABLE TABLE_NAME", _EXCLUSIVE),
    _rule(r"CREATE (?:CONSTRAINT )?TRIGGER .*? ON TABLE_NAME", "SHARE ROW EXCLUSIVE"),
    _rule(r"DROP TRIGGER .*? ON TABLE_NAME", _EXCLUSIVE),
    _rule(r"(?:INSERT INTO|UPDATE|DELETE FROM) TABLE_NAME", "ROW EXCLUSIVE", 0.0),
)
"""What each kind of statement locks, on PostgreSQL; a test compares it with the server's own word."""

_DROP_INDEX = re.compile(r'DROP INDEX "?(?P<index>\w+)"?', re.IGNORECASE)
_CREATE = re.compile(r'CREATE TABLE "?(?P<table>\w+)"?', re.IGNORECASE)
_SILENT = re.compile(r"\s*(?:SELECT|SHOW|SET|PRAGMA|SAVEPOINT|RELEASE|ROLLBACK|BEGIN|WITH)\b", re.IGNORECASE)


def plan_upgrade(engine: Engine, branches: Sequence[str], network: str) -> list[PlannedStatement]:
    """Give each statement by which ``migrate.upgrade`` would bring a database up to this version, in their order.

    Only catalogues of it are read. Raises Busy and TransientError.
    """
    with transient_errors():
        at = migrate.applied_revisions(engine)
        if not migrate.is_behind(engine, branches):
            return []
        with _scratch(engine) as connection, migrate.configured(connection, network) as config:
            present = _brought_to(config, at)
            told = [
                (revision, statement)
                for revision in _pending(branches, present)
                for statement in _recorded(connection, config, revision)
            ]
        with reading(engine) as connection:
            return list(_planned(connection, told))


def plan_downgrade(engine: Engine, network: str, revision: str) -> list[Lost]:
    """Say what goes with tables and columns on the way back to an earlier revision of the core; nothing is changed.

    Raises Busy and TransientError.
    """
    with transient_errors():
        at = migrate.applied_revisions(engine)
        _check_earlier(at, revision)
        with _scratch(engine) as connection, migrate.configured(connection, network) as config:
            _brought_to(config, at)
            before = _columns(connection)
            command.downgrade(config, revision)
            after = _columns(connection)
        gone = before - after
        tables = {table for table, _ in before} - {table for table, _ in after}
        with reading(engine) as connection:
            found = [Lost(table, None, _count(connection, table)) for table in sorted(tables)]
            left = sorted((table, column) for table, column in gone if table not in tables)
            return found + [Lost(table, column, _count(connection, table, column)) for table, column in left]


def _check_earlier(at: Sequence[str], revision: str) -> None:
    core = next((one for one in at if one.startswith(f"{migrate.CORE}_")), None)
    if migrate.later_revisions(at):
        raise TransientError(f"a later version brought it to {core}; nothing was done: take it back with that version")
    known = _all_revisions(migrate.CORE)
    if core is None or revision not in known or revision >= core:
        shown = ", ".join(one for one in known if core and one < core)[-200:] or "none"
        raise TransientError(
            f"expected a revision before {core} ({shown}), found {printable(revision, 80)}; nothing was done"
        )


# The scratch


@contextmanager
def _scratch(engine: Engine) -> Iterator[Connection]:
    """Give a connection to an empty place of the same kind of database, of which nothing stays."""
    if not dialect_of(engine).is_postgresql:
        empty = make_engine("sqlite://")
        try:
            with empty.connect() as connection, connection.begin() as transaction:
                yield connection
                transaction.rollback()
        finally:
            empty.dispose()
        return
    with busy_for_others(engine, "the database"), engine.connect() as connection, connection.begin() as transaction:
        try:
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        except DBAPIError as error:
            raise TransientError(
                "this role may not make a schema in the database, in which the migrations would be tried; nothing was"
                " done: GRANT CREATE ON DATABASE, or read the files of migrations/versions"
            ) from error
        connection.exec_driver_sql(f"SET LOCAL search_path = {SCHEMA}")
        yield connection
        transaction.rollback()


def _brought_to(config: Config, at: Sequence[str]) -> dict[str, str]:
    """Make the tables of the revisions that a database is at; give those, by their branches."""
    present = {one.rpartition("_")[0]: one for one in at}
    for branch in (migrate.CORE, migrate.REFERENCE):
        if branch in present:
            command.upgrade(config, present[branch])
    return present


def _pending(branches: Sequence[str], present: dict[str, str]) -> list[str]:
    return [one for branch in branches for one in _all_revisions(branch) if one > present.get(branch, "")]


def _all_revisions(branch: str) -> list[str]:
    return sorted("_".join(file.stem.split("_")[:2]) for file in (location() / "versions").glob(f"{branch}_*.py"))


def _recorded(connection: Connection, config: Config, revision: str) -> list[str]:
    """Run one revision, and give the statements that change something."""
    told: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: Any) -> None:
        if not _SILENT.match(statement) and VERSION_TABLE not in statement:
            told.append(statement.strip())

    event.listen(connection, "before_cursor_execute", note)
    try:
        command.upgrade(config, revision)
    finally:
        event.remove(connection, "before_cursor_execute", note)
    return told


def _columns(connection: Connection) -> set[tuple[str, str]]:
    inspector = sa.inspect(connection)
    return {
        (table, column["name"])
        for table in inspector.get_table_names(schema=SCHEMA if dialect_of(connection).is_postgresql else None)
        for column in inspector.get_columns(table)
    }


# What is known of the tables as they are


def _planned(connection: Connection, told: list[tuple[str, str]]) -> Iterator[PlannedStatement]:
    new: set[str] = set()
    for revision, sql in told:
        if made := _CREATE.match(sql):
            new.add(made["table"])
        table, rule = _judged(connection, sql)
        if rule is None or table is None or table in new:
            yield PlannedStatement(revision, sql, table, None, rewrites=False, rows=0, bytes=0, seconds=_MOMENT)
            continue
        rows, size = _size(connection, table)
        seconds = _MOMENT if rule.rate is None else size / rule.rate if rule.rate else rows / ROWS
        lock = rule.lock if dialect_of(connection).is_postgresql else "the whole file, for writers"
        yield PlannedStatement(revision, sql, table, lock, rule.rewrites, rows, size, max(round(seconds, 2), _MOMENT))


def _judged(connection: Connection, sql: str) -> tuple[str | None, _Rule | None]:
    """Say which table a statement is about, and what it does to it."""
    if dropped := _DROP_INDEX.match(sql):
        return _table_of_index(connection, dropped["index"]), _Rule(_DROP_INDEX, _EXCLUSIVE)
    for rule in RULES:
        if found := rule.pattern.match(sql):
            return found["table"], rule
    return None, None


def _table_of_index(connection: Connection, index: str) -> str | None:
    inspector = sa.inspect(connection)
    return next(
        (
            table
            for table in inspector.get_table_names()
            if index in {one["name"] for one in inspector.get_indexes(table)}
        ),
        None,
    )


def _size(connection: Connection, table: str) -> tuple[int, int]:
    """Say how many rows a table has about, and bytes: of SQLite's, which does not tell, a row is taken for 200."""
    if not sa.inspect(connection).has_table(table):
        return 0, 0
    if dialect_of(connection).is_postgresql:
        asked = "SELECT greatest(reltuples, 0)::bigint, pg_table_size(oid) FROM pg_class WHERE oid = to_regclass(:name)"
        row = connection.execute(sa.text(asked), {"name": f'"{table}"'}).one()
        return int(row[0]), int(row[1])
    rows = _count(connection, table)
    return rows, rows * 200


def _count(connection: Connection, table: str, column: str | None = None) -> int:
    counted = sa.func.count(sa.column(column)) if column else sa.func.count()
    return int(connection.scalar(sa.select(counted).select_from(sa.table(table))) or 0)
