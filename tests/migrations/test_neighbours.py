"""Code of one version runs on the tables of the next one, so that worker after worker can be replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from exchange.operating import migrate

FIRST = "core_0013"
"""From this revision on the rule of ARCHITECTURE.md, "Migrations", holds."""
ROOT = Path(__file__).parents[2]


def revisions() -> list[str]:
    """Give the revisions of the core, the oldest first."""
    return sorted(one.stem[:9] for one in (ROOT / "migrations" / "versions").glob("core_*.py"))


def columns(connection: Connection) -> dict[tuple[str, str], dict[str, Any]]:
    """Give each column of ours that there is, by table and name."""
    inspector = sa.inspect(connection)
    return {
        (table, column["name"]): dict(column)
        for table in inspector.get_table_names()
        if table != migrate.VERSION_TABLE
        for column in inspector.get_columns(table)
    }


def step(engine: Engine, revision: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Bring a database up to a revision, and give its columns."""
    with migrate.configured(engine, None) as config:
        command.upgrade(config, revision)
    with engine.connect() as connection:
        return columns(connection)


def broken(before: dict[tuple[str, str], dict[str, Any]], after: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Say what code of the version before could not do on the tables after."""
    tables = {table for table, _ in before}
    said = [f"{table}.{name} is gone" for table, name in before.keys() - after.keys()]
    for (table, name), column in after.items():
        was = before.get((table, name))
        required = not column["nullable"] and column["default"] is None
        if was is None and table in tables and required:
            said.append(f"{table}.{name} is new, and has to be given")
        if was is not None and repr(was["type"]) != repr(column["type"]):
            said.append(f"{table}.{name} is {column['type']!r}, and was {was['type']!r}")
        if was is not None and was["nullable"] and not column["nullable"]:
            said.append(f"{table}.{name} may not be NULL any more")
    return said


def test_each_revision_only_adds_to_what_the_version_before_works_on(engine: Engine) -> None:
    known = revisions()
    before = step(engine, FIRST)
    for revision in known[known.index(FIRST) + 1 :]:
        after = step(engine, revision)
        assert broken(before, after) == [], revision
        before = after


def test_what_an_older_version_would_miss_is_found() -> None:
    text, number = {"type": sa.Text(), "nullable": True, "default": None}, {"type": sa.Integer(), "nullable": True}
    before = {("t", "a"): text, ("t", "b"): text, ("t", "c"): text}
    after = {("t", "b"): number, ("t", "c"): {**text, "nullable": False}, ("t", "d"): {**text, "nullable": False}}
    assert broken(before, after) == [
        "t.a is gone",
        "t.b is Integer(), and was Text()",
        "t.c may not be NULL any more",
        "t.d is new, and has to be given",
    ]


def brought_further(engine: Engine, revision: str) -> None:
    """Make a database what a later version may make of it: more columns, more tables, a revision nobody here knows."""
    with engine.begin() as connection:
        for table in sa.inspect(connection).get_table_names():
            if table != migrate.VERSION_TABLE:
                connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN of_later VARCHAR(8) DEFAULT 'new'")
        connection.exec_driver_sql("CREATE TABLE exchange_later (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            f"UPDATE {migrate.VERSION_TABLE} SET version_num = '{revision}' WHERE version_num LIKE 'core%%'"
        )


def test_a_database_of_a_later_version_is_worked_on_and_left_as_it_is(engine: Engine) -> None:
    migrate.upgrade(engine)
    brought_further(engine, "core_9000")
    assert not migrate.is_behind(engine)
    assert migrate.later_revisions(migrate.applied_revisions(engine)) == ("core_9000",)
    migrate.upgrade(engine)
    assert migrate.applied_revisions(engine) == ("core_9000",)
    with pytest.raises(CommandError, match="a later version brought it to core_9000, and tables of core or reference"):
        migrate.upgrade(engine, (migrate.CORE, migrate.REFERENCE), network="request")


def test_a_revision_that_no_version_made_is_refused(engine: Engine) -> None:
    migrate.upgrade(engine)
    for stranger in ("core2_0001", "4f1c2d", "core_0000"):
        brought = f"UPDATE {migrate.VERSION_TABLE} SET version_num = '{stranger}'"
        with engine.begin() as connection:
            connection.exec_driver_sql(brought)
        with pytest.raises(CommandError, match=f"revision {stranger}, which no version of this program made"):
            migrate.is_behind(engine)


def before_the_newest(folder: Path) -> None:
    """Put the code of the commit before the newest revision came into a folder."""
    file = next((ROOT / "migrations" / "versions").glob(f"{revisions()[-1]}_*.py"))
    asked = ["git", "-C", str(ROOT), "log", "--diff-filter=A", "--format=%H", "--", str(file)]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    added = found.stdout.split()
    if found.returncode or not added:
        pytest.skip(f"this copy has no history of {file.name}, so that no older version is there to run")
    packing = ["git", "-C", str(ROOT), "archive", f"{added[-1]}^", "exchange", "migrations", "schemas"]
    packed = subprocess.run(packing, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"this copy lacks the commit before {added[-1][:12]}: its history is cut short")
    folder.mkdir(parents=True, exist_ok=True)
    unpacking = ["tar", "-x", "-C", str(folder)]
    subprocess.run(unpacking, input=packed.stdout, check=True)


@pytest.mark.thorough
@pytest.mark.processes
def test_the_version_before_works_on_the_tables_of_this_one(tmp_path: Path) -> None:
    older = tmp_path / "older"
    before_the_newest(older)
    assert not next(older.glob(f"migrations/versions/{revisions()[-1]}_*.py"), None)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}

    def run(network: str, *words: str, code: Path = ROOT) -> str:
        peer = {"request": "response", "response": "request"}[network]
        ours = {"EXCHANGE_NETWORK": network, "EXCHANGE_PEER": peer, "EXCHANGE_HOME": str(tmp_path / network)}
        ours |= {"PYTHONPATH": str(code), "EXCHANGE_SETTLE_SECONDS": "0"}
        ours |= {"EXCHANGE_OUTGOING": str(tmp_path / f"from-{network}")}
        ours |= {"EXCHANGE_INCOMING": str(tmp_path / f"from-{peer}")}
        command = [sys.executable, "-m", "exchange", *words]
        done = subprocess.run(command, env=plain | ours, cwd=code, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    for network in ("request", "response"):
        run(network, "init", "--migrate")
    for network, peer in (("request", "response"), ("response", "request")):
        (public,) = (tmp_path / peer / "keys").glob("*.pem")
        marks = [word for word in run(peer, "keys", "list").split() if word.startswith("SHA256:")]
        run(network, "keys", "trust", str(public), "--fingerprint", marks[0])
    run("response", "seed", code=older)
    run("response", "export", code=older)
    assert "applied" in run("request", "import", code=older)
    run("request", "export", code=older)
    run("response", "import")
    run("response", "status", code=older)
    run("response", "resync", "directory")
    assert "applied" in run("request", "import", code=older)
