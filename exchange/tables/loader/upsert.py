"""Staged records into the application's tables: one upsert and one delete per stream.

What the database refuses although every check passed is found by halving.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from exchange.database.dialects import dialect_of
from exchange.database.errors import is_transient, refuses_a_record
from exchange.database.redact import code as code_of
from exchange.database.redact import words as said
from exchange.database.tables import VERSION_COLUMN, tombstone
from exchange.format.errors import printable
from exchange.format.record import Op
from exchange.tables.capture.sql import run
from exchange.tables.loader.checks import Refusal, park, passing_values, pointer_to
from exchange.tables.loader.constraints import Unique
from exchange.tables.loader.copy import goes_on
from exchange.tables.loader.staging import KEY, LINE, Stage, applying, equal
from exchange.tables.loader.writing import Writing

Statements = Callable[[sa.ColumnElement[bool]], Sequence[sa.Executable]]


def upsert_newer(stage: Stage) -> int:
    """Insert every applying row in one statement, or update an older one. Give how many were written.

    Raises DBAPIError if the database refuses one of them: then all are as they were only after a rollback. Runs in the
    caller's savepoint.
    """
    statement = _upsert_statement(stage, sa.true(), only_newer=True)
    return stage.connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def upsert(stage: Stage, most: int, late: Collection[str] = ()) -> list[Refusal]:
    """Insert or update every applying upsert of a stream; give those that the database refused or dropped.

    Runs in the load's transaction, each try within a savepoint; beyond ``most`` refusals it looks no further.
    Constraints of the names ``late`` are not left to its end. Raises DBAPIError for what is not a row's fault.
    """
    if stage.traits.has_arbiter or stage.writing is Writing.INSERT:
        return _write(stage, Op.UPSERT, lambda lines: [_upsert_statement(stage, lines)], most, late)
    return _write(stage, Op.UPSERT, lambda lines: _update_and_insert(stage, lines), most, late)


def delete(stage: Stage, most: int, late: Collection[str] = ()) -> list[Refusal]:
    """Delete every applying key of a stream; give those that the database refused. Runs as ``upsert`` does."""
    stage.deleted = 0
    return _write(stage, Op.DELETE, lambda lines: [_delete_statement(stage, lines)], most, late)


def keep_tombstones(stage: Stage) -> None:
    """Remember what was deleted, and forget the tombstones of what came back. Runs in the load's transaction.

    Not of own rows, of which no older record can come.
    """
    if stage.writing.is_own:
        return
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
        if isinstance(error, DBAPIError) and not refuses_a_record(error):
            raise
        refusals = {
            line: Refusal(
                line,
                "unique",
                pointer_to(stage.stream, unique.columns[0]),
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
    """Make a value that a row may hold in passing, while others take the one it had: most likely no other row's."""
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
    staged, names = stage.table, stage.names
    rows = sa.select(*(staged.c[name] for name in names)).where(applying(staged, Op.UPSERT), lines)
    insert = dialect_of(stage.connection).insert(stage.target).from_select(names, rows)
    if stage.writing is Writing.INSERT:
        return insert  # type: ignore[no-any-return]
    keys = [column.name for column in stage.stream.key]
    newer = None
    if only_newer and not stage.writing.is_own:
        version = stage.target.c[VERSION_COLUMN]
        newer = sa.or_(version.is_(None), version < insert.excluded[VERSION_COLUMN])
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=keys,
        set_={name: insert.excluded[name] for name in names if name not in keys or len(names) == len(keys)},
        where=newer,
    )
    return statement


def respell_keys(stage: Stage) -> None:
    """Rename rows whose key only gets another spelling in this batch: to the database both are one key.

    Runs in the load's transaction, before the upsert, which then finds the row.
    """
    staged, target, leaving = stage.table, stage.target, stage.table.alias("leaving")
    leaves = sa.exists().where(stage.same_key(leaving, target), applying(leaving, Op.DELETE))
    names = tuple(str(column.name) for column in stage.stream.key)
    new = [staged.c[name] for name in names]
    stage.connection.execute(
        sa.update(target)
        .where(*equal(target, names, new), ~stage.same_key(target, staged), applying(staged, Op.UPSERT), leaves)
        .values({name: staged.c[name] for name in names})
    )


def _update_and_insert(stage: Stage, lines: sa.ColumnElement[bool]) -> list[sa.Executable]:
    """Write where ON CONFLICT can't name the key: its index is checked late or is none, or rules stand in the way."""
    staged, target, names = stage.table, stage.target, stage.names
    keys = {column.name for column in stage.stream.key}
    mine = (applying(staged, Op.UPSERT), lines)
    update = sa.update(target).where(stage.same_key(target, staged), *mine)
    missing = ~sa.exists().where(stage.same_key(target, staged)).correlate(staged)
    rows = sa.select(*(staged.c[name] for name in names)).where(*mine, missing)
    return [
        update.values({name: staged.c[name] for name in names if name not in keys}),
        sa.insert(target).from_select(names, rows),
    ]


