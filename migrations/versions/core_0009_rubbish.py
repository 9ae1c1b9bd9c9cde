"""Why the last attempt at a batch failed.

Revision: core_0009, after core_0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0009"
down_revision = "core_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; attempts that are open have no reason yet."""
    op.add_column("exchange_attempt", sa.Column("why", sa.Text))


def downgrade() -> None:
    """Take it away: the attempts stay counted."""
    op.drop_column("exchange_attempt", "why")
