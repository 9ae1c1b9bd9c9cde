"""The last error of each channel is kept, and lists of batches go by an index however long the ledger is.

Revision: core_0012, after core_0011.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0012"
down_revision = "core_0011"
branch_labels = None
depends_on = None

TABLE = "exchange_failed_run"
BATCHES, INDEX, COLUMNS = "exchange_batch", "ix_exchange_batch_state", ("state", "direction", "channel")


def upgrade() -> None:
    """Make the table; what failed before is not known."""
    op.create_table(
        TABLE,
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("direction", "channel", name="pk_exchange_failed_run"),
    )
    op.drop_index(INDEX, BATCHES)
    op.create_index(INDEX, BATCHES, [*COLUMNS, "id"])


def downgrade() -> None:
    """Drop the table: the next run that fails is told by its log alone."""
    op.drop_index(INDEX, BATCHES)
    op.create_index(INDEX, BATCHES, [*COLUMNS])
    op.drop_table(TABLE)
