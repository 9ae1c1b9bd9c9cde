"""Files of rows that people drop, how far each has come, and the dead letters of their rows.

Revision: core_0026, after core_0025.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0026"
down_revision = "core_0025"
branch_labels = None
depends_on = None


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _count(name: str, kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    return sa.Column(name, kind(), nullable=False, server_default="0")


def upgrade() -> None:
    """Make the tables; letters that are there are of no file."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "exchange_intake",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("intake", sa.String(63), nullable=False),
        sa.Column("stream", sa.String(63), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        _count("priority", sa.Integer),
        _count("rows_read"),
        _count("rows_loaded"),
        _count("rows_parked"),
        _count("rows_waiting"),
        _count("attempts", sa.Integer),
        _at("next_try_at", nullable=True),
        sa.Column("message", sa.Text(), nullable=False, server_default=""),
        sa.Column("who", sa.String(255), nullable=False),
        _at("created_at"),
        _at("started_at", nullable=True),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_intake"),
    )
    op.create_index("ix_exchange_intake_sha256", "exchange_intake", ["sha256", "id"])
    op.create_index("ix_exchange_intake_state", "exchange_intake", ["state", "priority", "id"])
    op.create_table(
        "exchange_intake_part",
        sa.Column("intake", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("start_line", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("stop", sa.BigInteger()),
        _count("attempts", sa.Integer),
        _at("done_at", nullable=True),
        sa.PrimaryKeyConstraint("intake", "number", name="pk_exchange_intake_part"),
    )
    op.add_column("exchange_dead_letter", sa.Column("intake", sa.BigInteger()))
    given = sa.text("intake IS NOT NULL")
    op.create_index(
        "ix_exchange_dead_letter_intake",
        "exchange_dead_letter",
        ["intake", "line"],
        sqlite_where=given,
        postgresql_where=given,
    )


def downgrade() -> None:
    """Drop them; what is parked of files stays, as letters of nobody."""
    op.drop_index("ix_exchange_dead_letter_intake", "exchange_dead_letter")
    op.drop_column("exchange_dead_letter", "intake")
    op.drop_table("exchange_intake_part")
    op.drop_table("exchange_intake")
