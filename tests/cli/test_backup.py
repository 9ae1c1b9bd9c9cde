"""Backups and getting back from one, on the command line: real databases, real dumps, real keys."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from exchange.celery import service, work
from exchange.database import clock, make_engine
from exchange.database.locks import reading
from exchange.files import pid_lock
from exchange.format.errors import TransientError
from exchange.format.signing import TrustedKeys
from exchange.operating.backup import databases as servers
from exchange.operating.backup import folder, postgresql, restore, sqlite
from exchange.people.sessions import begin_session
from exchange.reference.models import ProfileType, Request, Response, ResponseStatus
from exchange.settings import Settings
from tests.cli.conftest import Done, Pair, Side, paired
from tests.databases import Databases
from tests.postgresql import Base, Prepare

DAY = 86_400


class Copies:
    """Databases that nobody else is connected to: they can be renamed and dropped."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self.templates = databases.templates

    def fresh(self, kind: str, shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None) -> str:
        """Give one as ``prepare`` leaves it."""
        assert prepare is not None
        if kind == "sqlite":
            return self._databases.fresh(kind, shape, prepare, base)
        return self._databases.copy(kind, shape, prepare, base)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough])])
def backed(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Pair]:
    """Give two networks on each kind of database, and a folder ``backups`` beside them; what was kept aside goes."""
    pair = paired(tmp_path, Copies(databases), request.param, seed=True)  # type: ignore[arg-type]
    (tmp_path / "backups").mkdir(mode=0o700)
    yield pair
    if request.param == "postgresql":
        forget(pair.response.database_url)


def forget(url: str) -> None:
    """Drop what restores kept aside or left of a database, and the database."""
    with servers.beside(url) as server:
        named = {"begin": f"{servers.name_of(url)}%"}
        for name in list(server.scalars(sa.text("SELECT datname FROM pg_database WHERE datname LIKE :begin"), named)):
            servers.drop(server, name)


def back_up(side: Side, *words: str) -> Path:
    """Make a backup, and give its folder."""
    made = side.do("backup", "--to", str(side.home.parent / "backups"), "--json", *words).line
    return Path(made["folder"])


def lose_database(side: Side) -> None:
    url = make_url(side.database_url)
    if url.get_backend_name() == "sqlite":
        for file in side.home.glob("exchange.db*"):
            file.unlink()
    else:
        with servers.beside(side.database_url) as server:
            servers.drop(server, str(url.database))


def add(side: Side, name: str) -> None:
    side.execute(f"INSERT INTO profile_type (name, daily_limit, priority) VALUES ('{name}', 3, 1)")


def cross(pair: Pair) -> None:
    """Have both sides send, carry it, and take it in."""
    for one in (pair.request, pair.response):
        one.do("export")
    pair.carry()
    for one in (pair.request, pair.response):
        one.do("import", EXCHANGE_SETTLE_SECONDS="0")


def agree(pair: Pair) -> list[dict[str, Any]]:
    """Have both sides compare, and give how each stream of the response network's compared."""
    for _ in range(3):
        cross(pair)
    pair.response.do("reconcile")
    for _ in range(2):
        cross(pair)
    return [one for one in pair.request.do("reconcile", "--report", "--json").lines if one["channel"] == "directory"]


def test_a_lost_database_is_back_by_one_command_and_both_sides_agree(backed: Pair) -> None:
    here = backed.response
    cross(backed)
    backup = back_up(here)
    assert here.do("backup", "verify", str(backup), "--json").line["differences"] == []
    add(here, "forgotten")
    cross(backed)
    lose_database(here)
    done = here.do("restore", "--from", str(backup), "--reason", "the disk burned", "--json").line
    assert done["before"] == json.loads((backup / "manifest.json").read_text())["contents"]["epoch"] != done["epoch"]
    assert (done["asked"], done["sends"]) == (["requests"], ["directory", "responses"])
    add(here, "after")
    assert [(one["stream"], one["state"], one["rows"]) for one in agree(backed)] == [
        ("profile_type", "equal", 5),
        ("user", "equal", 1),
    ]
    assert backed.request.do("dead-letters", "list", "--json").lines == []
    (act,) = here.do("audit", "--action", "restore", "--json").lines
    assert (act["why"], act["result"]["epoch"]) == ("the disk burned", done["epoch"])


