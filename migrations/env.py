"""Run the exchange's migrations on the connection that ``exchange.operating.migrate`` hands over."""

from __future__ import annotations

from alembic import context

import exchange.alembic
import exchange.database.tables
import exchange.reference.models
from exchange.operating import migrate

assert exchange.alembic.NETWORK_ATTRIBUTE  # imported for its operations

if context.is_offline_mode():
    raise SystemExit("the exchange's migrations look at the database, so they can't be written as SQL (--sql)")

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run these migrations with `exchange migrate`, which knows the database")

context.configure(
    connection=connection,
    target_metadata=[exchange.database.tables.metadata, exchange.reference.models.Base.metadata],
    version_table=migrate.VERSION_TABLE,
    # Whole or not at all: make_engine's SQLite transactions take table definitions in, too.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
