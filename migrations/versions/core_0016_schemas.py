"""The schema of each version of a stream is remembered, so that a model which changed under its version is found out.

Revision: core_0016, after core_0015.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0016"
down_revision = "core_0015"
branch_labels = None
depends_on = None

TABLE = "exchange_schema"


def upgrade() -> None:
    """Make the table; the first run remembers what is declared then."""
    op.create_table(
        TABLE,
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("schema", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("direction", "stream", "version", name="pk_exchange_schema"),
    )


def downgrade() -> None:
    """Drop the table: a model that changes under its version is not found out."""
    op.drop_table(TABLE)
