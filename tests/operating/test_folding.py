"""What is settled leaves a sum and no rows; what comes again years later is known, and what is asked for is sent."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from exchange.channels import Channel
from exchange.database import clock, ledger, tables
from exchange.database.tables import DeadLetterState, Direction, batch, tombstone
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from exchange.format.errors import TransientError, Verdict
from exchange.format.record import Op
from exchange.link import epochs, reconcile, send_requests
from exchange.operating import migrate
from exchange.operating.check import oracle
from exchange.operating.check.ledger import check_ledger
from exchange.operating.prune import prune_expired
from exchange.outgoing import resend
from tests.crossing import shop
from tests.crossing.sides import Link, Side
from tests.crossing.talking import add, take_in, tell

DAY = 86_400
STEP = 1.5
"""Days that pass at once: what is more than two is no time that a side lived through."""

KEPT_DAYS = 0.5
LONG_AGO = 2
"""So many steps later what was settled is folded."""


class Years:
    """Two sides over which time passes, a day or two at a time, and what became of each of their tables."""

    def __init__(self, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = link
        self.days = 0.0
        self._monkeypatch = monkeypatch

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both sides."""
        return self.link.one, self.link.other

    def pass_by(self, days: float = STEP) -> None:
        """Let days pass, the carrier go to and fro, and both sides prune."""
        self.days += days
        self._monkeypatch.setenv(clock.AHEAD, str(self.days * DAY))
        self.settle()
        for side in self.sides:
            prune_expired(side.site)

    def settle(self) -> None:
        """Export, carry and import until nothing is on its way."""
        for _ in range(2):
            for side in self.sides:
                assert side.export().trouble is None
                tell(side)
            self.carry()

    def carry(self) -> None:
        """Carry both ways, and take in."""
        self.link.there.carry()
        take_in(self.link.other)
        self.link.back.carry()
        take_in(self.link.one)

    def live(self, number: int) -> None:
        """Live through a step in which all sorts of things happen and are settled."""
        one, other = self.sides
        add(one, number, number + 1)
        if number % 3 == 0:
            self._spoil("forth")
        self.settle()
        one.execute(sa.delete(shop.account).where(shop.account.c.id == number))
        one.execute(sa.update(shop.account).values(name=f"account {number}"))
        with other.engine.begin() as connection:
            store.park(connection, [Letter(Direction.IN, "forth", b"{}", "value", "bad")], "test")
            parked = sa.select(tables.dead_letter.c.id).where(tables.dead_letter.c.state == DeadLetterState.PARKED)
            ids = list(connection.scalars(parked))
            ledger.note_dead_letters(connection, ids, DeadLetterState.PARKED, DeadLetterState.APPLIED, "mended")
            settled = sa.update(tables.dead_letter).where(tables.dead_letter.c.id.in_(ids))
            connection.execute(settled.values(state=DeadLetterState.APPLIED, updated_at=clock.now()))
        reconcile.request_checkpoints(one.site, incoming=False)
        send_requests.add_snapshot_requests(one.site, "forth", None, prune=True, reason="once in a while")
        self.pass_by()
        one.execute(sa.delete(shop.account))
        self.pass_by()

    def _spoil(self, channel: str) -> None:
        """Damage the newest batch of a channel on its way: it is refused, asked for and sent again."""
        newest = max(self.link.one.site.spool.folders.outgoing.glob(f"{channel}-*.manifest.jsonl"))
        [data] = newest.parent.glob(f"{newest.name.removesuffix('.manifest.jsonl')}.jsonl*")
        data.write_bytes(b"x" * data.stat().st_size)

    def rows(self) -> dict[str, int]:
        """Count the rows of each table of both sides."""
        return {
            f"{side.site.network} {table.name}": side.all(sa.select(sa.func.count()).select_from(table))[0][0]
            for side in self.sides
            for table in tables.metadata.sorted_tables
            if table is not tables.work_count  # bounded by its buckets, which a machine fills as slow as it is
        }


pytestmark = pytest.mark.same_on("postgresql")


