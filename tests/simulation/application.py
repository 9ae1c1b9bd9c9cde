"""The application of the simulation: rows that depend on each other in every way, and rules that only one side has.

What network ``one`` sends, network ``two`` may refuse: each of its rules refuses some of the values that are written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from exchange.channels import Channel, Stream
from tests.simulation import wide

ONE, TWO = "one", "two"

NEVER = "never"
"""A name that ``two`` refuses by a constraint, for as long as it stands in the row."""

VAIN = "vain"
"""A name that a trigger of ``two`` changes again: a repair of the row does not hold."""

SHARDED = "parts"


@dataclass(frozen=True)
class Application:
    """One side's tables, by their names."""

    metadata: sa.MetaData

    def __getitem__(self, name: str) -> sa.Table:
        return self.metadata.tables[name]


def application(network: str) -> Application:
    """Make the tables as one of the networks has them."""
    metadata = sa.MetaData()
    strict = network == TWO

    def table(name: str, *columns: Any) -> sa.Table:
        return sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), *columns)

    table("tree", sa.Column("parent", sa.Integer, sa.ForeignKey("tree.id")), sa.Column("name", sa.String(20)))
    leader = sa.ForeignKeyConstraint(
        ["leader"], ["person.id"], name="team_leader", deferrable=True, initially="DEFERRED", use_alter=True
    )
    table("team", sa.Column("leader", sa.Integer, nullable=False), sa.Column("name", sa.String(20)), leader)
    member = sa.ForeignKey("team.id", name="person_team", deferrable=True, initially="DEFERRED")
    table("person", sa.Column("team", sa.Integer, member, nullable=False), sa.Column("name", sa.String(20)))
    table("seat", sa.Column("code", sa.String(20), nullable=False, unique=True), sa.Column("rank", sa.Integer))
    rules = [sa.CheckConstraint(f"name <> '{NEVER}'", name="account_name")] if strict else []
    table(
        "account",
        sa.Column("name", sa.String(20), nullable=False),
        sa.Column("badge", sa.Integer, unique=strict),
        *rules,
    )
    owner = sa.ForeignKey("account.id", ondelete="CASCADE")
    table("visit", sa.Column("account", sa.Integer, owner, nullable=False), sa.Column("text", sa.String(20)))
    table("item", sa.Column("label", sa.String(20)), sa.Column("amount", sa.Integer, nullable=not strict))
    answered = sa.ForeignKey("account.id", ondelete="CASCADE")
    table("note", sa.Column("account", sa.Integer, answered), sa.Column("text", sa.String(20)))
    wide.tables(metadata, strict=strict)
    if strict:
        _change_again(metadata.tables["item"])
    return Application(metadata)


def _change_again(item: sa.Table) -> None:
    """Have a trigger write another value whenever a row comes with the label that it does not bear."""

    def when_made(statement: str, dialect: str) -> None:
        made: Any = sa.DDL
        sa.event.listen(item, "after_create", made(statement).execute_if(dialect=dialect))

    body = f"UPDATE item SET label = 'changed' WHERE id = NEW.id AND label = '{VAIN}'"
    for moment in ("INSERT", "UPDATE"):
        made = f"CREATE TRIGGER item_vain_{moment.lower()} AFTER {moment} ON item FOR EACH ROW"
        when_made(f"{made} WHEN (NEW.label = '{VAIN}') BEGIN {body}; END", "sqlite")
    change = f"BEGIN IF NEW.label = '{VAIN}' THEN NEW.label := 'changed'; END IF; RETURN NEW; END"
    for statement in (
        f"CREATE FUNCTION item_vain() RETURNS trigger LANGUAGE plpgsql AS $$ {change} $$",
        "CREATE TRIGGER item_vain BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION item_vain()",
    ):
        when_made(statement, "postgresql")


LINKED = ("tree", "team", "person", "seat", "account", "visit")
BACK = ("note",)
FORTH = (*LINKED, "item")
NEWEST = 2
"""The newest schema version there is of any stream."""


def declare(
    tables: Application, *, shards: int = 2, schema: int = 1, more: Collection[str] = tuple(wide.STREAMS)
) -> tuple[Channel, ...]:
    """Declare the channels, as of a version of the schema; of those of the wide part ``more`` of them."""
    upgrades = dict.fromkeys(range(1, schema), _as_it_was)

    def streams(*names: str) -> list[Stream]:
        return [Stream(tables[name], schema_version=schema, upgrades=upgrades) for name in names]

    return (
        Channel("forth", ONE, TWO, streams(*LINKED)),
        Channel(SHARDED, ONE, TWO, streams("item"), shards=shards),
        Channel("back", TWO, ONE, streams(*BACK)),
        *(one for one in wide.channels(ONE, TWO, streams) if one.name in more),
    )


def _as_it_was(data: dict[str, Any]) -> dict[str, Any]:
    return data