def _delete_statement(stage: Stage, lines: sa.ColumnElement[bool]) -> sa.Executable:
    # IN, not EXISTS: SQLite would ask that of every row of the table.
    if stage.alike:
        leaving = sa.exists().where(stage.same_key(stage.target, stage.table), applying(stage.table, Op.DELETE), lines)
        return sa.delete(stage.target).where(leaving)
    keys = sa.select(*stage.key(stage.table)).where(applying(stage.table, Op.DELETE), lines)
    return sa.delete(stage.target).where(sa.tuple_(*stage.key(stage.target)).in_(keys))


def _write(stage: Stage, op: Op, statements: Statements, most: int, late: Collection[str]) -> list[Refusal]:
    """Write all applying lines at once; where the database refuses a row, each half of them by itself.

    Constraints of the names ``late`` are looked at with each part. Beyond ``most`` refusals the rest is left.
    """
    number = stage.table.c[LINE]
    first, last, there = stage.connection.execute(
        sa.select(sa.func.min(number), sa.func.max(number), sa.func.count()).where(applying(stage.table, op))
    ).one()
    refusals: list[Refusal] = []
    ranges = [] if first is None else [(first, last)]
    done = 0
    while ranges and len(refusals) <= most:
        first, last = ranges.pop()
        try:
            with stage.connection.begin_nested():
                written = sum(_rowcount(stage, one) for one in statements(number.between(first, last)))
                if late:
                    check_now(stage.connection, late)
                if stage.writing.is_own and op is Op.UPSERT:
                    _expect(written, stage, (first, last))
        except (DBAPIError, _SomeDropped) as error:
            if isinstance(error, DBAPIError) and not (refuses_a_record(error) and goes_on(stage.connection)):
                raise
            if first < last:
                middle = (first + last) // 2
                ranges += [(middle + 1, last), (first, middle)]
            elif isinstance(error, DBAPIError):
                refusals += park(stage, [refusal(stage, first, error, op)])
            else:
                refusals += park(stage, [_drop(stage, first, op)])
        else:
            done += written
    stage.deleted += done if op is Op.DELETE else 0
    if done < there - len(refusals):
        refusals += park(stage, _dropped(stage, op))
    return refusals


class _SomeDropped(Exception):  # noqa: N818 - never leaves this module
    """Fewer own rows are there than were written, and nothing of theirs tells which: halving finds them."""


def _expect(written: int, stage: Stage, lines: tuple[int, int]) -> None:
    here = stage.table.c[LINE].between(*lines)
    counting = sa.select(sa.func.count()).where(applying(stage.table, Op.UPSERT), here)
    if written < (stage.connection.scalar(counting) or 0):
        raise _SomeDropped


def _rowcount(stage: Stage, statement: sa.Executable) -> int:
    done: int = stage.connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
    return done


def check_now(connection: Connection, late: Collection[str]) -> None:
    """Have constraints that wait for the end looked at now, and wait again. Raises DBAPIError if a row breaks one."""
    names = ", ".join(late)
    run(connection, f"SET CONSTRAINTS {names} IMMEDIATE")
    run(connection, f"SET CONSTRAINTS {names} DEFERRED")


def _dropped(stage: Stage, op: Op) -> list[Refusal]:
    """Find what was written and did not take effect: the database said nothing, and the row is as it was."""
    staged, target = stage.table, stage.target
    here = sa.exists().where(stage.same_key(target, staged))
    dropped: sa.ColumnElement[bool] = here
    if op is Op.UPSERT:
        dropped = ~here.where(target.c[VERSION_COLUMN] >= staged.c[VERSION_COLUMN])
    lines = stage.connection.scalars(sa.select(staged.c[LINE]).where(applying(staged, op), dropped)).all()
    return [_drop(stage, line, op) for line in lines]


def _drop(stage: Stage, line: int, op: Op) -> Refusal:
    who = f"its {triggers_of(stage)}" if stage.traits.triggers else "something in the database (a trigger, a rule)"
    return Refusal(
        line,
        "dropped",
        "/data" if op is Op.UPSERT else "/key",
        f"{who} dropped this {op} of {stage.target.name} without a word; it is parked: let what the exchange writes"
        " pass (see CHANNELS.md), then retry it",
        ", ".join(stage.traits.triggers),
    )


