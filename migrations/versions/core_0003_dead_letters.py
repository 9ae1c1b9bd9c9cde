"""What an operator needs: revisions and selections of dead letters, batches given up, and an audit of it all.

Revision: core_0003, after core_0002.
"""
# ruff: noqa: S608 - nothing but our own words are written into statements

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0003"
down_revision = "core_0002"
branch_labels = None
depends_on = None


def _hold_places(condition: str) -> None:
    op.drop_index("uq_exchange_batch_place", "exchange_batch")
    op.create_index(
        "uq_exchange_batch_place",
        "exchange_batch",
        ["direction", "channel", "epoch", "sequence"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )


def upgrade() -> None:
    """Add columns, tables and the indexes that looking at a million letters takes."""
    # A batch that a person gave up holds its place no longer.
    _hold_places(
        "state NOT IN ('quarantined', 'discarded') AND (state <> 'rejected' OR direction = 'out')"
        " AND manifest IS NOT NULL"
    )
    op.add_column("exchange_dead_letter", sa.Column("producer", sa.String(200), nullable=True))
    op.add_column("exchange_dead_letter", sa.Column("cause", sa.Text(), server_default="", nullable=False))
    op.add_column("exchange_dead_letter", sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
    op.drop_index("ix_exchange_dead_letter_state", "exchange_dead_letter")
    op.create_index("ix_exchange_dead_letter_state", "exchange_dead_letter", ["state", "created_at", "id"])
    op.create_index(
        "ix_exchange_dead_letter_fingerprint", "exchange_dead_letter", ["fingerprint", "state", "created_at", "id"]
    )
    op.create_index("ix_exchange_dead_letter_key", "exchange_dead_letter", ["key", "stream"])
    op.create_index("ix_exchange_dead_letter_batch", "exchange_dead_letter", ["batch", "line"])
    for name, columns, those in (
        ("parked_key", ["stream", "key"], "state = 'parked' AND key IS NOT NULL"),
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
    op.create_table(
        "exchange_dead_letter_count",
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("letters", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", "state", "hour", "part", name="pk_exchange_dead_letter_count"),
    )
    _begin_counting("postgresql" if op.get_bind().dialect.name == "postgresql" else "sqlite")


def downgrade() -> None:
    """Take them away again."""
    op.execute(
        "UPDATE exchange_batch SET state = 'quarantined' WHERE direction = 'in' AND state IN ('rejected', 'discarded')"
    )
    _hold_places("state <> 'quarantined' AND manifest IS NOT NULL")
    for name in ("insert", "update", "delete"):
        on = " ON exchange_dead_letter" if op.get_bind().dialect.name == "postgresql" else ""
        op.execute(f"DROP TRIGGER exchange_count_dead_letter_{name}{on}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION exchange_count_dead_letters()")
    op.drop_table("exchange_dead_letter_count")
    op.drop_table("exchange_audit")
    op.drop_table("exchange_selected")
    op.drop_table("exchange_selection")
    op.drop_table("exchange_dead_letter_revision")
    for name in ("orphan", "parked_key", "batch", "key", "fingerprint", "state"):
        op.drop_index(f"ix_exchange_dead_letter_{name}", "exchange_dead_letter")
    op.create_index("ix_exchange_dead_letter_state", "exchange_dead_letter", ["state", "id"])
    for name in ("revision", "cause", "producer"):
        op.drop_column("exchange_dead_letter", name)


_HOUR = {
    "postgresql": "floor(extract(epoch FROM {row}created_at) / 3600)::bigint",
    "sqlite": "CAST(strftime('%s', {row}created_at) AS INTEGER) / 3600",
}


def _begin_counting(dialect: str) -> None:
    """Count the letters there are, and let triggers count those that come, change and go."""
    op.execute(
        "INSERT INTO exchange_dead_letter_count (fingerprint, state, hour, part, letters)"
        f" SELECT fingerprint, state, {_HOUR[dialect].format(row='')}, 0, count(*) FROM exchange_dead_letter"
        " GROUP BY 1, 2, 3"
    )
    statements = _statement_triggers() if dialect == "postgresql" else _row_triggers()
    for statement in statements:
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def _statement_triggers() -> list[str]:
    """Write down each statement's difference as rows of its own: no transaction waits for another one's count."""
    hour = _HOUR["postgresql"].format(row="")
    rows = "SELECT fingerprint, state, {hour}, {letters} FROM {table}"
    old = rows.format(hour=hour, letters="-1", table="exchange_old")
    new = rows.format(hour=hour, letters="1", table="exchange_new")
    seen = {
        "insert": (new, "NEW TABLE AS exchange_new"),
        "delete": (old, "OLD TABLE AS exchange_old"),
        "update": (f"{old} UNION ALL {new}", "OLD TABLE AS exchange_old NEW TABLE AS exchange_new"),
    }
    body = " ".join(
        f"IF TG_OP = '{name.upper()}' THEN"
        " INSERT INTO exchange_dead_letter_count (fingerprint, state, hour, letters)"
        " SELECT fingerprint, state, hour, sum(letters)"
        f" FROM ({changed}) AS changed (fingerprint, state, hour, letters)"
        " GROUP BY fingerprint, state, hour HAVING sum(letters) <> 0; END IF;"
        for name, (changed, _) in seen.items()
    )
    body = f"BEGIN {body} RETURN NULL; END"
    return [
        f"CREATE FUNCTION exchange_count_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
        *(
            f"CREATE TRIGGER exchange_count_dead_letter_{name} AFTER {name.upper()} ON exchange_dead_letter"
            f" REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION exchange_count_dead_letters()"
            for name, (_, tables) in seen.items()
        ),
    ]


def _row_triggers() -> list[str]:
    """Add to one row, or take from it: SQLite has one writer."""
    steps = {
        row: "INSERT INTO exchange_dead_letter_count (fingerprint, state, hour, part, letters)"
        f" VALUES ({row}.fingerprint, {row}.state, {_HOUR['sqlite'].format(row=f'{row}.')}, 0, {sign}1)"
        f" ON CONFLICT (fingerprint, state, hour, part) DO UPDATE SET letters = letters {sign} 1;"
        for row, sign in (("old", "-"), ("new", "+"))
    }
    columns = ("fingerprint", "state", "created_at")
    moved = " OR ".join(f"old.{name} IS NOT new.{name}" for name in columns)
    fires = {
        "insert": ("INSERT ON exchange_dead_letter", steps["new"]),
        "delete": ("DELETE ON exchange_dead_letter", steps["old"]),
        "update": (
            f"UPDATE OF {', '.join(columns)} ON exchange_dead_letter WHEN {moved}",
            steps["old"] + steps["new"],
        ),
    }
    return [
        f"CREATE TRIGGER exchange_count_dead_letter_{name} AFTER {when} BEGIN {body} END"
        for name, (when, body) in fires.items()
    ]
