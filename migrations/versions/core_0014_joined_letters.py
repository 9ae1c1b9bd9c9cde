"""Of each row one dead letter at most is parked: it counts how often its record came. Repairs in vain are known by row.

Of letters that wait for the same row the newest stays; the older ones are superseded, each with its event.
Revision: core_0014, after core_0013.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from exchange.dead_letters.joining import identity_of

revision = "core_0014"
down_revision = "core_0013"
branch_labels = None
depends_on = None

TABLE = "exchange_dead_letter"
INDEXES = {
    "uq_exchange_dead_letter_identity": (["identity"], "state = 'parked' AND identity IS NOT NULL"),
    "ix_exchange_dead_letter_seen": (["state", "fingerprint", "seen", "first_seen", "last_seen"], "seen > 1"),
}
AT_ONCE = 1_000
COLUMNS = ("id", "direction", "channel", "stream", "key", "record", "record_bytes")

_letter = sa.table(
    TABLE,
    *map(sa.column, (*COLUMNS, "state", "identity", "seen", "version", "revision")),
    *(sa.column(name, sa.DateTime(timezone=True)) for name in ("first_seen", "created_at", "updated_at")),
)
_event = sa.table(
    "exchange_event",
    *map(sa.column, ("subject", "subject_id", "from_state", "to_state", "cause", "who")),
    sa.column("at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    """Add the columns, say of which row each letter is that waits or may wait again, and let one of each row wait."""
    for column in (
        sa.Column("identity", sa.String(32), nullable=True),
        sa.Column("seen", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column(TABLE, column)
    op.add_column("exchange_agreement", sa.Column("in_vain", sa.Text(), nullable=True))
    op.create_index("ix_exchange_dead_letter_identity", TABLE, ["identity", "id"])
    connection = op.get_bind()
    for letters in _pages(connection):
        identities = [{"letter": row.id, "found": identity_of(_members(row), row.key)} for row in letters]
        naming = sa.update(_letter).where(_letter.c.id == sa.bindparam("letter"))
        connection.execute(naming.values(identity=sa.bindparam("found")), identities)
    _let_one_wait(connection)
    op.drop_index("ix_exchange_dead_letter_identity", TABLE)
    for name, (columns, those) in INDEXES.items():
        where, unique = sa.text(those), name.startswith("uq_")
        op.create_index(name, TABLE, columns, unique=unique, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Forget how often letters were seen, and what repairs did not help; what was superseded stays so."""
    op.drop_column("exchange_agreement", "in_vain")
    for name in INDEXES:
        op.drop_index(name, TABLE)
    for name in ("last_seen", "first_seen", "seen", "identity"):
        op.drop_column(TABLE, name)


def _pages(connection: sa.Connection) -> Iterator[list[Any]]:
    """Give the letters that are parked, or may come to be so again, some at a time."""
    after = 0
    asking = sa.select(*(_letter.c[name] for name in COLUMNS)).where(_letter.c.state.in_(["parked", "discarded"]))
    while letters := connection.execute(asking.where(_letter.c.id > after).order_by(_letter.c.id).limit(AT_ONCE)).all():
        yield list(letters)
        after = letters[-1].id


def _members(row: Any) -> dict[str, Any]:
    return {name: bytes(row.record) if name == "record" else getattr(row, name) for name in COLUMNS}


def _let_one_wait(connection: sa.Connection) -> None:
    """Let one letter of a row be parked: the newest, and of equally new ones that which a person mended last."""
    letter, other = _letter.c, _letter.alias("other").c
    parked = (letter.state == "parked", letter.identity.is_not(None))
    newest_first = (sa.func.coalesce(letter.version, 0).desc(), letter.revision.desc(), letter.id.desc())
    ranked = (
        sa.select(
            letter.id,
            sa.func.row_number().over(partition_by=letter.identity, order_by=newest_first).label("place"),
            sa.func.first_value(letter.id).over(partition_by=letter.identity, order_by=newest_first).label("stays"),
        )
        .where(*parked)
        .subquery()
    )
    past = sa.select(ranked.c.id).where(ranked.c.place > 1)
    stays = sa.select(ranked.c.stays).where(ranked.c.place == 2)  # noqa: PLR2004 - so there are two at least
    moment = datetime.now(UTC)
    why = sa.literal("superseded: of its row dead letter ") + sa.cast(ranked.c.stays, sa.Text()) + " waits (core_0014)"
    told = {
        "subject": sa.literal("dead_letter"),
        "subject_id": ranked.c.id,
        "at": sa.literal(moment, sa.DateTime(timezone=True)),
        "from_state": sa.literal("parked"),
        "to_state": sa.literal("superseded"),
        "cause": why,
        "who": sa.literal("exchange migrate"),
    }
    events = sa.select(*told.values()).where(ranked.c.place > 1).order_by(ranked.c.id)
    connection.execute(sa.insert(_event).from_select(list(told), events))
    mine = (other.identity == letter.identity, other.state == "parked")
    counted = sa.select(sa.func.count()).where(*mine).scalar_subquery()
    first = sa.select(sa.func.min(other.created_at)).where(*mine).scalar_subquery()
    connection.execute(sa.update(_letter).where(letter.id.in_(stays)).values(seen=counted, first_seen=first))
    connection.execute(sa.update(_letter).where(letter.id.in_(past)).values(state="superseded", updated_at=moment))
