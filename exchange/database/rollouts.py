"""Rollouts: of which share of its keys a stream is sent, and how much of that was sent whole (``outgoing.rollout``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import first_load
from exchange.format.buckets import bucket_of_text, share_of_buckets
from exchange.format.control import BUCKETS


@dataclass(frozen=True)
class Rollout:
    """How far a stream's rollout has come, in per cent of its keys.

    Of ``share`` changes are sent; ``done`` is what of it the other side has. What lies between comes by snapshots that
    were asked for behind number ``after`` of ``exchange_resync``, in so many ``shards``. It is of one schema
    ``version``; ``there`` says that rows beyond the share may be on the other side from before.
    """

    share: int
    done: int
    after: int
    version: int
    there: bool
    shards: int

    @property
    def buckets(self) -> int:
        """The first bucket that is not in the share."""
        return share_of_buckets(self.share, BUCKETS)

    @property
    def is_partial(self) -> bool:
        """Whether some keys are not sent."""
        return self.buckets < BUCKETS

    @property
    def keeps_rest(self) -> bool:
        """Whether the other side may have rows that are not sent now, which nothing may remove there."""
        return self.there and self.is_partial

    def has(self, key: bytes) -> bool:
        """Say whether a key, as its ``key_text``, is in the share."""
        return bucket_of_text(key, BUCKETS) < self.buckets


def read(connection: Connection) -> dict[str, Rollout]:
    """Give the rollouts that go on, by stream. Reads in the caller's transaction."""
    found = connection.execute(_GOING_ON)
    return {row.stream: Rollout(**json.loads(row.rollout)) for row in found}


_GOING_ON = sa.select(first_load.c.stream, first_load.c.rollout).where(first_load.c.rollout.is_not(None))


def write(connection: Connection, stream: str, rollout: Rollout | None) -> None:
    """Note how far a rollout has come, None once it is over. Runs in the caller's transaction, which locks its row."""
    text = None if rollout is None else json.dumps(asdict(rollout))
    connection.execute(sa.update(first_load).where(first_load.c.stream == stream).values(rollout=text))
