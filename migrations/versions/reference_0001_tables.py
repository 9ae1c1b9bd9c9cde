"""The reference application's tables, on both networks alike.

Revision: reference_0001, the first of the branch `reference`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "reference_0001"
down_revision = None
branch_labels = ("reference",)
depends_on = ("core_0001",)

SOURCES = {"profile_type": "response", "user": "response", "request": "request", "response": "response"}
"""Which network owns the rows of which table."""


def upgrade() -> None:
    """Make the tables, and capture what this network owns."""
    op.create_table(
        "profile_type",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("daily_limit", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("5"), nullable=False),
        sa.CheckConstraint("name <> ''", name="ck_profile_type_name_not_empty"),
        sa.CheckConstraint("daily_limit >= 0", name="ck_profile_type_daily_limit_not_negative"),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name="ck_profile_type_priority_range"),
        sa.PrimaryKeyConstraint("id", name="pk_profile_type"),
        sa.UniqueConstraint("name", name="uq_profile_type_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "user",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("profile_type_id", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=True),
        sa.CheckConstraint("email <> ''", name="ck_user_email_not_empty"),
        sa.CheckConstraint("name <> ''", name="ck_user_name_not_empty"),
        sa.ForeignKeyConstraint(["profile_type_id"], ["profile_type.id"], name="fk_user_profile_type_id"),
        sa.PrimaryKeyConstraint("id", name="pk_user"),
        sa.UniqueConstraint("email", name="uq_user_email"),
        sa.UniqueConstraint("name", name="uq_user_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_user_profile_type_id", "user", ["profile_type_id"], unique=False)
    op.create_table(
        "request",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("5"), nullable=False),
        sa.Column("status", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("CURRENT_TIMESTAMP"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("CURRENT_TIMESTAMP"),
            nullable=False,
        ),
        sa.CheckConstraint("status IN ('pending', 'cancelled')", name="ck_request_status"),
        sa.CheckConstraint("kind <> ''", name="ck_request_kind_not_empty"),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name="ck_request_priority_range"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_request_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_request"),
    )
    op.create_index("ix_request_user_id_created_at", "request", ["user_id", "created_at"], unique=False)
    op.create_table(
        "answer_attempt",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["request.id"], name="fk_answer_attempt_request_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name="pk_answer_attempt"),
    )
    op.create_table(
        "response",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("processed_by", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('answered', 'failed')", name="ck_response_status"),
        sa.CheckConstraint(
            "(status = 'answered' AND error IS NULL) OR (status = 'failed' AND error IS NOT NULL)",
            name="ck_response_error_when_failed",
        ),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name="fk_response_request_id"),
        sa.PrimaryKeyConstraint("id", name="pk_response"),
        sa.UniqueConstraint("request_id", name="uq_response_request_id"),
    )
    for table, source in SOURCES.items():
        op.install_capture(table, source=source)  # type: ignore[attr-defined]  # exchange.alembic adds it


def downgrade() -> None:
    """Drop the tables with their rows and triggers; changes not yet sent stay in the log and are ignored."""
    for table in SOURCES:
        op.drop_capture(table)  # type: ignore[attr-defined]  # exchange.alembic adds it
    op.drop_table("response")
    op.drop_table("answer_attempt")
    op.drop_table("request")
    op.drop_table("user")
    op.drop_table("profile_type")
