"""Rows of the ledger are folded once their retention is over: how many there were, and how far they reached, stays.

Revision: core_0019, after core_0018.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0019"
down_revision = "core_0018"
branch_labels = None
depends_on = None

FOLDED, MARK = "exchange_folded", "exchange_tombstone_mark"
_NUMBERS = ("places", "batches", "refused", "records", "bytes", "applied", "duplicate", "stale", "parked")


def upgrade() -> None:
    """Make the tables; the next prune folds what is old enough."""
    op.create_table(
        FOLDED,
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _NUMBERS),
        sa.PrimaryKeyConstraint("direction", "channel", "epoch", name="pk_exchange_folded"),
    )
    op.create_table(
        MARK,
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "at", name="pk_exchange_tombstone_mark"),
    )


def downgrade() -> None:
    """Drop the tables, and have each incoming place that was folded be one that this side went on without.

    So the version before takes no old batch anew; what was counted of them is gone.
    """
    connection = op.get_bind()
    for channel, epoch, through in connection.execute(_INCOMING).all():
        connection.execute(_GIVE_UP, {"channel": channel, "epoch": epoch, "through": through})
    op.drop_table(MARK)
    op.drop_table(FOLDED)


_INCOMING = sa.text(
    "SELECT channel, epoch, through FROM exchange_folded WHERE direction = 'in' AND channel <> 'control'"
)
_GIVE_UP = sa.text(
    "WITH RECURSIVE place (number) AS"
    " (SELECT CAST(1 AS BIGINT) UNION ALL SELECT number + 1 FROM place WHERE number < :through)"
    " INSERT INTO exchange_gap (channel, epoch, sequence, state, noticed_at, closed_at, cause, who)"
    " SELECT :channel, :epoch, number, 'accepted', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 'folded', 'migration'"
    " FROM place WHERE NOT EXISTS (SELECT 1 FROM exchange_batch b WHERE b.direction = 'in' AND b.channel = :channel"
    " AND b.epoch = :epoch AND b.sequence = number AND b.state = 'applied')"
    " AND NOT EXISTS (SELECT 1 FROM exchange_gap g WHERE g.channel = :channel AND g.epoch = :epoch"
    " AND g.sequence = number)"
).bindparams(sa.bindparam("channel", type_=sa.String), sa.bindparam("epoch", type_=sa.String))
