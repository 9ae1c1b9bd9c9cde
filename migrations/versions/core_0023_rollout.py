"""A stream can be sent to a share of its keys first: how far that has come is remembered.

Revision: core_0023, after core_0022.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0023"
down_revision = "core_0022"
branch_labels = None
depends_on = None

TABLE = "exchange_first_load"


def upgrade() -> None:
    """Add the column; every stream is sent to all of its keys."""
    with op.batch_alter_table(TABLE) as table:
        table.add_column(sa.Column("rollout", sa.Text()))


def downgrade() -> None:
    """Drop it: a stream of which a share was sent is sent to all of its keys, but for what was passed over before."""
    with op.batch_alter_table(TABLE) as table:
        table.drop_column("rollout")
