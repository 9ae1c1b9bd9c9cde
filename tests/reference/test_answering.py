from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.database.engine import make_engine, now
from exchange.database.locks import Busy
from exchange.reference import answering
from exchange.reference.answering import Answers, answer_requests
from exchange.reference.handlers import Handlers, Later, Named, Question, Refused, echo, load_handler
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
from tests.crossing.processes import fork, join

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

# For what no database has a say in.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _ask(database: Engine, query: str = "q", **given: Any) -> uuid.UUID:
    with Session(database) as session, session.begin():
        user = session.scalars(sa.select(User)).one()
        request = Request(user_id=user.id, kind="k", query=query, **given)
        session.add(request)
        session.flush()
        return request.id


def _response(database: Engine, request_id: uuid.UUID) -> Response:
    with Session(database) as session:
        return session.scalars(sa.select(Response).where(Response.request_id == request_id)).one()


def _crash(database: Engine) -> None:
    """Make every claim look like one whose holder died long ago."""
    with database.begin() as connection:
        connection.execute(sa.update(AnswerAttempt).values(started_at=now() - timedelta(days=1)))


@pytest.fixture
def asked(database: Engine, ada: str) -> uuid.UUID:
    return _ask(database, "up", parameters={"n": [1, 2]})


def test_the_echo_answers(database: Engine, asked: uuid.UUID, count: Callable[[type[Base]], int]) -> None:
    assert answer_requests(database, echo, "response") == Answers(answered=1)
    response = _response(database, asked)
    assert response.status is ResponseStatus.ANSWERED
    assert response.result == {"echo": "up", "kind": "k", "parameters": {"n": [1, 2]}, "user": "ada"}
    assert response.error is None
    assert response.processed_by == "response exchange.reference.handlers:echo"
    assert response.started_at <= response.finished_at
    assert count(AnswerAttempt) == 0


def test_with_nothing_to_do_nothing_is_written(database: Engine, asked: uuid.UUID) -> None:
    answer_requests(database, echo, "response")
    assert answer_requests(database, echo, "response") == Answers()


def test_a_cancelled_request_is_not_answered(database: Engine, ada: str) -> None:
    _ask(database, status=RequestStatus.CANCELLED)
    assert answer_requests(database, echo, "response") == Answers()


def test_the_urgent_come_first_then_the_old(database: Engine, ada: str) -> None:
    for query, priority, minutes in (("new", 5, 1), ("old", 5, 2), ("urgent", 9, 0)):
        _ask(database, query, priority=priority, created_at=now() - timedelta(minutes=minutes))
    seen: list[str] = []
    answer_requests(database, lambda question: seen.append(question.query), "response")
    assert seen == ["urgent", "old", "new"]


def test_a_run_is_bounded_and_stops_between_requests(database: Engine, ada: str) -> None:
    for _ in range(4):
        _ask(database)
    assert answer_requests(database, echo, "response", limit=2) == Answers(answered=2)
    answers = iter((False, True))
    assert answer_requests(database, echo, "response", stopping=lambda: next(answers)) == Answers(answered=1)
    assert answer_requests(database, echo, "response") == Answers(answered=1)


class _Mute(Exception):  # noqa: N818 - raised by a handler in a test
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raise(error: BaseException) -> Callable[[Question], Any]:
    def handler(_question: Question) -> Any:
        raise error

    return handler


@on_sqlite
@pytest.mark.parametrize(
    "handler, sentence",
    [
        (_raise(KeyError("k")), "KeyError: 'k'"),
        (_raise(ValueError("a\0b\x1b[31m\n")), "ValueError: a\\x00b\\x1b[31m\\n"),
        (_raise(ValueError("x" * 10_000)), "ValueError: xxx"),
        (_raise(_Mute()), "_Mute: it could not say more"),
        (_raise(SystemExit(3)), "the handler tried to end the process with status 3"),
        (_raise(RecursionError("deep")), "RecursionError: deep"),
        (lambda _q: object(), "the handler's result is no plain JSON"),
        (lambda _q: float("nan"), "the handler's result is no plain JSON"),
        (lambda _q: {"a": now()}, "the handler's result is no plain JSON"),
        (lambda _q: {1, 2}, "the handler's result is no plain JSON"),
        (lambda _q: "a\0b", "the handler's result can't cross"),
        (lambda _q: "\ud800", "the handler's result is no plain JSON"),
        (lambda _q: "x" * 2_000_000, "the handler's result has 2000"),
    ],
)
def test_whatever_goes_wrong_in_a_handler_is_the_response(
    database: Engine, asked: uuid.UUID, handler: Callable[[Question], Any], sentence: str
) -> None:
    assert answer_requests(database, handler, "response") == Answers(failed=1)
    response = _response(database, asked)
    assert response.status is ResponseStatus.FAILED
    assert response.result is None
    assert response.error is not None
    assert response.error.startswith(sentence)
    assert response.error.isprintable()
    assert len(response.error) <= answering.LONGEST_ERROR


