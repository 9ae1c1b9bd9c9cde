"""What the live database says of the tables: the exchange's own checks, asked beforehand, and what only shows there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.encodings import narrow_encoding
from exchange.database.tables import VERSION_COLUMN
from exchange.operating.adopt.models import Model
from exchange.operating.adopt.plan import Candidate
from exchange.operating.adopt.remark import Remark, Severity, of_problems
from exchange.tables.capture.sql import TableName
from exchange.tables.capture.triggers import read_catalogue
from exchange.tables.loader.constraints import reflect
from exchange.tables.loader.fitness import indistinct, missing_columns, narrower_models, unfit, unwritable
from exchange.tables.loader.traits import traits_of
from exchange.tables.passing import passing

RECEIVING = 'CHANNELS.md, "The receiving table"'
_OWN = re.compile(r"exchange_|alembic_version$")


@dataclass(frozen=True)
class Trigger:
    """A trigger of the application's: as the database defines it, and whether it may change a row that is written."""

    name: str
    definition: str
    changes_rows: bool
    source: str
    """The text of what it runs."""


@dataclass(frozen=True)
class Seen:
    """What the database has of one table. ``rows`` is an estimate of its own; None where there is none."""

    kind: str
    rows: int | None
    bytes: int
    triggers: tuple[Trigger, ...] = ()
    late: frozenset[str] = field(default_factory=frozenset)
    """Foreign keys that may be checked late."""


def see(connection: Connection, models: Sequence[Model]) -> dict[str, Seen]:
    """Read what the catalogue has of tables, by their keys; those that are missing are left out.

    Reads in the caller's transaction, a few statements for all of them.
    """
    return (
        _on_postgresql(connection, models) if dialect_of(connection).is_postgresql else _on_sqlite(connection, models)
    )


_TABLES = sa.text("""
SELECT n.number, c.relkind AS kind,
  (SELECT sum(k.reltuples) FROM pg_class k WHERE k.relkind IN ('r', 'm') AND k.oid IN
    (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))) AS rows,
  (SELECT bool_or(k.reltuples < 0) FROM pg_class k WHERE k.relkind IN ('r', 'm') AND k.oid IN
    (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))) AS unknown,
  (SELECT sum(pg_table_size(k.oid)) FROM pg_class k WHERE k.oid IN
    (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))) AS bytes,
  ARRAY(SELECT CAST(o.conname AS text) FROM pg_constraint o
    WHERE o.conrelid = c.oid AND o.contype = 'f' AND o.condeferrable) AS late
FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS n (name, number) JOIN pg_class c ON c.oid = to_regclass(n.name)
""")

_TRIGGERS = sa.text("""
SELECT n.number, t.tgname AS name, pg_get_triggerdef(t.oid) AS definition, t.tgtype & 3 = 3 AS before,
  encode(t.tgargs, 'escape') || ' ' || p.proname || ' ' || p.prosrc AS source
FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS n (name, number)
JOIN pg_trigger t ON t.tgrelid = to_regclass(n.name) JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgname NOT LIKE 'exchange\\_%' AND t.tgenabled IN ('O', 'A') ORDER BY t.tgname
""")


def _on_postgresql(connection: Connection, models: Sequence[Model]) -> dict[str, Seen]:
    names = {"names": [str(TableName(model.table.name, model.table.schema)) for model in models]}
    triggers: dict[int, list[Trigger]] = defaultdict(list)
    for row in connection.execute(_TRIGGERS, names):
        triggers[row.number].append(Trigger(row.name, row.definition, row.before, row.source))
    return {
        models[row.number - 1].key: Seen(
            kind=row.kind,
            rows=None if row.unknown else int(row.rows or 0),
            bytes=int(row.bytes or 0),
            triggers=tuple(triggers[row.number]),
            late=frozenset(row.late),
        )
        for row in connection.execute(_TABLES, names)
    }


_WRITES_ROWS = re.compile(r"\b(?:update|replace|raise\s*\(\s*ignore)\b", re.IGNORECASE)