@pytest.fixture
def years(alike: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[Years]:
    """Give two sides that live for as long as one likes."""
    yield from living(alike, monkeypatch)


@pytest.fixture
def small_years(small: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[Years]:
    """Give two sides on SQLite, whose databases a test may copy."""
    yield from living(small, monkeypatch)


def living(link: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[Years]:
    for side in (link.one, link.other):
        side.limit(retention_days=KEPT_DAYS, letter_days=dict.fromkeys(side.site.limits.letter_days, KEPT_DAYS))
    yield Years(link, monkeypatch)
    monkeypatch.delenv(clock.AHEAD, raising=False)


def at_peace(years: Years) -> None:
    for side in years.sides:
        assert [str(wrong) for wrong in check_ledger(side.site)] == []
    # The times of files no clock of ours turns: prune takes them for older than their rows.
    wrong = oracle.judge(years.link.one.site, years.link.other.site)
    assert [str(one) for one in wrong if one.kind.check != "files"] == []


@pytest.mark.thorough
def test_two_periods_leave_the_same_rows_in_every_table(years: Years) -> None:
    found = []
    for _ in range(3):
        for number in range(2, 4):
            years.live(number)
        years.settle()
        at_peace(years)
        found.append(years.rows())
    assert found[1] == found[2]
    assert sum(found[1].values()) < 2_000


def grown_old(years: Years, *ids: int) -> Path:
    """Send batches, keep copies of what was carried, and let so much time pass that their rows are folded."""
    add(years.link.one, *ids)
    copies = years.link.one.home.parent / "copies"
    shutil.copytree(years.link.one.site.spool.folders.outgoing, copies)
    for _ in range(LONG_AGO):
        years.pass_by()
    return copies


def rows_of(side: Side, direction: Direction, channel: str = "forth") -> list[int]:
    mine = (batch.c.direction == direction, batch.c.channel == channel)
    return [row.sequence for row in side.all(sa.select(batch.c.sequence).where(*mine).order_by(batch.c.sequence))]


def test_a_batch_that_comes_again_after_years_is_a_duplicate_and_changes_nothing(years: Years) -> None:
    copies = grown_old(years, 1, 2, 3)
    other = years.link.other
    assert rows_of(years.link.one, Direction.OUT) == [3]
    assert rows_of(other, Direction.IN) == [3]
    other.execute("UPDATE account SET name = 'changed here'")
    for path in copies.glob("forth-*"):
        shutil.copy(path, other.site.spool.folders.incoming)
    assert [one.verdict for one in other.take_in().batches] == [Verdict.DUPLICATE] * 3
    forth = other.site.channels[0]
    unordered = Channel(forth.name, forth.source, forth.target, forth.streams, ordered=False)
    other.site = replace(other.site, channels=(unordered, *other.site.channels[1:]))
    for path in copies.glob("forth-*"):
        shutil.copy(path, other.site.spool.folders.incoming)
    assert [one.verdict for one in other.take_in().batches] == [Verdict.DUPLICATE] * 3
    assert {row["name"] for row in other.rows(shop.account)} == {"changed here"}
    assert rows_of(other, Direction.IN) == [3]


@pytest.mark.thorough
def test_control_batches_of_an_idle_link_leave_nothing_behind(years: Years) -> None:
    for _ in range(6):
        years.pass_by(1)
    before = years.rows()
    files = [len(list(side.home.rglob("control-*"))) for side in years.sides]
    for _ in range(6):
        years.pass_by(1)
    assert years.rows() == before
    assert [len(list(side.home.rglob("control-*"))) for side in years.sides] == files
    at_peace(years)


@pytest.mark.thorough
def test_a_side_restored_from_a_copy_older_than_what_is_kept_gets_a_snapshot(small_years: Years) -> None:
    years, link = small_years, small_years.link
    add(link.one, 1)
    years.settle()
    database = sqlite3.connect(str(link.other.engine.url.database))
    saved = sqlite3.connect(":memory:")
    database.backup(saved)
    grown_old(years, 2, 3, 4)
    assert rows_of(link.one, Direction.OUT) == [4]
    add(link.one, 5)
    link.other.engine.dispose()
    saved.backup(database)
    database.close()
    epochs.begin_epoch(link.other.site, "restored")
    for _ in range(4):
        years.pass_by(1)
    assert [row["id"] for row in link.other.rows(shop.account)] == [1, 2, 3, 4, 5]
    with pytest.raises(TransientError, match=r"2-3 was settled so long ago .* `exchange resync forth --prune-missing`"):
        resend.resend_by_hand(link.one.site, "forth", [2, 3])


@pytest.mark.thorough
def test_a_delete_is_forgotten_when_no_older_record_of_its_row_can_come(years: Years) -> None:
    link = years.link
    add(link.one, 1, 2)
    years.settle()
    link.one.execute(sa.delete(shop.account).where(shop.account.c.id == 1))
    years.settle()
    assert len(link.other.rows(tombstone)) == 1
    with link.other.engine.begin() as connection:
        letter = Letter(Direction.IN, "forth", b"{}", "value", "bad", stream="account", key='{"id":1}', op=Op.UPSERT)
        store.park(connection, [letter], "test")
    for _ in range(LONG_AGO):
        years.pass_by()
    assert len(link.other.rows(tombstone)) == 1  # a letter has a record of the row, and may be applied
    link.other.execute(sa.update(tables.dead_letter).values(state=DeadLetterState.APPLIED))
    years.pass_by()
    assert link.other.rows(tombstone) == []


@pytest.mark.thorough
def test_the_version_before_takes_nothing_anew_that_was_folded(years: Years) -> None:
    grown_old(years, 1, 2, 3)
    other = years.link.other
    with migrate.configured(other.engine, None) as config:
        command.downgrade(config, "core_0018")
    there = sa.select(tables.gap.c.sequence, tables.gap.c.state).where(tables.gap.c.channel == "forth")
    assert [tuple(row) for row in other.all(there)] == [(1, "accepted"), (2, "accepted")]
