"""Messages to people, kept until they are taken: with the number of attempts, the last error and the next try.

What is not taken is tried again with growing pauses for about a day. What never will be ends at once, with the reason.
The newest are kept. A message that was sent while we died is sent again: its ``number`` is the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import clock
from exchange.database.dialects import insert_new
from exchange.database.locks import writing
from exchange.database.tables import message as table
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.settings import NotifyTarget
from exchange.watching.delivery import Answer, Parcel
from exchange.watching.messages import Message

WAITING, SENT, FAILED = "waiting", "sent", "failed"
_UNSENT = table.c.state == WAITING

FIRST_PAUSE_SECONDS = 30
LONGEST_PAUSE_SECONDS = 3600
MOST_ATTEMPTS = 30
"""With these pauses about a day."""
MOST_WAITING = 100
"""So many messages wait for one target; of more the oldest are given up."""
MOST_KEPT = 1000
"""So many messages are kept in all."""
MOST_AT_ONCE = 20
"""So many messages one look sends, at most, however many wait."""
LEASE = timedelta(seconds=90)
"""How long a message that is being sent is nobody else's to send."""


@dataclass(frozen=True)
class Kept:
    """One message to one target, as it is kept. ``next_at`` counts while its state is ``waiting``."""

    number: str
    target: str
    message: Message
    created_at: datetime
    next_at: datetime
    state: str = WAITING
    attempts: int = 0
    last_error: str = ""
    ended_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "number": self.number,
            "target": self.target,
            "title": self.message.title,
            "state": self.state,
            "created_at": to_rfc3339(self.created_at),
            "attempts": self.attempts,
            "last_error": self.last_error or None,
            "next_at": to_rfc3339(self.next_at) if self.state == WAITING else None,
            "ended_at": to_rfc3339(self.ended_at) if self.ended_at else None,
        }

    def to_file(self) -> dict[str, Any]:
        """Give what the file has of it, which knows only what waits."""
        moments = {name: to_rfc3339(getattr(self, name)) for name in ("created_at", "next_at")}
        named = {name: getattr(self, name) for name in ("number", "target", "attempts", "last_error")}
        return {**named, **moments, "message": self.message.to_json()}

    @classmethod
    def of_file(cls, said: Mapping[str, Any]) -> Kept:
        """Read that. Raises ValueError, KeyError or TypeError for anything else."""
        moments = {name: from_rfc3339(said[name]) for name in ("created_at", "next_at")}
        return cls(**{**said, **moments, "message": Message.of_json(said["message"])})

    def is_due(self, moment: datetime) -> bool:
        """Tell whether it is to be tried: one that a clock put off which was ahead is."""
        return self.state == WAITING and (
            self.next_at <= moment or self.next_at - moment > clock.SKEW + timedelta(seconds=LONGEST_PAUSE_SECONDS)
        )

    def parcel(self, target: NotifyTarget, network: str) -> Parcel:
        """Give it to be sent."""
        return Parcel(self.number, target, network, self.message, self.created_at)

    def after(self, answer: Answer, moment: datetime) -> Kept:
        """Give it as it is after a try."""
        attempts, fault = self.attempts + 1, answer.fault
        if fault is None:
            return replace(self, state=SENT, attempts=attempts, last_error="", ended_at=moment)
        if fault.final or attempts >= MOST_ATTEMPTS:
            return replace(self, state=FAILED, attempts=attempts, last_error=fault.sentence, ended_at=moment)
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (attempts - 1), LONGEST_PAUSE_SECONDS)
        wait = timedelta(seconds=max(pause, fault.wait_seconds or 0))
        return replace(self, attempts=attempts, last_error=fault.sentence, next_at=moment + wait)


def written(message: Message, targets: Iterable[str], moment: datetime) -> list[Kept]:
    """Write a message to each target, to be sent at once."""
    return [Kept(uuid.uuid4().hex, target, message, moment, moment) for target in targets]


def keep(connection: Connection, messages: Iterable[Kept], *, once: str | None = None) -> None:
    """Keep messages in the database; of what is told ``once`` only that which was not.

    Runs in the caller's transaction, which writes.
    """
    for one in messages:
        insert_new(connection, table, _row(one) | {"once": once or one.number})
    _bound(connection)