@pytest.mark.thorough
def test_a_row_that_the_other_side_answered_since_the_backup_is_parked_on_both_until_people_decide(
    backed: Pair,
) -> None:
    here, there = backed.request, backed.response
    cross(backed)
    backup = back_up(here)
    for query in ("given up", "written anew"):
        here.do("submit", "administrator", query)
    cross(backed)
    engine = make_engine(there.database_url)
    with Session(engine) as session, session.begin():
        asked = {one.query: {"id": one.id, "user_id": one.user_id, "kind": one.kind} for one in session.query(Request)}
        for one in asked.values():
            said = {"status": ResponseStatus.ANSWERED, "started_at": clock.now(), "finished_at": clock.now()}
            session.add(Response(request_id=one["id"], processed_by="ada", result={}, **said))
    cross(backed)
    cross(backed)
    lose_database(here)
    here.do("restore", "--from", str(backup), "--reason", "the disk burned")
    for _ in range(3):
        cross(backed)

    def letters(side: Side) -> list[tuple[str, str]]:
        found = side.do("dead-letters", "list", "--json").lines
        return [(one["stream"], one["error"]) for one in found if one["state"] == "parked"]

    assert letters(here) == [("response", "foreign_key")] * 2
    assert letters(there) == [("request", "foreign_key")] * 2
    assert agree(backed)
    assert "explain all of it" in " ".join(here.run("check").out.split())
    with Session(engine) as session, session.begin():
        session.execute(sa.delete(Response).where(Response.request_id == asked["given up"]["id"]))
    engine.dispose()
    engine = make_engine(here.database_url)
    with Session(engine) as session, session.begin():
        session.add(Request(query="written anew", **asked["written anew"]))
    engine.dispose()
    for _ in range(3):
        cross(backed)
    assert (letters(here), letters(there)) == ([], [])
    assert {one["state"] for one in agree(backed)} == {"equal"}
    for side in (here, there):
        found = side.do("reconcile", "--report", "--json").lines
        assert {one["state"] for one in found} == {"equal"}, found


