"""What an operator needs: revisions and selections of dead letters, and an audit of what was done by hand.

Revision: core_0003, after core_0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0003"
down_revision = "core_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, tables and the indexes that looking at a million letters takes."""
    op.add_column("exchange_dead_letter", sa.Column("producer", sa.String(200), nullable=True))
    op.add_column("exchange_dead_letter", sa.Column("cause", sa.Text(), server_default="", nullable=False))
    op.add_column("exchange_dead_letter", sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
    op.create_index("ix_exchange_dead_letter_fingerprint", "exchange_dead_letter", ["fingerprint", "state", "id"])
    op.create_index("ix_exchange_dead_letter_stream_key", "exchange_dead_letter", ["stream", "key"])
    op.create_index("ix_exchange_dead_letter_batch", "exchange_dead_letter", ["batch", "line"])
    for name, columns, those in (
        ("parked_key", ["stream", "key"], "state = 'parked'"),
        ("orphan", ["channel", "id"], "state = 'parked' AND error = 'foreign_key'"),
    ):
        op.create_index(
            f"ix_exchange_dead_letter_{name}",
            "exchange_dead_letter",
            columns,
            sqlite_where=sa.text(those),
            postgresql_where=sa.text(those),
        )
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
        sa.Column("state", sa.String(12), nullable=True),
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
    op.create_index("ix_exchange_audit_action", "exchange_audit", ["action", "id"])


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("exchange_audit")
    op.drop_table("exchange_selected")
    op.drop_table("exchange_selection")
    op.drop_table("exchange_dead_letter_revision")
    for name in ("orphan", "parked_key", "batch", "stream_key", "fingerprint"):
        op.drop_index(f"ix_exchange_dead_letter_{name}", "exchange_dead_letter")
    for name in ("revision", "cause", "producer"):
        op.drop_column("exchange_dead_letter", name)
