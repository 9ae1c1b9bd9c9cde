"""A batch whose bytes were erased, because a person's record was in them, says so.

Revision: core_0010, after core_0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0010"
down_revision = "core_0009"
branch_labels = None
depends_on = None

TABLE, COLUMN = "exchange_batch", "erased_at"


def upgrade() -> None:
    """Add the column; no batch was erased before."""
    op.add_column(TABLE, sa.Column(COLUMN, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Forget which ones were: they are taken for lost if they are asked for."""
    op.drop_column(TABLE, COLUMN)
