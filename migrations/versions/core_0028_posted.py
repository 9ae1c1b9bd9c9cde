"""Rows that programs send are found by the name of their file, or by its beginning.

Revision: core_0028, after core_0027.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0028"
down_revision = "core_0027"
branch_labels = None
depends_on = None

NAME, TABLE = "ix_exchange_intake_file", "exchange_intake"


def upgrade() -> None:
    """Add the index. On PostgreSQL names are compared by their bytes, which on SQLite they are anyway."""
    by_bytes = op.get_bind().dialect.name == "postgresql"
    op.create_index(NAME, TABLE, [sa.text('file COLLATE "C"') if by_bytes else "file"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index(NAME, TABLE)
