"""A carrier that does everything wrong for many rounds, and a sender that sends again what it lost."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.format.errors import Verdict
from exchange.testing.carrier import Faults
from tests.crossing.shop import account, note, place, seat, visit
from tests.crossing.sides import Link, Side
from tests.crossing.test_crossings import assert_equal

ROUNDS = 16
FAULTS = Faults(delay=0.2, repeat=0.5, truncate=0.03, damage=0.05, drop=0.04, reorder=True)


class Writer:
    """Changes rows on both sides as applications would, drawn from a seed."""

    def __init__(self, link: Link, seed: int) -> None:
        self.link = link
        self.draw = random.Random(seed)

    def write(self) -> None:
        """Change something of everything."""
        with self.link.one.engine.begin() as connection:
            for _ in range(self.draw.randrange(1, 12)):
                self.draw.choice((self._account, self._place, self._visit, self._seats))(connection)
        with self.link.other.engine.begin() as connection:
            for _ in range(self.draw.randrange(4)):
                self._note(connection)

    def _account(self, connection: sa.Connection) -> None:
        key = self.draw.randrange(15)
        connection.execute(sa.delete(account).where(account.c.id == key))
        if self.draw.random() < 0.8:
            connection.execute(sa.insert(account).values(id=key, name=f"n{self.draw.random():.6f}"))

    def _place(self, connection: sa.Connection) -> None:
        number = self.draw.randrange(12)
        here = place.c.number == number
        if connection.scalar(sa.select(sa.func.count()).select_from(place).where(here)):
            connection.execute(sa.update(place).where(here).values(name=f"p{self.draw.random():.6f}"))
        else:
            connection.execute(sa.insert(place).values(country="at", number=number, name="new"))

    def _visit(self, connection: sa.Connection) -> None:
        key = self.draw.randrange(20)
        connection.execute(sa.delete(visit).where(visit.c.id == key))
        free = connection.scalars(sa.select(place.c.number)).all()
        if free and self.draw.random() < 0.7:
            connection.execute(sa.insert(visit).values(id=key, country="at", number=self.draw.choice(free)))
        else:
            unused = ~sa.exists().where(visit.c.number == place.c.number)
            connection.execute(sa.delete(place).where(unused, place.c.number == self.draw.randrange(12)))

    def _seats(self, connection: sa.Connection) -> None:
        """Shuffle unique values among all rows, in one transaction."""
        rows = list(connection.scalars(sa.select(seat.c.id)))
        if len(rows) < 6:
            connection.execute(sa.insert(seat).values(id=len(rows), code=f"c{len(rows)}", row=1, rank=len(rows)))
            return
        codes = [f"c{n}" for n in range(len(rows))]
        self.draw.shuffle(codes)
        connection.execute(sa.update(seat).values(code="-" + seat.c.code))
        for key, code in zip(rows, codes, strict=True):
            connection.execute(sa.update(seat).where(seat.c.id == key).values(code=code))

    def _note(self, connection: sa.Connection) -> None:
        key = self.draw.randrange(20)
        connection.execute(sa.delete(note).where(note.c.id == key))
        accounts = connection.scalars(sa.select(account.c.id)).all()
        if accounts and self.draw.random() < 0.7:
            connection.execute(sa.insert(note).values(id=key, account=self.draw.choice(accounts), text="t"))


def deliver_again(link: Link, limit: int) -> int:
    """Carry once more, whole, what the other side has not applied; say how many batches that were."""
    delivered = 0
    for side, other, carrier in ((link.one, link.other, link.there), (link.other, link.one, link.back)):
        columns = tables.batch.c
        sent = {row[0] for row in side.all(sa.select(columns.stem).where(columns.direction == "out"))}
        got = {row[0] for row in other.all(sa.select(columns.stem).where(columns.state == "applied"))}
        for stem in sorted(sent - got)[:limit]:
            delivered += 1
            for ending in (".jsonl.zst", ".manifest.jsonl"):
                carrier.deliver_again(stem + ending)
    return delivered


def settled_once(side: Side, sender: Side) -> None:
    """Say that each batch took effect once, and that each record of it has one outcome."""
    columns = tables.batch.c
    places = side.all(sa.select(columns.stem).where(columns.state == "applied"))
    assert len(places) == len(set(places)) == len(sender.all(sa.select(columns.id).where(columns.direction == "out")))
    outcomes = columns.applied + columns.duplicate + columns.stale + columns.parked
    assert side.all(sa.select(columns.stem).where(columns.state == "applied", columns.records != outcomes)) == []
    assert side.all(sa.select(columns.id).where(columns.direction == "in", columns.duplicate + columns.stale > 0)) == []
    events = tables.event.c
    applied = sa.select(events.subject_id).where(events.subject == "batch", events.to_state == "applied")
    ids = [row[0] for row in side.all(applied)]
    assert len(ids) == len(set(ids)) == len(places)


@pytest.mark.parametrize(
    "alike, seed",
    [
        # The simulation, and one-way links, live through it in each run.
        pytest.param("sqlite", 1, marks=pytest.mark.thorough),
        pytest.param("sqlite", 2, marks=pytest.mark.torture),
        # Beside a restored database, tests/simulation has PostgreSQL live through it, too.
        pytest.param("postgresql", 1, marks=[pytest.mark.postgres, pytest.mark.torture]),
    ],
    indirect=["alike"],
)
def test_a_bad_carrier_delays_rows_and_never_loses_doubles_or_mixes_them(alike: Link, seed: int) -> None:
    alike.one.limit(batch_records=5)
    for number, carrier in enumerate((alike.there, alike.back)):
        carrier.faults = FAULTS
        carrier._draw = random.Random(seed * 10 + number)
    writer = Writer(alike, seed)
    verdicts: Counter[Verdict] = Counter()
    for turn in range(ROUNDS):
        writer.write()
        for run in alike.round():
            assert run.trouble is None
            verdicts.update(one.verdict for one in run.batches)
        if turn % 3 == 2:
            deliver_again(alike, 9)  # or the first loss would hold up all that follows
    alike.there.faults = alike.back.faults = Faults()
    while deliver_again(alike, 100):
        for run in alike.round():
            assert run.trouble is None
    assert verdicts.keys() >= {Verdict.APPLIED, Verdict.DUPLICATE, Verdict.WAITING, Verdict.QUARANTINED}
    settled_once(alike.other, alike.one)
    settled_once(alike.one, alike.other)
    parked = alike.one.all(sa.select(tables.dead_letter.c.error)) + alike.other.all(
        sa.select(tables.dead_letter.c.error)
    )
    # A note may speak of an account that its own side had deleted meanwhile: that, and nothing else, is parked.
    assert {row[0] for row in parked} <= {"foreign_key", "unique"}, parked
    equal_but_for_parked(alike)


def equal_but_for_parked(link: Link) -> None:
    """Compare all tables once the rows of parked records are sent again."""
    link.one.limit(batch_records=1_000)
    for table in (place, visit, seat, account):
        link.one.execute(sa.update(table).values({next(iter(table.c)).name: next(iter(table.c))}))
    link.other.execute(sa.update(note).values(text=note.c.text))
    for _ in range(3):
        for run in link.round():
            assert {one.verdict for one in run.batches} <= {Verdict.APPLIED}
    assert_equal(link)
