"""Staged records into the application's tables: one upsert and one delete per stream.

What the database refuses although every check passed is found by halving.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from exchange.database.dialects import dialect_of
from exchange.database.redact import code as code_of
from exchange.database.redact import words as said
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.format.errors import printable
from exchange.format.record import Op
from exchange.tables.loader.checks import Refusal, park, passing_values
from exchange.tables.loader.constraints import Unique
from exchange.tables.loader.copy import refuses_the_row
from exchange.tables.loader.staging import KEY, LINE, Stage, applying, column_names

Statement = Callable[[sa.ColumnElement[bool]], sa.Executable]


def upsert_newer(stage: Stage) -> int:
    """Insert every applying row in one statement, or update an older one. Give how many were written.

    Raises DBAPIError if the database refuses one of them: then all are as they were only after a rollback. Runs in the
    caller's savepoint.
    """
    statement = _upsert_statement(stage, sa.true(), only_newer=True)
    return stage.connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def upsert(stage: Stage) -> list[Refusal]:
    """Insert or update every applying upsert of a stream; give those that the database refused.

    Runs in the load's transaction, each try within a savepoint. Raises DBAPIError for what is not a row's fault.
    """
    return _write(stage, Op.UPSERT, lambda lines: _upsert_statement(stage, lines))


def delete(stage: Stage) -> list[Refusal]:
    """Delete every applying key of a stream; give those that the database refused. Runs as ``upsert`` does."""
    stage.deleted = 0
    return _write(stage, Op.DELETE, lambda lines: _delete_statement(stage, lines))


def keep_tombstones(stage: Stage) -> None:
    """Remember what was deleted, and forget the tombstones of what came back. Runs in the load's transaction."""
    staged = stage.table
    name = stage.stream.name
    if stage.deletes:
        deletes = sa.select(sa.literal(name), staged.c[KEY], staged.c[VERSION_COLUMN]).where(
            applying(staged, Op.DELETE)
        )
        insert = dialect_of(stage.connection).insert(tombstone).from_select(["stream", "key", "version"], deletes)
        stage.connection.execute(
            insert.on_conflict_do_update(index_elements=["stream", "key"], set_={"version": insert.excluded.version})
        )
    returned = sa.select(staged.c[KEY]).where(applying(staged, Op.UPSERT))
    if stage.deletes < stage.rows:
        stage.connection.execute(sa.delete(tombstone).where(tombstone.c.stream == name, tombstone.c.key.in_(returned)))


def free_unique_values(stage: Stage, unique: Unique) -> tuple[set[int], list[Refusal]]:
    """Free unique values that pass from one row to another within this batch, so that the upsert may set them.

    Databases check uniqueness row by row, so a swap fails in any order: each row that gives up its value gets a passing
    one first. Where the column can't take such a value, both records are parked. Gives the lines of the rows that gave
    theirs up, and the refusals. Runs in the load's transaction, within a savepoint. Raises DBAPIError for what is not a
    row's fault.
    """
    rows = stage.connection.execute(passing_values(stage, unique)).all()
    if not rows:
        return set(), []
    target = stage.target
    column = _replaceable(stage, unique)
    keys = {tuple(row[2:]) for row in rows}
    try:
        with stage.connection.begin_nested():
            for key in keys:
                mine = (c == value for c, value in zip(stage.key(target), key, strict=True))
                stage.connection.execute(sa.update(target).where(*mine).values({column.name: _temporary_value(column)}))
    except StatementError as error:  # also from SQLAlchemy itself, of a type that takes no text
        if isinstance(error, DBAPIError) and not refuses_the_row(error):
            raise
        refusals = {
            line: Refusal(
                line,
                "unique",
                f"/data/{unique.columns[0]}",
                f"lines {row[0]} and {row[1]} pass a value of {unique.name} between two rows, and the database"
                f" did not let the row {', '.join(printable(str(part)) for part in row[2:])} give it up first"
                f" ({_words(error)}); both are parked",
                unique.name,
            )
            for row in rows
            for line in row[:2]
        }
        return set(), park(stage, list(refusals.values()))
    return {row[1] for row in rows}, []


