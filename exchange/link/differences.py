"""What explains that a stream differs from its source: records that wait as dead letters.

The receiving side knows which buckets differ and of which keys letters are parked there: a bucket with such a key is
explained. The sending side is told how many buckets differ and how many letters wait over there; beside them it has its
own, of rows that can't be sent. What no letter explains is somebody's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import among
from exchange.database.tables import DeadLetterState, Direction, agreement, dead_letter, receipt
from exchange.format.buckets import bucket_of_text
from exchange.format.control import BUCKETS
from exchange.link import peer_statements

_PARKED = dead_letter.c.state == DeadLetterState.PARKED


def unexplained_here(connection: Connection, stream: str, differing: Collection[int]) -> int:
    """Count the differing buckets of a stream that is received of which no parked letter has a key.

    Only reads, in the caller's transaction.
    """
    left = set(differing)
    letters = sa.select(dead_letter.c.key).where(
        _PARKED, dead_letter.c.direction == Direction.IN, dead_letter.c.stream == stream, dead_letter.c.key.is_not(None)
    )
    with connection.execute(letters, execution_options={"yield_per": 1_000}) as found:
        for (key,) in found:
            left.discard(bucket_of_text(key.encode(), BUCKETS))
            if not left:
                break
    return len(left)


def with_letters(connection: Connection, stream: str, keys: Collection[str]) -> set[str]:
    """Give those of some keys of a stream that is received of which letters are parked, each as its ``key_text``.

    Only reads, in the caller's transaction.
    """
    letter = dead_letter.c
    mine = (_PARKED, letter.direction == Direction.IN, letter.stream == stream, among(connection, letter.key, keys))
    return set(connection.scalars(sa.select(letter.key).where(*mine))) if keys else set()


def unexplained_there(connection: Connection, channel: str, streams: Iterable[str]) -> int:
    """Count the differing buckets of a channel that is sent beyond the letters that wait there and here.

    Only reads, in the caller's transaction.
    """
    here = (agreement.c.direction == Direction.OUT, agreement.c.channel == channel)
    differing = sum(map(peer_statements.differing, connection.scalars(sa.select(agreement.c.buckets).where(*here))))
    said = peer_statements.receipt(connection.scalar(_newest_receipt(channel)))
    mine = sa.select(sa.func.count()).where(
        _PARKED, dead_letter.c.direction == Direction.OUT, dead_letter.c.stream.in_(list(streams))
    )
    return max(differing - (said.parked_now if said else 0) - (connection.scalar(mine) or 0), 0)


def _newest_receipt(channel: str) -> sa.Select[Any]:
    return sa.select(receipt.c.said).where(receipt.c.channel == channel).order_by(receipt.c.heard_at.desc()).limit(1)
