"""Retries in the background: a selection that whoever has time works off, a slice at a time, until a person stops it.

What was asked for, how far it is and who stopped it is a row of ``exchange_retry``. Each group of letters is counted in
it in the transaction that tries them, and only as long as the retry runs and nobody else has taken it: whatever ends a
worker, the next one tries what was not tried, and nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import pauses
from exchange.database.dialects import insert_new
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import DeadLetterState, RetryState, background_retry, is_retry_open
from exchange.database.whoami import acting_for, person, whoami
from exchange.dead_letters import selections
from exchange.files.pid_lock import holding_name
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, TransientError, printable
from exchange.format.moments import in_words
from exchange.results import Retried
from exchange.site import Site

if TYPE_CHECKING:
    from exchange.dead_letters.bulk_retry import LetterKind, Pace

SLICE_SECONDS = 20.0
"""So long one call works: exports and imports have their turn, too."""

GROUP_LETTERS = 1_000
"""So many letters at most are tried in one transaction: a person's word waits for no more."""

_SETTLED = (DeadLetterState.APPLIED, DeadLetterState.SUPERSEDED, DeadLetterState.PARKED)


@dataclass(frozen=True)
class BackgroundRetry(AsDict):
    """A selection that is tried in the background: ``letters`` were left when it was asked for, ``tried`` are done.

    ``position`` is the letter that was tried last; ``who`` asked for it and ``why``; ``changed_by`` stopped it, or let
    it go on, for which ``message`` says why; where it waits for something ``message`` says for what.
    """

    id: int
    selection: str
    state: RetryState
    letters: int
    tried: int
    applied: int
    superseded: int
    parked: int
    position: int | None
    rate: float | None
    canary: int | None
    stop_after: int | None
    who: str
    why: str | None
    worker: str | None
    changed_by: str | None
    message: str | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None

    @property
    def pace(self) -> Pace:
        """How fast and how far it goes."""
        from exchange.dead_letters.bulk_retry import Pace  # noqa: PLC0415 - who only lists retries loads no loader

        return Pace(self.rate, self.canary, self.stop_after)

    @property
    def share(self) -> float:
        """The part of its letters that was tried, 0 to 1."""
        return self.tried / self.letters if self.letters else 1.0

    def __str__(self) -> str:
        """Say it for people."""
        far = f"{self.tried:,} of {self.letters:,} letters tried, {self.parked:,} stay parked"
        said = f"retry {self.id} of selection {self.selection}, asked for by {printable(self.who, 100)}: {far}"
        more = f" by {printable(self.changed_by, 100)}" if self.changed_by else ""
        why = f": {printable(self.message, 300)}" if self.message else ""
        return f"{said}; {self.state}{more}{why}"


class _Taken(Exception):  # noqa: N818 - an answer: the transaction at hand is undone
    """The retry was stopped by a person, or another worker has taken it."""


# What people say


def begin(
    site: Site, selection: str, pace: Pace, *, again: bool = False, skip_changed: bool = False, why: str | None = None
) -> BackgroundRetry:
    """Have what is left of a selection tried in the background, in the name of whoever asks.

    ``again`` and ``skip_changed`` are as in ``bulk_retry.retry_selection``. Commits one transaction. Raises
    TransientError, with nothing changed, if there is no such selection, nothing is left of it, its letters changed, or
    it is being tried already; and Busy.
    """
    with transient_errors(), writing(site.engine) as connection:
        selections.find_selection(connection, selection)
        open_one = _open_of(connection, selection)
        if open_one is not None:
            raise TransientError(f"{open_one}; nothing was changed; `exchange dead-letters retries` says how far it is")
        if again:
            selections.try_again(connection, selection)
        if not skip_changed:
            selections.check_unchanged(connection, selection)
        left = selections.find_selection(connection, selection).left
        if not left:
            raise TransientError(
                f"nothing is left to try of selection {selection}; nothing was changed; `--again` tries those that"
                " stayed parked"
            )
        moment = now()
        fresh = {
            "selection": selection,
            "state": RetryState.RUNNING.value,
            "letters": left,
            "rate": pace.rate,
            "canary": pace.canary,
            "stop_after": pace.stop_after,
            "who": person()[:255],
            "why": why,
            "created_at": moment,
            "updated_at": moment,
        }
        if not insert_new(connection, background_retry, fresh):
            raise TransientError(f"selection {selection} was taken by somebody else just now; nothing was changed")
        made = _open_of(connection, selection)
        assert made is not None
        return made


def pause(site: Site, number: int, reason: str) -> BackgroundRetry:
    """Have a retry stand still: the group at hand is undone, no other one begun. Commits; raises TransientError, Busy.

    Raises with nothing changed if it does not run.
    """
    return _change(site, number, {RetryState.RUNNING}, RetryState.PAUSED, reason)


def resume(site: Site, number: int, reason: str) -> BackgroundRetry:
    """Let a paused retry go on where it is. Commits; raises as ``pause`` does if it is not paused."""
    return _change(site, number, {RetryState.PAUSED}, RetryState.RUNNING, reason)


