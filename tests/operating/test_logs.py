import hashlib
import io
import json
import logging
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter

from exchange.format.traces import trace_id
from exchange.operating import logs

CANARY = "Zebra-7781"

TASKS = """
import sys
from exchange.celery.work import WORK
from exchange.operating import logs
from exchange.settings import load_settings
settings = load_settings()
logs.configure("worker", settings.log_level, settings.log_format, secrets=settings.passwords)
for name in sys.argv[1:]:
    WORK[f"exchange.{name}"]()
"""


class _Unshowable:
    def __str__(self) -> str:
        raise ValueError(CANARY)


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Any:
    """Give a logger of ours, one of a library's, and what both have written in the form of the parameter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(request.param))
    library = logging.Logger("celery.app.trace")  # noqa: LOG001 - one that no other test has
    library.addHandler(handler)
    ours = structlog.wrap_logger(library, [ProcessorFormatter.wrap_for_formatter], BoundLogger)
    return ours, library, stream


def fail() -> None:
    with sa.create_engine("sqlite://").begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (name TEXT UNIQUE CHECK (name <> 'x'))"))
        for _ in range(2):
            connection.execute(sa.text("INSERT INTO t VALUES (:name)"), {"name": CANARY})


@pytest.mark.parametrize("told", ["json"], indirect=True)
def test_a_line_is_one_json_object_whatever_its_values_are(told: Any) -> None:
    ours, library, stream = told
    endless: list[Any] = []
    endless.append(endless)
    values = [
        "\x00\x1b[31m\r\n\x85\u2028\u202e",
        "\ud800",
        float("nan"),
        10**5000,
        endless,
        _Unshowable(),
        {1: b"\xff"},
    ]
    for value in values:
        ours.info("applied\n" * 2, value=value, batch=value)
        library.warning("said %s", value)
    library.warning("%d", "no number")
    lines = stream.getvalue().splitlines()
    told_of = [json.loads(line) for line in lines]
    assert len(lines) == 2 * len(values) + 1
    assert all({"time", "level", "logger", "process", "pid", "event"} <= one.keys() for one in told_of)
    assert all(one["time"].endswith("Z") for one in told_of)
    assert json.loads(lines[0])["value"] == values[0]


@pytest.mark.parametrize("told", ["json", "console"], indirect=True)
def test_no_line_has_a_rows_value_or_a_password(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, library, stream = told
    monkeypatch.setattr(logs, "_secrets", ("hunter2hunter2",))
    try:
        fail()
    except sa.exc.IntegrityError as error:
        ours.exception("failed", error=error)
        arguments = {"name": "exchange.import", "id": 1, "exc": repr(error), "traceback": CANARY, "args": CANARY}
        library.error("Task %(name)s[%(id)s] raised: %(exc)s %(traceback)s", arguments, exc_info=True)
        library.error("raised %r", error)
    try:
        dict[str, int]()[CANARY]
    except KeyError:
        ours.exception("failed")
    ours.warning("away", message="redis://user:secret@host:1/0 and hunter2hunter2 refuse")
    said = stream.getvalue()
    assert CANARY not in said
    assert "secret" not in said
    assert "hunter2" not in said
    assert "UNIQUE constraint failed: t.name" in said
    assert "line" in said, "where it failed is said"


@pytest.mark.parametrize("told", ["console"], indirect=True)
def test_no_value_begins_a_line_of_its_own(told: Any) -> None:
    ours, _, stream = told
    ours.info("held", message="quiet\n2026-01-01T00:00:00Z info worker applied", records={"applied": 2, "stale": 0})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('message="quiet\\n2026-01-01T00:00:00Z info worker applied" records.applied=2')


def test_a_batch_without_a_trace_has_one_that_both_sides_find() -> None:
    named = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_id(f"00-{named}-00f067aa0ba902b7-01", "one", "b") == named
    found = {trace_id(said, "one", "b") for said in (None, "mine", f"00-{'0' * 32}-00f067aa0ba902b7-01")}
    assert found == {hashlib.sha256(b"one b").hexdigest()[:32]}


def run(folder: Path, python: Path, *words: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    done = subprocess.run(
        [str(python), *words],
        cwd=folder,
        env=own | {"EXCHANGE_ENV_FILE": str(folder / "settings.env")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_one_trace_follows_a_batch_on_both_sides_and_no_line_has_a_row(tmp_path: Path, forked_python: Path) -> None:
    sides = {}
    for network, peer in (("response", "request"), ("request", "response")):
        folder = sides[network] = tmp_path / network
        folder.mkdir()
        (folder / "settings.env").write_text(
            f"EXCHANGE_NETWORK={network}\nEXCHANGE_PEER={peer}\nEXCHANGE_HOME=home\nEXCHANGE_LOG_FORMAT=json\n"
            f"EXCHANGE_REQUIRE_SIGNATURE=false\nEXCHANGE_OUTGOING={tmp_path}/of_{network}\n"
            f"EXCHANGE_INCOMING={tmp_path}/of_{peer}\n"
        )
        run(folder, forked_python, "-m", "exchange", "migrate")
    with sqlite3.connect(sides["response"] / "home/exchange.db") as database:
        database.execute("INSERT INTO profile_type (name, daily_limit) VALUES (?, 9)", [CANARY])
        database.execute("INSERT INTO user (name, email, profile_type_id) VALUES (?, ?, 1)", [CANARY, CANARY])
    said = dict.fromkeys(sides, "")
    for network, task in (("response", "export"), ("request", "import"), ("response", "import")):
        said[network] += run(sides[network], forked_python, "-c", TASKS, task)
    published = next(one for one in map(json.loads, said["response"].splitlines()) if one["event"] == "published")
    events = {
        name: [json.loads(line)["event"] for line in text.splitlines() if published["trace"] in line]
        for name, text in said.items()
    }
    assert events == {"response": ["published", "acknowledged"], "request": ["applied"]}
    assert CANARY not in "".join(said.values())
