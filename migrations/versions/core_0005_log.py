"""One index of the log instead of two on PostgreSQL: every captured row pays for each.

Revision: core_0005, after core_0004.
"""

from __future__ import annotations

from alembic import op

revision = "core_0005"
down_revision = "core_0004"
branch_labels = None
depends_on = None

TABLE, KEY, INDEX = "exchange_change", "pk_exchange_change", "ix_exchange_change_stream_id"


def upgrade() -> None:
    """Make the index by stream and id the primary key; on SQLite the id is the row's place and costs nothing."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index(INDEX, TABLE)
        op.drop_constraint(KEY, TABLE)
        op.create_primary_key(KEY, TABLE, ["stream", "id"])


def downgrade() -> None:
    """Give both back."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(KEY, TABLE)
        op.create_primary_key(KEY, TABLE, ["id"])
        op.create_index(INDEX, TABLE, ["stream", "id"])
