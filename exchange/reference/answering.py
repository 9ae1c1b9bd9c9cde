"""The answering side's work: each new request goes to a handler, and what comes of it becomes a response.

A request is claimed before its handler runs and answered only by the holder of the claim, in the transaction
that removes it. So two answerers never answer twice, and whatever a handler does (hang, raise, return what
JSON can't hold, kill the process) the request gets a response in the end. Where a handler says that there is no answer
yet, as what it asks is away, the request stays pending and is tried again, after pauses that grow.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from exchange.database import clock
from exchange.database.dialects import dialect_of, upsert
from exchange.database.engine import now
from exchange.database.locks import Busy, reading, writing
from exchange.database.whoami import whoami
from exchange.format.errors import printable
from exchange.reference.handlers import Handler, Handlers, Later, Named, Question, Refused, TimeIsUp
from exchange.reference.models import (
    AnswerAttempt,
    AnswerLater,
    Base,
    HandlerOutcome,
    Request,
    RequestStatus,
    Response,
    ResponseStatus,
    User,
)
from exchange.reference.plain import check_plain

STARTS = 3
"""How often a request is begun before its crashes are its answer."""

GRACE_SECONDS = 60.0
"""How long after a handler's time limit its claim still holds: time to end the work and to record it."""

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
"""What has no answer yet is tried again after a while, which doubles with each try up to this."""

LONGEST_ERROR = 2000

_RECORD_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Answers:
    """What a run did: requests answered, failed (an error is the response), left for later, lost to another one."""

    answered: int = 0
    failed: int = 0
    later: int = 0
    overtaken: int = 0


def never() -> bool:
    """Go on: what ``stopping`` says where nothing can stop a run."""
    return False


