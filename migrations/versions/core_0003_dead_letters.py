"""What an operator needs: revisions and selections of dead letters, batches given up, and an audit of it all.

Revision: core_0003, after core_0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0003"
down_revision = "core_0002"
branch_labels = None
depends_on = None


def _hold_places(condition: str) -> None:
    op.drop_index("uq_exchange_batch_place", "exchange_batch")
    op.create_index(
        "uq_exchange_batch_place",
        "exchange_batch",
        ["direction", "channel", "epoch", "sequence"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )


def upgrade() -> None:
    """Add columns, tables and the indexes that looking at a million letters takes."""
    # A batch that a person gave up holds its place no longer.
    _hold_places(
        "state NOT IN ('quarantined', 'discarded') AND (state <> 'rejected' OR direction = 'out')"
        " AND manifest IS NOT NULL"
    )
    op.add_column("exchange_dead_letter", sa.Column("producer", sa.String(200), nullable=True))
    op.add_column("exchange_dead_letter", sa.Column("cause", sa.Text(), server_default="", nullable=False))
    op.add_column("exchange_dead_letter", sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
    op.create_index("ix_exchange_dead_letter_fingerprint", "exchange_dead_letter", ["fingerprint", "state", "id"])
    op.create_index("ix_exchange_dead_letter_stream_key", "exchange_dead_letter", ["stream", "key"])
    op.create_index("ix_exchange_dead_letter_batch", "exchange_dead_letter", ["batch", "line"])
    op.create_table(
        "exchange_dead_letter_revision",
        sa.Column("letter", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("difference", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("letter", "number", name="pk_exchange_dead_letter_revision"),
    )
    op.create_table(
        "exchange_selection",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("filters", sa.Text(), nullable=False),
        sa.Column("letters", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_exchange_selection"),
    )
    op.create_table(
        "exchange_selected",
        sa.Column("selection", sa.String(63), nullable=False),
        sa.Column("letter", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("selection", "letter", name="pk_exchange_selected"),
    )
    op.create_table(
        "exchange_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("action", sa.String(63), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_audit"),
    )


def downgrade() -> None:
    """Take them away again."""
    op.execute(
        "UPDATE exchange_batch SET state = 'quarantined' WHERE direction = 'in' AND state IN ('rejected', 'discarded')"
    )
    _hold_places("state <> 'quarantined' AND manifest IS NOT NULL")
    op.drop_table("exchange_audit")
    op.drop_table("exchange_selected")
    op.drop_table("exchange_selection")
    op.drop_table("exchange_dead_letter_revision")
    for name in ("batch", "stream_key", "fingerprint"):
        op.drop_index(f"ix_exchange_dead_letter_{name}", "exchange_dead_letter")
    for name in ("revision", "cause", "producer"):
        op.drop_column("exchange_dead_letter", name)