def _replaceable(stage: Stage, unique: Unique) -> sa.Column[Any]:
    """The column of a unique constraint that takes a passing value most easily: a nullable one if there is one."""
    columns = [column for column in stage.stream.columns if column.name in unique.columns]
    return min(columns, key=lambda column: (not column.nullable, column.primary_key, bool(column.foreign_keys)))


def _temporary_value(column: sa.Column[Any]) -> Any:
    if column.nullable:
        return None
    kind: type = column.type.python_type
    if kind is int:
        return -secrets.randbelow(2**31)
    if kind is uuid.UUID:
        return uuid.uuid4()
    if kind is bytes:
        return secrets.token_bytes(16)
    if issubclass(kind, date):  # a date-time, too
        return kind(1 + secrets.randbelow(9998), 1 + secrets.randbelow(12), 1 + secrets.randbelow(28))
    text = secrets.token_hex(16)
    return text[: getattr(column.type, "length", None) or len(text)]


def _upsert_statement(stage: Stage, lines: sa.ColumnElement[bool], *, only_newer: bool = False) -> sa.Executable:
    staged, names = stage.table, column_names(stage.stream)
    rows = sa.select(*(staged.c[name] for name in names)).where(applying(staged, Op.UPSERT), lines)
    insert = dialect_of(stage.connection).insert(stage.target).from_select(names, rows)
    keys = [column.name for column in stage.stream.key]
    version = stage.target.c[VERSION_COLUMN]
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=keys,
        set_={name: insert.excluded[name] for name in names if name not in keys},
        where=sa.or_(version.is_(None), version < insert.excluded[VERSION_COLUMN]) if only_newer else None,
    )
    return statement


def _delete_statement(stage: Stage, lines: sa.ColumnElement[bool]) -> sa.Executable:
    # IN, not EXISTS: SQLite would ask that of every row of the table.
    keys = sa.select(*stage.key(stage.table)).where(applying(stage.table, Op.DELETE), lines)
    return sa.delete(stage.target).where(sa.tuple_(*stage.key(stage.target)).in_(keys))


def _write(stage: Stage, op: Op, statement: Statement) -> list[Refusal]:
    """Write all applying lines at once; where the database refuses a row, each half of them by itself."""
    number = stage.table.c[LINE]
    first, last = stage.connection.execute(
        sa.select(sa.func.min(number), sa.func.max(number)).where(applying(stage.table, op))
    ).one()
    refusals: list[Refusal] = []
    ranges = [] if first is None else [(first, last)]
    while ranges:
        first, last = ranges.pop()
        try:
            with stage.connection.begin_nested():
                done = stage.connection.execute(statement(number.between(first, last)))
            stage.deleted += done.rowcount if op is Op.DELETE else 0
        except DBAPIError as error:
            if not refuses_the_row(error):
                raise
            if first == last:
                refusals += park(stage, [_refusal(stage, first, error, op)])
            else:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
    return refusals


def _refusal(stage: Stage, line: int, error: DBAPIError, op: Op) -> Refusal:
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None) or ""
    words, code = _words(error), code_of(error.orig)
    # Words of a trigger's or of a conversion may quote a value: no two of them are one cause, and some are secret.
    quoting = not constraint and not _names_what_it_refuses(error)
    if quoting and stage.stream.sensitive:
        words = f"its words are not shown ({code})"
    return Refusal(
        line,
        "constraint" if isinstance(error, IntegrityError) else "database",
        "/data" if op is Op.UPSERT else "/key",
        f"the database refused this {op} of {stage.target.name}: {words}; it is parked",
        code if quoting else constraint or words,
    )


_RULES_OF_SQLITE = {
    f"SQLITE_CONSTRAINT_{kind}" for kind in ("CHECK", "NOTNULL", "UNIQUE", "PRIMARYKEY", "FOREIGNKEY", "DATATYPE")
}


def _names_what_it_refuses(error: DBAPIError) -> bool:
    """Say whether the words name a table's column or rule, and therefore no value."""
    column = getattr(getattr(error.orig, "diag", None), "column_name", None)
    return column is not None or code_of(error.orig) in _RULES_OF_SQLITE


def _words(error: BaseException) -> str:
    """Give the database's own words, the first line of them, without the statement and its values."""
    original = getattr(error, "orig", None)
    diag = getattr(original, "diag", None)
    text = getattr(diag, "message_primary", None) or said(original or error)
    return printable(text.splitlines()[0] if text else type(original).__name__, 300)
