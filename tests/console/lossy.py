"""Two real sides whose carrier loses each fifth file, and what each of them was when it last spoke of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from unittest.mock import patch

import sqlalchemy as sa
from sqlalchemy.orm import Session

from exchange.database import clock
from exchange.database.tables import BatchState, Direction, GapState, batch, batch_count, gap, peer, position
from exchange.format.names import CONTROL
from exchange.settings import Settings
from exchange.testing.sides import Sides, two_sides
from tests.operating.works import Machine, channels

LOST = 5
ROUND_SECONDS = 400
"""So much later is the next round: what is missing is asked for by then."""


@dataclass(frozen=True)
class Far:
    """How the office stood: how far it had applied, what was missing, and what of that had long been asked for."""

    through: int
    missing: frozenset[int]
    asked: frozenset[int]


@dataclass
class Lossy:
    """The plant sends machines to the office; ``states`` is what the office was as it wrote each control batch."""

    sides: Sides
    carried: int = 0
    rounds: int = 0
    honest: bool = False
    states: dict[int, Far] = field(default_factory=dict)

    def settings(self, network: str) -> Settings:
        """Give a side's settings, with its channels."""
        given = self.sides[network].exchange.settings
        return given.model_copy(update={"app": "tests.operating.works:channels"})

    def loses(self, _name: str) -> bool:
        """Lose each fifth file, whichever way it goes."""
        self.carried += 1
        return not self.honest and self.carried % LOST == 0

    def round(self, batches: int = 0) -> None:
        """Let the plant send so many batches, then do on both sides what beat does, a while after the last time."""
        self.rounds += 1
        os.environ[clock.AHEAD] = str(self.rounds * ROUND_SECONDS)
        for number in range(batches):
            with Session(self.sides["plant"].engine) as session, session.begin():
                session.merge(Machine(id=self.rounds * 10 + number, name="press", limit=Decimal(90)))
            self.sides["plant"].exchange.export()
        for side in self.sides.values():
            side.exchange.export()
        self._note()
        for carrier in self.sides.carriers.values():
            carrier.carry()
        for side in self.sides.values():
            side.exchange.import_batches()
        self._note()

    def _note(self) -> None:
        with self.sides["office"].engine.connect() as connection:
            said = connection.scalar(
                sa.select(sa.func.max(batch.c.sequence)).where(batch.c.direction == "out", batch.c.channel == CONTROL)
            )
            here = (gap.c.channel == "works", gap.c.state == GapState.MISSING)
            rows = connection.execute(sa.select(gap.c.sequence, gap.c.noticed_at).where(*here))
            gaps = {row.sequence: row.noticed_at for row in rows}
            at = connection.scalar(
                sa.select(position.c.sequence).where(position.c.direction == "in", position.c.channel == "works")
            )
            due = clock.now() - timedelta(seconds=self.sides["office"].exchange.site.limits.gap_seconds)
            asked = frozenset(sequence for sequence, noticed_at in gaps.items() if noticed_at < due)
            self.states.setdefault(said or 0, Far(at or 0, frozenset(gaps), asked))

    def heard(self) -> Far | None:
        """Give what the office was when it wrote what the plant heard of it last."""
        with self.sides["plant"].engine.connect() as connection:
            sequence = connection.scalar(sa.select(peer.c.sequence))
        return None if sequence is None else self.states[sequence]

    def places(self, network: str, direction: Direction, state: BatchState) -> set[int]:
        """Give the sequences that a side's ledger has in a state."""
        here = (batch.c.direction == direction, batch.c.channel == "works", batch.c.state == state)
        with self.sides[network].engine.connect() as connection:
            return set(connection.scalars(sa.select(batch.c.sequence).where(*here)))

    def resent(self) -> int:
        """Count what the plant published once more, by its ledger."""
        with self.sides["plant"].engine.connect() as connection:
            sent = sa.select(sa.func.sum(batch.c.attempt - 1)).where(
                batch.c.direction == "out", batch.c.channel == "works"
            )
            counted = sa.select(sa.func.sum(batch_count.c.batches)).where(
                batch_count.c.outcome == "resent", batch_count.c.channel == "works"
            )
            number = int(connection.scalar(sent) or 0)
            assert number == int(connection.scalar(counted) or 0)
            return number


@contextmanager
def lossy(folder: Path) -> Iterator[Lossy]:
    """Give both sides."""
    with patch.dict(os.environ), two_sides(folder, channels) as sides:
        made = Lossy(sides)
        for carrier in sides.carriers.values():
            carrier.loses = made.loses
        yield made
