"""Several processes at the same work: nothing is lost, nothing applied twice, and who has to wait is told for whom."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.dialects import insert_new
from exchange.database.engine import make_engine, now
from exchange.database.locks import Busy, locked
from exchange.database.network import known_epoch, open_network
from exchange.database.whoami import whoami
from exchange.files.shared_folders import MARKER
from exchange.format.errors import Verdict
from exchange.incoming import importer
from exchange.outgoing import control_batch, exporter
from exchange.site import Site
from tests.crossing.processes import fork, join
from tests.crossing.shop import account, place, visit
from tests.crossing.sides import Link, Side


def import_all(side: Side) -> None:
    """Import until nothing is left, as often as others are in the way."""
    deadline = time.monotonic() + 60
    while any(path.name != MARKER for path in side.site.spool.folders.incoming.iterdir()):
        side.take_in()
        assert time.monotonic() < deadline


def test_four_importers_over_one_folder_apply_each_batch_once(alike: Link) -> None:
    alike.one.limit(batch_records=5)
    alike.one.execute(sa.insert(account), [{"id": n, "name": f"n{n}"} for n in range(40)])
    assert len(alike.one.export().batches) == 8
    alike.there.carry()
    children = [fork(lambda: import_all(alike.other), alike.other, alike.one) for _ in range(4)]
    assert [join(child) for child in children] == [0, 0, 0, 0]
    columns = tables.batch.c
    found = alike.other.all(
        sa.select(columns.state, sa.func.count(), sa.func.sum(columns.applied)).group_by(columns.state)
    )
    assert [tuple(map(str, row)) for row in found] == [("applied", "8", "40")]
    assert len(alike.other.rows(account)) == 40
    assert alike.other.all(sa.select(tables.attempt)) == alike.other.all(sa.select(tables.dead_letter)) == []
    assert not list(alike.other.site.spool.folders.quarantine.iterdir())
    assert len(list(alike.other.site.spool.folders.archive.iterdir())) == 16


@pytest.mark.postgres
def test_two_exporters_and_writers_that_commit_late_lose_nothing(postgresql_link: Link, tmp_path: Path) -> None:
    link = postgresql_link
    link.one.limit(batch_records=40)
    link.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(10)])
    written, here = tmp_path / "written", os.getpid()

    def write(seed: int) -> None:
        draw = random.Random(seed)
        engine = make_engine(link.one.engine.url.render_as_string(hide_password=False))
        number = seed * 100_000
        for _ in range(12):
            with engine.begin() as connection:
                for _ in range(draw.randrange(1, 8)):
                    number += 1
                    connection.execute(sa.insert(visit).values(id=number, country="at", number=draw.randrange(10)))
                    connection.execute(
                        sa.update(place).where(place.c.number == seed).values(name=f"{seed} at {number}")
                    )
                time.sleep(draw.random() * 0.1)  # ids are taken, the commit comes late
                if draw.random() < 0.2:
                    connection.rollback()
        engine.dispose()

    def export() -> None:
        while not written.exists() and os.getppid() == here:
            run = link.one.export()
            assert run.trouble is None, run.trouble
            assert all("export forth is busy" in str(said) for said in run.busy)

    exporters = [fork(export, link.one, link.other) for _ in range(2)]
    writers = [fork(lambda seed=seed: write(seed), link.one, link.other) for seed in (1, 2, 3)]  # type: ignore[misc]
    try:
        ends = [join(child) for child in writers]
    finally:
        written.touch()
    assert [*ends, *(join(child) for child in exporters)] == [0] * 5
    assert link.one.export().trouble is None
    link.there.carry()
    run = link.other.take_in()
    assert {(one.verdict, one.records.parked, one.records.stale) for one in run.batches} == {(Verdict.APPLIED, 0, 0)}
    assert link.one.rows(visit) == link.other.rows(visit)
    assert link.one.rows(place) == link.other.rows(place)
    assert len(link.one.rows(visit)) > 50
    sequences = link.one.all(sa.select(tables.batch.c.sequence).order_by(tables.batch.c.sequence))
    assert [row[0] for row in sequences] == list(range(1, len(sequences) + 1))


def test_busy_says_who_and_since_when(alike: Link) -> None:
    alike.one.execute(sa.insert(account).values(id=1, name="a"))
    alike.one.export()
    alike.there.carry()
    alike.other.be_impatient()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(alike.other.engine, "import forth"):
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(10)
        [outcome] = alike.other.take_in().batches
        assert outcome.verdict is Verdict.BUSY
        assert whoami()[:40] in outcome.message
        assert " since 20" in outcome.message
        with pytest.raises(Busy), locked(alike.other.engine, "import forth"):
            pass
    finally:
        release.set()
        holder.join()
    assert alike.other.all(sa.select(tables.attempt)) == []
    assert [one.verdict for one in alike.other.take_in().batches] == [Verdict.APPLIED]


def test_an_application_that_writes_makes_sqlite_busy_and_nothing_is_lost(small: Link) -> None:
    small.one.execute(sa.insert(account).values(id=1, name="a"))
    small.one.export()
    small.there.carry()
    small.other.be_impatient()
    engine = make_engine(str(small.other.engine.url))
    with engine.begin() as connection:
        connection.execute(sa.insert(place).values(country="at", number=1, name="p"))
        [outcome] = small.other.take_in().batches
        assert outcome.verdict is Verdict.BUSY
    engine.dispose()
    assert [one.verdict for one in small.other.take_in().batches] == [Verdict.APPLIED]


def overtaken(side: Side, by: Callable[[], object]) -> Site:
    """Give the site with a database whose next transaction is overtaken: another one ends when it has just begun.

    A lock keeps two from working at once. But a transaction sees what was there when it asked for the lock, and not
    what whoever had it did before it was let go of.
    """
    engine = make_engine(side.engine.url.render_as_string(hide_password=False))
    waiting = [by]

    @sa.event.listens_for(engine, "after_cursor_execute")
    def overtake(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "hashtext(" in statement and waiting:
            waiting.pop()()

    return replace(side.site, engine=engine)


@pytest.mark.postgres
def test_who_saw_the_database_before_another_one_was_done_is_told_busy_and_nothing_breaks(
    postgresql_link: Link,
) -> None:
    one = postgresql_link.one
    sent = sa.select(sa.func.count()).select_from(tables.batch).where(tables.batch.c.direction == "out")
    for before in range(2):  # a channel's first batch is a new row, the next one changes it
        late = overtaken(one, lambda: control_batch.publish_control_batch(one.site))
        with pytest.raises(Busy):
            control_batch.publish_control_batch(late)
        late.engine.dispose()
        assert one.all(sent) == [(before + 1,)]
        assert len(list(one.site.spool.folders.sealed.glob("*.manifest.jsonl"))) == before + 1
    for number in range(2):
        one.execute(sa.insert(account).values(id=number, name="a"))
        late = overtaken(one, one.export)
        run = exporter.export(late, channel="forth", stopping=importer.never)
        assert (len(run.batches), len(run.busy), run.trouble) == (0, 1, None)
        late.engine.dispose()
    one.execute("DELETE FROM exchange_network")
    engines = [make_engine(one.engine.url.render_as_string(hide_password=False)) for _ in range(2)]
    with engines[0].begin() as first:
        assert known_epoch(first, "one") is None
        with engines[1].begin() as second:
            epoch = open_network(second, "one")
        assert insert_new(first, tables.network, {"id": 1, "name": "x", "epoch": "y", "created_at": now()}) is False
        assert open_network(first, "one") == epoch
    for engine in engines:
        engine.dispose()
