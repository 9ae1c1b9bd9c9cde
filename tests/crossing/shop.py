"""The application of these tests: every column type, and every way in which rows can depend on each other."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.tables import UtcDateTime

metadata = sa.MetaData()


class Colour(enum.Enum):
    """An enum that crosses by its values."""

    RED = "red"
    DARK_BLUE = "dark blue"


TYPES: dict[str, tuple[sa.types.TypeEngine[Any], Any]] = {
    "small": (sa.SmallInteger(), -(2**15)),
    "whole": (sa.Integer(), 2**31 - 1),
    "big": (sa.BigInteger(), 2**63 - 1),
    "money": (sa.Numeric(12, 2), Decimal("-12.50")),
    "real": (sa.Double(), 1 / 3),
    "truth": (sa.Boolean(), True),
    "name": (sa.String(5), "äöü€😀"),
    "text": (sa.Text(), 'a "line"\nand\u2028another \\ \t'),
    "day": (sa.Date(), date(2024, 2, 29)),
    "clock": (sa.Time(), time(23, 59, 59, 999_999)),
    "aware": (UtcDateTime(), datetime(2026, 11, 22, 6, 15, 0, 5, tzinfo=UTC)),
    "naive": (sa.DateTime(), datetime(2026, 11, 22, 6, 15)),  # noqa: DTZ001 - a column without zone
    "span": (sa.Interval(), timedelta(days=-3, microseconds=7)),
    "mark": (sa.Uuid(), uuid.UUID("6513270e-0000-4000-8000-00000000abcd")),
    "colour": (sa.Enum(Colour, values_callable=lambda kind: [one.value for one in kind]), Colour.DARK_BLUE),
    "size": (sa.Enum("small", "large", name="size"), "large"),
    "blob": (sa.LargeBinary(), b"\x00\xff\n"),
    "document": (sa.JSON(none_as_null=True), {"a": [1, 2.5, None, {"ü": True}]}),
}

everything = sa.Table(
    "everything",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    *(sa.Column(name, kind) for name, (kind, _) in TYPES.items()),
    *(sa.Column(f"{name}_always", kind, nullable=False) for name, (kind, _) in TYPES.items()),
)

place = sa.Table(
    "place",
    metadata,
    sa.Column("country", sa.String(2), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(40), nullable=False),
)

visit = sa.Table(
    "visit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("country", sa.String(2), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["country", "number"], ["place.country", "place.number"], name="visit_place"),
)

node = sa.Table(
    "node",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("parent", sa.Uuid, sa.ForeignKey("node.id", name="node_parent")),
    sa.Column("name", sa.String(40)),
)

team = sa.Table(
    "team",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40)),
    sa.Column("leader", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["leader"], ["person.id"], name="team_leader", deferrable=True, initially="DEFERRED", use_alter=True
    ),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40)),
    sa.Column("team", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["team"], ["team.id"], name="person_team", deferrable=True, initially="DEFERRED"),
)

seat = sa.Table(
    "seat",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("code", sa.String(10), nullable=False, unique=True),
    sa.Column("rank", sa.Integer),
    sa.Column("row", sa.Integer),
    sa.UniqueConstraint("row", "rank", name="seat_row_rank"),
)

account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40), nullable=False),
    sa.Column("age", sa.Integer, sa.CheckConstraint("age < 200", name="account_age")),
    sa.Column("password", sa.String(40)),
)

note = sa.Table(
    "note",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("account", sa.Integer, sa.ForeignKey("account.id", name="note_account", ondelete="CASCADE")),
    sa.Column("text", sa.Text),
)

FORTH = [everything, place, visit, node, team, person, seat, account]
BACK = [note]

channels = (
    Channel("forth", "one", "two", [Stream(t) for t in FORTH[:-1]] + [Stream(account, exclude=["password"])]),
    Channel("back", "two", "one", [Stream(note)]),
)


def one_of_everything(number: int, *, empty: bool = False) -> dict[str, Any]:
    """Give a row of the table that has every type; ``empty`` leaves NULL what may be NULL."""
    always = {f"{name}_always": value for name, (_, value) in TYPES.items()}
    return {"id": number, **{name: None if empty else value for name, (_, value) in TYPES.items()}, **always}
