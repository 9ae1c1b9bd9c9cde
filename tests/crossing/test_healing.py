"""A carrier that loses a fifth of all files, and databases that are restored: both sides come to agree."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.incoming.importer import never
from exchange.link import epochs, reconcile
from exchange.operating import status
from exchange.outgoing import control_batch
from exchange.testing.carrier import HONEST, Faults
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, shop_link
from tests.crossing.sides import Link, Side
from tests.crossing.test_carriage import Writer
from tests.databases import Databases
from tests.postgresql import Cluster

FAULTS = Faults(delay=0.2, repeat=0.2, truncate=0.03, damage=0.05, drop=0.2, reorder=True)
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


@contextmanager
def copied(side: Side, cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Copy a side's database; give the function that puts the copy in its place."""
    url = side.engine.url
    side.engine.dispose()
    if url.get_backend_name() == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            with closing(sqlite3.connect(str(url.database))) as driver:
                driver.execute(f"VACUUM INTO '{folder}/copy.db'")

            def back() -> None:
                side.engine.dispose()
                for ending in ("-wal", "-shm"):
                    Path(f"{url.database}{ending}").unlink(missing_ok=True)
                shutil.copy(f"{folder}/copy.db", str(url.database))

            yield back
        return
    copy = cluster.create(template=str(url.database))

    def restore() -> None:
        side.engine.dispose()
        plain = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {url.database} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {url.database} TEMPLATE {copy.rpartition('/')[2]} STRATEGY wal_log")

    try:
        yield restore
    finally:
        cluster.drop(copy)


def heal(link: Link, seed: int, rounds: int, cluster: Cluster) -> None:
    """Live through many bad rounds and a restore, then see both sides agree."""
    draw = random.Random(seed)
    for side in (link.one, link.other):
        side.limit(batch_records=draw.choice([3, 7, 1000]), gap_seconds=0, grace_seconds=0, period_seconds=1e-6)
    for carrier in (link.there, link.back):
        carrier.faults = FAULTS
        carrier._draw = random.Random(draw.random())
    writer = Writer(link, seed)
    restored = draw.choice([link.one, link.other])
    begins, ends = sorted(draw.sample(range(rounds), 2))
    by_hand = draw.randrange(rounds)

    def live(turns: range) -> None:
        for turn in turns:
            writer.write()
            if turn == by_hand:
                drift(link)
            go_round(link)

    live(range(begins))
    with copied(restored, cluster) as back:
        live(range(begins, ends))
        back()
    epochs.begin_epoch(restored.site, "restored from last night")
    # Shown where the test fails, with the seed.
    print(f"seed {seed}: {restored.site.network} was restored in round {ends} to round {begins}")  # noqa: T201
    live(range(ends, rounds))
    link.there.faults = link.back.faults = HONEST
    for turn in range(ENOUGH):
        if turn % 10 == 0:
            for side in (link.one, link.other):
                reconcile.request_checkpoints(side.site, reason="the test wants to know")
        go_round(link)
        if not different(link) and not unsettled(link) and turn % 10 > 5:
            break
    assert different(link) == [], unsettled(link)
    assert unsettled(link) == []
    agreed(link)


def drift(link: Link) -> None:
    """Change rows of the receiving side by hand: nothing captures that."""
    link.other.execute(sa.update(shop.account).where(shop.account.c.id % 3 == 0).values(name="by hand"))
    link.other.execute(sa.delete(shop.seat).where(shop.seat.c.id == 1))


def agreed(link: Link) -> None:
    """Say that the last comparison of every stream found nothing different."""
    for side in (link.one, link.other):
        found = side.all(sa.select(tables.agreement.c.stream, tables.agreement.c.buckets))
        assert found
        assert [row.stream for row in found if row.buckets not in {"[]", "0"}] == []
        assert status.read_status(side.site).epoch


@needs_postgres
@pytest.mark.parametrize(
    "kinds, rounds",
    [
        ("sqlite-postgresql", 6),
        pytest.param("sqlite-sqlite", 20, marks=pytest.mark.torture),
        *(
            pytest.param(f"{one}-{other}", 80, marks=pytest.mark.torture)
            for one in ("sqlite", "postgresql")
            for other in ("sqlite", "postgresql")
        ),
    ],
)
def test_after_a_bad_carrier_and_a_restore_both_sides_agree(
    kinds: str, rounds: int, seed: int, tmp_path: Path, databases: Databases, postgres_cluster: Cluster
) -> None:
    for link in shop_link(tmp_path, databases, *kinds.split("-")):
        heal(link, seed, rounds, postgres_cluster)