def cancel(site: Site, number: int, reason: str) -> BackgroundRetry:
    """End a retry where it is; its selection stays, with what was not tried. Commits; raises as ``pause`` does."""
    return _change(site, number, {RetryState.RUNNING, RetryState.PAUSED}, RetryState.CANCELLED, reason)


def find(connection: Connection, number: int) -> BackgroundRetry:
    """Give a retry. Raises TransientError if there is none. Only reads, in the caller's transaction."""
    row = connection.execute(sa.select(background_retry).where(background_retry.c.id == number)).one_or_none()
    if row is None:
        raise TransientError(f"there is no retry {number}; `exchange dead-letters retries` lists those there are")
    return _retry(row)


def list_retries(
    connection: Connection, *, only_open: bool = False, selection: str | None = None, limit: int | None = None
) -> list[BackgroundRetry]:
    """Give the retries that are kept, newest first, all or those of a selection. Reads in the caller's transaction."""
    asking = sa.select(background_retry).order_by(background_retry.c.id.desc()).limit(limit)
    if selection is not None:
        asking = asking.where(background_retry.c.selection == selection)
    if only_open:
        asking = asking.where(is_retry_open(background_retry))
    return [_retry(row) for row in connection.execute(asking)]


def refuse_open(connection: Connection, selection: str) -> None:
    """Raise TransientError if a selection is being tried in the background. Only reads."""
    found = _open_of(connection, selection)
    if found is not None:
        raise TransientError(
            f"{found}; nothing was done: `exchange dead-letters retries cancel {found.id} --reason TEXT` ends it first"
        )


def forget(connection: Connection, before: datetime) -> None:
    """Remove retries that ended before a moment, in the caller's transaction."""
    connection.execute(sa.delete(background_retry).where(background_retry.c.closed_at < before))


# What workers do


def work_off(
    site: Site,
    stopping: Callable[[], bool],
    *,
    seconds: float = SLICE_SECONDS,
    report: Callable[[BackgroundRetry], None] = lambda _retry: None,
) -> bool:
    """Work on the retries that run, each for its share of so many seconds; say whether something is left to be tried.

    ``report`` is told how far each is, group by group. Commits group by group, each under its channel's lock. A retry
    that somebody else works on is left to them. Raises TransientError.
    """
    with transient_errors(), reading(site.engine) as connection:
        running = [one for one in list_retries(connection) if one.state is RetryState.RUNNING]
    waiting = False
    ends = time.monotonic() + seconds
    running.sort(key=lambda one: one.updated_at)  # who waited longest comes first
    for number, one in enumerate(running):
        if stopping():
            return True
        until = time.monotonic() + max(ends - time.monotonic(), 0.0) / (len(running) - number)
        with holding_name(site.spool.folders.home / "run" / "retries.lock", str(one.id)) as alone:
            if alone:
                waiting |= _Slice(site, one, until, stopping, report).work()
    return waiting


