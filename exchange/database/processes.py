"""When beat last ticked and a worker last got something done, on whichever machine: what a process says while it works.

Locks tell whether a process lives, on its own machine; this tells whether it works, and on all of them.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from exchange.database import clock
from exchange.database.dialects import upsert
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import process
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable

KEPT = timedelta(days=7)
"""So long a machine is remembered that says nothing any more."""
LATE_TIMES = 3
LEAST = timedelta(seconds=30)
"""Silent is who said nothing for so many times as long as he promised, and no sooner than this."""


class Kind(StrEnum):
    """Who works: beat, by its ticks; a worker, by the tasks that it finished and the batches of those that it is at."""

    BEAT = "beat"
    WORKER = "worker"


@dataclass(frozen=True)
class Sign(AsDict):
    """The last sign of life of one kind on one machine; the next one was promised after ``every_seconds``."""

    kind: Kind
    host: str
    at: datetime
    every_seconds: int


def silent(since: datetime, every_seconds: float) -> bool:
    """Say whether who promised word every so often has said nothing for too long; a moment ahead is as old as any."""
    return clock.since(since) > max(LATE_TIMES * timedelta(seconds=every_seconds), LEAST)


def this_host() -> str:
    """Name this machine as signs of life name it."""
    return printable(socket.gethostname(), 255)


def note_sign(
    engine: Engine, kind: Kind, every_seconds: float, *, at: datetime | None = None, patience_seconds: float = 1.0
) -> None:
    """Write down that a process of this machine works (``at``: now), unless the database can't be written.

    Commits a transaction of its own. A first word also removes machines that are gone.
    """
    here = {"kind": kind, "host": this_host()}
    moment = at or clock.now()
    values = {"at": moment, "every_seconds": max(round(every_seconds), 1)}
    mine = (process.c.kind == kind, process.c.host == here["host"])
    with suppress(Busy, TransientError, SQLAlchemyError), transient_errors():
        with reading(engine) as connection:
            known = connection.scalar(sa.select(process.c.at).where(*mine))
        with writing(engine, patience_seconds=patience_seconds) as connection:
            if known is None:
                gone = sa.or_(process.c.at < moment - KEPT, process.c.at > moment + clock.SKEW)
                connection.execute(sa.delete(process).where(gone))
            upsert(connection, process, here, values)


def read_signs(connection: Connection) -> dict[Kind, Sign]:
    """Give the newest sign of life of each kind, by any machine; those of the future last.

    Reads in the caller's transaction.
    """
    found: dict[Kind, Sign] = {}
    for row in connection.execute(sa.select(process).where(process.c.kind.in_(list(Kind)))):
        sign = Sign(Kind(row.kind), row.host, row.at, row.every_seconds)
        if sign.kind not in found or clock.since(sign.at) < clock.since(found[sign.kind].at):
            found[sign.kind] = sign
    return found
