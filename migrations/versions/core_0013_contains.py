"""A snapshot says which batches before it it contains, so that it may be taken in their place.

Revision: core_0013, after core_0012.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0013"
down_revision = "core_0012"
branch_labels = None
depends_on = None

TABLE = "exchange_resync"
COLUMNS = ("epoch", "contains_from", "contains_through")


def upgrade() -> None:
    """Add the columns; of those that were begun before nothing is said."""
    with op.batch_alter_table(TABLE) as table:
        for name in COLUMNS:
            table.add_column(sa.Column(name, sa.String(12) if name == "epoch" else sa.BigInteger()))


def downgrade() -> None:
    """Drop them: what waits behind a refused batch waits for a person again."""
    with op.batch_alter_table(TABLE) as table:
        for name in COLUMNS:
            table.drop_column(name)
