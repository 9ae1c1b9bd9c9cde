"""The exchange's own migrations: up, down and up again, with data in place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Engine

import exchange
from exchange.channels import Stream
from exchange.database import make_engine, tables
from exchange.database.engine import now
from exchange.database.tables import dead_letter
from exchange.dead_letters import counts
from exchange.operating import migrate
from exchange.reference import channels
from exchange.reference.models import Base
from exchange.tables import capture

BOTH = (migrate.CORE, migrate.REFERENCE)


def described(engine: Engine) -> dict[str, Any]:
    """Describe every table as the database has it, but for the tables and column that migrations add."""
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        for name in inspector.get_table_names():
            if name == migrate.VERSION_TABLE:
                continue
            columns = [c for c in inspector.get_columns(name) if c["name"] != tables.VERSION_COLUMN]
            found[name] = {
                "columns": [{**c, "type": repr(c["type"])} for c in columns],
                "key": inspector.get_pk_constraint(name),
                "foreign": sorted(map(str, inspector.get_foreign_keys(name))),
                "unique": sorted(str(sorted(u.items())) for u in inspector.get_unique_constraints(name)),
                "checks": sorted(str(sorted(c.items())) for c in inspector.get_check_constraints(name)),
            }
        if engine.dialect.name == "postgresql":
            indexes = connection.exec_driver_sql("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
        else:
            indexes = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'index'")
        found["indexes"] = sorted(text for (text,) in indexes if text is not None and migrate.VERSION_TABLE not in text)
    return found


def test_migrations_make_exactly_the_declared_tables(
    engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    migrate.upgrade(engine, BOTH, network="request")
    migrated = described(engine)
    migrate.downgrade(engine)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        Base.metadata.create_all(connection)
    assert migrated == described(engine)


def test_up_down_and_up_again_with_data_in_place(engine: Engine) -> None:
    profile_type = Base.metadata.tables["profile_type"]
    for _ in range(2):
        assert migrate.is_behind(engine)
        assert migrate.applied_revisions(engine) == ()
        migrate.upgrade(engine, BOTH, network="response")
        assert not migrate.is_behind(engine, BOTH)
        with engine.begin() as connection:
            connection.execute(sa.insert(profile_type).values(name="student", daily_limit=3))
            assert capture.pending(connection, channels[0].streams) == 1
        migrate.upgrade(engine, BOTH, network="response")
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(profile_type)) == 1
        migrate.downgrade(engine, BOTH[1:])
        assert migrate.applied_revisions(engine) == ("core_0029",)
        assert not migrate.is_behind(engine)
        assert migrate.is_behind(engine, BOTH)
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(tables.change)) == 1
        migrate.downgrade(engine)
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {migrate.VERSION_TABLE}


def test_the_core_alone_leaves_the_reference_tables_out(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {
            *tables.metadata.tables,
            migrate.VERSION_TABLE,
        }


@pytest.mark.parametrize("network", ["request", "response"])
def test_each_network_captures_what_it_owns_and_guards_what_it_receives(engine: Engine, network: str) -> None:
    migrate.upgrade(engine, BOTH, network=network)
    with engine.connect() as connection:
        owned = {stream.table.name for channel in channels for stream in channel.streams if channel.source == network}
        assert set(capture.captured_tables(connection)) == owned
        for channel in channels:
            for stream in channel.streams:
                assert capture.check(connection, stream, captured=channel.source == network) == []


def test_versions_begin_at_the_time_in_microseconds(engine: Engine) -> None:
    before = time.time_ns() // 1000
    migrate.upgrade(engine)
    with engine.begin() as connection:
        first = capture.draw_version(connection)
    assert before <= first <= time.time_ns() // 1000 + 1


def test_pending_changes_outlive_the_order_of_the_log(engine: Engine) -> None:
    table = sa.Table("mine", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    stream = Stream(table)
    migrate.upgrade(engine)
    with engine.begin() as connection:
        table.create(connection)
        capture.install(connection, "mine")
        version = capture.draw_version(connection)
        connection.execute(sa.insert(table).values(id=1))
    with migrate.configured(engine, None) as config:  # one revision down is nobody's command
        command.downgrade(config, "core_0010")
    with engine.begin() as connection:
        connection.execute(sa.insert(table).values(id=2))
        old = connection.execute(sa.select(tables.change.c.id, tables.change.c.key).order_by(tables.change.c.id)).all()
        assert [key for _, key in old] == sorted(key for _, key in old)
        assert old[0].id > version
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert [one for one in capture.check(connection, stream) if "triggers" in str(one)] == []
    isolation = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with engine.execution_options(**isolation).begin() as connection:
        connection.execute(sa.insert(table).values(id=3))
        assert capture.claim(connection, [stream], 2).more_pending
        claimed = [row for some in capture.rows(connection, stream) for row in some]
        assert [row[-1] for row in claimed] == [1, 2]
        assert claimed[0][1] > old[-1].id
        assert capture.claim(connection, [stream], 2).count == 1


def test_the_core_stays_while_a_table_is_still_captured(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        sa.Table("mine", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)).create(connection)
        capture.install(connection, "mine")
    with pytest.raises(RuntimeError, match="table mine is still captured"):
        migrate.downgrade(engine)
    assert migrate.applied_revisions(engine) == ("core_0029",)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO mine (id) VALUES (1)")


def test_of_letters_that_wait_for_one_row_the_newest_stays(engine: Engine) -> None:
    migrate.upgrade(engine)
    with migrate.configured(engine, None) as config:
        command.downgrade(config, "core_0013")
    with engine.begin() as connection:
        row = {"direction": "in", "channel": "forth", "stream": "note", "record": b"{}", "record_bytes": 2}
        row |= {"error": "value", "message": "bad", "fingerprint": "f", "state": "parked", "key": '{"id":1}'}
        row |= {"created_at": now(), "updated_at": now(), "version": 1}
        letters = [row, row | {"version": 3}, row | {"version": 2}, row | {"key": None}, row | {"key": None}]
        letters += [row | {"direction": "out"}, row | {"state": "discarded"}]
        columns = sa.inspect(connection).get_columns("exchange_dead_letter")
        moments = {"created_at", "updated_at"}
        before = sa.table(
            dead_letter.name,
            *(sa.column(c["name"], tables.UtcDateTime() if c["name"] in moments else None) for c in columns),
        )
        connection.execute(sa.insert(before), letters)
    with migrate.configured(engine, None) as config:
        command.upgrade(config, "core_0014")
    with engine.begin() as connection:
        wanted = [dead_letter.c[name] for name in ("id", "state", "seen", "version")]
        found = connection.execute(sa.select(*wanted).order_by(dead_letter.c.id)).all()
        told = connection.scalars(sa.select(tables.event.c.cause).order_by(tables.event.c.subject_id)).all()
        assert counts.count_parked(connection) == 4
    assert [tuple(one)[1:] for one in found] == [
        ("superseded", 1, 1),
        ("parked", 3, 3),
        ("superseded", 1, 2),
        ("parked", 1, 1),
        ("parked", 1, 1),
        ("parked", 1, 1),
        ("discarded", 1, 1),
    ]
    assert told == [f"superseded: of its row dead letter {found[1].id} waits (core_0014)"] * 2


def test_what_an_earlier_version_sent_has_no_first_load(engine: Engine) -> None:
    migrate.upgrade(engine)
    with migrate.configured(engine, None) as config:
        command.downgrade(config, "core_0014")
    row = {"epoch": "0" * 12, "stem": "s", "state": "published", "created_at": now(), "updated_at": now()}
    said = '{"records":{"item":{"upsert":1,"delete":0},"it\'s %s":{"upsert":1,"delete":0}}}'
    with engine.begin() as connection:
        for number, (direction, channel, manifest) in enumerate(
            [
                ("out", "forth", said),
                ("in", "back", said.replace("item", "note")),
                ("out", "control", "{}"),
                ("out", "forth", None),
                ("out", "forth", said),
            ]
        ):
            place = {"direction": direction, "channel": channel, "sequence": number, "manifest": manifest}
            connection.execute(sa.insert(tables.batch), {**row, **place})
    migrate.upgrade(engine)
    with engine.begin() as connection:
        found = connection.execute(sa.select(tables.first_load).order_by("stream")).all()
    assert [(one.stream, one.after, one.done_at is not None) for one in found] == [
        ("it's %s", 0, True),
        ("item", 0, True),
    ]


def test_a_failed_migration_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXCHANGE_NETWORK", raising=False)
    with pytest.raises(CommandError, match="EXCHANGE_NETWORK"):
        migrate.upgrade(engine, BOTH)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []


def test_the_network_may_come_from_the_environment(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_NETWORK", "response")
    migrate.upgrade(sqlite_url, BOTH)
    assert not migrate.is_behind(sqlite_url, BOTH)
    engine = make_engine(sqlite_url)
    with engine.connect() as connection:
        assert "user" in capture.captured_tables(connection)
    engine.dispose()


def test_a_callers_transaction_decides(engine: Engine) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        migrate.upgrade(connection)
        assert not migrate.is_behind(connection)
        transaction.rollback()
    assert migrate.is_behind(engine)


def test_the_migrations_are_found_in_the_source_tree() -> None:
    assert migrate.location() == Path(exchange.__file__).parents[1] / "migrations"
    assert (migrate.location() / "env.py").is_file()
