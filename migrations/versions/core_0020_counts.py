"""What metrics tell is counted as it happens: batches by triggers, durations and the like by whoever did the work.

Revision: core_0020, after core_0019.
"""
# ruff: noqa: S608 - nothing but our own words are written into statements

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "core_0020"
down_revision = "core_0019"
branch_labels = None
depends_on = None

COUNTS, WORK = "exchange_batch_count", "exchange_work_count"
_EVENTS = ("insert", "update", "delete")

_AGAIN = "{new}.state = 'published' AND {old}.state <> 'sealed' AND {old}.published_at {differs} {new}.published_at"


def upgrade() -> None:
    """Make the tables, count the batches there are, and let triggers count from then on."""
    op.create_table(
        COUNTS,
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("part", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("batches", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("standing", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("direction", "channel", "outcome", "part", name="pk_exchange_batch_count"),
    )
    op.create_table(
        WORK,
        sa.Column("what", sa.String(31), nullable=False),
        sa.Column("direction", sa.String(3), nullable=False),
        sa.Column("channel", sa.String(31), nullable=False),
        sa.Column("label", sa.String(31), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("microseconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what", "direction", "channel", "label", name="pk_exchange_work_count"),
    )
    op.execute(
        f"INSERT INTO {COUNTS} (direction, channel, outcome, part, batches, records, bytes, standing)"
        " SELECT direction, channel, state, 0, count(*), sum(records), sum(bytes), count(*) FROM exchange_batch"
        " GROUP BY direction, channel, state"
    )
    statements = _statement_triggers() if _is_postgresql() else _row_triggers()
    for statement in statements:
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def downgrade() -> None:
    """Drop them: nothing is counted any more."""
    on = " ON exchange_batch" if _is_postgresql() else ""
    for name in (*_EVENTS, *(() if _is_postgresql() else ("again",))):
        op.execute(f"DROP TRIGGER exchange_count_batch_{name}{on}")
    if _is_postgresql():
        op.execute("DROP FUNCTION exchange_count_batches()")
    op.drop_table(WORK)
    op.drop_table(COUNTS)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _statement_triggers() -> list[str]:
    """Add each statement's difference to a part that is free, or make one: no transaction waits for another one's."""
    came = "SELECT direction, channel, state, 1, records, bytes, {standing} FROM exchange_new"
    went = "SELECT direction, channel, state, 0, 0, 0, -1 FROM exchange_old"
    both = "FROM exchange_new AS n JOIN exchange_old AS o USING (id)"  # new and old are words of its language
    again = _AGAIN.format(new="n", old="o", differs="IS DISTINCT FROM")
    moved = (
        f"SELECT n.direction, n.channel, n.state, CASE WHEN {again} THEN 0 ELSE 1 END,"
        f" CASE WHEN {again} THEN 0 ELSE n.records END, CASE WHEN {again} THEN 0 ELSE n.bytes END, 1"
        f" {both} WHERE n.state <> o.state"
        f" UNION ALL SELECT o.direction, o.channel, o.state, 0, 0, 0, -1 {both} WHERE n.state <> o.state"
        f" UNION ALL SELECT n.direction, n.channel, 'resent', 1, n.records, n.bytes, 0 {both} WHERE {again}"
    )
    seen = {
        "insert": (came.format(standing=1), "NEW TABLE AS exchange_new"),
        "update": (moved, "OLD TABLE AS exchange_old NEW TABLE AS exchange_new"),
        "delete": (went, "OLD TABLE AS exchange_old"),
    }
    here = f"FROM {COUNTS} c WHERE (c.direction, c.channel, c.outcome) = (one.direction, one.channel, one.outcome)"
    numbers = ("batches", "records", "bytes", "standing")
    adding = ", ".join(f"{name} = {name} + one.{name}" for name in numbers)
    body = " ".join(
        f"IF TG_OP = '{name.upper()}' THEN FOR one IN"
        " SELECT direction, channel, outcome, sum(batches) AS batches, sum(records) AS records, sum(bytes) AS bytes,"
        f" sum(standing) AS standing FROM ({changed})"
        " AS changed (direction, channel, outcome, batches, records, bytes, standing) GROUP BY 1, 2, 3 LOOP"
        f" UPDATE {COUNTS} SET {adding} WHERE ctid ="
        f" (SELECT c.ctid {here} LIMIT 1 FOR UPDATE SKIP LOCKED);"
        f" IF NOT FOUND THEN INSERT INTO {COUNTS} (direction, channel, outcome, {', '.join(numbers)})"
        f" VALUES (one.direction, one.channel, one.outcome, {', '.join(f'one.{name}' for name in numbers)}); END IF;"
        " END LOOP; END IF;"
        for name, (changed, _) in seen.items()
    )
    body = f"DECLARE one record; BEGIN {body} RETURN NULL; END"
    return [
        f"CREATE FUNCTION exchange_count_batches() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
        *(
            f"CREATE TRIGGER exchange_count_batch_{name} AFTER {name.upper()} ON exchange_batch"
            f" REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION exchange_count_batches()"
            for name, (_, tables) in seen.items()
        ),
    ]


def _row_triggers() -> list[str]:
    """Add to one row, or take from it: SQLite has one writer."""
    again = _AGAIN.format(new="new", old="old", differs="IS NOT")

    def add(row: str, outcome: str, standing: int, *, first: str = "1") -> str:
        more = {"batches": first, "records": f"{first} * {row}.records", "bytes": f"{first} * {row}.bytes"}
        adding = ", ".join(f"{name} = {name} + excluded.{name}" for name in (*more, "standing"))
        return (
            f"INSERT INTO {COUNTS} (direction, channel, outcome, part, batches, records, bytes, standing)"
            f" VALUES ({row}.direction, {row}.channel, {outcome}, 0, {', '.join(more.values())}, {standing})"
            f" ON CONFLICT (direction, channel, outcome, part) DO UPDATE SET {adding};"
        )

    fires = {
        "insert": ("INSERT ON exchange_batch", add("new", "new.state", 1)),
        "update": (
            "UPDATE OF state ON exchange_batch WHEN old.state <> new.state",
            add("old", "old.state", -1, first="0") + add("new", "new.state", 1, first=f"(NOT ({again}))"),
        ),
        "again": (
            f"UPDATE OF published_at ON exchange_batch WHEN {again}",
            add("new", "'resent'", 0),
        ),
        "delete": ("DELETE ON exchange_batch", add("old", "old.state", -1, first="0")),
    }
    return [
        f"CREATE TRIGGER exchange_count_batch_{name} AFTER {when} BEGIN {body} END"
        for name, (when, body) in fires.items()
    ]
