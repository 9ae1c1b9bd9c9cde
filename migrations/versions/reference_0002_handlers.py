"""Requests whose handler had no answer yet, and how each handler fared last: both local to the answering network.

Revision: reference_0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "reference_0002"
down_revision = "reference_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, of which nothing crosses."""
    op.create_table(
        "answer_later",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("handler", sa.String(length=255), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name="fk_answer_later_request_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("request_id", name="pk_answer_later"),
    )
    op.create_table(
        "handler_outcome",
        sa.Column("handler", sa.String(length=255), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("handler", name="pk_handler_outcome"),
    )


def downgrade() -> None:
    """Drop both: requests that wait are tried again at once, by whatever answers then."""
    op.drop_table("handler_outcome")
    op.drop_table("answer_later")
