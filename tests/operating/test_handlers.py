from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from exchange.database.engine import make_engine, now
from exchange.operating.assemble import assemble, load_request_handler
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.operating.doctor.handlers import check_answers, check_handlers
from exchange.operating.prepare import prepare
from exchange.reference.answering import answer_requests
from exchange.reference.models import AnswerLater, HandlerOutcome, ProfileType, Request, Response, User
from exchange.settings import Settings, SettingsFaults
from exchange.watching.health import Looker


def settings_at(folder: Path, **more: object) -> Settings:
    home = folder / "response"
    return Settings(
        network="response",
        peer="request",
        home=home,
        outgoing=home / "out",
        incoming=home / "in",
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("answering")
    prepare(settings_at(made)).engine.dispose()
    return made


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    """Give a side whose database has no user and no request."""
    (tmp_path / "queries.toml").write_text('[press]\nsql = "SELECT 7 AS press"\n')
    made = settings_at(home, handler="sql,echo", handler_queries=tmp_path / "queries.toml")
    engine = make_engine(made.database_url)
    with engine.begin() as connection:
        for model in (Response, AnswerLater, HandlerOutcome, Request, User, ProfileType):
            connection.execute(sa.delete(model))
    engine.dispose()
    return made


def found(settings: Settings) -> dict[str, Finding]:
    return {one.subject: one for one in check_handlers(settings)}


def told(settings: Settings) -> dict[str, Finding]:
    site = assemble(settings, keyless=True)
    try:
        return {one.message.partition(":")[0]: one for one in check_answers(settings, site)}
    finally:
        site.engine.dispose()


def test_each_handler_has_its_line_and_says_how_it_fared_last(settings: Settings, tmp_path: Path) -> None:
    assert found(settings)["sql"].message == f"sql answers requests, 1 query of {settings.database_url}"
    assert told(settings)["sql"].message == "sql: it has not answered yet"
    engine = make_engine(settings.database_url)
    with Session(engine) as session, session.begin():
        user = User(name="ada", email="a@b", profile_type=ProfileType(name="any", daily_limit=9))
        session.add_all(Request(user=user, kind="sql", query=query) for query in ("press", "nothing"))
    answer_requests(engine, load_request_handler(settings), "response")
    engine.dispose()
    said = told(settings)["sql"]
    assert (said.level, said.alarm) == (Level.OK, None)
    assert "it last answered" in said.message
    assert "and last failed" in said.message
    assert said.message.endswith("there is no query 'nothing', only press")
    assert told(settings)["echo"].message == "echo: it has not answered yet"


def test_what_a_handler_can_not_reach_or_read_is_an_alarm_of_its_own(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"handler_database_url": f"sqlite:///{tmp_path}/none.db"})
    said = found(away)["sql"]
    assert (said.level, said.alarm, said.subject, said.command) == (
        *(Level.FAULT, Alarm.HANDLER, "sql", "exchange doctor"),
    )
    assert said.message == "sql: its database can't be asked: unable to open database file"
    assert found(away)["echo"].level is Level.OK
    (tmp_path / "queries.toml").write_text('[press]\nsql = "SELECT presses"\n')
    assert "the query press failed: no such column: presses" in found(settings)["sql"].message
    (tmp_path / "queries.toml").unlink()
    assert "queries.toml: there is no such file" in found(settings)["sql"].message
    with pytest.raises(SettingsFaults, match="there is no such file"):
        load_request_handler(settings)


def test_a_request_that_waits_for_long_is_said_though_the_database_is_back(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"handler_database_url": f"sqlite:///{tmp_path}/none.db"})
    engine = make_engine(settings.database_url)
    with Session(engine) as session, session.begin():
        user = User(name="ada", email="a@b", profile_type=ProfileType(name="any", daily_limit=9))
        session.add(Request(user=user, kind="sql", query="press"))
    assert answer_requests(engine, load_request_handler(away), "response").later == 1
    assert told(settings)["sql"].level is Level.OK
    assert "1 request waits for it, the first one since" in told(settings)["sql"].message
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE answer_later SET since = '2020-01-01 00:00:00.000000'")
    engine.dispose()
    said = told(settings)["sql"]
    assert (said.level, said.alarm) == (Level.WARNING, Alarm.HANDLER)
    assert said.since is not None
    assert said.since < now()


def test_health_has_a_line_for_each_and_a_side_that_answers_nothing_none(settings: Settings) -> None:
    looker = Looker(settings)
    try:
        parts = looker.read().parts
    finally:
        looker.close()
    assert [one.subject for one in parts if one.check == "handler"] == ["sql", "echo"]
    assert [one.subject for one in parts if one.check == "answers"] == ["sql", "echo"]
    other = settings.model_copy(update={"network": "request", "peer": "response"})
    assert list(check_handlers(other)) == []


def test_no_secret_of_a_handler_is_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ApiKey s3cret\n")
    made = settings_at(
        tmp_path,
        handler_database_url="postgresql://me:pass@h/d",
        handler_http_url="https://h:9200",
        handler_http_credentials_file=tmp_path / "key",
    )
    assert {"pass", "ApiKey s3cret", "s3cret"} <= set(made.passwords)
    assert "pass@" not in repr(made)
