"""People sign in to the console, programs show tokens, and some acts need a second person.

Revision: core_0024, after core_0023.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0024"
down_revision = "core_0023"
branch_labels = None
depends_on = None


def _id() -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", number, primary_key=True, autoincrement=True)


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Make the tables; nobody can sign in until `exchange users add`."""
    op.create_table(
        "exchange_user",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("hash", sa.Text()),
        sa.Column("role", sa.String(15), nullable=False),
        sa.Column("sees_sensitive", sa.Boolean(), nullable=False),
        _at("disabled_at", nullable=True),
        _at("created_at"),
        _at("changed_at"),
        _at("signed_in_at", nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_exchange_user"),
    )
    op.create_table(
        "exchange_session",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        _at("begun_at"),
        _at("seen_at"),
        sa.Column("address", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_exchange_session"),
    )
    op.create_index("ix_exchange_session_name", "exchange_session", ["name", "begun_at"])
    op.create_table(
        "exchange_sign_in",
        _id(),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("address", sa.String(63), nullable=False),
        _at("at"),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_sign_in"),
    )
    op.create_index("ix_exchange_sign_in_name", "exchange_sign_in", ["name", "at"])
    op.create_index("ix_exchange_sign_in_address", "exchange_sign_in", ["address", "at"])
    op.create_index("ix_exchange_sign_in_at", "exchange_sign_in", ["at"])
    op.create_table(
        "exchange_token",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(15), nullable=False),
        sa.Column("sees_sensitive", sa.Boolean(), nullable=False),
        sa.Column("made_by", sa.String(255), nullable=False),
        _at("created_at"),
        _at("expires_at"),
        _at("revoked_at", nullable=True),
        _at("used_at", nullable=True),
        sa.Column("used_from", sa.String(63)),
        sa.PrimaryKeyConstraint("name", name="pk_exchange_token"),
    )
    op.create_index("uq_exchange_token_digest", "exchange_token", ["digest"], unique=True)
    op.create_table(
        "exchange_proposal",
        _id(),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("action", sa.String(63), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("frozen", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("also", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        _at("at"),
        _at("expires_at"),
        sa.Column("closed_by", sa.String(255)),
        _at("closed_at", nullable=True),
        sa.Column("result", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_exchange_proposal"),
    )
    still = sa.text("state IN ('open', 'confirming')")
    op.create_index(
        "ix_exchange_proposal_open", "exchange_proposal", ["id"], sqlite_where=still, postgresql_where=still
    )


def downgrade() -> None:
    """Drop them: nobody signs in any more, and what was proposed is to be asked for anew."""
    for table in ("proposal", "token", "sign_in", "session", "user"):
        op.drop_table(f"exchange_{table}")
