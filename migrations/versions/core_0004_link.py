"""What a link needs that heals itself: gaps, receipts, snapshots, requests, comparisons, and epochs minted by hand.

Revision: core_0004, after core_0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0004"
down_revision = "core_0003"
branch_labels = None
depends_on = None

_COUNTS = ("applied", "duplicate", "stale", "parked")
_TABLES = ("agreement", "repair", "resync", "peer", "receipt", "gap", "epoch")


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False)


def upgrade() -> None:
    """Add the tables and columns, and count what was imported so far."""
    op.add_column("exchange_network", sa.Column("halted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("exchange_network", sa.Column("halted_because", sa.Text(), nullable=True))
    op.add_column("exchange_batch", sa.Column("published_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("exchange_batch", sa.Column("again_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("exchange_batch", sa.Column("signature", sa.Text(), nullable=True))
    op.create_index(
        "ix_exchange_batch_again",
        "exchange_batch",
        ["again_at"],
        sqlite_where=sa.text("again_at IS NOT NULL"),
        postgresql_where=sa.text("again_at IS NOT NULL"),
    )
    op.execute("UPDATE exchange_batch SET published_at = updated_at WHERE direction = 'out' AND state = 'published'")
    for name in _COUNTS:
        op.add_column("exchange_position", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    _count_imported()
    _create_tables()


def _count_imported() -> None:
    position = sa.table("exchange_position", *map(sa.column, ("direction", "channel", "epoch", *_COUNTS)))
    batch = sa.table("exchange_batch", *map(sa.column, ("direction", "channel", "epoch", *_COUNTS)))
    same = sa.and_(*(batch.c[name] == position.c[name] for name in ("direction", "channel", "epoch")))
    for name in _COUNTS:
        total = sa.select(sa.func.coalesce(sa.func.sum(batch.c[name]), 0)).where(same).scalar_subquery()
        op.execute(sa.update(position).where(position.c.direction == "in").values({name: total}))


def _create_tables() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "exchange_epoch",
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="pk_exchange_epoch"),
    )
    op.create_table(
        "exchange_gap",
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("noticed_at", moment, nullable=False),
        sa.Column("closed_at", moment, nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("who", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("channel", "epoch", "sequence", name="pk_exchange_gap"),
    )
    op.create_index(
        "ix_exchange_gap_missing",
        "exchange_gap",
        ["channel", "epoch", "sequence"],
        sqlite_where=sa.text("state = 'missing'"),
        postgresql_where=sa.text("state = 'missing'"),
    )
    op.create_table(
        "exchange_receipt",
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("heard_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("channel", "epoch", name="pk_exchange_receipt"),
    )
    op.create_table(
        "exchange_peer",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", moment, nullable=False),
        sa.Column("heard_at", moment, nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_exchange_peer_single"),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_peer"),
    )
    op.create_table(
        "exchange_resync",
        _id(),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("want", sa.String(12), nullable=False),
        sa.Column("streams", sa.Text(), nullable=True),
        sa.Column("buckets", sa.Text(), nullable=True),
        sa.Column("prune", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answers", sa.String(80), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("barrier", sa.Text(), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("unsent", sa.Text(), nullable=True),
        sa.Column("parts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("records", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_resync"),
    )
    op.create_index("uq_exchange_resync_answers", "exchange_resync", ["answers"], unique=True)
    op.create_index("ix_exchange_resync_state", "exchange_resync", ["state", "channel", "id"])
    op.create_table(
        "exchange_repair",
        _id(),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("want", sa.String(12), nullable=False),
        sa.Column("streams", sa.Text(), nullable=True),
        sa.Column("buckets", sa.Text(), nullable=True),
        sa.Column("prune", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("asked_at", moment, nullable=False),
        sa.Column("closed_at", moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_repair"),
    )
    op.create_index("uq_exchange_repair_name", "exchange_repair", ["name"], unique=True)
    op.create_index("ix_exchange_repair_state", "exchange_repair", ["state", "channel"])
    op.create_table(
        "exchange_agreement",
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("epoch", sa.String(12), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("compared_at", moment, nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("buckets", sa.Text(), nullable=False),
        sa.Column("found", sa.Text(), nullable=True),
        sa.Column("since", moment, nullable=True),
        sa.Column("repairs", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("direction", "channel", "stream", name="pk_exchange_agreement"),
    )


def downgrade() -> None:
    """Take them away again."""
    for name in _TABLES:
        op.drop_table(f"exchange_{name}")
    for name in reversed(_COUNTS):
        op.drop_column("exchange_position", name)
    op.drop_index("ix_exchange_batch_again", "exchange_batch")
    for name in ("signature", "again_at", "published_at"):
        op.drop_column("exchange_batch", name)
    for name in ("halted_because", "halted_at"):
        op.drop_column("exchange_network", name)