def answer_requests(
    engine: Engine,
    handler: Handler | Handlers,
    network: str,
    *,
    seconds: float = 30.0,
    limit: int = 100,
    stopping: Callable[[], bool] = never,
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Answers:
    """Answer up to ``limit`` requests, the most urgent and then the oldest first.

    ``seconds`` is what a handler may take; ``stopping`` is asked between requests. An exception of
    ``interrupts`` is the caller's own: the claim is given back and it goes on. May be repeated and run in
    several processes at once. Raises Busy when SQLite's one writer has no end in sight, RuntimeError outside
    the main thread, where time can't be limited.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("answering limits a handler's time by a signal: run it in the process's main thread")
    handlers = handler if isinstance(handler, Handlers) else Handlers({}, Named.of(handler))
    run = _AnsweringRun(engine, handlers, network, seconds, stopping, interrupts)
    counts = dict.fromkeys(("answered", "failed", "later", "overtaken"), 0)
    left, away = limit, set[str]()
    while left > 0:
        waiting = _waiting(run, left, away)
        known = len(away)
        for request_id in waiting:
            if stopping():
                return Answers(**counts)
            counts[_answer(run, request_id, away)] += 1
            left -= 1
            if len(away) > known:
                break  # the others are looked for anew: those of what is away wait
        else:
            break
    return Answers(**counts)


@dataclass(frozen=True)
class _AnsweringRun:
    engine: Engine
    handlers: Handlers
    network: str
    seconds: float
    stopping: Callable[[], bool]
    interrupts: tuple[type[BaseException], ...]

    def claims_since(self) -> datetime:
        """Since when a claim counts: an older one has lapsed, its holder has crashed."""
        return now() - timedelta(seconds=self.seconds + GRACE_SECONDS)

    def processed_by(self, ending: _Ending) -> str:
        return f"{self.network} {ending.handler}".rstrip()[:255]


@dataclass(frozen=True)
class _Claim:
    question: Question
    attempts: int
    started_at: datetime


@dataclass(frozen=True)
class _Ending:
    status: ResponseStatus
    result: Any = None
    error: str | None = None
    handler: str = ""


def _answer(run: _AnsweringRun, request_id: uuid.UUID, away: set[str]) -> str:
    """Answer a request and say what came of it; a handler that reaches nothing is ``away`` from then on."""
    claim = _claim(run, request_id)
    if claim is None:
        return "overtaken"
    try:
        ending = _ending(run, claim)
    except run.interrupts:
        _give_back(run.engine, claim)
        raise
    except _NotYet as later:
        away |= {later.handler} if later.away else set()
        return _record(run, claim, later)
    return _record(run, claim, ending)


def _waiting(run: _AnsweringRun, limit: int, away: Collection[str]) -> list[uuid.UUID]:
    """List the unanswered requests that nobody works on, without those of handlers that are away.

    It only reads: an idle run writes nothing.
    """
    claims_since = run.claims_since()
    query = (
        sa.select(Request.id)
        .where(
            Request.status == RequestStatus.PENDING,
            ~sa.exists().where(Response.request_id == Request.id),
            ~sa.exists().where(AnswerAttempt.request_id == Request.id, ~_lapsed(claims_since)),
            ~sa.exists().where(AnswerLater.request_id == Request.id, _waits()),
            *(~run.handlers.is_answered_by(sa.type_coerce(Request.kind, sa.String), name) for name in away),
        )
        .order_by(Request.priority.desc(), Request.created_at, Request.id)
        .limit(limit)
    )
    with reading(run.engine) as connection:
        return list(connection.scalars(query))


def _lapsed(claims_since: datetime) -> sa.ColumnElement[bool]:
    """Say that a claim is old, or of a clock that was ahead: nobody knows how old."""
    return sa.or_(AnswerAttempt.started_at < claims_since, AnswerAttempt.started_at > now() + clock.SKEW)


def _waits() -> sa.ColumnElement[bool]:
    """Say that a request's time has not come; a moment further off than any pause is of a clock that was ahead."""
    return AnswerLater.not_before.between(now() + timedelta(microseconds=1), now() + clock.SKEW)


def _claim(run: _AnsweringRun, request_id: uuid.UUID) -> _Claim | None:
    """Take the request, count the start and commit that; None if somebody else was faster."""
    started_at = now()
    with _writing(run.engine) as connection:
        attempts = connection.scalar(_claiming(connection, request_id, started_at, run.claims_since()))
        if attempts is None:
            return None
        # A second statement sees what the last holder committed while the first one waited for it.
        question = _question(connection, request_id)
        if question is None:
            connection.execute(sa.delete(AnswerAttempt).where(AnswerAttempt.request_id == request_id))
            return None
        return _Claim(question, attempts, started_at)


def _writing(engine: Engine) -> AbstractContextManager[Connection]:
    """Open a transaction. SQLite's one writer may be a long import: then Busy says who it is."""
    return writing(engine, "answering")


def _claiming(
    connection: Connection, request_id: uuid.UUID, started_at: datetime, claims_since: datetime
) -> sa.Executable:
    """One statement, so that of two answerers one gets the row: a new claim, or one that has lapsed."""
    still_there = sa.select(
        Request.id,
        sa.literal(1),
        sa.literal(started_at, AnswerAttempt.started_at.type),
        sa.literal(whoami()[:255]),
    ).where(Request.id == request_id)
    statement = (
        dialect_of(connection)
        .insert(AnswerAttempt)
        .from_select(["request_id", "attempts", "started_at", "who"], still_there)
    )
    claiming: sa.Executable = statement.on_conflict_do_update(
        index_elements=[AnswerAttempt.request_id],
        set_={
            "attempts": AnswerAttempt.attempts + 1,
            "started_at": statement.excluded.started_at,
            "who": statement.excluded.who,
        },
        where=_lapsed(claims_since),
    ).returning(AnswerAttempt.attempts)
    return claiming


def _question(connection: Connection, request_id: uuid.UUID) -> Question | None:
    """Read the request if it still wants an answer."""
    row = connection.execute(
        sa.select(
            Request.id,
            User.name,
            Request.kind,
            Request.query,
            Request.parameters,
            Request.priority,
            Request.created_at,
        )
        .join(User, User.id == Request.user_id)
        .where(
            Request.id == request_id,
            Request.status == RequestStatus.PENDING,
            ~sa.exists().where(Response.request_id == Request.id),
        )
    ).one_or_none()
    return None if row is None else Question(*row)


class _NotYet(Exception):  # noqa: N818 - no answer yet
    """What a handler said is to be tried again."""

    def __init__(self, handler: str, later: Later) -> None:
        super().__init__(str(later))
        self.handler, self.tries, self.away = handler, later.tries, later.away


def _ending(run: _AnsweringRun, claim: _Claim) -> _Ending:
    """Have the handler of its kind answer a request. Raises _NotYet."""
    try:
        named = run.handlers.pick(claim.question.kind)
    except Refused as refused:
        return _failed(str(refused))
    ending = _crashed() if claim.attempts > STARTS else _handle(run, named, claim.question)
    return replace(ending, handler=named.name)


def _handle(run: _AnsweringRun, named: Named, question: Question) -> _Ending:
    """Let the handler work for as long as it may; whatever comes of that is an ending. Raises _NotYet."""
    try:
        result = _within(run.seconds, lambda: named.handle(question))
    except run.interrupts:
        raise
    except TimeIsUp:
        return _failed(f"the handler took longer than {run.seconds:g} seconds and was stopped")
    except SystemExit as error:
        return _failed(f"the handler tried to end the process with status {error.code}")
    except Refused as refused:
        return _failed(str(refused))
    except Later as later:
        raise _NotYet(named.name, later) from later
    except Exception as error:  # noqa: BLE001 - somebody else's code fails as it likes
        return _failed(_describe(error))
    try:
        check_plain(result)
    except ValueError as error:
        return _failed(f"the handler's result {error}")
    return _Ending(ResponseStatus.ANSWERED, result=result)


def _crashed() -> _Ending:
    return _failed(f"the handler ended its process {STARTS} times or was ended with it; it isn't tried again")


def _failed(sentence: str) -> _Ending:
    return _Ending(ResponseStatus.FAILED, error=printable(sentence, LONGEST_ERROR))


def _describe(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - not every exception is able to say what it is
        text = "it could not say more"
    return f"{type(error).__name__}: {text}"


def _give_back(engine: Engine, claim: _Claim) -> None:
    """Undo the claim: this start was no fault of the handler's."""
    with _writing(engine) as connection:
        _undo(connection, claim)


def _undo(connection: Connection, claim: _Claim) -> bool:
    mine = _held(claim)
    lapsed = claim.started_at - timedelta(days=1)
    undoing = (
        sa.update(AnswerAttempt).where(mine).values(attempts=claim.attempts - 1, started_at=lapsed)
        if claim.attempts > 1
        else sa.delete(AnswerAttempt).where(mine)
    )
    return connection.execute(undoing).rowcount == 1


def _held(claim: _Claim) -> sa.ColumnElement[bool]:
    return sa.and_(
        AnswerAttempt.request_id == claim.question.id,
        AnswerAttempt.attempts == claim.attempts,
        AnswerAttempt.started_at == claim.started_at,
    )


def _record(run: _AnsweringRun, claim: _Claim, ending: _Ending | _NotYet) -> str:
    """Write what came of it and remove the claim together, and say what it was if the claim was ours still.

    A database that can't be written now (an import holds SQLite's one writer, a server restarts) is tried
    again for as long as the claim holds: the answer may have been dear.
    """
    last_moment = time.monotonic() + GRACE_SECONDS / 2
    while True:
        try:
            with _writing(run.engine) as connection:
                if isinstance(ending, _NotYet):
                    return _postpone(connection, run, claim, ending)
                return ending.status.value if _write(connection, run, claim, ending) else "overtaken"
        except (OperationalError, Busy):
            if run.stopping() or time.monotonic() > last_moment:
                raise
            time.sleep(_RECORD_AGAIN_SECONDS)


def _postpone(connection: Connection, run: _AnsweringRun, claim: _Claim, later: _NotYet) -> str:
    """Have a request tried again after a while, or answer it with why not if that was its last try."""
    waiting = connection.execute(
        sa.select(AnswerLater.tries, AnswerLater.since).where(AnswerLater.request_id == claim.question.id)
    ).one_or_none()
    tries, since = (waiting.tries + 1, waiting.since) if waiting else (1, claim.started_at)
    sentence = printable(f"the handler {later.handler}: {later}", LONGEST_ERROR - 100)
    if later.tries is not None and tries >= later.tries:
        ended = _failed(f"{sentence}; it was tried {tries} times since {since:%Y-%m-%d %H:%M} UTC")
        ended = replace(ended, handler=later.handler)
        return ended.status.value if _write(connection, run, claim, ended) else "overtaken"
    if not _undo(connection, claim):
        return "overtaken"
    pause = min(FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 16), LONGEST_PAUSE_SECONDS)
    values = {
        "handler": later.handler,
        "tries": tries,
        "since": since,
        "not_before": now() + timedelta(seconds=pause),
        "message": sentence,
    }
    upsert(connection, _table(AnswerLater), {"request_id": claim.question.id}, values)
    _note(connection, later.handler, failed_at=now(), message=sentence)
    # Somebody may have cancelled one that waited.
    cancelled = sa.exists().where(Request.id == AnswerLater.request_id, Request.status != RequestStatus.PENDING)
    connection.execute(sa.delete(AnswerLater).where(cancelled))
    return "later"


def _note(connection: Connection, handler: str, **values: Any) -> None:
    """Write down how a handler fared."""
    if handler:
        upsert(connection, _table(HandlerOutcome), {"handler": handler}, values)


def _table(model: type[Base]) -> sa.Table:
    table = model.__table__
    assert isinstance(table, sa.Table)
    return table


def _write(connection: Connection, run: _AnsweringRun, claim: _Claim, ending: _Ending) -> bool:
    removed = connection.execute(sa.delete(AnswerAttempt).where(_held(claim)))
    if removed.rowcount != 1:
        return False
    connection.execute(sa.delete(AnswerLater).where(AnswerLater.request_id == claim.question.id))
    if ending.status is ResponseStatus.ANSWERED:
        _note(connection, ending.handler, answered_at=now())
    else:
        _note(connection, ending.handler, failed_at=now(), message=ending.error)
    written = connection.scalar(
        dialect_of(connection)
        .insert(Response)
        .values(
            id=uuid.uuid4(),
            request_id=claim.question.id,
            status=ending.status,
            result=ending.result,
            error=ending.error,
            processed_by=run.processed_by(ending),
            started_at=claim.started_at,
            finished_at=now(),
        )
        # Somebody may have answered by hand.
        .on_conflict_do_nothing(index_elements=[Response.request_id])
        .returning(Response.id)
    )
    return written is not None


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """Call ``work`` and raise TimeIsUp in it when its time is up, again each second should it go on."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeIsUp

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        # The alarm may have rung in the line above, before it was off.
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
