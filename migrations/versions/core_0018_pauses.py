"""A channel can be paused by a person: who did, when and why is kept until somebody lets it go on.

Revision: core_0018, after core_0017.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0018"
down_revision = "core_0017"
branch_labels = None
depends_on = None

TABLE = "exchange_pause"


def upgrade() -> None:
    """Make the table; no channel is paused."""
    op.create_table(
        TABLE,
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("resumed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("direction", "channel", name="pk_exchange_pause"),
    )


def downgrade() -> None:
    """Drop the table: every channel goes on."""
    op.drop_table(TABLE)