def test_any_plain_json_is_a_result(database: Engine, ada: str) -> None:
    values: list[Any] = [None, 0, "", [], {}, "ünïcode 🦊", 2**63 - 1, -(2**63), 0.1, True]
    asked = [_ask(database, str(number)) for number in range(len(values))]
    answers = answer_requests(database, lambda question: values[int(question.query)], "response")
    assert answers == Answers(answered=len(values))
    assert [repr(_response(database, one).result) for one in asked] == [repr(value) for value in values]


def _swallowing(_question: Question) -> None:
    for _ in range(2):
        with contextlib.suppress(BaseException):
            time.sleep(60)


@on_sqlite
@pytest.mark.parametrize("handler", [lambda _q: time.sleep(60), _swallowing])
def test_a_handler_that_hangs_is_stopped(
    database: Engine, asked: uuid.UUID, handler: Callable[[Question], Any]
) -> None:
    begun = time.monotonic()
    answers = answer_requests(database, handler, "response", seconds=0.2)
    assert time.monotonic() - begun < 10
    assert answers.answered + answers.failed == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_late_handler_says_so_in_the_response(database: Engine, asked: uuid.UUID) -> None:
    assert answer_requests(database, lambda _q: time.sleep(60), "response", seconds=0.1) == Answers(failed=1)
    error = _response(database, asked).error
    assert error == "the handler took longer than 0.1 seconds and was stopped"


def _end_the_process(_question: Question) -> None:
    os._exit(9)


def test_a_handler_that_kills_the_process_is_answered_for_after_three_starts(
    database: Engine, database_url: str, asked: uuid.UUID
) -> None:
    database.dispose()
    assert join(fork(lambda: answer_requests(make_engine(database_url), _end_the_process, "response"))) == 9
    with database.begin() as connection:
        assert connection.scalar(sa.select(AnswerAttempt.attempts)) == 1
        connection.execute(sa.update(AnswerAttempt).values(attempts=answering.STARTS))
    # While the claim holds nobody else tries; afterwards the next one does.
    assert answer_requests(database, echo, "response") == Answers()
    _crash(database)
    assert answer_requests(database, echo, "response") == Answers(failed=1)
    assert "ended its process 3 times" in str(_response(database, asked).error)


def test_a_crash_that_does_not_repeat_costs_nothing(database: Engine, asked: uuid.UUID) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.insert(AnswerAttempt).values(
                request_id=asked, attempts=2, started_at=now() - timedelta(days=1), who="somebody"
            )
        )
    assert answer_requests(database, echo, "response") == Answers(answered=1)


class _Stop(Exception):  # noqa: N818 - what a task's time limit raises
    pass


def test_an_interrupt_of_the_caller_is_no_fault_of_the_handlers(
    database: Engine, asked: uuid.UUID, count: Callable[[type[Base]], int]
) -> None:
    for _ in range(answering.STARTS + 2):
        with pytest.raises(_Stop):
            answer_requests(database, _raise(_Stop()), "response", interrupts=(_Stop,))
    assert count(Response) == 0
    assert answer_requests(database, echo, "response") == Answers(answered=1)


def test_an_interrupt_after_a_crash_leaves_the_count_of_crashes(database: Engine, asked: uuid.UUID) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.insert(AnswerAttempt).values(
                request_id=asked, attempts=2, started_at=now() - timedelta(days=1), who="somebody"
            )
        )
    with pytest.raises(_Stop):
        answer_requests(database, _raise(_Stop()), "response", interrupts=(_Stop,))
    with database.connect() as connection:
        assert connection.scalar(sa.select(AnswerAttempt.attempts)) == 2
    assert answer_requests(database, echo, "response") == Answers(answered=1)


