"""Retry: one dead letter again, in a transaction of its own, with every check that a batch's record meets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange import dead_letters
from exchange.channels import Channel
from exchange.database import join, locked, whoami, world_errors
from exchange.dead_letters import Parked
from exchange.format import record as records
from exchange.format.errors import RecordError
from exchange.format.record import Run
from exchange.ledger import Counts
from exchange.loader import Loader
from exchange.models import DeadLetterState, Direction, change
from exchange.site import Site
from exchange.understanding import checked


@dataclass(frozen=True)
class Retried:
    """What became of one dead letter. ``state`` is None if there is no such letter."""

    id: int
    state: DeadLetterState | None
    message: str
    changed: bool

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "id": self.id,
            "state": self.state.value if self.state else None,
            "message": self.message,
            "changed": self.changed,
        }


def run(site: Site, ids: Iterable[int], who: str | None = None) -> list[Retried]:
    """Retry dead letters by their ids, in that order. Raises Busy if their channel is being worked on, WorldError."""
    with world_errors():
        return [retry(site, letter_id, who or whoami()) for letter_id in ids]


def retry(site: Site, letter_id: int, who: str) -> Retried:
    """Retry one. An incoming record is applied if it now can be; an outgoing one's row is sent again."""
    with site.engine.connect() as connection:
        letter = dead_letters.find(connection, letter_id)
    if letter is None:
        return Retried(letter_id, None, f"there is no dead letter {letter_id}", changed=False)
    if letter.state is not DeadLetterState.PARKED:
        return Retried(letter_id, letter.state, f"it is {letter.state} already; nothing was changed", changed=False)
    channel = site.channel(letter.channel)
    if channel is None:
        message = f"channel {letter.channel} is no longer declared; it stays parked"
        return Retried(letter_id, letter.state, message, changed=False)
    work = _receive if letter.direction is Direction.IN else _send
    lock = "import" if letter.direction is Direction.IN else "export"
    with locked(site.engine, f"{lock} {channel.name}") as connection:
        join(connection, f"{lock} {channel.declared}", alone=True)
        state, cause = work(site, connection, channel, letter)
        still = cause if state is DeadLetterState.PARKED else None
        if not dead_letters.settle(connection, letter, state, f"retried by {who}: {cause}", message=still):
            connection.rollback()
            return Retried(letter_id, letter.state, "somebody else settled it at this moment", changed=False)
    return Retried(letter_id, state, cause, changed=True)


def _receive(site: Site, connection: Connection, channel: Channel, letter: Parked) -> tuple[DeadLetterState, str]:
    if letter.record_bytes > len(letter.record):
        return (
            DeadLetterState.PARKED,
            f"only {len(letter.record)} of its {letter.record_bytes} bytes are kept; have the row sent again",
        )
    try:
        record = records.decode(letter.record)
        schemas = {} if letter.schema_version is None else {record.stream: letter.schema_version}
        record = checked(site, schemas, record)
        run = Run(record.stream, record.op, [record.version], [record.body])
        with Loader(connection, channel, limit=1) as loader:
            loader.add(run.stream, loader.rows([letter.line or 1], run), len(letter.record))
            loaded = loader.load()
    except RecordError as error:
        return DeadLetterState.PARKED, error.sentence
    match loaded.counts:
        case Counts(applied=1):
            return DeadLetterState.APPLIED, "applied"
        case Counts(duplicate=1):
            return DeadLetterState.APPLIED, "its row has this very version already"
        case Counts(stale=1):
            return DeadLetterState.SUPERSEDED, "its row is newer; an older record never overwrites it"
        case _:
            return DeadLetterState.PARKED, loaded.refusals[0].sentence


def _send(_site: Site, connection: Connection, _channel: Channel, letter: Parked) -> tuple[DeadLetterState, str]:
    """Note the row as changed: the next export reads it as it is then."""
    newer = connection.scalar(
        sa.select(change.c.id).where(change.c.stream == letter.stream, change.c.key == letter.key).limit(1)
    )
    if newer is None:
        connection.execute(sa.insert(change).values(stream=letter.stream, op="U", key=letter.key))
    return DeadLetterState.APPLIED, "its row goes with the next export as it is then"
