"""The exchange's own tables.

Revision: core_0001, the first of the branch `core`.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

from exchange.tables import capture

revision = "core_0001"
down_revision = None
branch_labels = ("core",)
depends_on = None


def upgrade() -> None:
    """Make the tables, and let versions begin at the time: later epochs must have greater ones."""
    op.create_table(
        "exchange_attempt",
        sa.Column("batch", sa.String(length=80), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("batch", name="pk_exchange_attempt"),
    )
    op.create_table(
        "exchange_batch",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("channel", sa.String(length=31), nullable=False),
        sa.Column("epoch", sa.String(length=12), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("stem", sa.String(length=80), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=31), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("manifest", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("records", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("applied", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("duplicate", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stale", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("parked", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("trace", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_batch"),
    )
    op.create_index(
        "ix_exchange_batch_done",
        "exchange_batch",
        ["direction", "state", "channel"],
        unique=False,
        sqlite_where=sa.text("state IN ('applied', 'acknowledged')"),
        postgresql_where=sa.text("state IN ('applied', 'acknowledged')"),
    )
    op.create_index(
        "ix_exchange_batch_open",
        "exchange_batch",
        ["direction", "state", "channel"],
        unique=False,
        sqlite_where=sa.text("state NOT IN ('applied', 'acknowledged')"),
        postgresql_where=sa.text("state NOT IN ('applied', 'acknowledged')"),
    )
    op.create_index("ix_exchange_batch_stem", "exchange_batch", ["stem"], unique=False)
    op.create_index(
        "uq_exchange_batch_place",
        "exchange_batch",
        ["direction", "channel", "epoch", "sequence"],
        unique=True,
        sqlite_where=sa.text("state <> 'quarantined' AND manifest IS NOT NULL"),
        postgresql_where=sa.text("state <> 'quarantined' AND manifest IS NOT NULL"),
    )
    op.create_table(
        "exchange_change",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("stream", sa.String(length=63), nullable=False),
        sa.Column("op", sa.String(length=1), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_change"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_exchange_change_stream_id", "exchange_change", ["stream", "id"], unique=False)
    op.create_table(
        "exchange_dead_letter",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("channel", sa.String(length=31), nullable=False),
        sa.Column("batch", sa.String(length=80), nullable=True),
        sa.Column("line", sa.BigInteger(), nullable=True),
        sa.Column("stream", sa.String(length=63), nullable=True),
        sa.Column("op", sa.String(length=6), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("schema_version", sa.Integer(), nullable=True),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("record_bytes", sa.BigInteger(), nullable=False),
        sa.Column("pointer", sa.Text(), nullable=True),
        sa.Column("error", sa.String(length=31), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_dead_letter"),
    )
    op.create_index("ix_exchange_dead_letter_fingerprint", "exchange_dead_letter", ["fingerprint", "id"], unique=False)
    op.create_index("ix_exchange_dead_letter_state", "exchange_dead_letter", ["state", "id"], unique=False)
    op.create_index("ix_exchange_dead_letter_stream_key", "exchange_dead_letter", ["stream", "key"], unique=False)
    op.create_table(
        "exchange_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("subject", sa.String(length=12), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("from_state", sa.String(length=12), nullable=True),
        sa.Column("to_state", sa.String(length=12), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_event"),
    )
    op.create_index("ix_exchange_event_subject_subject_id", "exchange_event", ["subject", "subject_id"], unique=False)
    op.create_table(
        "exchange_holder",
        sa.Column("lock", sa.String(length=80), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("lock", name="pk_exchange_holder"),
    )
    op.create_table(
        "exchange_importing",
        sa.Column("stream", sa.String(length=63), nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_exchange_importing"),
    )
    op.create_table(
        "exchange_network",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=31), nullable=False),
        sa.Column("epoch", sa.String(length=12), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_exchange_network_single"),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_network"),
    )
    op.create_table(
        "exchange_position",
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("channel", sa.String(length=31), nullable=False),
        sa.Column("epoch", sa.String(length=12), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("current", sa.Integer(), server_default="1", nullable=False),
        sa.Column("adopted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("direction", "channel", "epoch", name="pk_exchange_position"),
    )
    op.create_table(
        "exchange_success",
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("channel", sa.String(length=31), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("direction", "channel", name="pk_exchange_success"),
    )
    op.create_table(
        "exchange_tombstone",
        sa.Column("stream", sa.String(length=63), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "key", name="pk_exchange_tombstone"),
    )
    op.create_index("ix_exchange_tombstone_stream_version", "exchange_tombstone", ["stream", "version"])
    _start_versions(time.time_ns() // 1000)


def downgrade() -> None:
    """Drop the tables, and all that is known of batches and dead letters with them."""
    captured = capture.captured_tables(op.get_bind())
    if captured:
        raise RuntimeError(
            f"table {captured[0]} is still captured and could not be written without these tables:"
            " drop_capture it in a migration of the application's first"
        )
    op.drop_table("exchange_tombstone")
    op.drop_table("exchange_success")
    op.drop_table("exchange_position")
    op.drop_table("exchange_network")
    op.drop_table("exchange_importing")
    op.drop_table("exchange_holder")
    op.drop_table("exchange_event")
    op.drop_table("exchange_dead_letter")
    op.drop_table("exchange_change")
    op.drop_table("exchange_batch")
    op.drop_table("exchange_attempt")


def _start_versions(first: int) -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute(f"ALTER SEQUENCE exchange_change_id_seq RESTART WITH {first}")
    else:
        sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))
        op.execute(sa.insert(sequence).values(name="exchange_change", seq=first))
