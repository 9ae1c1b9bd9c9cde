"""What was there before capture is sent once, by itself, and snapshots say how far they are.

Revision: core_0015, after core_0014.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0015"
down_revision = "core_0014"
branch_labels = None
depends_on = None

RESYNC = "exchange_resync"


def upgrade() -> None:
    """Add tables and columns; of a stream that some batch carried nothing is sent anew."""
    op.create_table(
        "exchange_first_load",
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("shards", sa.Integer(), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("stream", name="pk_exchange_first_load"),
    )
    op.create_table(
        "exchange_loading",
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("channel", name="pk_exchange_loading"),
    )
    with op.batch_alter_table(RESYNC) as table:
        table.add_column(sa.Column("expected", sa.BigInteger()))
        table.add_column(sa.Column("begun_at", sa.DateTime(timezone=True)))
    sent = (
        "jsonb_object_keys(CAST(manifest AS jsonb) -> 'records') AS sent (key)"
        if op.get_bind().dialect.name == "postgresql"
        else "json_each(manifest, '$.records') AS sent"
    )
    carried = f"exchange_batch, {sent} WHERE direction = 'out' AND channel <> 'control' AND manifest IS NOT NULL"
    op.execute(
        "INSERT INTO exchange_first_load (stream, after, done_at)"  # noqa: S608 - words of ours
        f" SELECT DISTINCT sent.key, 0, CURRENT_TIMESTAMP FROM {carried}"
    )


def downgrade() -> None:
    """Drop them: what was there before capture is sent by `exchange resync` again."""
    with op.batch_alter_table(RESYNC) as table:
        table.drop_column("begun_at")
        table.drop_column("expected")
    for name in ("exchange_loading", "exchange_first_load"):
        op.drop_table(name)