def _on_sqlite(connection: Connection, models: Sequence[Model]) -> dict[str, Seen]:
    master = connection.exec_driver_sql("SELECT type, name, lower(tbl_name) AS of, sql FROM sqlite_master").all()
    kinds = {row.name.lower(): row.type for row in master if row.type in {"table", "view"}}
    triggers: dict[str, list[Trigger]] = defaultdict(list)
    for row in master:
        if row.type == "trigger" and not row.name.startswith("exchange_"):
            body = row.sql.partition("BEGIN")[2] or row.sql
            triggers[row.of].append(Trigger(row.name, row.sql, bool(_WRITES_ROWS.search(body)), body))
    found = {}
    for model in models:
        name = str(model.table.name).lower()
        if name in kinds and model.table.schema is None:
            kind = "r" if kinds[name] == "table" else "v"
            found[model.key] = Seen(kind, None, 0, tuple(triggers[name]))
    return found


_VIEWS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


def left_out(model: Model, seen: Mapping[str, Seen]) -> Remark | None:
    """Say why a table can't cross as the database has it; None if nothing of this kind is in the way."""
    there = seen.get(model.key)
    if there is None:
        remedy = "run the application's migrations first, or correct the model"
        return Remark(Severity.STOPS, model.key, "is not in this database", remedy)
    if there.kind in _VIEWS:
        said = f"is {_VIEWS[there.kind]}, on which no change can be captured"
        return Remark(Severity.STOPS, model.key, said, "have the tables below it cross; each side keeps its own view")
    return None


def remarks_on(connection: Connection, one: Candidate, seen: Seen) -> Iterator[Remark]:
    """Say what of a table matters: whether this side can send it, and what the other side's, made alike, does to rows.

    Reads in the caller's transaction.
    """
    stream, table = one.stream, one.model.key
    place = TableName(stream.table.name, stream.table.schema)
    catalogue = read_catalogue(connection, [place])
    if catalogue.find(place) is not None:
        stopping = [problem for problem in (catalogue.hides_rows(place), catalogue.refusal(place)) if problem]
        yield from of_problems(Severity.STOPS, table, stopping)
        as_other = catalogue.captured_as(place)
        if as_other is not None and as_other != stream.name:
            said = f"is captured already, as stream {as_other}"
            yield Remark(Severity.STOPS, table, said, f"take that away first: op.drop_capture({stream.table.name!r})")
    if seen.kind == "p":
        yield Remark(Severity.NOTE, table, "is partitioned: captured at the parent, whichever way a row is written")
    yield from of_problems(Severity.STOPS, table, missing_columns(connection, stream))
    yield from _on_columns(connection, one)
    yield from of_problems(Severity.LOSES, table, indistinct(connection, stream))
    yield from of_problems(Severity.LOSES, table, unwritable(connection, stream))
    yield from of_problems(Severity.LOSES, table, narrower_models(connection, stream))
    passed = {trigger.name for trigger in to_pass(one, seen)}
    for problem in unfit(connection, stream):
        if not problem.message.startswith("triggers of table"):  # told of one by one
            yield Remark(Severity.LOSES, table, problem.message, problem.remedy)
    yield from _on_triggers(one, seen, passed)
    traits = traits_of(connection, stream)
    if traits.deferrable:
        said = f"a key that is checked late ({', '.join(traits.deferrable)}): rows are written at about half the speed"
        yield Remark(Severity.NOTE, table, said)


def to_pass(one: Candidate, seen: Seen) -> list[Trigger]:
    """Give the triggers that change rows, and that what the exchange writes should pass.

    Not those that fill a column which does not cross: the receiving side needs them.
    """
    stays = [str(column.name) for column in one.stream.table.columns if column not in {*one.stream.columns}]
    filling = re.compile(rf"\b(?:{'|'.join(map(re.escape, stays))})\b") if stays else None
    return [
        trigger
        for trigger in seen.triggers
        if trigger.changes_rows and not (filling and filling.search(trigger.source)) and passing(trigger.definition)
    ]


def _on_triggers(one: Candidate, seen: Seen, passed: set[str]) -> Iterator[Remark]:
    for trigger in seen.triggers:
        if trigger.name in passed:
            said = "would change what is received: the migration has it pass what the exchange writes (op.pass_imports)"
            yield Remark(Severity.NOTE, one.model.key, said, trigger=trigger.name)
        elif not trigger.changes_rows:
            said = "fires on the receiving side as well, for what is received there"
            remedy = "what it writes into a table that crosses, too, is written twice: let it pass (op.pass_imports)"
            yield Remark(Severity.NOTE, one.model.key, said, remedy, trigger=trigger.name)
        else:
            said = "goes on changing what is received: it fills a column that does not cross, or can't be made to pass"
            remedy = f"see that it changes no other column; {RECEIVING}"
            yield Remark(Severity.LOSES, one.model.key, said, remedy, trigger=trigger.name)


