"""Changes are in the order of the write-ahead log on PostgreSQL, so that the application's lastval() stays its own.

Revision: core_0011, after core_0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0011"
down_revision = "core_0010"
branch_labels = None
depends_on = None

TABLE, KEY, INDEX = "exchange_change", "pk_exchange_change", "ix_exchange_change_stream_id"
SEQUENCE = "exchange_change_id_seq"
PLACE = "(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"


def upgrade() -> None:
    """Take the sequence away from the column, and nothing else: triggers that are there go on as they are.

    What is pending keeps its number, which is ahead of any place in the log; the next claim puts it first. Snapshots
    no longer wait for what was begun before them. The home that works with the database next is its only one.
    """
    op.add_column("exchange_network", sa.Column("home", sa.String(32), nullable=True))
    op.add_column("exchange_network", sa.Column("home_place", sa.Text(), nullable=True))
    op.drop_column("exchange_resync", "barrier")
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(f"SELECT {PLACE}")  # a server that does not tell it says so here, not to the application
    op.drop_constraint(KEY, TABLE)
    op.create_index(INDEX, TABLE, ["stream", "id"])
    op.execute(f"ALTER TABLE {TABLE} ALTER id SET DEFAULT {PLACE}, REPLICA IDENTITY FULL")


def downgrade() -> None:
    """Give every pending change a number of the sequence, which is its version again, and begin snapshots anew."""
    op.drop_column("exchange_network", "home_place")
    op.drop_column("exchange_network", "home")
    op.add_column("exchange_resync", sa.Column("barrier", sa.Text(), nullable=True))
    op.execute(
        "UPDATE exchange_resync SET state = 'asked', version = NULL, cursor = NULL, unsent = NULL, parts = 0,"
        " records = 0 WHERE state = 'running'"
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(f"ALTER TABLE {TABLE} ALTER id SET DEFAULT nextval('{SEQUENCE}'), REPLICA IDENTITY DEFAULT")
    op.drop_index(INDEX, TABLE)
    op.execute(
        "WITH gone AS (DELETE FROM exchange_change RETURNING id, stream, op, key)"
        " INSERT INTO exchange_change (stream, op, key) SELECT stream, op, key FROM gone ORDER BY id"
    )
    op.create_primary_key(KEY, TABLE, ["stream", "id"])
