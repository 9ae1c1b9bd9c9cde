"""An application's own Alembic environment, with capture in its migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.util import CommandError
from sqlalchemy import Engine

from exchange.alembic import include_name, include_object
from exchange.channels import Stream
from exchange.database.network import open_network
from exchange.operating import migrate
from exchange.tables import capture

METADATA = sa.MetaData()
ORDER = sa.Table("order", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.Text))

ENV = """
from alembic import context
import exchange.alembic

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
"""

FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "first"
down_revision = None


def upgrade():
    op.create_table("order", sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.Text))
    op.bulk_insert(sa.table("order", sa.column("id")), [{"id": 1}])


def downgrade():
    op.drop_table("order")
"""

SECOND = """
from alembic import op

revision = "second"
down_revision = "first"


def upgrade():
    op.install_capture("order", source="shop", stream="orders")


def downgrade():
    op.drop_capture("order")
"""


@pytest.fixture
def application(tmp_path: Path) -> Config:
    """Give the configuration of an application with two migrations."""
    versions = tmp_path / "alembic" / "versions"
    versions.mkdir(parents=True)
    (versions.parent / "env.py").write_text(ENV)
    (versions / "first.py").write_text(FIRST)
    (versions / "second.py").write_text(SECOND)
    config = Config()
    config.set_main_option("script_location", str(versions.parent).replace("%", "%%"))
    return config


def run(config: Config, engine: Engine, revision: str, network: str | None = "shop") -> None:
    """Go to a revision of the application's."""
    config.attributes["exchange_network"] = network
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "first" else command.upgrade)(config, revision)


def test_capture_goes_on_and_off_a_table_with_rows(application: Config, engine: Engine) -> None:
    migrate.upgrade(engine)
    stream = Stream(ORDER, name="orders")
    for _ in range(2):
        run(application, engine, "head")
        with engine.begin() as connection:
            assert capture.check(connection, stream) == []
            connection.execute(sa.update(ORDER).values(what="x"))
            assert capture.claim(connection, [stream], 10).keys == {"orders": 1}
        run(application, engine, "first")
        with engine.begin() as connection:
            assert capture.captured_tables(connection) == []
            connection.execute(sa.update(ORDER).values(what="y"))
            assert capture.pending(connection, [stream]) == 0
            assert connection.execute(sa.select(ORDER)).all() == [(1, "y")]


def test_the_other_network_gets_the_column_and_no_triggers(application: Config, engine: Engine) -> None:
    migrate.upgrade(engine)
    run(application, engine, "head", network="warehouse")
    with engine.connect() as connection:
        assert capture.captured_tables(connection) == []
        assert capture.check(connection, Stream(ORDER, name="orders"), captured=False) == []


def test_without_the_core_tables_the_migration_says_what_to_run(application: Config, engine: Engine) -> None:
    with pytest.raises(CommandError, match="run the exchange's own migrations first"):
        run(application, engine, "head")


def test_the_database_says_whose_it_is_and_else_the_migration_says_what_to_do(
    application: Config, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXCHANGE_NETWORK", raising=False)
    migrate.upgrade(engine)
    with pytest.raises(CommandError, match="exchange migrate"):
        run(application, engine, "head", network=None)
    with engine.begin() as connection:
        open_network(connection, "shop")
    with pytest.raises(CommandError, match="belongs to network shop"):
        run(application, engine, "head", network="warehouse")
    run(application, engine, "head", network=None)
    with engine.connect() as connection:
        assert capture.captured_tables(connection) == ["order"]


def test_autogenerate_leaves_the_exchanges_own_alone(application: Config, engine: Engine) -> None:
    migrate.upgrade(engine)
    run(application, engine, "head")
    for hook in ({}, {"include_name": include_name}, {"include_object": include_object}):
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=hook)
            diffs = compare_metadata(context, METADATA)
            assert [diff for diff in diffs if getattr(diff[1], "name", None) != "alembic_version"] == []


def test_a_table_in_another_schema_is_captured_there(engine: Engine) -> None:
    migrate.upgrade(engine)
    table = ORDER.to_metadata(sa.MetaData(), schema="else where")
    with engine.begin() as connection:
        operations: Any = Operations(MigrationContext.configure(connection))
        if engine.dialect.name == "sqlite":
            with pytest.raises(CommandError, match="SQLite has none; leave schema out"):
                operations.install_capture("order", schema="else where")
            return
        connection.execute(sa.schema.CreateSchema("else where"))
        table.create(connection)
        ORDER.create(connection)
        operations.install_capture("order", stream="orders", schema="else where")
        assert capture.check(connection, Stream(table, name="orders")) == []
        assert capture.check(connection, Stream(ORDER, name="orders"))[-1].stops
        operations.drop_capture("order", schema="else where")
        assert capture.captured_tables(connection) == []
