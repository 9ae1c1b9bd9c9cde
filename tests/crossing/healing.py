"""What beat has both sides do in turn, and whether they agree."""

from __future__ import annotations

import sqlalchemy as sa

from exchange.database import tables
from exchange.incoming.importer import never
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.sides import Link, Side

ENOUGH = 40
"""Honest rounds within which both sides have to agree."""


def tick(side: Side) -> None:
    """Export and say so, as beat has it done."""
    run = side.export()
    assert run.trouble is None, run.trouble
    assert control_batch.after_export(side.site) is None


def take_in(side: Side) -> None:
    """Import and say so."""
    run = side.take_in()
    assert run.trouble is None, run.trouble
    assert control_batch.after_import(side.site, run.batches, never) is None


def go_round(link: Link) -> None:
    """Let both sides work once, and the carrier between."""
    for side in (link.one, link.other):
        tick(side)
    link.there.carry()
    link.back.carry()
    for side in (link.other, link.one):
        take_in(side)


def different(link: Link) -> list[str]:
    """Name the tables that are not the same on both sides."""
    found = []
    for table in (*shop.FORTH, *shop.BACK):
        mine, theirs = link.one.rows(table), link.other.rows(table)
        for row in (*mine, *theirs):
            row.pop("password", None)
        if mine != theirs:
            found.append(table.name)
    return found


def unsettled(link: Link) -> list[str]:
    """Say what is still to come: changes, batches that were not acknowledged, gaps, requests."""
    waiting = (
        ("pending", sa.select(tables.change.c.id)),
        (
            "unacknowledged",
            sa.select(tables.batch.c.stem).where(
                tables.batch.c.direction == "out",
                tables.batch.c.channel != "control",
                tables.batch.c.state.in_(["sealed", "published"]),
                tables.batch.c.epoch == sa.select(tables.network.c.epoch).scalar_subquery(),
            ),
        ),
        ("missing", sa.select(tables.gap.c.sequence).where(tables.gap.c.state == "missing")),
        ("asked", sa.select(tables.repair.c.name).where(tables.repair.c.state == "open")),
        ("to be sent", sa.select(tables.resync.c.id).where(tables.resync.c.state.in_(["asked", "running"]))),
    )
    return [
        f"{side.site.network}: {len(found)} {what}"
        for side in (link.one, link.other)
        for what, query in waiting
        if (found := side.all(query))
    ]
