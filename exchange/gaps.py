"""Placeholder: replaced by its owner."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from exchange.format.control import Range


def close_lost(
    connection: Connection, channel: str, epoch: str, ranges: Sequence[Range], *, look_ahead: int = 10_000
) -> None:
    """Close the open gaps that the other side can't fill any more."""
