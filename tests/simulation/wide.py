"""More of an application: keys of several columns and of text, cycles over two channels, JSON's null.

``one`` sends ``wide``, ``reply``, ``loose`` (not ordered) and ``strict`` (one bad record refuses its batch). A
``reply`` refers to a ``note``, which comes from ``two``; ``plug`` and ``socket`` refer to each other over two channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from exchange.channels import Channel, Stream

NEVER = "never"


def tables(metadata: sa.MetaData, *, strict: bool) -> None:
    """Make the tables as one of the networks has them; ``strict`` has rules of its own."""

    def table(name: str, *columns: Any) -> None:
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), *columns)

    sa.Table(
        "place",
        metadata,
        sa.Column("country", sa.String(8), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(20)),
    )
    sa.Table(
        "doc",
        metadata,
        sa.Column("code", sa.String(8), primary_key=True),
        sa.Column("country", sa.String(8)),
        sa.Column("number", sa.Integer),
        sa.Column("body", sa.JSON),
        sa.Column("amount", sa.Numeric(12, 4)),
        sa.Column("ratio", sa.Float),
        sa.Column("raw", sa.LargeBinary),
        # Over there nothing is emptied by itself.
        sa.ForeignKeyConstraint(
            ["country", "number"], ["place.country", "place.number"], ondelete=None if strict else "SET NULL"
        ),
    )
    table(
        "slot",
        sa.Column("owner", sa.Integer),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "rank"),
    )
    socket = sa.ForeignKey("socket.id", name="plug_socket", ondelete="SET NULL", use_alter=True)
    table("plug", sa.Column("socket", sa.Integer, socket), sa.Column("name", sa.String(20)))
    plug = sa.ForeignKey("plug.id", name="socket_plug", ondelete="SET NULL")
    table("socket", sa.Column("plug", sa.Integer, plug), sa.Column("name", sa.String(20)))
    note = sa.ForeignKey("note.id", ondelete="SET NULL" if strict else "CASCADE")
    table("reply", sa.Column("note", sa.Integer, note), sa.Column("text", sa.String(20)))
    account = sa.ForeignKey("account.id", ondelete="CASCADE")
    table("mark", sa.Column("account", sa.Integer, account), sa.Column("text", sa.String(20)))
    rules = [sa.CheckConstraint(f"name <> '{NEVER}'", name="rule_name")] if strict else []
    table("rule", sa.Column("name", sa.String(20)), *rules)


STREAMS = {
    "wide": ("place", "doc", "slot", "plug"),
    "reply": ("socket", "reply"),
    "loose": ("mark",),
    "strict": ("rule",),
}
PARENTS = ("place", "plug", "socket", "slot")


def channels(source: str, target: str, streams: Callable[..., list[Stream]]) -> tuple[Channel, ...]:
    """Declare them."""
    wide, reply, loose, strict = (streams(*names) for names in STREAMS.values())
    return (
        Channel("wide", source, target, wide),
        Channel("reply", source, target, reply),
        Channel("loose", source, target, loose, ordered=False),
        Channel("strict", source, target, strict, on_invalid="reject"),
    )
