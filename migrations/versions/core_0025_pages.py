"""The ledger and gaps are given by the page, by time, reason, trace, a name's beginning or state: each has an index.

Revision: core_0025, after core_0024.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "core_0025"
down_revision = "core_0024"
branch_labels = None
depends_on = None

TABLE = "exchange_batch"


def upgrade() -> None:
    """Add them. On PostgreSQL names and traces are compared by their bytes, which on SQLite they are anyway."""
    op.create_index("ix_exchange_batch_time", TABLE, ["state", "direction", "channel", "created_at", "id"])
    op.create_index("ix_exchange_batch_reason", TABLE, ["reason", "created_at", "id"], **_where("reason"))
    trace: list[str | sa.TextClause] = ["trace"]
    if _is_postgresql():
        op.create_index("ix_exchange_batch_name", TABLE, [sa.text('stem COLLATE "C"'), "id"])
        trace = [sa.text('trace COLLATE "C"')]
    op.create_index("ix_exchange_batch_trace", TABLE, trace, **_where("trace"))
    op.create_index("ix_exchange_gap_state", "exchange_gap", ["state", "channel", "epoch", "sequence"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_exchange_gap_state", "exchange_gap")
    for name in ("time", "reason", "trace", *(["name"] if _is_postgresql() else [])):
        op.drop_index(f"ix_exchange_batch_{name}", TABLE)


def _where(column: str) -> dict[str, Any]:
    given = sa.text(f"{column} IS NOT NULL")
    return {"sqlite_where": given, "postgresql_where": given}


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