class _Slice:
    """One worker's turn at a retry that it has taken."""

    def __init__(
        self,
        site: Site,
        one: BackgroundRetry,
        until: float,
        stopping: Callable[[], bool],
        report: Callable[[BackgroundRetry], None],
    ) -> None:
        most = min(site.limits.group_letters, GROUP_LETTERS)
        self._site = replace(site, limits=replace(site.limits, group_letters=most))
        self._id = one.id
        self._token = f"{whoami()} {secrets.token_hex(4)}"[:255]
        self._until = until
        self._stopping = stopping
        self._report = report
        self._came_further = False

    def work(self) -> bool:
        """Try letters until the turn is over; say whether some are left. Raises TransientError."""
        try:
            with transient_errors():
                return self._work()
        except _Taken:
            return False
        except Busy as busy:  # of a channel, or of SQLite's file: the next turn goes on
            self._say(f"it waits: {busy}")
            return False

    def _work(self) -> bool:
        one = self._take()
        from exchange.dead_letters import bulk_retry  # noqa: PLC0415 - who only lists retries loads no loader

        bulk = bulk_retry.BulkRetry(one.selection, one.letters, rehearsal=False, tried=one.tried, states=_states(one))
        with acting_for(one.who):
            run = bulk_retry.BulkRun(self._site, bulk, one.pace, self._is_over, self._tell, self._count)
            with reading(self._site.engine) as connection:
                kinds = bulk_retry.kinds_of(self._site, connection, one.selection)
                still = pauses.paused(connection, self._site.off)
            held: list[str] = []
            for kind in kinds:
                pause = still.get((kind.direction, self._declared(kind)))
                if pause is not None:
                    held += [str(pause)] if run.has_left(kind) else []
                elif not bulk.stopped:
                    run.retry_kind(kind)
        if bulk.stopped is not None and not self._is_over():
            self._say(
                bulk.stopped.removeprefix("stopped: ")
            )  # somebody else works on the channel, or its pace ended it
        if bulk.stopped is not None:
            return self._is_over()
        if held:
            self._say(f"it waits: {held[0]}")
            return False
        self._end()
        return False

    def _declared(self, kind: LetterKind) -> str:
        channel = self._site.channel(kind.channel)
        return kind.channel if channel is None else channel.declared

    def _is_over(self) -> bool:
        """End once the time is over, but not before one group was tried: every turn comes further."""
        return (self._came_further and time.monotonic() >= self._until) or self._stopping()

    def _take(self) -> BackgroundRetry:
        """Take the retry for this turn: whoever had it before can't count anything more. Raises _Taken."""
        with writing(self._site.engine) as connection:
            taking = sa.update(background_retry).where(
                background_retry.c.id == self._id, background_retry.c.state == RetryState.RUNNING
            )
            self._must(connection.execute(taking.values(worker=self._token, updated_at=now())))
            return find(connection, self._id)

    def _count(self, connection: Connection, retried: Sequence[Retried]) -> None:
        """Count a group in the transaction that tried it, and end the retry where its pace says so. Raises _Taken."""
        tried = [one for one in retried if one.changed]
        states = Counter(one.state for one in tried)
        before, columns = find(connection, self._id), background_retry.c
        counts: dict[str, Any] = {state.value: columns[state.value] + states[state] for state in _SETTLED}
        ended = _why_it_ends(before, len(tried), states[DeadLetterState.PARKED])
        closing = {} if ended is None else {"state": RetryState.STOPPED, "message": ended, "closed_at": now()}
        counting = sa.update(background_retry).where(
            columns.id == self._id, columns.state == RetryState.RUNNING, columns.worker == self._token
        )
        counts |= {"tried": columns.tried + len(tried), "updated_at": now(), "message": None, **closing}
        if retried:
            counts["position"] = retried[-1].id
        self._must(connection.execute(counting.values(counts)))

    def _tell(self, _retried: Sequence[Retried]) -> None:
        self._came_further = True
        with reading(self._site.engine) as connection:
            self._report(find(connection, self._id))

    def _end(self) -> None:
        """Close the retry: nothing is left that may be tried."""
        with writing(self._site.engine) as connection:
            ending = self._mine().values(state=RetryState.DONE, closed_at=now(), updated_at=now(), message=None)
            connection.execute(ending)
            self._report(find(connection, self._id))

    def _say(self, sentence: str) -> None:
        with transient_errors(), writing(self._site.engine) as connection:
            connection.execute(self._mine().values(message=sentence, updated_at=now()))

    def _mine(self) -> sa.Update:
        columns = background_retry.c
        mine = (columns.id == self._id, columns.state == RetryState.RUNNING, columns.worker == self._token)
        return sa.update(background_retry).where(*mine)

    def _must(self, changed: sa.CursorResult[Any]) -> None:
        if changed.rowcount != 1:
            raise _Taken


def _why_it_ends(before: BackgroundRetry, tried: int, failed: int) -> str | None:
    """Say why a retry goes no further once so many more letters were tried; None if it does."""
    done, lost, pace = before.tried + tried, before.parked + failed, before.pace
    if pace.canary and before.tried < pace.canary <= done and lost:
        return f"{lost} of the first {done} did not hold; what is left was not tried"
    if pace.stop_after is not None and lost >= pace.stop_after:
        return f"{lost} failed, and no more may; what is left was not tried"
    return None


def _states(one: BackgroundRetry) -> Counter[DeadLetterState]:
    return Counter({state: getattr(one, state.value) for state in _SETTLED})


def _change(site: Site, number: int, before: set[RetryState], after: RetryState, reason: str) -> BackgroundRetry:
    with transient_errors(), writing(site.engine) as connection:
        columns, moment = background_retry.c, now()
        changing = sa.update(background_retry).where(columns.id == number, columns.state.in_(before))
        values = {"state": after, "changed_by": person()[:255], "message": reason, "updated_at": moment}
        if after is RetryState.CANCELLED:
            values["closed_at"] = moment
        done = connection.execute(changing.values(values)).rowcount
        found = find(connection, number)
    if not done:
        since = f" since {in_words(found.updated_at)}"
        raise TransientError(f"retry {number} is {found.state}{since}; nothing was changed")
    return found


def _open_of(connection: Connection, selection: str) -> BackgroundRetry | None:
    asking = sa.select(background_retry).where(
        background_retry.c.selection == selection, is_retry_open(background_retry)
    )
    row = connection.execute(asking).one_or_none()
    return None if row is None else _retry(row)


def _retry(row: Any) -> BackgroundRetry:
    fields = row._asdict()
    return BackgroundRetry(**{**fields, "state": RetryState(fields["state"])})


def stalled(connection: Connection) -> list[Problem]:
    """Say which retries run and are not worked on. Only reads, in the caller's transaction."""
    found = []
    for one in list_retries(connection, only_open=True):
        if one.state is RetryState.RUNNING and (now() - one.updated_at).total_seconds() > STALLED_SECONDS:
            said = f"{one}, and nobody has worked on it since"
            remedy = "see that beat and a worker run, or run it"
            found.append(Problem(said, remedy, "exchange dead-letters retries work", one.updated_at))
    return found


STALLED_SECONDS = 900.0
"""So long a retry may wait for a worker, or for a channel."""
