"""How many dead letters there are: kept as they come, change and go, so that a million are counted at a glance.

Triggers note each change in ``exchange_dead_letter_count``, whoever makes it. On PostgreSQL each statement's
difference is a row of its own, so that no transaction waits for another one's count; folding adds them up.
Too many that wait for somebody, or for too long, are an alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import DeadLetterState, Direction, dead_letter, dead_letter_count, is_seen_again
from exchange.dead_letters.advice import advice
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem
from exchange.limits import Limits
from exchange.site import Site

SECONDS_AN_HOUR = 3600

TREND_HOURS = 24
"""How many hours a trend tells of, the last one not over yet."""

MOST_CAUSES = 50
"""Of so many causes it is looked at whose faults they are."""

_KEPT_HOURS = 2 * TREND_HOURS
_NUMBER = sa.func.sum(dead_letter_count.c.letters)


def hour_of(moment: datetime) -> int:
    """Number the hour of a moment, counted from 1970."""
    return int(moment.timestamp()) // SECONDS_AN_HOUR


def count_parked(connection: Connection) -> int:
    """Count the letters that wait for somebody."""
    return count_in(connection, DeadLetterState.PARKED)


def count_in(connection: Connection, state: DeadLetterState) -> int:
    """Count the letters in a state."""
    return int(connection.scalar(sa.select(_NUMBER).where(dead_letter_count.c.state == state)) or 0)


def groups_in(*states: DeadLetterState) -> sa.CTE:
    """Give the fingerprints that have letters in some states, with how many: ``fingerprint, state, letters``."""
    groups = (
        sa.select(dead_letter_count.c.fingerprint, dead_letter_count.c.state, _NUMBER.label("letters"))
        .where(dead_letter_count.c.state.in_(states))
        .group_by(dead_letter_count.c.fingerprint, dead_letter_count.c.state)
        .having(_NUMBER > 0)
    )
    return groups.cte("groups_there").prefix_with("MATERIALIZED")


def errors_there(connection: Connection) -> list[str]:
    """Give the classes of error that letters have, whatever their state: one of each fingerprint is looked at."""
    groups = groups_in(*DeadLetterState)
    alike = (dead_letter.c.fingerprint == groups.c.fingerprint, dead_letter.c.state == groups.c.state)
    error = sa.select(dead_letter.c.error).where(*alike).limit(1).correlate(groups).scalar_subquery()
    return sorted({found for found in connection.scalars(sa.select(error).select_from(groups)) if found})


def faults_there(connection: Connection) -> set[str]:
    """Say whose faults parked letters are, in the words of ``advice``: one letter of each cause is looked at.

    Of very many causes only some are.
    """
    groups = groups_in(DeadLetterState.PARKED)
    alike = (dead_letter.c.fingerprint == groups.c.fingerprint, dead_letter.c.state == groups.c.state)
    one = sa.select(dead_letter.c.id).where(*alike).limit(1).correlate(groups).scalar_subquery()
    some = sa.select(one).select_from(groups).limit(MOST_CAUSES)
    columns = (dead_letter.c.direction, dead_letter.c.error, dead_letter.c.intake.is_not(None))
    kinds = sa.select(*columns).where(dead_letter.c.id.in_(some)).distinct()
    return {
        advice(Direction(way), error, 0, of_file=bool(of_file)).fault
        for way, error, of_file in connection.execute(kinds)
    }


def trends(connection: Connection, state: DeadLetterState, moment: datetime) -> dict[str, list[int]]:
    """Say by fingerprint how many letters in a state came in each of the last hours, oldest first."""
    first = hour_of(moment) - TREND_HOURS + 1
    rows = connection.execute(
        sa.select(dead_letter_count.c.fingerprint, dead_letter_count.c.hour, _NUMBER.label("letters"))
        .where(dead_letter_count.c.state == state, dead_letter_count.c.hour.between(first, hour_of(moment)))
        .group_by(dead_letter_count.c.fingerprint, dead_letter_count.c.hour)
    )
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row.fingerprint, [0] * TREND_HOURS)[row.hour - first] = int(row.letters)
    return found


@dataclass(frozen=True)
class Trend(AsDict):
    """How many letters came in each hour and are in a state: ``hours`` say when each began, oldest first.

    ``causes`` has the same by fingerprint, of those that had any.
    """

    hours: tuple[datetime, ...]
    letters: tuple[int, ...]
    causes: Mapping[str, tuple[int, ...]]


def trend(connection: Connection, state: DeadLetterState, moment: datetime) -> Trend:
    """Give the trend of the last hours, of all letters in a state and by cause. Reads in the caller's transaction."""
    causes = trends(connection, state, moment)
    first = hour_of(moment) - TREND_HOURS + 1
    hours = [datetime.fromtimestamp((first + one) * SECONDS_AN_HOUR, UTC) for one in range(TREND_HOURS)]
    letters = [sum(each) for each in zip(*causes.values(), strict=True)] or [0] * TREND_HOURS
    return Trend(tuple(hours), tuple(letters), {name: tuple(each) for name, each in causes.items()})


