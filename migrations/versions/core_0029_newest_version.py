"""How new the rows are that came is told to the other side, whose counter may have been set back by a restore.

Revision: core_0029, after core_0028.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0029"
down_revision = "core_0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; nothing is told of an epoch until something of it is applied."""
    op.add_column("exchange_position", sa.Column("newest_version", sa.BigInteger()))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("exchange_position", "newest_version")
