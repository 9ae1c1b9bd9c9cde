"""A carrier that kept every batch of every epoch, and databases that go back and back: nobody is led backwards."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import network
from exchange.database.locks import reading
from exchange.database.tables import Direction, position
from exchange.link import epoch_adoption, epochs, reconcile
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.healing import ENOUGH, different, go_round, tick, unsettled
from tests.crossing.sides import Link, Side
from tests.crossing.test_carriage import Writer

DAY = 24 * 3600 * 1_000_000


class Life:
    """One side, the copies that were made of its database, and the epochs that it had, in the order of the world."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self.folder = side, folder
        self.copies: list[Path] = []
        self.recorded: dict[str, dict[str, bytes]] = {}
        self.reached: dict[str, int] = {}
        with reading(side.engine) as connection:
            self.epochs = [str(network.known_epoch(connection, side.site.network))]

    def put_out(self) -> list[Path]:
        """Give the files that the carrier finds."""
        return sorted(self.side.site.spool.folders.outgoing.glob("[a-z]*-*.jsonl*"))

    def record(self) -> None:
        """Keep all that this side has put out."""
        for path in self.put_out():
            self.recorded.setdefault(path.name.partition(".")[0], {})[path.name] = path.read_bytes()

    def save(self) -> None:
        """Make a copy of the database."""
        copy = self.folder / f"{self.side.site.network}-{len(self.copies)}.db"
        self.side.engine.dispose()
        with closing(sqlite3.connect(str(self.side.engine.url.database))) as driver:
            driver.execute(f"VACUUM INTO '{copy}'")
        self.copies.append(copy)

    def restore(self, copy: Path) -> None:
        """Put a copy in the database's place, and say so as the page has it."""
        file = str(self.side.engine.url.database)
        self.side.engine.dispose()
        for ending in ("-wal", "-shm"):
            Path(f"{file}{ending}").unlink(missing_ok=True)
        shutil.copy(copy, file)
        self.epochs.append(epochs.begin_epoch(self.side.site, "restored").epoch)

    def lose_sealed(self) -> None:
        """Lose the folder that would tell a restored database of the epochs that it forgot."""
        shutil.rmtree(self.side.site.spool.folders.sealed)
        self.side.site.spool.prepare(make=True)


class World:
    """Two sides, and a carrier between them that keeps everything and brings what it likes."""

    def __init__(self, link: Link, seed: int, folder: Path) -> None:
        self.link, self.draw = link, random.Random(seed)
        self.one, self.two = Life(link.one, folder), Life(link.other, folder)
        self.writer = Writer(link, seed)
        for life in (self.one, self.two):
            life.side.limit(batch_records=self.draw.choice([3, 1000]), gap_seconds=0, period_seconds=1e-6)
            life.save()

    def other(self, life: Life) -> Life:
        """Give the other one."""
        return self.two if life is self.one else self.one

    def positions(self, life: Life) -> dict[str, int]:
        """Give which of the other side's epochs each channel is in, counted from its first."""
        here = (position.c.direction == Direction.IN, position.c.current == 1)
        rows = life.side.all(sa.select(position.c.channel, position.c.epoch).where(*here))
        return {row.channel: self.other(life).epochs.index(row.epoch) for row in rows}

    def look(self, life: Life) -> None:
        """See that no channel went back to an epoch that was before the one it was in."""
        now = self.positions(life)
        for channel, before in life.reached.items():
            assert now[channel] >= before, (channel, self.other(life).epochs, before, now)
        life.reached = now

    def live(self) -> None:
        """Let both work once, and the carrier between."""
        go_round(self.link)
        for life in (self.one, self.two):
            life.record()
            self.look(life)

    def write_and_live(self, _life: Life) -> None:
        """Let the applications write, too."""
        self.writer.write()
        self.live()

    def withhold(self, life: Life) -> None:
        """Keep what is put out, and bring it to nobody, unless it is replayed."""
        self.writer.write()
        tick(life.side)
        life.record()
        for path in life.put_out():
            path.unlink()

    def lost_life(self, life: Life) -> None:
        """Restore a copy, and keep the beginning of what follows: the other side may never have heard of it."""
        self.restore(life)
        self.withhold(life)

    def replay(self, life: Life) -> None:
        """Bring the other side the beginning of some epochs, as it was kept."""
        first = [stem for stem in sorted(life.recorded) if stem.endswith("-0000000001")]
        for stem in self.draw.sample(first, min(len(first), 5)):
            for name, content in sorted(life.recorded[stem].items()):
                (self.other(life).side.site.spool.folders.incoming / name).write_bytes(content)
            self.other(life).side.take_in()
            self.look(self.other(life))

    def restore(self, life: Life) -> None:
        """Restore any of the copies, on one side with the folders, so that one of them remembers."""
        if life is self.one and self.draw.random() < 0.75:
            life.lose_sealed()
        life.restore(self.draw.choice(life.copies))
        life.reached = self.positions(life)

    def save(self, life: Life) -> None:
        """Make a copy."""
        life.save()

    def agree(self) -> None:
        """Let nothing but honest rounds pass, and see that both sides agree with nobody's help."""
        for number in range(ENOUGH):
            if number % 10 == 0:
                for side in (self.link.one, self.link.other):
                    reconcile.request_checkpoints(side.site, reason="the test wants to know")
            self.live()
            if not different(self.link) and not unsettled(self.link) and number % 10 > 5:
                break
        assert different(self.link) == [], unsettled(self.link)
        assert unsettled(self.link) == []
        for life in (self.one, self.two):
            with reading(life.side.engine) as connection:
                assert epoch_adoption.list_undecided(connection) == []
                assert network.halted(connection) is None
            assert set(life.reached.values()) == {len(self.other(life).epochs) - 1}


