"""BulkRetry retry: the letters of a selection, one group after the other, never more of them than a person looked at.

Each group is a transaction of its own and is marked in the selection with it, so whatever ends a run early, the same
call goes on where that one ended. Parents are tried before children.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import DeadLetterState, Direction, dead_letter, selected
from exchange.dead_letters import retry, selections
from exchange.dead_letters.retry import Header, RetryGroup, RetryOptions
from exchange.format.record import Op
from exchange.results import Retried
from exchange.site import Site

PARTS = 8
"""Into so many parts a group is cut in which others come after the last that may fail: the run ends right there."""

PAUSE_SECONDS = 0.2
"""How long a run that is to be slow sleeps at most before it looks whether it is to stop."""


@dataclass(frozen=True)
class Pace:
    """How fast and how far: letters a second, how many go first and must hold, how many may fail."""

    rate: float | None = None
    canary: int | None = None
    stop_after: int | None = None


@dataclass
class BulkRetry:
    """What a run did so far, of ``letters`` that were left.

    ``poison`` failed too often to be tried but by id; ``stopped`` says why the run ended early.
    """

    selection: str
    letters: int
    rehearsal: bool
    tried: int = 0
    states: Counter[DeadLetterState] = field(default_factory=Counter)
    poison: int = 0
    stopped: str | None = None

    @property
    def failed(self) -> int:
        """How many were tried and stay parked."""
        return self.states[DeadLetterState.PARKED]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        settled = (DeadLetterState.APPLIED, DeadLetterState.SUPERSEDED, DeadLetterState.PARKED)
        return {
            "selection": self.selection,
            "letters": self.letters,
            "dry_run": self.rehearsal,
            "tried": self.tried,
            **{state.value: self.states[state] for state in settled},
            "left": self.letters - self.tried,
            "poison": self.poison,
            "stopped": self.stopped,
        }


class LetterKind(NamedTuple):
    """Letters that are tried in a row."""

    direction: Direction
    channel: str
    stream: str | None
    op: str | None


Report = Callable[[Sequence[Retried]], None]
Counting = Callable[[Connection, Sequence[Retried]], None]


def retry_selection(
    site: Site,
    name: str,
    pace: Pace | None = None,
    *,
    rehearse: bool = False,
    skip_changed: bool = False,
    again: bool = False,
    stopping: Callable[[], bool],
    report: Report,
) -> BulkRetry:
    """Retry what is left of a selection. ``stopping`` is asked, and ``report`` told what came of it, group by group.

    ``rehearse`` says what would become of each letter and changes nothing; ``again`` tries those once more that stayed
    parked. Raises TransientError, with nothing changed, if there is no such selection, or letters of it changed since
    it was made and are not to be skipped; and Busy if the first channel is being worked on.
    """
    with transient_errors():
        if again and not rehearse:
            with writing(site.engine) as connection:
                selections.try_again(connection, name)
        with reading(site.engine) as connection:
            if not skip_changed:
                selections.check_unchanged(connection, name)
            chosen = selections.find_selection(connection, name)
        bulk = BulkRetry(name, chosen.left, rehearse)
        run = BulkRun(site, bulk, pace or Pace(), stopping, report)
        with reading(site.engine) as connection:
            bulk.poison = _count_poison(site, connection, name)
            kinds = kinds_of(site, connection, name)
        for kind in kinds:
            run.retry_kind(kind)
    return bulk


def count_left(site: Site, name: str) -> int:
    """Count the letters of a selection that were not tried yet. Raises TransientError if there is none."""
    with transient_errors(), reading(site.engine) as connection:
        return selections.find_selection(connection, name).left


class BulkRun:
    """One run: where it is, and whether it is to go on.

    ``bulk`` may have been gone on with before. ``counted`` is called in each group's transaction, once its letters are
    marked in the selection; what it raises undoes the group.
    """

    def __init__(
        self,
        site: Site,
        bulk: BulkRetry,
        pace: Pace,
        stopping: Callable[[], bool],
        report: Report,
        counted: Counting | None = None,
    ) -> None:
        self._site = site
        self._bulk = bulk
        self._pace = pace
        self._stopping = stopping
        self._report = report
        self._began = time.monotonic()
        self._counted = counted
        self._tried_before = bulk.tried
        self._canary = pace.canary if pace.canary and bulk.tried < pace.canary else 0
        mark = None if bulk.rehearsal else self._mark
        self._options = RetryOptions(rehearse=bulk.rehearsal, then=mark)

    def has_left(self, kind: LetterKind) -> bool:
        """Say whether a letter of a kind was not tried yet and may be."""
        with reading(self._site.engine) as connection:
            return bool(_page(connection, self._bulk.selection, kind, 0, 1, self._site))

    def retry_kind(self, kind: LetterKind) -> None:
        """Try the letters of one kind, as far as the run may go."""
        after = 0
        while not self._bulk.stopped:
            with reading(self._site.engine) as connection:
                headers = _page(connection, self._bulk.selection, kind, after, self._size(), self._site)
            if not headers:
                return
            after = headers[-1].id
            self._retry_groups(deque(retry.group_letters(self._site, headers, {})))
            self._judge_canary()

    def _retry_groups(self, groups: deque[RetryGroup]) -> None:
        while groups and not self._ended():
            group = groups.popleft()
            left = None if self._pace.stop_after is None else self._pace.stop_after - self._bulk.failed
            try:
                retried = retry.retry_group(self._site, group, replace(self._options, failures=left))
            except retry.TooManyFailed:
                groups.extendleft(reversed(group.parts(PARTS)))
                continue
            except Busy as busy:
                if not self._bulk.tried:
                    raise
                self._bulk.stopped = f"stopped: {busy}; the same command goes on where this one ended"
                return
            self._note(retried)
            self._keep_pace()

    def _note(self, retried: Sequence[Retried]) -> None:
        tried = [one for one in retried if one.changed]
        self._bulk.tried += len(tried)
        self._bulk.states.update(one.state for one in tried if one.state)
        self._report(retried)

    def _ended(self) -> bool:
        bulk, most = self._bulk, self._pace.stop_after
        if most is not None and bulk.failed >= most:
            bulk.stopped = f"stopped: {bulk.failed} failed, and no more may; what is left was not tried"
        elif self._stopping():
            bulk.stopped = "stopped as asked; the same command goes on where this one ended"
        return bulk.stopped is not None

    def _judge_canary(self) -> None:
        if self._pace.canary and self._bulk.tried >= self._pace.canary:
            if self._canary and self._bulk.failed:
                first = f"{self._bulk.failed} of the first {self._bulk.tried} did not hold"
                self._bulk.stopped = f"stopped: {first}; what is left was not tried"
            self._canary = 0

    def _size(self) -> int:
        size = self._site.limits.group_letters
        if self._canary:
            size = min(size, max(1, self._canary - self._bulk.tried))
        if self._pace.rate:
            size = min(size, max(1, int(self._pace.rate)))
        return size

    def _keep_pace(self) -> None:
        if not self._pace.rate:
            return
        until = self._began + (self._bulk.tried - self._tried_before) / self._pace.rate
        while (left := until - time.monotonic()) > 0 and not self._stopping():
            time.sleep(min(left, PAUSE_SECONDS))

    def _mark(self, connection: Connection, retried: Sequence[Retried]) -> None:
        for state in DeadLetterState:
            for tried in (True, False):
                ids = [one.id for one in retried if one.state is state and one.changed is tried]
                selections.mark(connection, self._bulk.selection, ids, state, tried=tried)
        if self._counted is not None:
            self._counted(connection, retried)


def kinds_of(site: Site, connection: Connection, name: str) -> list[LetterKind]:
    """Give the kinds of letters there are: upserts parents first, then deletes children first."""
    letter = dead_letter.c
    there = (
        sa.select(letter.direction, letter.channel, letter.stream, letter.op)
        .join(selected, letter.id == selected.c.letter)
        .where(selected.c.selection == name)
        .distinct()
    )
    kinds = [LetterKind(Direction(row.direction), *row[1:]) for row in connection.execute(there)]
    order = {stream.name: at for channel in site.channels for at, stream in enumerate(channel.streams)}

    def rank(kind: LetterKind) -> tuple[str, str, bool, int, str]:
        """Put upserts before deletes; parents first among those, children first among these."""
        at = order.get(kind.stream or "", 0)
        deletes = kind.op == Op.DELETE
        return (kind.direction, kind.channel, deletes, -at if deletes else at, kind.stream or "")

    return sorted(kinds, key=rank)


def _page(connection: Connection, name: str, kind: LetterKind, after: int, size: int, site: Site) -> list[Header]:
    """Give the next letters of a kind that were not tried, by their ids; without poison."""
    letter, mine = dead_letter.c, selected.c
    alike = [letter[column].is_not_distinct_from(value) for column, value in zip(LetterKind._fields, kind, strict=True)]
    page = (
        sa.select(*retry.HEADER)
        .select_from(selected.join(dead_letter, letter.id == mine.letter))
        .where(mine.selection == name, mine.letter > after, mine.state.is_(None))
        .where(*selections.unchanged_letters(), *alike, letter.attempts <= site.limits.poison_after)
        .order_by(mine.letter)
        .limit(size)
    )
    return [retry.header_of(row) for row in connection.execute(page)]


def _count_poison(site: Site, connection: Connection, name: str) -> int:
    asking = (
        sa.select(sa.func.count())
        .select_from(selected.join(dead_letter, dead_letter.c.id == selected.c.letter))
        .where(selected.c.selection == name, selected.c.state.is_(None), *selections.unchanged_letters())
        .where(dead_letter.c.attempts > site.limits.poison_after)
    )
    return connection.scalar(asking) or 0
