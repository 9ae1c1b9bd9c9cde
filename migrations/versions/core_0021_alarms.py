"""People are told of alarms: what stands, what is silenced, the messages, and samples of disks.

Revision: core_0021, after core_0020.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0021"
down_revision = "core_0020"
branch_labels = None
depends_on = None

ALARM, SILENCE, MESSAGE, SAMPLE = "exchange_alarm", "exchange_silence", "exchange_message", "exchange_sample"


def upgrade() -> None:
    """Make the tables, empty: the first look finds what stands."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        ALARM,
        sa.Column("alarm", sa.String(31), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("level", sa.String(7), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("since", moment),
        sa.Column("first_at", moment, nullable=False),
        sa.Column("gone_at", moment),
        sa.Column("told", sa.String(7), nullable=False),
        sa.Column("told_at", sa.Text(), nullable=False),
        sa.Column("told_to", sa.Text(), nullable=False),
        sa.Column("held_back", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("alarm", "subject", name=f"pk_{ALARM}"),
    )
    op.create_table(
        SILENCE,
        sa.Column("alarm", sa.String(31), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("until", moment, nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("alarm", "subject", name=f"pk_{SILENCE}"),
    )
    op.create_table(
        MESSAGE,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("number", sa.String(32), nullable=False),
        sa.Column("target", sa.String(63), nullable=False),
        sa.Column("once", sa.String(63), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(7), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("next_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name=f"pk_{MESSAGE}"),
    )
    op.create_index(f"uq_{MESSAGE}_once", MESSAGE, ["target", "once"], unique=True)
    op.create_table(
        SAMPLE,
        sa.Column("place", sa.String(255), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("free", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("place", "at", name=f"pk_{SAMPLE}"),
    )


def downgrade() -> None:
    """Drop the tables: nobody is told any more, and messages that were not sent are lost."""
    for table in (SAMPLE, MESSAGE, SILENCE, ALARM):
        op.drop_table(table)
