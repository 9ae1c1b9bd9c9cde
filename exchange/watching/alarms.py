"""What stands, and what people are to be told of it: pure, of what was known before, what was found and the time.

Each alarm is told once, then again while it stands, then that it is gone. What comes and goes is told a few times an
hour and then held back, with the number of times. A warning is told once it stands at a second look: much of that
mends itself. What a silence covers is not told, and is caught up with when the silence ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from exchange.database import clock
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.operating.doctor.finding import Alarm, Finding, Level

GONE = "gone"
"""What was told last of an alarm that is gone."""
MOST_AN_HOUR = 4
"""So often an hour people are told of one alarm."""
KEPT = timedelta(hours=24)
"""How long an alarm that is gone is remembered."""
MOST_KNOWN = 1000
"""So many alarms are told apart: of more the first ones are."""

OF_THIS_MACHINE = frozenset(
    {
        Alarm.DATABASE,
        Alarm.BROKER,
        Alarm.DISK,
        Alarm.FOLDER,
        Alarm.KEY,
        Alarm.SETTINGS,
        Alarm.MIGRATIONS,
        Alarm.BACKUP,
        Alarm.HANDLER,
    }
)
"""What is looked at without the database: while that is away, nothing is known of the others."""

_HOUR = timedelta(hours=1)
_SECOND_LOOK = 0.8
"""A share of the period, as two looks are a bit more or less than one apart."""
_RANK: dict[str, int] = {Level.WARNING: 1, Level.FAULT: 2}


@dataclass(frozen=True)
class Standing:
    """One alarm: what was found last, since when, and what people were told of it. See ``tables.alarm``."""

    alarm: str
    subject: str
    level: str
    message: str
    remedy: str
    command: str
    since: datetime | None
    first_at: datetime
    gone_at: datetime | None = None
    told: str = ""
    told_at: tuple[datetime, ...] = ()
    told_to: str = ""
    held_back: int = 0

    @property
    def name(self) -> str:
        """Name it as people write it."""
        return f"{self.alarm} of {self.subject}" if self.subject else self.alarm

    @property
    def stands(self) -> bool:
        """Whether it is not gone."""
        return self.gone_at is None

    @property
    def told_last(self) -> datetime | None:
        """When people were told of it last."""
        return self.told_at[-1] if self.told_at else None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        moments = {name: getattr(self, name) for name in ("since", "first_at", "gone_at")}
        return {
            "alarm": self.alarm,
            "subject": self.subject,
            "level": self.level,
            "message": self.message,
            "remedy": self.remedy,
            "command": self.command,
            **{name: to_rfc3339(moment) if moment else None for name, moment in moments.items()},
            "told": self.told,
            "told_at": [to_rfc3339(moment) for moment in self.told_at],
            "told_to": self.told_to,
            "held_back": self.held_back,
        }

    @classmethod
    def of_dict(cls, said: dict[str, Any]) -> Standing:
        """Read those fields. Raises ValueError, KeyError or TypeError for others."""
        moments = {name: from_rfc3339(said[name]) if said[name] else None for name in ("since", "gone_at")}
        told_at = tuple(from_rfc3339(one) for one in said["told_at"])
        return cls(**said | moments | {"first_at": from_rfc3339(said["first_at"]), "told_at": told_at})


@dataclass(frozen=True)
class Silence:
    """Nobody is told of an alarm until a moment, by somebody's word; without ``subject`` of none of its kind."""

    alarm: str
    subject: str
    until: datetime
    at: datetime
    who: str
    reason: str

    def covers(self, one: Standing, moment: datetime) -> bool:
        """Tell whether it is about an alarm, now."""
        return self.alarm == one.alarm and self.subject in ("", one.subject) and self.lasts(moment)

    def lasts(self, moment: datetime) -> bool:
        """Tell whether it is not over. One that a clock wrote which was ahead is."""
        return moment < self.until and moment - self.at > -clock.SKEW

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        moments = {"until": to_rfc3339(self.until), "at": to_rfc3339(self.at)}
        return {"alarm": self.alarm, "subject": self.subject, **moments, "who": self.who, "reason": self.reason}


@dataclass(frozen=True)
class Rules:
    """From which level on people are told, how long until they are reminded, and how far two looks are apart."""

    level: Level = Level.WARNING
    remind: timedelta = timedelta(hours=4)
    every: timedelta = timedelta(minutes=1)