def _on_columns(connection: Connection, one: Candidate) -> Iterator[Remark]:
    """Say what columns the model does not know, and of the key whether its numbers are drawn here alone."""
    table = one.stream.table
    keys = {str(column.name) for column in one.stream.key}
    known = {str(column.name) for column in table.columns} | {VERSION_COLUMN}
    for column in sa.inspect(connection).get_columns(table.name, table.schema):
        if column["name"] not in known:
            said = "is in the table and not in the model: it does not cross"
            yield Remark(Severity.LOSES, one.model.key, said, "add it to the model if it is to", column["name"])
        drawn = column.get("identity") is not None or "nextval(" in str(column.get("default"))
        if column["name"] in keys and drawn:
            said = "its numbers are drawn here; over there the counter stays where it is"
            remedy = "for the day when the roles change: op.install_capture(..., advance_identity=True)"
            yield Remark(Severity.NOTE, one.model.key, said, remedy, column["name"])


def remarks_on_all(connection: Connection, models: Sequence[Model], chosen: Sequence[Candidate]) -> Iterator[Remark]:
    """Say what the database has that the models don't know, and what it can't store."""
    narrow = narrow_encoding(connection)
    if narrow is not None:
        said = f"the database is in {narrow.name}: records with characters that it lacks are parked"
        yield Remark(Severity.LOSES, "", said, "the receiving side's is better in UTF8")
    known = {(model.table.schema, str(model.table.name)) for model in models}
    default = connection.dialect.default_schema_name
    for schema in sorted({model.table.schema for model in models}, key=str):
        there = sa.inspect(connection).get_table_names(schema=schema)
        parts = _partitions(connection)
        beside = sorted(
            name
            for name in there
            if (schema, name) not in known and not _OWN.match(name) and (schema or default, name) not in parts
        )
        if beside:
            said = f"tables without a model do not cross: {', '.join(beside)}"
            yield Remark(Severity.NOTE, "", said, "reflect them into the models if they are to")
    yield from _unknown_references(connection, chosen)


def _partitions(connection: Connection) -> set[tuple[Any, str]]:
    if not dialect_of(connection).is_postgresql:
        return set()
    parts = sa.text(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relispartition"
    )
    return {(row.nspname, row.relname) for row in connection.execute(parts)}


def _unknown_references(connection: Connection, chosen: Sequence[Candidate]) -> Iterator[Remark]:
    """Say which foreign keys the database has beside those of the models, by which rows are put into order."""
    constraints = reflect(connection, [one.stream.table for one in chosen])
    for one in chosen:
        model_has = {
            (frozenset(constraint.column_keys), constraint.elements[0].target_table_key)
            for constraint in one.stream.table.foreign_key_constraints
        }
        parents = {to for _, to in model_has}
        for key in constraints.of(one.model.key):
            if key.referred not in parents and key.referred != one.model.key:
                said = f"foreign key {key.name} to {key.referred} is in the table and not in the model"
                remedy = "add it to the model, so that parents are written first: else rows may be parked for a while"
                yield Remark(Severity.NOTE, one.model.key, said, remedy, ", ".join(key.columns))


def references_by_name(connection: Connection, one: Candidate) -> dict[frozenset[str], str]:
    """Give the names that the database has for a table's foreign keys, by their columns."""
    keys = sa.inspect(connection).get_foreign_keys(one.stream.table.name, one.stream.table.schema)
    return {frozenset(key["constrained_columns"]): str(key["name"]) for key in keys if key["name"]}


def counted(connection: Connection, one: Candidate, seen: Seen) -> int:
    """Give the rows of a table: as the catalogue has them, or counted where it doesn't know."""
    if seen.rows is not None:
        return seen.rows
    place = TableName(one.stream.table.name, one.stream.table.schema)
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {place}").scalar_one())  # noqa: S608 - quoted
