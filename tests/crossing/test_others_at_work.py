"""Other transactions of the application's database, open for longer than ours can wait."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from exchange.database import clock, sessions
from exchange.database.engine import make_engine
from exchange.database.locks import Busy, reading
from exchange.database.tables import resync
from exchange.format.errors import Verdict
from exchange.link import send_requests
from exchange.operating import migrate
from tests.cli.conftest import paired
from tests.crossing import shop
from tests.crossing.sides import Link, Side
from tests.databases import Databases
from tests.postgresql import Cluster

pytestmark = pytest.mark.postgres


def _url(side: Side) -> str:
    return side.engine.url.render_as_string(hide_password=False)


@contextmanager
def open_transaction(url: str, *statements: str) -> Iterator[psycopg.Connection]:
    """Leave a transaction idle, as a forgotten session of an administrator."""
    with psycopg.connect(url.replace("+psycopg", ""), application_name="nightly report") as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection
        connection.rollback()


@contextmanager
def impatient(side: Side) -> Iterator[None]:
    """Have the side wait for no lock for long."""
    before = side.site
    side.site = replace(before, engine=make_engine(_url(side), lock_seconds=0.2))
    yield
    side.site.engine.dispose()
    side.site = before


@pytest.mark.parametrize("held", ["LOCK TABLE place", "UPDATE place SET name = 'theirs'"])
def test_who_holds_a_lock_is_named_and_the_other_channels_go_on(postgresql_link: Link, held: str) -> None:
    link = postgresql_link
    link.one.execute(sa.insert(shop.place).values(country="ch", number=1, name="first"))
    link.round()
    link.one.execute(sa.update(shop.place).values(name="second"))
    link.one.export()
    link.there.carry()
    with open_transaction(_url(link.other), held), impatient(link.other):
        run = link.other.take_in()
        link.other.execute(sa.insert(shop.note).values(id=1, text="sent meanwhile"))
        assert len(link.other.export().batches) == 1
    (busy,) = [one for one in run.batches if one.verdict is Verdict.BUSY]
    assert "role postgres, nightly report, idle in transaction holds a lock on place since" in busy.message
    assert run.trouble is None
    link.round()
    assert [row["name"] for row in link.other.rows(shop.place)] == ["second"]
    assert [row["text"] for row in link.one.rows(shop.note)] == ["sent meanwhile"]


def test_export_and_migrate_name_who_holds_a_lock(postgresql_link: Link) -> None:
    side = postgresql_link.one
    side.execute(sa.insert(shop.place).values(country="ch", number=1, name="first"))
    with impatient(side):
        with open_transaction(_url(side), "LOCK TABLE place"):
            (busy,) = side.export().busy
            assert "nightly report, idle in transaction holds a lock on place" in str(busy)
        with (
            open_transaction(_url(side), "LOCK TABLE exchange_alembic_version"),
            pytest.raises(Busy, match="nightly report"),
        ):
            migrate.upgrade(side.engine, network="one")
    assert len(side.export().batches) == 1


def test_an_idle_transaction_holds_back_no_snapshot(postgresql_link: Link, postgres_cluster: Cluster) -> None:
    link = postgresql_link
    link.one.execute(sa.insert(shop.place).values(country="ch", number=1, name="first"))
    link.round()
    drawn = "SELECT pg_current_xact_id()"
    written = "INSERT INTO place VALUES ('ch', 2, 'late')"
    with open_transaction(postgres_cluster.url, drawn), open_transaction(_url(link.one), written) as idle:
        send_requests.add_snapshot_requests(link.one.site, "forth", ["place"])
        link.round()
        [sent] = link.one.all(sa.select(resync.c.state))
        assert sent.state == "done"
        idle.commit()
    link.round()
    assert [row["name"] for row in link.other.rows(shop.place)] == ["first", "late"]


def test_a_transaction_that_holds_a_lock_for_long_is_named_before_anybody_waits(
    postgresql_link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = postgresql_link.one
    monkeypatch.setenv(clock.AHEAD, "120")  # as if it had begun two minutes ago
    with open_transaction(_url(side), "LOCK TABLE place IN SHARE MODE"), reading(side.engine) as connection:
        assert sessions.long_holders(connection, ["visit"]) == []
        [problem] = sessions.long_holders(connection, ["place", "visit"])
    assert "nightly report, idle in transaction holds a lock on place since" in problem.message
    assert "pg_terminate_backend(" in problem.remedy


@pytest.mark.processes
def test_a_second_signal_ends_an_import_that_waits_for_a_lock(
    tmp_path: Path, databases: Databases, forked_python: Path
) -> None:
    pair = paired(tmp_path, databases, "postgresql", seed=True)
    pair.response.do("export")
    pair.carry()
    command = [str(forked_python), "-m", "exchange", "import"]
    url = pair.request.database_url
    with (
        open_transaction(url, 'LOCK TABLE "user"'),
        psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as watching,
        subprocess.Popen(
            command, env={**os.environ, **pair.request.environment}, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        blocked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not watching.execute(blocked.encode()).fetchall():
            assert process.poll() is None
            time.sleep(0.02)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "once more stops at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(20) != 0, said
        assert time.monotonic() - asked < 15
        assert "Traceback" not in said
    assert "applied" in pair.request.do("import").out
