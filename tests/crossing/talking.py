"""Two sides that tell each other what became of their batches, and one that says what it likes."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from exchange.database import network
from exchange.database.locks import reading
from exchange.database.tables import BatchState, Direction, batch, dead_letter, receipt
from exchange.incoming.importer import never
from exchange.outgoing import control_batch
from exchange.results import Imported, ImportRun
from tests.crossing import shop
from tests.crossing.forging import Forger
from tests.crossing.sides import Link, Side

CONTROL = "control"


def add(side: Side, *ids: int) -> None:
    """Write accounts and export each as a batch of its own."""
    for number in ids:
        side.execute(sa.insert(shop.account).values(id=number, name=f"account {number}"))
        assert side.export().trouble is None


def take_in(side: Side) -> ImportRun:
    """Import as a task does: the other side is told."""
    run = side.take_in()
    assert control_batch.after_import(side.site, run.batches, never) is None
    return run


def tell(side: Side) -> None:
    """Write a control batch."""
    assert control_batch.try_to_publish(side.site) is None


def cross(link: Link) -> None:
    """Carry what one sent, and carry back what the other says of it."""
    link.there.carry()
    take_in(link.other)
    link.back.carry()
    take_in(link.one)


def states(side: Side, channel: str = "forth") -> dict[int, BatchState]:
    """Give the states of a channel's sent batches by sequence, the newest epoch's last."""
    rows = side.all(
        sa.select(batch.c.sequence, batch.c.state)
        .where(batch.c.direction == Direction.OUT, batch.c.channel == channel)
        .order_by(batch.c.id)
    )
    return {row.sequence: BatchState(row.state) for row in rows}


def controls(side: Side) -> int:
    """Count the control batches that a side wrote."""
    return len(states(side, CONTROL))


def letters(side: Side) -> list[Any]:
    """Give what a side could not believe."""
    return side.all(sa.select(dead_letter).where(dead_letter.c.channel == CONTROL).order_by(dead_letter.c.id))


def halted(side: Side) -> str | None:
    """Say why a side exports nothing."""
    with reading(side.engine) as connection:
        return network.halted(connection)


def told(side: Side, channel: str = "forth") -> Any:
    """Give what the other side's last receipt of a channel says."""
    [row] = side.all(sa.select(receipt.c.said).where(receipt.c.channel == channel))
    return json.loads(row.said)


class Mouth:
    """The other side of a side that trusts it, which may say anything in control batches."""

    def __init__(self, forger: Forger) -> None:
        self.side = forger.receiver
        self.forger = forger
        forger.channel = CONTROL

    def say(self, *records: dict[str, Any] | bytes, **claims: Any) -> Imported:
        """Send a control batch and take it in; give its outcome."""
        named = [one.get("stream") if isinstance(one, dict) else None for one in records]
        ours = [name if name in {"_receipt", "_heartbeat", "_repair"} else "_receipt" for name in named]
        claims = {
            "kind": CONTROL,
            "schemas": dict.fromkeys(ours, 1),
            "records": {name: {"upsert": ours.count(name), "delete": 0} for name in dict.fromkeys(ours)},
            **claims,
        }
        self.forger.send(records, claims=claims)
        [outcome] = self.side.take_in().batches
        return outcome
