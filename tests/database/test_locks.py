from __future__ import annotations

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import locks
from exchange.database.engine import make_engine, now
from exchange.database.locks import Busy, locked, reading, writing
from exchange.database.tables import change, metadata
from exchange.database.whoami import whoami


@pytest.fixture
def database(engine: Engine) -> Engine:
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(change).values(stream="s", op="I", key="{}"))
    return engine


def count(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(change)) or 0


def test_an_exception_before_the_commit_leaves_nothing_behind(database: Engine) -> None:
    def fail() -> None:
        with writing(database) as connection:
            connection.execute(sa.insert(change).values(stream="s", op="I", key="{}"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert count(database) == 1


def test_a_second_holder_of_a_lock_is_told_who_has_it_and_since_when(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.database.engine.SQLITE_WAIT_SECONDS", 0.2)
    second = make_engine(database.url.render_as_string(hide_password=False))
    with locked(database, "import requests"), pytest.raises(Busy) as caught, locked(second, "import requests"):
        pass
    second.dispose()

    assert " pid " in caught.value.who
    assert caught.value.since is not None
    assert "it goes on at the next run" in str(caught.value)


def test_who_holds_a_lock_is_left_word_of_without_a_commit(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    metadata.create_all(engine)
    began: list[Connection] = []
    sa.event.listen(engine, "begin", began.append)
    with locked(engine, "import requests") as connection:
        words = Path(f"{engine.url.database}-import-requests.lock").read_text()
    engine.dispose()

    assert [one.engine for one in began] == [connection.engine]
    assert words.endswith(whoami())


@pytest.mark.parametrize("words", [b"", b"\xff\xfe", b"yesterday somebody", b"2026-01-01T00:00:00"])
def test_a_holder_whose_word_is_not_there_or_not_whole_is_somebody(sqlite_url: str, words: bytes) -> None:
    engine, second = make_engine(sqlite_url), make_engine(sqlite_url)
    metadata.create_all(engine)
    with locked(engine, "x"):
        Path(f"{engine.url.database}-x.lock").write_bytes(words)
        with pytest.raises(Busy) as caught, locked(second, "x"):
            pass
    second.dispose()
    engine.dispose()

    assert (caught.value.who, caught.value.since) == ("another process, just now", None)


def test_a_lock_is_free_again_once_its_holder_has_failed(database: Engine) -> None:
    with pytest.raises(ZeroDivisionError), locked(database, "x"):
        raise ZeroDivisionError
    with locked(database, "x"):
        pass


@pytest.mark.postgres
def test_whoever_saw_a_moment_before_the_lock_was_freed_is_busy_not_broken(postgres_url: str) -> None:
    database = make_engine(postgres_url)
    metadata.create_all(database)
    with database.begin() as connection:
        connection.execute(sa.insert(change).values(stream="s", op="I", key="{}"))

    def be_overtaken() -> None:
        with locked(database, "export x", isolation_level="REPEATABLE READ") as connection:
            connection.execute(sa.select(change)).all()
            with database.begin() as other:
                other.execute(sa.delete(change))
            connection.execute(sa.delete(change))

    with pytest.raises(Busy):
        be_overtaken()
    database.dispose()


PACKAGE = Path(locks.__file__).parents[1]
TAKING = {"locked", "join", "wait_for"}


def test_names_of_locks_are_made_in_one_module() -> None:
    named = [
        f"{path}, line {node.lineno}: {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        # The reference application has locks of its own, as any application may.
        if not path.is_relative_to(PACKAGE / "reference")
        for text in [path.read_text()]
        if any(f"{name}(" in text for name in TAKING)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKING
        if isinstance(node.args[1], (ast.Constant, ast.JoinedStr))
    ]

    assert not named, "name it in exchange/database/locks.py"


@pytest.mark.postgres
def test_whoever_is_interrupted_in_a_statement_stops_at_once(postgres_url: str) -> None:
    def interrupt(*_: object) -> None:
        raise ZeroDivisionError

    engine = make_engine(postgres_url)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), locked(engine, "x") as connection:
        connection.exec_driver_sql("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 20
    signal.signal(signal.SIGALRM, before)
    with locked(engine, "x"):
        pass
    engine.dispose()


def test_whoever_is_interrupted_in_a_commit_is_told_so_and_nothing_else(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(sqlite_url)

    def interrupted(_connection: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as now_it_is:
        now_it_is.setattr(engine.dialect, "do_commit", interrupted)
        with pytest.raises(KeyboardInterrupt), writing(engine, patience_seconds=0.2) as connection:
            connection.execute(sa.text("SELECT 1"))
    with writing(engine, patience_seconds=0.2) as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()


def test_another_program_that_holds_a_sqlite_file_is_named(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.database.engine.SQLITE_WAIT_SECONDS", 0.1)
    engine = make_engine(sqlite_url)
    metadata.create_all(engine)
    Path(f"{engine.url.database}-x.lock").write_text(f"{now().isoformat()} somebody, long ago")
    holding = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE');"
        " print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(engine.url.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Busy) as caught, locked(engine, "import requests"):
            pass
        assert other.stdin is not None
        other.stdin.close()
    engine.dispose()
    assert f"process {other.pid} (python" in str(caught.value)
    assert "long ago" not in str(caught.value)