Act = Callable[[Life], None]


def assert_any_life_heals(link: Link, seed: int, folder: Path, drawn: int) -> None:
    """Let two sides live through anything, and see that they agree.

    In each story there is a life of which the other side never heard, a later one that knows nothing of it, and the
    carrier that brings the beginning of the first one then; the rest is drawn.
    """
    world = World(link, seed, folder)
    acts: list[Act] = [world.write_and_live, world.withhold, world.replay, world.save, world.restore, world.lost_life]
    draws = [(world.draw.choice(acts), world.draw.choice([world.one, world.one, world.two])) for _ in range(drawn)]
    plot: list[tuple[Act, Life]] = [(world.lost_life, world.one), (world.restore, world.one)]
    plot += [(world.write_and_live, world.one), (world.replay, world.one)]
    story = [*draws[:1], *plot, *draws[1:]]
    told = ", ".join(f"{act.__name__} {life.side.site.network}" for act, life in story)
    print(f"seed {seed}: {told}")  # noqa: T201 - shown where the test fails
    world.live()
    for act, life in story:
        act(life)
    world.agree()


@pytest.mark.parametrize("number", [1, *(pytest.param(one, marks=pytest.mark.torture) for one in range(2, 22))])
def test_no_replay_leads_anybody_back_and_every_restore_heals_with_nobodys_help(
    small: Link, seed: int, tmp_path: Path, number: int
) -> None:
    assert_any_life_heals(small, seed, tmp_path, drawn=4 if number == 1 else 6)


def test_a_restored_side_goes_on_above_the_versions_that_its_clock_gave_while_it_was_ahead(
    small: Link, seed: int, tmp_path: Path
) -> None:
    world = World(small, seed, tmp_path)
    world.live()
    world.one.save()
    with small.one.engine.begin() as connection:
        ahead = capture.draw_version(connection) + 20 * DAY
        capture.raise_counter(connection, ahead)
    small.one.execute(sa.insert(shop.account), [{"id": number, "name": "then"} for number in (1, 2)])
    world.live()
    assert {row["id"] for row in small.other.rows(shop.account)} >= {1, 2}

    world.restore(world.one)
    small.one.execute(sa.insert(shop.account).values(id=2, name="now"))
    world.agree()

    assert small.other.all(sa.select(shop.account.c.name)) == [("now",)]
    with small.one.engine.begin() as connection:
        assert capture.draw_version(connection) > ahead
