"""An audit that is only ever added to, each row with the digest of the one before it.

What is there already is chained as it stands: whatever happens to it from now on is found out, what happened before
is not. Results become rows of their own.

Revision: core_0006, after core_0005.
"""
# ruff: noqa: S608 - nothing but our own words are written into statements

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from exchange.format.audit_file import FIRST, AuditRow

revision = "core_0006"
down_revision = "core_0005"
branch_labels = None
depends_on = None

TABLE = "exchange_audit"
UNIQUE = ("call", "concludes", "previous")
_ROWS = 500

_FUNCTION = (
    "CREATE FUNCTION exchange_audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
    " RAISE EXCEPTION 'exchange_audit is only ever added to: % is refused', TG_OP"
    " USING ERRCODE = 'integrity_constraint_violation'; END$$"
)
_TRIGGER = (
    f"CREATE TRIGGER exchange_audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE}"
    " FOR EACH STATEMENT EXECUTE FUNCTION exchange_audit_stays()"
)
# REPLACE removes rows without firing a trigger for it, unless its connection asks for that.
_REPLACED = (
    f" WHEN EXISTS (SELECT 1 FROM {TABLE} WHERE id = new.id OR call = new.call"
    " OR concludes = new.concludes OR previous = new.previous)"
)
_FIRES = {"update": "", "delete": "", "insert": _REPLACED}


def upgrade() -> None:
    """Add the columns, chain what is there, and let triggers keep it."""
    op.add_column(TABLE, sa.Column("call", sa.String(64), nullable=True))
    op.add_column(TABLE, sa.Column("concludes", sa.BigInteger(), nullable=True))
    op.add_column(TABLE, sa.Column("previous", sa.String(64), nullable=True))
    op.add_column(TABLE, sa.Column("digest", sa.String(64), nullable=True))
    _chain()
    with op.batch_alter_table(TABLE) as batch:
        for name in ("previous", "digest"):
            batch.alter_column(name, existing_type=sa.String(64), nullable=False)
    for name in UNIQUE:
        op.create_index(f"uq_{TABLE}_{name}", TABLE, [name], unique=True)
    for statement in _keepers():
        op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def _keepers() -> list[str]:
    if _is_postgresql():
        return [_FUNCTION, _TRIGGER]
    return [
        f"CREATE TRIGGER exchange_audit_stays_{name} BEFORE {name.upper()} ON {TABLE}{when} BEGIN"
        f" SELECT RAISE(ABORT, 'exchange_audit is only ever added to: {name.upper()} is refused'); END"
        for name, when in _FIRES.items()
    ]


def _chain() -> None:
    """Give every row that is there its digest, in order."""
    bind = op.get_bind()
    audit = sa.table(
        TABLE,
        sa.column("id", sa.BigInteger()),
        sa.column("at", sa.DateTime(timezone=True)),
        *map(sa.column, ("who", "origin", "action", "arguments", "why", "result", "call", "concludes")),
        *map(sa.column, ("previous", "digest")),
    )
    head, last = FIRST, None
    while True:
        after = sa.true() if last is None else audit.c.id > last
        found = bind.execute(sa.select(audit).where(after).order_by(audit.c.id).limit(_ROWS)).mappings().all()
        if not found:
            return
        for one in found:
            row = AuditRow.of({**one, "at": _aware(one["at"]), "previous": head})
            head, last = row.digest, row.id
            bind.execute(sa.update(audit).where(audit.c.id == last).values(previous=row.previous, digest=head))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def downgrade() -> None:
    """Give results back to the rows they are of, and the table back to whoever may change it."""
    if _is_postgresql():
        op.execute(f"DROP TRIGGER exchange_audit_stays ON {TABLE}")
        op.execute("DROP FUNCTION exchange_audit_stays()")
    else:
        for name in _FIRES:
            op.execute(f"DROP TRIGGER exchange_audit_stays_{name}")
    audit = sa.table(TABLE, *map(sa.column, ("id", "result", "concludes")))
    ended = audit.alias("ended")
    result = sa.select(ended.c.result).where(ended.c.concludes == audit.c.id).scalar_subquery()
    op.execute(sa.update(audit).where(audit.c.result.is_(None)).values(result=result))
    op.execute(sa.delete(audit).where(audit.c.concludes.is_not(None)))
    for name in UNIQUE:
        op.drop_index(f"uq_{TABLE}_{name}", TABLE)
    for name in ("digest", "previous", "concludes", "call"):
        op.drop_column(TABLE, name)


def _is_postgresql() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")
