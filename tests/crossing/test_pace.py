"""How soon what was lost is back, by a clock that the test turns; and what is sent in vain where nothing was lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database import clock
from exchange.database.tables import Direction, batch
from exchange.incoming import importer
from exchange.limits import Limits
from exchange.link.gaps import IN_ORDER, MOST_SOON
from exchange.outgoing import control_batch, resend
from exchange.testing.carrier import Faults
from tests.crossing.sides import Link, Side
from tests.databases import Databases

EXPORT_EVERY, IMPORT_EVERY, CARRY_EVERY = 300, 60, 10
"""Seconds: what holds where nobody set anything else, and a carrier that comes often."""

metadata = sa.MetaData()
reading = sa.Table("reading", metadata, sa.Column("id", sa.Integer, primary_key=True))
channels = (Channel("forth", "one", "two", [Stream(reading)]),)


class Days:
    """Two sides, each with its beat, and a carrier between them: time passes only as a test lets it."""

    def __init__(self, link: Link, turn: Callable[[float], None]) -> None:
        self.link = link
        self.seconds = 0
        self._turn = turn

    def write(self, first: int, last: int) -> None:
        """Have each of some rows sent in a batch of its own."""
        self.link.one.execute(sa.insert(reading), [{"id": number} for number in range(first, last + 1)])

    def until(self, count: int, within_seconds: int) -> int:
        """Go on until so many rows are there, and say how many seconds that took."""
        begun = self.seconds
        while self.arrived() < count:
            assert self.seconds - begun <= within_seconds, f"{self.arrived()} of {count} are there"
            self.pass_time()
        return self.seconds - begun

    def pass_time(self) -> None:
        """Let the beats tick that are due, and the carrier come."""
        for side in (self.link.one, self.link.other):
            if self.seconds % EXPORT_EVERY == 0:
                run = side.export()
                assert run.trouble is None, run
                assert control_batch.after_export(side.site) is None
        self.link.there.carry()
        self.link.back.carry()
        for side in (self.link.one, self.link.other):
            if self.seconds % IMPORT_EVERY == 0:
                taken = side.take_in()
                assert taken.trouble is None, taken
                assert control_batch.after_import(side.site, taken.batches, importer.never) is None
        self.seconds += CARRY_EVERY
        self._turn(self.seconds)

    def arrived(self) -> int:
        """Count the rows that are there."""
        [(count,)] = self.link.other.all(sa.select(sa.func.count()).select_from(reading))
        return int(count)

    def sent_again(self) -> int:
        """Count what was published more than once."""
        here = (batch.c.direction == Direction.OUT, batch.c.channel == "forth")
        [(count,)] = self.link.one.all(sa.select(sa.func.sum(batch.c.attempt - 1)).where(*here))
        return int(count)


@pytest.fixture
def days(tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[Days]:
    one, two = (
        Side(
            name,
            peer,
            databases,
            "sqlite",
            tmp_path / name,
            channels,
            metadata=metadata,
            limits=Limits(batch_records=1),
        )
        for name, peer in (("one", "two"), ("two", "one"))
    )
    # What work takes is no time here.
    monkeypatch.setattr(resend, "MOST_SECONDS", 3_600)
    yield Days(Link(one, two), lambda seconds: monkeypatch.setenv(clock.AHEAD, str(seconds)))
    one.engine.dispose()
    two.engine.dispose()


def losing(sequences: range) -> Callable[[str], bool]:
    """Lose the first publication of some batches."""
    first = re.compile(r"forth-[0-9a-f]+-(\d+)\.(?!r\d)")
    return lambda name: (found := first.match(name)) is not None and int(found[1]) in sequences


def test_one_lost_of_sixty_is_back_before_the_next_export(days: Days) -> None:
    days.link.there.loses = losing(range(40, 41))
    days.write(1, 60)
    seconds = days.until(60, within_seconds=EXPORT_EVERY)

    assert seconds <= 3 * IMPORT_EVERY + 2 * CARRY_EVERY
    assert days.sent_again() == 1


@pytest.mark.torture
@pytest.mark.parametrize("lost", [range(2, 20_001, 2), range(2, 10_002)], ids=["every second", "one after the other"])
def test_ten_thousand_lost_batches_are_back_within_a_few_periods(days: Days, lost: range) -> None:
    days.link.there.loses = losing(lost)
    days.write(1, lost[-1] + 1)

    assert days.until(lost[-1] + 1, within_seconds=6 * EXPORT_EVERY) <= 5 * EXPORT_EVERY


@pytest.mark.thorough
def test_a_carrier_that_overtakes_itself_has_little_sent_in_vain_and_is_soon_known(days: Days) -> None:
    days.write(1, IN_ORDER)
    days.until(IN_ORDER, within_seconds=EXPORT_EVERY)
    days.link.there.faults = Faults(delay=0.8, reorder=True)
    in_vain = []
    for first in (IN_ORDER, IN_ORDER + 16):
        days.write(first + 1, first + 16)
        days.until(first + 16, within_seconds=4 * EXPORT_EVERY)
        in_vain.append(days.sent_again())

    assert in_vain[1] <= in_vain[0] + 2 <= 2 + MOST_SOON, in_vain
