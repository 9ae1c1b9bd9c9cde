"""Indexes for the queries there are: the ledger by state, by stem and by age; none that no query uses.

Revision: core_0002, after core_0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0002"
down_revision = "core_0001"
branch_labels = None
depends_on = None

_KEPT = sa.text("pruned_at IS NULL")
_OPEN = sa.text("state NOT IN ('applied', 'acknowledged')")
_DONE = sa.text("state IN ('applied', 'acknowledged')")


def upgrade() -> None:
    """Index the ledger whole: SQLite can't tell that a query asks for no more than a partial index has."""
    op.drop_index("ix_exchange_batch_open", "exchange_batch")
    op.drop_index("ix_exchange_batch_done", "exchange_batch")
    op.drop_index("ix_exchange_batch_stem", "exchange_batch")
    op.create_index("ix_exchange_batch_stem_id", "exchange_batch", ["stem", "id"])
    op.create_index("ix_exchange_batch_state", "exchange_batch", ["state", "direction", "channel"])
    op.create_index(
        "ix_exchange_batch_kept",
        "exchange_batch",
        ["direction", "updated_at"],
        sqlite_where=_KEPT,
        postgresql_where=_KEPT,
    )
    op.drop_index("ix_exchange_dead_letter_fingerprint", "exchange_dead_letter")
    op.drop_index("ix_exchange_dead_letter_stream_key", "exchange_dead_letter")


def downgrade() -> None:
    """Bring back the indexes of core_0001."""
    op.create_index("ix_exchange_dead_letter_stream_key", "exchange_dead_letter", ["stream", "key"])
    op.create_index("ix_exchange_dead_letter_fingerprint", "exchange_dead_letter", ["fingerprint", "id"])
    op.drop_index("ix_exchange_batch_kept", "exchange_batch")
    op.drop_index("ix_exchange_batch_state", "exchange_batch")
    op.drop_index("ix_exchange_batch_stem_id", "exchange_batch")
    op.create_index("ix_exchange_batch_stem", "exchange_batch", ["stem"])
    for name, where in (("ix_exchange_batch_done", _DONE), ("ix_exchange_batch_open", _OPEN)):
        op.create_index(
            name, "exchange_batch", ["direction", "state", "channel"], sqlite_where=where, postgresql_where=where
        )
