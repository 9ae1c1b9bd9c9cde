"""Placeholder: replaced by its owner."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.format.control import Range, ranges
from exchange.format.errors import Reason
from exchange.models import batch
from exchange.site import Site


def run(site: Site, stopping: Callable[[], bool]) -> None:
    """Publish again what the other side misses."""


def lost(connection: Connection, channel: str, epoch: str) -> tuple[Range, ...]:
    """Give the places of a channel that can't be sent again."""
    here = (batch.c.channel == channel, batch.c.epoch == epoch, batch.c.reason == Reason.LOST)
    return ranges(connection.scalars(sa.select(batch.c.sequence).where(*here).order_by(batch.c.sequence)))