def fold(connection: Connection, moment: datetime) -> None:
    """Add up counts of one kind, and the hours that no trend tells of any more; may be repeated.

    Runs in the caller's writing transaction, which commits it.
    """
    kept = hour_of(moment) - _KEPT_HOURS
    sums: Counter[tuple[str, str, int]] = Counter()
    columns = (dead_letter_count.c[name] for name in ("fingerprint", "state", "hour", "letters"))
    for fingerprint, state, hour, letters in connection.execute(sa.delete(dead_letter_count).returning(*columns)):
        sums[fingerprint, state, hour if hour >= kept else 0] += letters
    part = {"part": 0} if dialect_of(connection).is_sqlite else {}
    rows = [
        {"fingerprint": fingerprint, "state": state, "hour": hour, "letters": letters, **part}
        for (fingerprint, state, hour), letters in sums.items()
        if letters
    ]
    if rows:
        connection.execute(sa.insert(dead_letter_count), rows)


@dataclass(frozen=True)
class Backlog(AsDict):
    """The parked letters: their number, the id of the oldest, since when a letter of its row is parked.

    ``seen`` counts the records that they stand for: the same one may come again and again.
    """

    parked: int
    oldest: int | None
    oldest_at: datetime | None
    seen: int = 0


def backlog(connection: Connection) -> Backlog:
    """Count the parked letters and find the oldest: a few glances, and one at each letter that was seen again."""
    parked, since = dead_letter.c.state == DeadLetterState.PARKED, dead_letter.c.created_at
    first = sa.select(dead_letter.c.id, since).where(parked).order_by(since, dead_letter.c.id).limit(1)
    oldest = connection.execute(first).one_or_none()
    if oldest is None:
        return Backlog(0, None, None)
    again = sa.select(dead_letter.c.id, dead_letter.c.first_seen, dead_letter.c.seen).where(
        parked, is_seen_again(dead_letter)
    )
    rows = again.subquery()
    more = connection.scalar(sa.select(sa.func.sum(rows.c.seen - 1))) or 0
    before = connection.execute(
        sa.select(rows.c.id, rows.c.first_seen)
        .where(rows.c.first_seen < oldest.created_at)
        .order_by(rows.c.first_seen, rows.c.id)
        .limit(1)
    ).one_or_none()
    number = count_parked(connection)
    return Backlog(number, *(before or oldest), seen=number + int(more))


def alarms(site: Site) -> tuple[Problem, ...]:
    """Say what is beyond the settings now, as ``backlog_alarms`` does."""
    with reading(site.engine) as connection:
        standing = backlog(connection)
    return backlog_alarms(standing, site.limits, now())


def backlog_alarms(backlog: Backlog, limits: Limits, moment: datetime) -> tuple[Problem, ...]:
    """Say what is beyond the settings at a moment, size and age apart; nothing if all is in order."""
    said = []
    if backlog.parked > limits.alarm_letters:
        said.append(
            Problem(
                f"{backlog.parked} dead letters are parked, more than {limits.alarm_letters} (EXCHANGE_ALARM_LETTERS)",
                "`exchange dead-letters` shows them by cause",
                "exchange dead-letters",
                backlog.oldest_at,
            )
        )
    oldest = backlog.oldest_at
    if oldest is not None and moment - oldest > timedelta(days=limits.alarm_days):
        said.append(
            Problem(
                f"a dead letter has been parked since {oldest:%Y-%m-%d %H:%M} UTC, longer than"
                f" {limits.alarm_days:g} days (EXCHANGE_ALARM_DAYS)",
                f"`exchange dead-letters show {backlog.oldest}` says what to do",
                f"exchange dead-letters show {backlog.oldest}",
                oldest,
            )
        )
    return tuple(said)
