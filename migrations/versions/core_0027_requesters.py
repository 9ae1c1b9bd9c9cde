"""Who asks over HTTP: passwords, sessions and keys of theirs, how much they asked of late, and what they were answered.

Revision: core_0027, after core_0026.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0027"
down_revision = "core_0026"
branch_labels = None
depends_on = None


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Make the tables; nobody has a password or a key yet."""
    op.create_table(
        "exchange_requester",
        sa.Column("user_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("hash", sa.String(255), nullable=False),
        _at("changed_at"),
        _at("signed_in_at", nullable=True),
        sa.PrimaryKeyConstraint("user_id", name="pk_exchange_requester"),
    )
    op.create_table(
        "exchange_requester_session",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("family", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        _at("begun_at"),
        _at("renewed_at"),
        _at("expires_at"),
        _at("ended_at", nullable=True),
        sa.Column("address", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_requester_session"),
    )
    table = "exchange_requester_session"
    op.create_index("uq_exchange_requester_session_family", table, ["family"], unique=True)
    op.create_index("ix_exchange_requester_session_user_id", table, ["user_id", "begun_at"])
    op.create_table(
        "exchange_api_key",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("user_id", sa.Integer()),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("old_digest", sa.String(64)),
        _at("old_until", nullable=True),
        sa.Column("made_by", sa.String(255), nullable=False),
        _at("created_at"),
        _at("rotated_at", nullable=True),
        _at("expires_at"),
        _at("revoked_at", nullable=True),
        _at("used_at", nullable=True),
        sa.Column("used_from", sa.String(63)),
        sa.PrimaryKeyConstraint("name", name="pk_exchange_api_key"),
    )
    op.create_index("uq_exchange_api_key_digest", "exchange_api_key", ["digest"], unique=True)
    op.create_index("ix_exchange_api_key_old_digest", "exchange_api_key", ["old_digest"])
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "exchange_asked",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("profile_type_id", sa.Integer(), nullable=False),
        _at("at"),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_asked"),
    )
    op.create_index("ix_exchange_asked_user_id", "exchange_asked", ["user_id", "at"])
    op.create_index("ix_exchange_asked_profile_type_id", "exchange_asked", ["profile_type_id", "at"])
    op.create_index("ix_exchange_asked_at", "exchange_asked", ["at"])
    op.create_table(
        "exchange_idempotency",
        sa.Column("user_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        _at("at"),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_exchange_idempotency"),
    )
    op.create_index("ix_exchange_idempotency_at", "exchange_idempotency", ["at"])


def downgrade() -> None:
    """Drop them: whoever was signed in signs in anew with a password that is set again."""
    for table in ("idempotency", "asked", "api_key", "requester_session", "requester"):
        op.drop_table(f"exchange_{table}")
