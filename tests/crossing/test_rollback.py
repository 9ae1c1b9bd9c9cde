"""A carrier that kept every batch of every epoch, and databases that go back and back: nobody is led backwards."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exchange import adopting, epochs, ledger, reconciling
from exchange.database import reading
from exchange.models import Direction, position
from tests.crossing.conftest import shop_link
from tests.crossing.sides import Link, Side
from tests.crossing.test_carriage import Writer
from tests.crossing.test_healing import ENOUGH, different, go_round, unsettled

ACTS = ("live", "live", "withhold", "replay", "replay", "save", "restore", "restore", "lose sealed")


class Life:
    """One side, the copies that were made of its database, and the epochs that it has had, in the order of the world."""

    def __init__(self, side: Side, peer: Side, folder: Path) -> None:
        self.side, self.peer, self.folder = side, peer, folder
        self.copies: list[Path] = []
        self.epochs = [self.epoch]
        self.recorded: dict[str, dict[str, bytes]] = {}
        self.reached: dict[str, int] = {}

    @property
    def epoch(self) -> str:
        """The present one."""
        with reading(self.side.engine) as connection:
            return str(ledger.known_epoch(connection, self.side.site.network))

    def record(self) -> None:
        """Keep all that this side has put out."""
        for path in self.side.site.spool.folders.outgoing.glob("*-*.jsonl*"):
            if not path.name.startswith("."):
                stem = path.name.partition(".")[0]
                self.recorded.setdefault(stem, {})[path.name] = path.read_bytes()

    def replay(self, draw: random.Random) -> None:
        """Bring the other side something that was kept, whole; most of what was kept is of a channel's beginning."""
        stem = draw.choice(
            sorted(self.recorded, key=lambda stem: stem.rpartition("-")[2])[: 2 + len(self.recorded) // 2]
        )
        for name, content in sorted(self.recorded[stem].items()):
            (self.peer.site.spool.folders.incoming / name).write_bytes(content)

    def save(self) -> None:
        """Make a copy of the database."""
        copy = self.folder / f"{self.side.site.network}-{len(self.copies)}.db"
        self.side.engine.dispose()
        with closing(sqlite3.connect(str(self.side.engine.url.database))) as driver:
            driver.execute(f"VACUUM INTO '{copy}'")
        self.copies.append(copy)

    def restore(self, draw: random.Random) -> None:
        """Put any of the copies in the database's place, and say so as the page has it."""
        file = str(self.side.engine.url.database)
        self.side.engine.dispose()
        for ending in ("-wal", "-shm"):
            Path(f"{file}{ending}").unlink(missing_ok=True)
        shutil.copy(draw.choice(self.copies), file)
        self.epochs.append(epochs.begin(self.side.site, "restored").epoch)
        self.reached = self.positions()

    def positions(self) -> dict[str, int]:
        """Give which of the other side's epochs each channel is in, counted from its first."""
        present = self.side.all(
            sa.select(position.c.channel, position.c.epoch).where(
                position.c.direction == Direction.IN, position.c.current == 1
            )
        )
        known = self.others.epochs
        return {row.channel: known.index(row.epoch) for row in present}

    others: Life

    def goes_forward(self) -> None:
        """See that no channel went back to an epoch that was before the one it was in."""
        now = self.positions()
        for channel, before in self.reached.items():
            assert now[channel] >= before, (channel, self.others.epochs, before, now)
        self.reached = now


def live(seed: int, length: int, folder: Path, link: Link) -> None:
    """Let two sides live through anything, then see that they agree with nobody's help."""
    draw = random.Random(seed)
    one, two = Life(link.one, link.other, folder), Life(link.other, link.one, folder)
    one.others, two.others = two, one
    writer = Writer(link, seed)
    for side in (link.one, link.other):
        side.limit(batch_records=draw.choice([3, 1000]), gap_seconds=0, period_seconds=1e-6)
    for life in (one, two):
        life.save()

    def turn() -> None:
        go_round(link)
        for life in (one, two):
            life.record()
            life.goes_forward()

    turn()
    log = []
    for _ in range(length):
        act, life = draw.choice(ACTS), draw.choice([one, one, two])
        log.append(f"{act} {life.side.site.network}")
        match act:
            case "live":
                writer.write()
                turn()
            case "withhold":  # what is put out is kept by the carrier and brought by nobody, unless it is replayed
                writer.write()
                life.side.export()
                life.record()
                for path in life.side.site.spool.folders.outgoing.glob("*-*.jsonl*"):
                    path.unlink()
            case "replay":
                life.replay(draw)
                life.peer.take_in()
                life.others.goes_forward()
            case "save":
                life.save()
            case "restore":
                life.restore(draw)
            case "lose sealed" if life is one:  # of the other side, so that one of them remembers
                shutil.rmtree(life.side.site.spool.folders.sealed)
                life.side.site.spool.prepare(make=True)
    print(f"seed {seed}: {', '.join(log)}")  # noqa: T201 - shown where the test fails
    for number in range(ENOUGH):
        if number % 10 == 0:
            for side in (link.one, link.other):
                reconciling.run(side.site, reason="the test wants to know")
        turn()
        if not different(link) and not unsettled(link) and number % 10 > 5:
            break
    assert different(link) == [], unsettled(link)
    assert unsettled(link) == []
    for life in (one, two):
        with reading(life.side.engine) as connection:
            assert adopting.waiting(connection) == []
            assert ledger.halted(connection) is None
        assert set(life.reached.values()) == {len(life.others.epochs) - 1}


def try_with(seed: int, length: int = 14) -> None:
    """Live through what a seed has in store."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(9))
        new_url = lambda kind: f"{kind}:///{folder}/side-{next(numbers)}.db"  # noqa: E731
        for link in shop_link(Path(folder), new_url, "sqlite", "sqlite"):
            live(seed, length, Path(folder), link)


@settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_replay_leads_anybody_back_and_every_restore_heals_with_nobodys_help(seed: int) -> None:
    try_with(seed)
