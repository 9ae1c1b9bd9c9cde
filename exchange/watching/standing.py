"""What stands and what is silenced, in the database; and a file of it for when the database is away.

The file has all that the watcher knew at its last look. What it tells without the database it writes there alone, and
the first look that has the database again takes it from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import upsert
from exchange.database.tables import alarm as table
from exchange.database.tables import silence as silences
from exchange.files import durable
from exchange.files.folder import make_private
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.watching.alarms import Silence, Standing
from exchange.watching.outbox import Kept

WATCH_LOCK = "watch"
"""Held by the one watcher that compares and tells, of however many look."""

_KEY = ("alarm", "subject")


def read_standing(connection: Connection) -> list[Standing]:
    """Give all alarms that are known, gone ones too. Reads in the caller's transaction."""
    found = []
    for row in connection.execute(sa.select(table).order_by(table.c.alarm, table.c.subject)).mappings():
        fields = dict(row)
        told_at = tuple(from_rfc3339(one) for one in json.loads(fields.pop("told_at")))
        found.append(Standing(**fields, told_at=told_at))
    return found


def write_standing(connection: Connection, before: Iterable[Standing], after: Iterable[Standing]) -> None:
    """Have the database know what is known ``after`` a look. Runs in the caller's transaction, which writes."""
    known, kept = {_key(one): one for one in before}, {_key(one): one for one in after}
    for key in known.keys() - kept.keys():
        connection.execute(sa.delete(table).where(table.c.alarm == key[0], table.c.subject == key[1]))
    for key, one in kept.items():
        if known.get(key) == one:
            continue
        fields = {name: getattr(one, name) for name in table.c.keys() if name not in _KEY}  # noqa: SIM118 - no dict
        fields["told_at"] = json.dumps([to_rfc3339(moment) for moment in one.told_at])
        upsert(connection, table, dict(zip(_KEY, key, strict=True)), fields)


def read_silences(connection: Connection) -> list[Silence]:
    """Give what is silenced, ended ones too. Reads in the caller's transaction."""
    rows = connection.execute(sa.select(silences).order_by(silences.c.alarm, silences.c.subject))
    return [Silence(**row) for row in rows.mappings()]


def write_silence(connection: Connection, one: Silence) -> None:
    """Silence an alarm, or for another time. Runs in the caller's transaction, which writes."""
    fields = {name: getattr(one, name) for name in ("until", "at", "who", "reason")}
    upsert(connection, silences, {"alarm": one.alarm, "subject": one.subject}, fields)


def remove_silence(connection: Connection, alarm: str, subject: str) -> bool:
    """End a silence, and tell whether there was one. Runs in the caller's transaction, which writes."""
    mine = (silences.c.alarm == alarm, silences.c.subject == subject)
    there = connection.scalar(sa.select(sa.func.count()).select_from(silences).where(*mine))
    connection.execute(sa.delete(silences).where(*mine))
    return bool(there)


def remove_ended(connection: Connection, moment: datetime) -> None:
    """Forget silences that are over. Runs in the caller's transaction, which writes."""
    for one in read_silences(connection):
        if not one.lasts(moment):
            remove_silence(connection, one.alarm, one.subject)


def _key(one: Standing) -> tuple[str, str]:
    return one.alarm, one.subject


@dataclass(frozen=True)
class Noted:
    """What the file has: when somebody looked last, and what was known then.

    ``alone`` says that it is newer than the database, with ``messages`` that wait. ``troubles`` is what targets
    answered last that were not reached, by their names.
    """

    looked_at: datetime
    alone: bool = False
    known: tuple[Standing, ...] = ()
    silences: tuple[Silence, ...] = ()
    messages: tuple[Kept, ...] = field(default=())

    def to_json(self) -> str:
        """Write it."""
        return json.dumps(
            {
                "looked_at": to_rfc3339(self.looked_at),
                "alone": self.alone,
                "known": [one.as_dict() for one in self.known],
                "silences": [one.as_dict() for one in self.silences],
                "messages": [one.to_file() for one in self.messages],
            }
        )


def read_noted(file: Path) -> Noted | None:
    """Read the file; None if there is none, or if it makes no sense: then nothing is known, and all is told anew."""
    try:
        said = json.loads(file.read_bytes())
        return Noted(
            from_rfc3339(said["looked_at"]),
            bool(said["alone"]),
            tuple(Standing.of_dict(one) for one in said["known"]),
            tuple(
                Silence(**one | {name: from_rfc3339(one[name]) for name in ("until", "at")}) for one in said["silences"]
            ),
            tuple(Kept.of_file(one) for one in said["messages"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_noted(file: Path, noted: Noted) -> None:
    """Write the file; its time says when somebody looked. That it can't be written keeps nobody from being told."""
    try:
        make_private(file.parent)
        durable.write(file, noted.to_json().encode(), mode=0o600)
    except OSError:  # on a full disk at least the time is new
        with suppress(OSError):
            file.touch()
