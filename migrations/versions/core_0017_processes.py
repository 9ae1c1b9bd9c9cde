"""Beat and workers leave word of when they last did something, so that one that hangs is found out.

Revision: core_0017, after core_0016.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0017"
down_revision = "core_0016"
branch_labels = None
depends_on = None

TABLE = "exchange_process"


def upgrade() -> None:
    """Make the table; beat and worker write to it as they run."""
    op.create_table(
        TABLE,
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("every_seconds", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "host", name="pk_exchange_process"),
    )


def downgrade() -> None:
    """Drop the table: a process that hangs is not found out."""
    op.drop_table(TABLE)
