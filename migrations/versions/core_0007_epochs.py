"""The order of epochs: a number instead of the moment, which a clock that was set back gets wrong.

Revision: core_0007, after core_0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0007"
down_revision = "core_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the number, and number those that there are as their moments say: nothing better was kept of them."""
    op.add_column("exchange_epoch", sa.Column("number", sa.Integer(), server_default="0", nullable=False))
    epoch = sa.table("exchange_epoch", sa.column("epoch"), sa.column("at"), sa.column("number"))
    earlier = epoch.alias("earlier")
    before = sa.or_(earlier.c.at < epoch.c.at, sa.and_(earlier.c.at == epoch.c.at, earlier.c.epoch <= epoch.c.epoch))
    number = sa.select(sa.func.count()).select_from(earlier).where(before).scalar_subquery()
    op.execute(sa.update(epoch).values(number=number))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("exchange_epoch", "number")