class Writer(threading.Thread):
    """An application that writes rows of its own side, one a transaction, until it is stopped."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self._side = side
        self._ended, self.wrote = threading.Event(), 0

    def run(self) -> None:
        """Write; a database that another one writes to, or that is gone, is tried again."""
        engine = make_engine(self._side.database_url)
        while not self._ended.is_set():
            self.wrote += 1
            with suppress(SQLAlchemyError, TransientError), Session(engine) as session, session.begin():
                if self._side.network == "response":
                    session.add(ProfileType(name=f"{self.ident}-{self.wrote}", daily_limit=1, priority=1))
                else:
                    session.add(Request(user_id=1, kind="question", query=f"{self.wrote}?"))
            self._ended.wait(0.01)
        engine.dispose()

    def written(self, more: int) -> None:
        """Wait until it wrote so many more rows."""
        wanted = self.wrote + more
        while self.wrote < wanted and self.is_alive():
            self._ended.wait(0.01)

    def stop(self) -> None:
        """Have it end."""
        self._ended.set()
        self.join()


@pytest.mark.thorough
def test_an_old_copy_is_restored_while_the_other_side_goes_on_writing(backed: Pair) -> None:
    cross(backed)
    cross(backed)
    here, there = Writer(backed.response), Writer(backed.request)
    here.start()
    there.start()
    try:
        here.written(20)
        engine = make_engine(backed.response.database_url)
        with engine.begin() as connection:
            begin_session(connection, "anna", "127.0.0.1")
        engine.dispose()
        backup = back_up(backed.response)  # while both write
        assert backed.response.do("backup", "verify", str(backup), "--json").line["differences"] == []
        for _ in range(3):  # so many batches old is the copy, in both directions
            here.written(10)
            cross(backed)
        here.stop()
        lose_database(backed.response)
        done = backed.response.do("restore", "--from", str(backup), "--json").line
        assert backed.response.do("users", "sessions", "--json").lines == [], "who was signed in then is not any more"
        there.written(20)
        here = Writer(backed.response)
        here.start()
        here.written(10)
        for _ in range(2):
            cross(backed)
    finally:
        here.stop()
        there.stop()
    assert {one["state"] for one in agree(backed)} == {"equal"}
    requests = backed.response.do("reconcile", "--report", "--json").lines
    assert [(one["state"], one["missing"]) for one in requests if one["channel"] == "requests"] == [("equal", 0)]
    assert backed.request.do("dead-letters", "list", "--json").lines == []
    checked = [one for side in (backed.request, backed.response) for one in side.run("check", "--json").lines]
    assert [one for one in checked if one["level"] == "fault"] == []
    assert done["seconds"] > 0


def test_a_backup_is_for_our_eyes_only_and_says_what_was_there(backed: Pair) -> None:
    backup = back_up(backed.response)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in backup.iterdir()} == {0o600}
    said = json.loads((backup / "manifest.json").read_text())
    assert {one["name"] for one in said["files"]} == {
        *{one.name for one in backup.iterdir()} - {"manifest.json", "manifest.json.sig"}
    }
    assert said["contents"]["tables"]["profile_type"] == 4
    assert [(one["channel"], one["sequence"]) for one in said["contents"]["positions"]] == []
    backed.response.do("export")
    later = json.loads((back_up(backed.response) / "manifest.json").read_text())["contents"]
    assert ("directory", 1) in {(one["channel"], one["sequence"]) for one in later["positions"]}
    settings = json.loads((backup / "settings.json").read_text())
    assert settings["network"] == "response"
    assert settings["broker_url"] is None


def test_what_was_changed_or_damaged_is_found(pair: Pair) -> None:
    (pair.response.home.parent / "backups").mkdir()
    backup = back_up(pair.response)
    dump, manifest = backup / "database.sqlite", backup / "manifest.json"
    was = dump.read_bytes()
    dump.write_bytes(was[:5000] + bytes([was[5000] ^ 1]) + was[5001:])
    sentence = pair.response.refused("backup", "verify", str(backup), code=1)
    assert sentence == "database.sqlite is not what was written: it was changed or damaged; nothing was done"
    lose_database(pair.response)
    assert "changed or damaged" in pair.response.refused("restore", "--from", str(backup), code=1)
    assert not (pair.response.home / "exchange.db").exists()
    dump.write_bytes(was)
    manifest.write_text(manifest.read_text().replace('"rows": 0', '"rows": 1'))
    assert 'is not what "response-' in pair.response.run("backup", "verify", str(backup)).err


class Killed(BaseException):
    """The process is gone here."""


def broken_at(number: int, where: list[tuple[Any, str]], patch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """Have the call of this number fail, of those calls, and give the names of those that were made."""
    made: list[str] = []
    for owner, name in where:
        real = getattr(owner, name)

        def step(*args: Any, real: Callable[..., Any] = real, name: str = name, **options: Any) -> Any:
            made.append(name)
            if len(made) == number:
                raise error
            return real(*args, **options)

        patch.setattr(owner, name, step)
    return made


@pytest.mark.thorough
def test_a_full_disk_and_a_kill_leave_nothing_that_looks_like_a_backup(pair: Pair, tmp_path: Path) -> None:
    where = tmp_path / "backups"
    where.mkdir()
    steps = [(sqlite, "dump"), (folder, "_measured"), (folder, "_sync"), (Path, "rename")]
    number = 0
    while True:
        number += 1
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where)) if number % 2 else Killed()
        with pytest.MonkeyPatch.context() as patch:
            made = broken_at(number, steps, patch, error)
            if isinstance(error, Killed):
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nobody tidies up after a kill
                with suppress(Killed):
                    pair.response.run("backup", "--to", str(where))
            else:
                pair.response.run("backup", "--to", str(where))
        found = pair.response.do("backup", "list", "--to", str(where), "--json").lines
        if len(made) < number:
            break
        if made[-1] == "_sync" and found:  # the folder's name is there, and only its own folder was not synced
            shutil.rmtree(found[0]["folder"])
            continue
        assert found == [], made
    assert number > 10
    assert [one.name for one in where.iterdir() if not one.name.startswith(".")] == [found[0]["name"]]
    assert found[0]["fault"] is None


@pytest.mark.thorough
def test_a_restore_that_was_killed_anywhere_is_ended_by_the_same_command(backed: Pair) -> None:
    here = backed.response
    cross(backed)
    backup = back_up(here)
    add(here, "lost")
    postgres = "postgresql" in here.database_url
    steps: list[tuple[Any, str]] = [(restore, "_compare"), (restore, "make_ready"), (restore, "begin_epoch")]
    steps += [(restore, "ask_peer")]
    steps += [(servers, "rename"), (servers, "ask"), (postgresql, "restore")] if postgres else [(Path, "rename")]
    number = 0
    while True:
        number += 3 if postgres else 1
        with pytest.MonkeyPatch.context() as patch:
            made = broken_at(number, steps, patch, Killed())
            with suppress(Killed):
                here.run("restore", "--from", str(backup), "--replace")
        if len(made) < number:
            break
        done = here.run("restore", "--from", str(backup), "--replace", "--json")
        assert done.code == 0, (made, done.err)
        if number % 4 == 1:
            lose_database(here)
    assert number > 5
    assert {one["state"] for one in agree(backed)} == {"equal"}


def test_a_restore_touches_nothing_that_is_there_or_that_works(backed: Pair) -> None:
    here = backed.response
    backup = back_up(here)
    add(here, "later")
    assert "with --replace it is kept aside" in here.refused("restore", "--from", str(backup), code=1)
    with closing(pid_lock.hold(here.home / "run" / "beat.lock", print)):
        sentence = here.refused("restore", "--from", str(backup), "--replace", code=1)
    assert sentence.startswith("beat (")
    assert "stop this side first" in sentence
    other = {"EXCHANGE_NETWORK": "request", "EXCHANGE_PEER": "response"}
    assert (
        "not trusted here" in here.run("restore", "--from", str(backup), EXCHANGE_HOME=str(here.home.parent / "x")).err
    )
    assert "of network response" in here.refused("restore", "--from", str(backup), code=1, **other)
    kept = here.do("restore", "--from", str(backup), "--replace", "--json").line["kept"]
    url = here.database_url
    there = servers.renamed(url, kept) if "postgresql" in url else f"sqlite:///{kept}"
    engine = make_engine(there)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM profile_type WHERE name = 'later'").scalar() == 1
    engine.dispose()


@pytest.mark.thorough
def test_another_machine_goes_on_with_the_keys_that_were_in_it(pair: Pair, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"# for backups\n{identity}\n")
    (tmp_path / "backups").mkdir()
    cross(pair)
    backup = back_up(pair.response, "--recipient", str(identity.to_public()))
    assert b"PRIVATE KEY" not in b"".join(one.read_bytes() for one in backup.iterdir())
    (mark,) = {one["fingerprint"] for one in pair.request.do("keys", "list", "--json").lines if one["trusted"]}
    shutil.rmtree(pair.response.home)
    elsewhere = Side("response", tmp_path / "elsewhere" / "home")
    elsewhere.do("init", "--json")  # with a key of its own, which nobody trusts
    asked = ["restore", "--from", str(backup), "--keys-identity", str(tmp_path / "identity")]
    assert "say --fingerprint" in elsewhere.run(*asked).err
    assert "it is signed by the key" in elsewhere.refused(*asked, "--fingerprint", "SHA256:x", code=1)
    done = elsewhere.do(*asked, "--fingerprint", mark, "--json").line
    assert any(one.endswith(".key") for one in done["keys"])
    assert any(one.endswith(".key") for one in done["keys_aside"])
    assert {one["state"] for one in agree(Pair(pair.request, elsewhere))} == {"equal"}


@pytest.mark.thorough
def test_old_backups_go_and_the_last_good_one_stays(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "backups"
    (where / "somebody").mkdir(parents=True)
    (where / "somebody" / "manifest.json").write_text("{}")
    first, second = back_up(pair.response), back_up(pair.response)
    pair.response.do("prune")  # it notes that this side was there
    real = clock.seconds
    for day in range(1, 33):
        monkeypatch.setattr(clock, "seconds", lambda day=day: real() + day * DAY)
        pair.response.do("prune")
    (second / "database.sqlite").unlink()
    third = back_up(pair.response)
    assert {one.name for one in where.iterdir()} == {"somebody", third.name}
    for day in range(33, 65):
        monkeypatch.setattr(clock, "seconds", lambda day=day: real() + day * DAY)
        pair.response.do("prune")
    assert not first.exists()
    keys = TrustedKeys({})
    assert folder.remove_old(where, keys, "response", clock.now()) == 0
    assert third.exists()


def test_beat_makes_them_where_a_folder_is_set_and_doctor_tells_of_those_that_fail(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = Settings(network="response", peer="request", home=pair.response.home)
    assert "backup" not in service.schedule(side)
    entry = service.schedule(side.model_copy(update={"backup_to": tmp_path}))["backup"]
    assert (entry["task"], entry["schedule"]) == ("exchange.backup", 3600)
    where = tmp_path / "backups"
    for name, value in {**pair.response.environment, "EXCHANGE_BACKUP_TO": str(where)}.items():
        monkeypatch.setenv(name, value)
    work.forget_settings()

    def told() -> dict[str, Any]:
        found = pair.response.run("doctor", "--json").lines
        return next(one for one in found if one["check"] == "backup")

    assert (told()["level"], told()["alarm"]) == ("warning", "backup")
    with pytest.raises(TransientError, match="expected a folder for backups, found none"):
        work.WORK["exchange.backup"]()
    assert told()["level"] == "fault"
    assert "found none" in told()["message"]
    where.mkdir()
    made = work.WORK["exchange.backup"]()
    assert told()["level"] == "ok"
    assert pair.response.do("backup", "list", "--json").line["folder"] == made["folder"]
    real = clock.seconds
    monkeypatch.setattr(clock, "seconds", lambda: real() + 3 * 3600)
    assert told()["level"] == "fault"
    assert "one is due every 1 h" in told()["message"]


def test_a_busy_sqlite_is_copied_as_it_was_at_one_moment(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PAGES_AT_ONCE", 1)
    copy = pair.response.home / "copy.db"
    written, ended = threading.Event(), threading.Event()

    def write() -> None:
        engine = make_engine(pair.response.database_url)
        number = 0
        while not ended.is_set():
            number += 1
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    f"INSERT INTO profile_type (name, daily_limit, priority) VALUES ('n{number}', 3, 1)"
                )
            written.set()
        engine.dispose()

    engine = make_engine(pair.response.database_url)
    with ThreadPoolExecutor() as threads:
        writer = threads.submit(write)
        try:
            while not written.wait(1):
                assert writer.running()
            with reading(engine) as connection:
                seen = connection.exec_driver_sql("SELECT count(*) FROM profile_type").scalar()
                written.clear()
                while not written.wait(1):
                    assert writer.running()
                sqlite.dump(connection, copy)
        finally:
            ended.set()
            engine.dispose()
        writer.result()
    engine = make_engine(f"sqlite:///{copy}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM profile_type").scalar() == seen
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    engine.dispose()


def test_the_password_is_on_no_command_line_and_an_older_pg_dump_is_refused(
    backed: Pair, tmp_path: Path, databases: Databases
) -> None:
    here = backed.response
    if "postgresql" not in here.database_url:
        pytest.skip("of PostgreSQL's programs")
    secret = "gehe:im\\1"
    programs = tmp_path / "programs"
    programs.mkdir()
    real = postgresql.find("pg_dump", None, "18").path
    asked = tmp_path / "asked"
    script = f'#!/bin/sh\necho "$@" >> {asked}\ncat "$PGPASSFILE" "$PGSERVICEFILE" > {asked}.files 2>/dev/null\n'
    script += (
        f'stat -c %a "$PGPASSFILE" "$PGSERVICEFILE" > {asked}.modes 2>/dev/null\necho "$PGPASSFILE" > {asked}.names\n'
    )
    (programs / "pg_dump").write_text(f'{script}exec {real} "$@"\n')
    (programs / "pg_dump").chmod(0o700)
    url = make_url(here.database_url).set(password=secret).render_as_string(hide_password=False)
    done = run_with(here, url, programs)
    assert done.code == 0, done.err
    assert secret not in asked.read_text() + done.out + done.err
    assert "*:*:*:*:gehe\\:im\\\\1" in Path(f"{asked}.files").read_text()
    assert Path(f"{asked}.modes").read_text().split() == ["600", "600"]
    assert not Path(Path(f"{asked}.names").read_text().strip()).exists()
    assert secret not in (Path(done.line["folder"]) / "settings.json").read_text()
    (programs / "pg_dump").write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 9.6.24"\n')
    assert "is of version 9.6.24" in run_with(here, url, programs).err


def run_with(side: Side, url: str, programs: Path) -> Done:
    where = str(side.home.parent / "backups")
    return side.run("backup", "--to", where, "--json", EXCHANGE_DATABASE_URL=url, EXCHANGE_PG_BIN=str(programs))