def test_an_answer_that_comes_after_its_claim_lapsed_is_dropped(database: Engine, asked: uuid.UUID) -> None:
    def slow(_question: Question) -> str:
        _crash(database)
        with database.begin() as connection:
            connection.execute(sa.update(AnswerAttempt).values(attempts=2, started_at=now(), who="another"))
        return "late"

    assert answer_requests(database, slow, "response") == Answers(overtaken=1)
    _crash(database)
    assert answer_requests(database, lambda _q: "in time", "response") == Answers(answered=1)
    assert _response(database, asked).result == "in time"


def test_an_answer_given_by_hand_meanwhile_stays(database: Engine, asked: uuid.UUID) -> None:
    def handler(_question: Question) -> str:
        with Session(database) as session, session.begin():
            session.add(
                Response(
                    request_id=asked,
                    status=ResponseStatus.ANSWERED,
                    result="by hand",
                    processed_by="a person",
                    started_at=now(),
                    finished_at=now(),
                )
            )
        return "by handler"

    assert answer_requests(database, handler, "response") == Answers(overtaken=1)
    assert _response(database, asked).result == "by hand"
    assert answer_requests(database, echo, "response") == Answers()


@pytest.mark.same_on
def test_a_request_withdrawn_meanwhile_gets_no_response(
    database: Engine, asked: uuid.UUID, count: Callable[[type[Base]], int]
) -> None:
    def handler(_question: Question) -> str:
        with database.begin() as connection:
            connection.execute(sa.delete(Request))
        return "too late"

    assert answer_requests(database, handler, "response") == Answers(overtaken=1)
    assert count(Response) == 0
    assert count(AnswerAttempt) == 0


@pytest.mark.same_on
def test_several_answerers_at_once_answer_each_request_once(
    database: Engine, database_url: str, ada: str, tmp_path: Path, count: Callable[[type[Base]], int]
) -> None:
    for _ in range(40):
        _ask(database)
    noted = tmp_path / "noted"
    noted.mkdir()
    start = multiprocessing.get_context("fork").Barrier(2)

    def handler(question: Question) -> str:
        (noted / f"{question.id}-{os.getpid()}").touch()
        return str(os.getpid())

    def work() -> None:
        engine = make_engine(database_url)
        start.wait()
        answer_requests(engine, handler, "response")

    database.dispose()
    assert [join(child) for child in [fork(work) for _ in range(2)]] == [0, 0]
    assert count(Response) == 40
    assert len(list(noted.iterdir())) == 40


@on_sqlite
def test_outside_the_main_thread_it_refuses_to_begin(database: Engine, asked: uuid.UUID) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            answer_requests(database, echo, "response")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


@pytest.fixture
def impatient(database: Engine) -> Engine:
    """Have a writer wait but a moment for another one, as it would for five seconds."""

    @sa.event.listens_for(database, "connect")
    def _hurry(driver: sqlite3.Connection, _record: object) -> None:
        driver.execute("PRAGMA busy_timeout = 20")

    database.dispose()
    return database


@on_sqlite
def test_an_answer_waits_for_a_long_import_on_sqlite(impatient: Engine, asked: uuid.UUID) -> None:
    refusals: list[object] = []
    writer = impatient.connect()

    def handler(_question: Question) -> str:
        transaction = writer.begin()

        @sa.event.listens_for(impatient, "handle_error")
        def _refused(context: sa.engine.ExceptionContext) -> None:
            refusals.append(context.original_exception)
            if len(refusals) == 2:
                transaction.rollback()

        return "kept"

    assert answer_requests(impatient, handler, "response") == Answers(answered=1)
    assert len(refusals) == 2
    assert _response(impatient, asked).result == "kept"
    writer.close()


@on_sqlite
def test_a_claim_that_meets_a_long_import_on_sqlite_says_busy(impatient: Engine, asked: uuid.UUID) -> None:
    with impatient.begin(), pytest.raises(Busy, match="answering is busy"):
        answer_requests(impatient, echo, "response")
    assert answer_requests(impatient, echo, "response") == Answers(answered=1)


def test_a_handler_is_loaded_by_its_name() -> None:
    assert load_handler("exchange.reference.handlers:echo") is echo


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("echo", "is named package.module:function"),
        (":echo", "is named package.module:function"),
        ("exchange.reference.handlers:", "is named package.module:function"),
        ("no.such.module:echo", "can't be imported: ModuleNotFoundError"),
        ("exchange.reference.handlers:shout", "can't be imported: AttributeError"),
        ("exchange.reference.seeds:OWNER", "is a str, a function is expected"),
    ],
)
def test_a_handler_that_cannot_be_is_refused_with_a_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_handler(spec)


