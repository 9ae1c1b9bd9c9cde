"""The page about handlers: its files and requests are those that a reader would write, and answer as it says."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from exchange.database.engine import make_engine, now, sqlite_url
from exchange.reference.handlers import Question, Sources, load_handlers
from tests.reference.test_http_handler import Service, serving

PAGE = (Path(__file__).parents[2] / "deploy/HANDLERS.md").read_text()


def block(kind: str, number: int) -> str:
    return str(re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[number])


def asked(number: int) -> Question:
    """Read a request off the command that the page shows."""
    words = shlex.split(block("sh", number))
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[:2] == ["exchange", "submit"]
    return Question(uuid.uuid4(), words[2], given["--kind"], words[3], json.loads(given["--parameters"]), 5, now())


def test_the_queries_of_the_page_answer_as_it_shows(tmp_path: Path) -> None:
    file, database = tmp_path / "queries.toml", tmp_path / "readings.db"
    file.write_text(block("toml", 0))
    engine = make_engine(sqlite_url(database))
    rows = [(7, "left", 20.5, "2026-11-23"), (8, "right", 21.5, "2026-11-22"), (1, "old", 30.0, "2026-11-22")]
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE reading (press integer, name text, celsius real, taken text)"))
        for press, name, celsius, day in rows:
            values = {"press": press, "name": name, "celsius": celsius, "taken": f"{day}T06:15:00.000000Z"}
            connection.execute(sa.text("INSERT INTO reading VALUES (:press, :name, :celsius, :taken)"), values)
    engine.dispose()
    handlers = load_handlers("sql", Sources(queries=file, database_url=sqlite_url(database)))
    assert handlers.pick("sql").handle(asked(0)) == json.loads(block("json", 0))


def test_the_paths_of_the_page_answer_as_it_shows(tmp_path: Path) -> None:
    file = tmp_path / "paths.toml"
    file.write_text(block("toml", 1))
    shown: Any = json.loads(block("json", 1))
    with serving(Service()) as service:
        service.answer = lambda one: one.give(shown["status"], shown["body"])
        handlers = load_handlers("http", Sources(paths=file, service_url=service.url))
        assert handlers.pick("http").handle(asked(1)) == shown
        assert service.asked[0][1] == "/readings-2026/_search"