def triggers_of(stage: Stage) -> str:
    """Name a table's triggers that may change or drop rows, for a person."""
    names = stage.traits.triggers
    return f"trigger{'s' if len(names) > 1 else ''} {', '.join(map(printable, names))}"


def park_cut_values(stage: Stage) -> list[Refusal]:
    """Park upserts of which a column of a narrower type kept less; they are written, so their caller rolls back."""
    staged, target = stage.table, stage.target
    refusals = []
    for name in stage.traits.narrower:
        same, cut = stage.same_key(target, staged), staged.c[name].is_distinct_from(target.c[name])
        if any(name == column.name for column in stage.stream.key):  # then no row has the key that was sent
            cut = ~sa.exists().where(same).correlate(staged)
            same = sa.true()
        asking = sa.select(staged.c[LINE]).where(applying(staged, Op.UPSERT), same, cut)
        refusals += [
            Refusal(
                line,
                "database",
                pointer_to(stage.stream, name),
                f"column {printable(name)} of {target.name} keeps less of this value than was sent, as its type is"
                " narrower there than in the model; it is parked",
                name,
            )
            for line in stage.connection.scalars(asking)
        ]
    return park(stage, refusals)


def count_changed(stage: Stage) -> int:
    """Count upserts whose rows are other ones than were written: the table's triggers changed them."""
    staged, target = stage.table, stage.target
    keys = {column.name for column in stage.stream.key}
    columns = [column.name for column in stage.stream.columns if column.name not in keys]
    if not stage.traits.triggers or not columns or stage.writing.is_own:
        return 0
    pairs = ((_comparable(stage, staged.c[one]), _comparable(stage, target.c[one])) for one in columns)
    differs = sa.or_(*(ours.is_distinct_from(theirs) for ours, theirs in pairs))
    counting = sa.select(sa.func.count()).where(applying(staged, Op.UPSERT), stage.same_key(target, staged), differs)
    try:
        with stage.connection.begin_nested():
            return stage.connection.scalar(counting) or 0
    except DBAPIError as error:  # a column of a type that has no equality: the comparison of both sides will tell
        if is_transient(error):
            raise
        return 0


_HAVE_EQUALITY = (sa.String, sa.Integer, sa.Numeric, sa.DateTime, sa.Date, sa.Time, sa.Boolean, sa.LargeBinary, sa.Uuid)


def _comparable(stage: Stage, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Give a column as a value that has an equality: JSON and some other types have none on PostgreSQL."""
    if not dialect_of(stage.connection).is_postgresql or isinstance(column.type, _HAVE_EQUALITY):
        return column
    kind = column.type.dialect_impl(stage.connection.dialect)
    return sa.cast(column, postgresql.JSONB if isinstance(kind, sa.JSON) else sa.Text)


def refusal(stage: Stage, line: int, error: DBAPIError, op: Op) -> Refusal:
    """Word why the database did not take one record."""
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
        f"the database refused this {op} of {stage.target.name}: {words}; it is parked{_until(error)}",
        code if quoting else constraint or words,
    )


def _until(error: DBAPIError) -> str:
    """Say what is to be done about what lies at the table, not at the record."""
    if not _has_no_partition(error):
        return ""
    return " until somebody makes a partition for it (CREATE TABLE ... PARTITION OF), or a default one, and retries it"


def _has_no_partition(error: DBAPIError) -> bool:
    """Say whether a row belongs to a partition that is not there; a trigger may have chosen the same code."""
    function = getattr(getattr(error.orig, "diag", None), "source_function", None)
    return code_of(error.orig) == "23514" and function == _LOOKS_FOR_A_PARTITION


_LOOKS_FOR_A_PARTITION = "ExecFindPartition"
"""The server's function that says so."""


_RULES_OF_SQLITE = {
    f"SQLITE_CONSTRAINT_{kind}" for kind in ("CHECK", "NOTNULL", "UNIQUE", "PRIMARYKEY", "FOREIGNKEY", "DATATYPE")
}


def _names_what_it_refuses(error: DBAPIError) -> bool:
    """Say whether the words name a table's column or rule, and therefore no value."""
    column = getattr(getattr(error.orig, "diag", None), "column_name", None)
    return column is not None or code_of(error.orig) in _RULES_OF_SQLITE or _has_no_partition(error)


def _words(error: BaseException) -> str:
    """Give the database's own words, the first line of them, without the statement and its values."""
    original = getattr(error, "orig", None)
    diag = getattr(original, "diag", None)
    text = getattr(diag, "message_primary", None) or said(original or error)
    return printable(text.splitlines()[0] if text else type(original).__name__, 300)