@dataclass(frozen=True)
class News:
    """What is told of one alarm: that it is ``new``, ``worse``, ``still`` there or ``gone``; how often it was not."""

    what: str
    standing: Standing
    held_back: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that receivers rely on."""
        one = self.standing
        return {
            "what": self.what,
            "alarm": one.alarm,
            "subject": one.subject or None,
            "level": one.level,
            "message": one.message,
            "remedy": one.remedy or None,
            "command": one.command or None,
            "since": to_rfc3339(one.since or one.first_at),
            "held_back": self.held_back,
        }


@dataclass(frozen=True)
class Compared:
    """All that is known after a look, and what is told of it."""

    known: tuple[Standing, ...]
    news: tuple[News, ...] = field(default=())


def compare(
    known: Iterable[Standing],
    findings: Iterable[Finding],
    silences: Collection[Silence],
    rules: Rules,
    moment: datetime,
    targets: Sequence[str],
) -> Compared:
    """Work out what stands after a look and what ``targets`` are told, at ``moment``."""
    before = {(one.alarm, one.subject): one for one in known}
    found = _worst(findings)
    blind = any(one.alarm in _BLINDING and one.level is Level.FAULT for one in found.values())
    after: list[Standing] = []
    news: list[News] = []
    for key in sorted({*before, *found}):
        one = _seen(before.get(key), found.get(key), moment, blind=blind)
        if one.gone_at is not None and (not one.told or one.told == GONE) and clock.since(one.gone_at, moment) > KEPT:
            continue
        silent = not targets or any(silence.covers(one, moment) for silence in silences)
        what = None if silent else _to_tell(one, rules, moment)
        if what not in (None, "still") and _told_often(one, moment):
            changed = key not in before or before[key].stands != one.stands
            one = replace(one, held_back=one.held_back + changed)
        elif what is not None:
            news.append(News(what, one, one.held_back))
            told_at = (*one.told_at, moment)[-MOST_AN_HOUR:]
            said = GONE if what == "gone" else one.level
            one = replace(one, told=said, told_at=told_at, told_to=", ".join(targets), held_back=0)
        after.append(one)
    order = {"worse": 0, "new": 1, "still": 2, "gone": 3}
    news.sort(key=lambda one: (order[one.what], -_RANK.get(one.standing.level, 0), one.standing.name))
    return Compared(tuple(after[:MOST_KNOWN]), tuple(news))


_BLINDING = frozenset({Alarm.DATABASE, Alarm.MIGRATIONS, Alarm.SETTINGS})
"""While one of these stands, not to be found says nothing of what lies in the database."""


def _worst(findings: Iterable[Finding]) -> dict[tuple[str, str], Finding]:
    """Give of each alarm and subject the worst that was found; of several alike all that they say."""
    found: dict[tuple[str, str], Finding] = {}
    for one in findings:
        if one.alarm is None or one.level is Level.OK:
            continue
        key = (one.alarm.value, one.subject[:255])
        other = found.get(key)
        if other is None or _RANK[one.level] > _RANK[other.level]:
            found[key] = one
        elif one.level is other.level and one.message not in other.message:
            found[key] = replace(other, message=f"{other.message}; {one.message}")
    return found


def _seen(one: Standing | None, found: Finding | None, moment: datetime, *, blind: bool) -> Standing:
    if found is None:
        assert one is not None
        if one.gone_at is not None or (blind and one.alarm not in OF_THIS_MACHINE):
            return one
        return replace(one, gone_at=moment)
    fields: dict[str, Any] = {
        "level": found.level.value,
        "message": found.message,
        "remedy": found.advice,
        "command": found.command,
        "since": found.since,
        "gone_at": None,
    }
    if one is None:
        assert found.alarm is not None
        return Standing(found.alarm.value, found.subject[:255], first_at=moment, **fields)
    return replace(one, **fields, first_at=one.first_at if one.stands else moment)


def _to_tell(one: Standing, rules: Rules, moment: datetime) -> str | None:
    """Say as what an alarm is to be told now, if it is."""
    rank, told = _RANK.get(one.level, 0), _RANK.get(one.told, 0)
    if not one.stands:
        return "gone" if told else None
    if rank < _RANK[rules.level] or (
        rank < _RANK[Level.FAULT] and clock.since(one.first_at, moment) < _SECOND_LOOK * rules.every
    ):
        return None
    if not told:
        return "new"
    if rank > told:
        return "worse"
    last = one.told_last
    return "still" if last is None or clock.since(last, moment) >= rules.remind else None


def _told_often(one: Standing, moment: datetime) -> bool:
    """Tell whether people were told of it as often as they are within an hour."""
    return sum(clock.since(at, moment) < _HOUR for at in one.told_at) >= MOST_AN_HOUR