def was_kept(connection: Connection, once: str) -> bool:
    """Tell whether something that is told once was told to anybody. Reads in the caller's transaction."""
    return connection.scalar(sa.select(table.c.id).where(table.c.once == once).limit(1)) is not None


def claim_due(connection: Connection, targets: Mapping[str, NotifyTarget], moment: datetime) -> list[Kept]:
    """Give what is to be sent now, and leave it to this process for a while; end what is for nobody any more.

    Runs in the caller's transaction, which writes and holds the watchers' lock.
    """
    rows = connection.execute(sa.select(table).where(_UNSENT).order_by(table.c.id).limit(_MOST_LOOKED_AT))
    waiting = [_of_row(row) for row in rows]
    for name in {one.target for one in waiting} - targets.keys():
        gone = {"state": FAILED, "last_error": "nobody of this name is told any more", "ended_at": moment}
        connection.execute(sa.update(table).where(_UNSENT, table.c.target == name).values(gone))
    due = _in_turn([one for one in waiting if one.target in targets], moment)
    if due:
        numbers = [one.number for one in due]
        connection.execute(sa.update(table).where(table.c.number.in_(numbers)).values(next_at=moment + LEASE))
    return due


def _in_turn(waiting: Sequence[Kept], moment: datetime) -> list[Kept]:
    """Give what is due, of each target only what no earlier one of it holds up."""
    held_up: set[str] = set()
    due = []
    for one in waiting:
        if one.target not in held_up and one.is_due(moment):
            due.append(one)
        else:
            held_up.add(one.target)
    return due[:MOST_AT_ONCE]


def claim_in_turn(waiting: Sequence[Kept], moment: datetime) -> list[Kept]:
    """Give what of a file's messages is to be sent now."""
    return _in_turn(waiting, moment)


def conclude(engine: Engine, tried: Sequence[Kept], after: Sequence[Kept]) -> None:
    """Write down what became of messages that were claimed; those not tried wait as they did before.

    Commits a transaction of its own.
    """
    done = {one.number: one for one in after}
    with writing(engine, "messages") as connection:
        for one in tried:
            row = _row(done.get(one.number, one))
            connection.execute(sa.update(table).where(table.c.number == one.number, _UNSENT).values(row))


def messages(connection: Connection, *, limit: int = 20) -> list[Kept]:
    """Give the newest messages. Reads in the caller's transaction."""
    return [_of_row(row) for row in connection.execute(sa.select(table).order_by(table.c.id.desc()).limit(limit))]


def undelivered(connection: Connection) -> list[Kept]:
    """Give what waits though it was tried, and the newest if it failed for good. Reads in the caller's transaction."""
    tried = sa.select(table).where(_UNSENT, table.c.attempts > 0).order_by(table.c.id).limit(MOST_AT_ONCE)
    return [_of_row(row) for row in connection.execute(tried)]


_MOST_LOOKED_AT = 1000


def _bound(connection: Connection) -> None:
    of_target = sa.select(table.c.target, sa.func.count()).where(_UNSENT).group_by(table.c.target)
    for target, number in connection.execute(of_target).all():
        if number > MOST_WAITING:
            mine = (_UNSENT, table.c.target == target)
            oldest = sa.select(table.c.id).where(*mine).order_by(table.c.id).limit(number - MOST_WAITING)
            words = f"given up: more than {MOST_WAITING} messages wait for it"
            given_up = {"state": FAILED, "last_error": words, "ended_at": clock.now()}
            connection.execute(sa.update(table).where(table.c.id.in_(oldest)).values(given_up))
    newest = sa.select(table.c.id).order_by(table.c.id.desc()).offset(MOST_KEPT).limit(1)
    edge = connection.scalar(newest)
    if edge is not None:
        connection.execute(sa.delete(table).where(table.c.id <= edge, table.c.state != WAITING))


def _row(one: Kept) -> dict[str, Any]:
    named = ("number", "target", "state", "created_at", "attempts", "last_error", "next_at", "ended_at")
    return {name: getattr(one, name) for name in named} | {"body": one.message.to_json()}


def _of_row(row: Any) -> Kept:
    return Kept(
        row.number,
        row.target,
        Message.of_json(row.body),
        row.created_at,
        row.next_at,
        row.state,
        row.attempts,
        row.last_error,
        row.ended_at,
    )
