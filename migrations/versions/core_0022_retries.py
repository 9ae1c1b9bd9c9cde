"""Selections can be tried in the background, and letters that may heal by themselves have a moment of the next try.

Revision: core_0022, after core_0021.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0022"
down_revision = "core_0021"
branch_labels = None
depends_on = None

RETRY, OPEN = "exchange_retry", "uq_exchange_retry_open"
LETTER, DUE = "exchange_dead_letter", "ix_exchange_dead_letter_due"


def upgrade() -> None:
    """Make the table and the columns: what is parked already is tried again as before, when its parents come."""
    op.create_table(
        RETRY,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("selection", sa.String(63), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("letters", sa.BigInteger(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
            for name in ("tried", "applied", "superseded", "parked")
        ),
        sa.Column("position", sa.BigInteger()),
        sa.Column("rate", sa.Float()),
        sa.Column("canary", sa.BigInteger()),
        sa.Column("stop_after", sa.BigInteger()),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("why", sa.Text()),
        sa.Column("worker", sa.String(255)),
        sa.Column("changed_by", sa.String(255)),
        sa.Column("message", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_retry"),
    )
    still = sa.text("state IN ('running', 'paused')")
    op.create_index(OPEN, RETRY, ["selection"], unique=True, sqlite_where=still, postgresql_where=still)
    op.add_column(LETTER, sa.Column("next_try_at", sa.DateTime(timezone=True)))
    op.add_column(LETTER, sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    due = sa.text("next_try_at IS NOT NULL")
    op.create_index(DUE, LETTER, ["state", "next_try_at", "id"], sqlite_where=due, postgresql_where=due)


def downgrade() -> None:
    """Drop both: what was tried in the background is a selection again, and no letter is tried by time."""
    op.drop_index(DUE, LETTER)
    op.drop_column(LETTER, "tries")
    op.drop_column(LETTER, "next_try_at")
    op.drop_table(RETRY)
