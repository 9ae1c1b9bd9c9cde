"""Silencing alarms by a person's word, and what stands as people list it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from exchange.database import clock
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.format.as_dict import AsDict
from exchange.format.errors import printable
from exchange.format.moments import to_rfc3339
from exchange.operating.doctor.finding import Alarm
from exchange.settings import Settings
from exchange.site import Site
from exchange.watching import outbox, standing
from exchange.watching.alarms import Silence, Standing
from exchange.watching.outbox import Kept

LONGEST = timedelta(days=90)

_LENGTH = re.compile(r"([0-9]{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def check_alarm(text: str) -> str:
    """Check the name of an alarm. Raises ValueError naming those there are."""
    if text not in set(Alarm):
        names = ", ".join(Alarm)
        raise ValueError(f"alarm: expected one of {names}, found {printable(repr(text), 80)}")
    return text


def length_of(text: str) -> timedelta:
    """Read a length of time such as 90m, 2h or 3d. Raises ValueError."""
    match = _LENGTH.fullmatch(text)
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < length <= LONGEST:
        shown = printable(repr(text), 80)
        raise ValueError(f"for: expected a length of time up to {LONGEST.days}d, such as 90m or 2h, found {shown}")
    return length


def silence(site: Site, alarm: str, subject: str, length: timedelta, reason: str, who: str) -> Silence:
    """Have nobody told of an alarm for a while; without a subject of none of its kind. Raises Busy, TransientError."""
    moment = clock.now()
    made = Silence(alarm, subject, moment + length, moment, who, reason)
    with transient_errors(), writing(site.engine, "alarms") as connection:
        standing.write_silence(connection, made)
    return made


def unsilence(site: Site, alarm: str, subject: str) -> None:
    """Have people told of it again. Raises ValueError if it was not silenced; Busy, TransientError."""
    with transient_errors(), writing(site.engine, "alarms") as connection:
        if not standing.remove_silence(connection, alarm, subject):
            of = f" of {printable(subject, 80)}" if subject else ""
            raise ValueError(f"{alarm}{of} is not silenced; `exchange alarms` lists what is")


@dataclass(frozen=True)
class Alarms(AsDict):
    """What stands, what is silenced, and the messages that were not taken yet."""

    standing: tuple[Standing, ...]
    silences: tuple[Silence, ...]
    untold: tuple[Kept, ...]
    at: datetime
    alone: bool = False
    """Whether that is from the watcher's file, as the database was away at its last look."""

    def silence_of(self, one: Standing) -> Silence | None:
        """Give the silence that covers an alarm for longest."""
        covering = [silence for silence in self.silences if silence.covers(one, self.at)]
        return max(covering, key=lambda silence: silence.until, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Give each alarm with what scripts rely on."""
        silenced = [(one, self.silence_of(one)) for one in self.standing]
        return [
            one.as_dict() | {"silenced_until": to_rfc3339(silent.until) if silent else None} for one, silent in silenced
        ]


def from_file(settings: Settings) -> Alarms | None:
    """Give what the watcher's file has, if it is newer than the database."""
    noted = standing.read_noted(settings.watch_file)
    if noted is None or not noted.alone:
        return None
    return _listed(noted.known, noted.silences, noted.messages, alone=True)


def read_alarms(site: Site) -> Alarms:
    """Give what stands. Only reads, in a transaction of its own. Raises TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        return _listed(
            standing.read_standing(connection), standing.read_silences(connection), outbox.undelivered(connection)
        )


def read_messages(site: Site, limit: int) -> list[Kept]:
    """Give the newest messages. Only reads, in a transaction of its own. Raises TransientError."""
    with transient_errors(), reading(site.engine) as connection:
        return outbox.messages(connection, limit=limit)


def _listed(
    known: Sequence[Standing], silences: Sequence[Silence], untold: Sequence[Kept], *, alone: bool = False
) -> Alarms:
    moment = clock.now()
    there = sorted((one for one in known if one.stands), key=lambda one: (one.level != "fault", one.alarm, one.subject))
    return Alarms(tuple(there), tuple(one for one in silences if one.lasts(moment)), tuple(untold), moment, alone=alone)
