"""What nobody vouches for is counted by day and cause; deletes by the hour; how far ahead versions may be.

Revision: core_0008, after core_0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0008"
down_revision = "core_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables; all begin empty."""
    op.create_table(
        "exchange_stranger",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("cause", sa.String(31), nullable=False),
        sa.Column("batches", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("samples", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("day", "cause", name="pk_exchange_stranger"),
    )
    op.create_table(
        "exchange_deleted",
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("hour", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("deleted", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "hour", name="pk_exchange_deleted"),
    )
    op.create_table(
        "exchange_ahead",
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_exchange_ahead"),
    )


def downgrade() -> None:
    """Forget them: the files of strangers stay where they are."""
    for name in ("exchange_ahead", "exchange_deleted", "exchange_stranger"):
        op.drop_table(name)
