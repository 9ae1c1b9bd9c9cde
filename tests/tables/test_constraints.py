"""What a receiving table demands is read once, and again whenever it changed."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import event

from exchange.tables.loader.constraints import Constraints, reflect
from tests.tables.lab import Lab

CHANGES: dict[str, Callable[[Constraints], bool]] = {
    "CREATE UNIQUE INDEX by_name ON child (name)": lambda seen: (
        [one.name for one in seen.uniques["child"]] == ["by_name"]
    ),
    "ALTER TABLE parent RENAME COLUMN id TO number": lambda seen: seen.foreign_keys[0].referred_columns == ("number",),
    "ALTER TABLE parent RENAME TO elder": lambda seen: seen.foreign_keys[0].referred == "elder",
    "DROP INDEX by_name": lambda seen: seen.uniques["child"] == (),
}


def test_constraints_are_read_again_when_a_table_changed_and_only_then(lab: Lab) -> None:
    lab.run(
        sa.text("CREATE TABLE parent (id integer PRIMARY KEY)"),
        sa.text("CREATE TABLE child (id integer PRIMARY KEY, name text, parent_id integer REFERENCES parent (id))"),
    )
    child = sa.Table("child", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("name", sa.Text))
    asked: list[str] = []
    event.listen(lab.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))

    def seen() -> tuple[Constraints, int]:
        with lab.engine.begin() as connection:
            before = len(asked)
            return reflect(connection, [child]), len(asked) - before

    first, reading = seen()
    assert [key.referred for key in first.foreign_keys] == ["parent"]
    for change, is_seen in CHANGES.items():
        again, looking = seen()
        assert looking < reading
        assert not is_seen(again)
        lab.run(sa.text(change))
        assert is_seen(seen()[0]), change


def test_constraints_of_several_channels_tables_are_read_once_though_asked_for_by_turns(lab: Lab) -> None:
    tables = [sa.Table(name, sa.MetaData(), sa.Column("id", sa.Integer)) for name in ("mine", "yours")]
    lab.run(*(sa.text(f"CREATE TABLE {table.name} (id integer PRIMARY KEY)") for table in tables))
    asked: list[str] = []

    def seen(table: sa.Table) -> tuple[Constraints, int]:
        with lab.engine.begin() as connection:
            before = len(asked)
            return reflect(connection, [table]), len(asked) - before

    event.listen(lab.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    first = [seen(table) for table in tables]
    again = [seen(table) for table in tables]

    assert [one for one, _ in again] == [one for one, _ in first]
    assert all(now < then for (_, now), (_, then) in zip(again, first, strict=True))