def _is_due(database: Engine) -> None:
    """Turn the time of what waits back."""
    with database.begin() as connection:
        connection.execute(sa.update(AnswerLater).values(not_before=now() - timedelta(seconds=1)))


def test_a_request_without_an_answer_yet_stays_pending_and_is_tried_again(
    database: Engine, asked: uuid.UUID, count: Callable[[type[Base]], int]
) -> None:
    away = _raise(Later("its database can't be asked: it is away"))
    pauses, said = [], ""
    for _ in range(answering.STARTS + 1):  # no crash is counted
        assert answer_requests(database, away, "response") == Answers(later=1)
        assert answer_requests(database, away, "response") == Answers()  # its time has not come
        with Session(database) as session:
            waiting = session.get_one(AnswerLater, asked)
            pauses.append(round((waiting.not_before - now()).total_seconds()))
            said = waiting.message
        _is_due(database)
    assert pauses == [5, 10, 20, 40]
    assert (count(Response), count(AnswerAttempt)) == (0, 0)
    assert said.endswith("its database can't be asked: it is away")
    assert answer_requests(database, echo, "response") == Answers(answered=1)
    assert count(AnswerLater) == 0
    with Session(database) as session:
        outcome = session.get_one(HandlerOutcome, "exchange.reference.handlers:echo")
        assert (outcome.answered_at is not None, outcome.failed_at) == (True, None)


@on_sqlite
def test_where_tries_are_bounded_the_last_one_is_the_answer(database: Engine, asked: uuid.UUID) -> None:
    away = Handlers({"k": Named("http", _raise(Later("its service answered 503", 2)))})
    assert answer_requests(database, away, "response") == Answers(later=1)
    _is_due(database)
    assert answer_requests(database, away, "response") == Answers(failed=1)
    response = _response(database, asked)
    assert str(response.error).startswith("the handler http: its service answered 503; it was tried 2 times since 2")
    assert response.processed_by == "response http"


@on_sqlite
def test_what_is_refused_is_the_answer_word_for_word(database: Engine, asked: uuid.UUID) -> None:
    assert answer_requests(database, _raise(Refused("there is no query 'up'")), "response") == Answers(failed=1)
    assert _response(database, asked).error == "there is no query 'up'"


@on_sqlite
def test_a_kind_that_nothing_answers_fails_with_a_sentence(database: Engine, asked: uuid.UUID) -> None:
    assert answer_requests(database, Handlers({"sql": Named("sql", echo)}), "response") == Answers(failed=1)
    assert _response(database, asked).error == "nothing here answers requests of the kind 'k', only sql"


@on_sqlite
def test_a_request_that_waits_and_is_cancelled_is_forgotten(
    database: Engine, asked: uuid.UUID, count: Callable[[type[Base]], int]
) -> None:
    away = _raise(Later("away"))
    answer_requests(database, away, "response")
    with database.begin() as connection:
        connection.execute(sa.update(Request).values(status=RequestStatus.CANCELLED))
    _ask(database)
    assert answer_requests(database, away, "response") == Answers(later=1)
    assert count(AnswerLater) == 1


def test_what_is_away_is_tried_once_a_run_and_holds_up_no_other_kind(database: Engine, ada: str) -> None:
    tried: list[str] = []

    def away(question: Question) -> Any:
        tried.append(question.query)
        raise Later("its database can't be asked")

    for number in range(3):
        _ask(database, f"away {number}", priority=9)
    _ask(database, "other")
    with database.begin() as connection:
        connection.execute(sa.update(Request).where(Request.query == "other").values(kind="other"))
    handlers = Handlers({"k": Named("sql", away), "other": Named("echo", echo)})
    assert answer_requests(database, handlers, "response", limit=2) == Answers(answered=1, later=1)
    assert len(tried) == 1
    assert (
        answer_requests(database, Handlers({"other": Named("echo", echo)}, Named("sql", away)), "response").later == 1
    )
    busy = Handlers({"k": Named("http", _raise(Later("its service answered 503", away=False)))})
    _is_due(database)
    assert answer_requests(database, busy, "response") == Answers(later=3)
