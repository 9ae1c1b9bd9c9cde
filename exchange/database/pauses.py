"""Channels that stand still by a person's word, or by a setting: nothing of them is sent, or nothing taken in.

Who seals or applies a batch asks with the channel's lock held, so that none begins once a pause is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database.dialects import upsert
from exchange.database.engine import now
from exchange.database.failed_runs import forget_failures
from exchange.database.locks import Busy, reading
from exchange.database.tables import Direction, pause
from exchange.format.as_dict import AsDict
from exchange.format.errors import printable
from exchange.format.moments import in_words

Place = tuple[Direction, str]
"""A direction, seen from here, and a channel by its declared name."""

BY_SETTING = "EXCHANGE_CHANNELS_OFF"


@dataclass(frozen=True)
class Pause(AsDict):
    """A channel that stands still, since when, by whom and why; of one that a setting names nobody knows since when."""

    channel: str
    direction: Direction
    since: datetime | None
    who: str
    reason: str | None
    command: str
    """What lets it go on; empty where that is a setting."""

    @property
    def fact(self) -> str:
        """Say that it stands still, since when, by whom and why."""
        if self.since is None:
            return f"channel {self.channel} is off by {BY_SETTING}"
        why = printable(self.reason or "", 300)
        return f"channel {self.channel} is paused since {in_words(self.since)} by {printable(self.who, 100)}: {why}"

    @property
    def remedy(self) -> str:
        """Say what lets it go on."""
        if self.command:
            return f"`{self.command}` lets it go on"
        return f"take it out of {BY_SETTING} and start worker and beat anew"

    def __str__(self) -> str:
        """Say both for people."""
        return f"{self.fact}; {self.remedy}"


class Paused(Busy):
    """The channel at hand stands still: nothing of it was begun. Whoever is told so is told as of one that is busy."""

    def __init__(self, pause: Pause) -> None:
        super().__init__(pause.channel, pause.who, pause.since)
        self.pause = pause

    def __str__(self) -> str:
        """Say who paused it, since when and why."""
        return str(self.pause)


def paused(connection: Connection, off: Collection[Place]) -> Mapping[Place, Pause]:
    """Give all channels that stand still; ``off`` are those that the setting names.

    Only reads, in the caller's transaction.
    """
    found = {(way, name): Pause(name, way, None, BY_SETTING, None, "") for way, name in off}
    for row in connection.execute(_PAUSED):
        way = Direction(row.direction)
        command = f"exchange channels resume {row.channel} --reason TEXT"
        found.setdefault((way, row.channel), Pause(row.channel, way, row.since, row.who, row.reason, command))
    return found


_PAUSED = sa.select(pause).where(pause.c.resumed_at.is_(None)).order_by(pause.c.channel)


def refuse_paused(connection: Connection, off: Collection[Place], direction: Direction, channel: str) -> None:
    """Raise Paused if a channel, by its declared name, stands still. Only reads, in the caller's transaction."""
    found = paused(connection, off).get((direction, channel))
    if found is not None:
        raise Paused(found)


def refusing(engine: Engine, off: Collection[Place], direction: Direction, channel: str) -> Callable[[], None]:
    """Give what raises Paused if a channel, by its declared name, stands still; it reads in a transaction of its own.

    Called with the channel's lock held, whatever the transaction that holds it sees.
    """

    def refuse() -> None:
        with reading(engine) as connection:
            refuse_paused(connection, off, direction, channel)

    return refuse


def begin(connection: Connection, place: Place, who: str, reason: str) -> bool:
    """Have a channel stand still, in the caller's writing transaction; False, with nothing changed, if it did."""
    here = {"direction": place[0].value, "channel": place[1]}
    if place in paused(connection, ()):
        return False
    values = {"since": now(), "who": who[:255], "reason": reason, "resumed_at": None}
    upsert(connection, pause, here, values)
    return True


def end(connection: Connection, place: Place, shards: Collection[str]) -> bool:
    """Let a channel go on, in the caller's writing transaction; False, with nothing changed, if it did.

    Errors of it, by its names in the files, from before are forgotten: the next run says how it is.
    """
    here = (pause.c.direction == place[0], pause.c.channel == place[1], pause.c.resumed_at.is_(None))
    ending = sa.update(pause).where(*here).values(resumed_at=now())
    if not connection.execute(ending, execution_options={"preserve_rowcount": True}).rowcount:
        return False
    forget_failures(connection, place[0], shards)
    return True


def resumed(connection: Connection, direction: Direction) -> dict[str, datetime]:
    """Say when channels of a direction, by their declared names, were let go on: since then each has had its turn.

    Only reads, in the caller's transaction.
    """
    ended = sa.select(pause.c.channel, pause.c.resumed_at).where(pause.c.resumed_at.is_not(None))
    return {row.channel: row.resumed_at for row in connection.execute(ended.where(pause.c.direction == direction))}
