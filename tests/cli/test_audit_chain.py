"""The audit is only ever added to, and whatever else happens to it is found out."""

from __future__ import annotations

import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from exchange.database import audit_chain, audit_log
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.files import keys
from exchange.operating import migrate
from tests.cli.conftest import Side, settle
from tests.databases import Databases

STRAY = (
    "INSERT INTO exchange_audit (at, who, origin, action, arguments, previous, digest)"
    " VALUES ('2026-11-22 06:15:00.000000', 'ada', 'here', 'prune', '{}', 'x', 'y')"
)


def act(engine: Engine, who: str) -> None:
    with audit_log.audited(engine, "prune", {"n": 1}, who=who, origin="here", why="tidy") as doing:
        doing.came_to({"done": 1})


@pytest.fixture
def acted(side: Side, databases: Databases) -> Side:
    """Give a side where three things were done by hand."""
    side.do("init")
    settle(side, databases, "migrate", *(f"prune --as {who}" for who in ("ada", "bob", "eve")))
    return side


def tampered(side: Side, copy: Path, *statements: str) -> Side:
    """Give the same side with a database to which its owner did something, past every trigger."""
    shutil.copy(side.home / "exchange.db", copy)
    database = sqlite3.connect(copy, isolation_level=None)
    for name in ("update", "delete", "insert"):
        database.execute(f"DROP TRIGGER exchange_audit_stays_{name}")
    for statement in statements:
        database.execute(statement)
    database.close()
    return Side(side.network, side.home, {**side.environment, "EXCHANGE_DATABASE_URL": f"sqlite:///{copy}"})


def test_nobody_changes_or_removes_a_row_and_writers_at_once_make_one_chain(engine: Engine) -> None:
    migrate.upgrade(engine)
    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(lambda number: act(engine, f"person {number}"), range(12)))
    refused = [
        "UPDATE exchange_audit SET who = 'nobody'",
        "UPDATE exchange_audit SET result = '{}' WHERE result IS NULL",
        "DELETE FROM exchange_audit",
    ]
    if engine.dialect.name == "postgresql":
        refused.append("TRUNCATE exchange_audit")
    else:
        refused.append("INSERT OR REPLACE INTO exchange_audit SELECT * FROM exchange_audit WHERE id = 1")
    for statement in refused:
        with pytest.raises(DBAPIError, match=r"SQLITE_CONSTRAINT_TRIGGER|23000"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    checked = audit_chain.check(engine)
    assert (checked.rows, checked.faults) == (24, ())
    with reading(engine) as connection:
        entries = audit_log.entries(connection)
    assert sorted(one.who for one in entries) == sorted(f"person {number}" for number in range(12))
    assert {json.dumps(one.result) for one in entries} == {'{"done": 1}'}


@pytest.mark.postgres
def test_a_chain_holds_whatever_isolation_the_role_has(postgres_url: str) -> None:
    migrate.upgrade(postgres_url)
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        database = connection.scalar(sa.select(sa.func.current_database()))
        connection.exec_driver_sql(f'ALTER DATABASE "{database}" SET default_transaction_isolation = serializable')
    engine.dispose()
    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(lambda number: act(engine, f"person {number}"), range(8)))
    assert audit_chain.check(engine).as_dict() | {"head": ""} == {"rows": 16, "head": "", "wrong": 0, "faults": []}
    engine.dispose()


def test_an_audit_that_is_as_it_was_written_is_verified(acted: Side) -> None:
    found = acted.do("audit", "verify", "--json").line
    assert (found["verdict"], found["rows"], found["faults"]) == ("ok", 6, [])
    assert "the audit: ok, 6 rows, the last digest is " in acted.do("audit", "verify").out


@pytest.mark.parametrize(
    "statement, said",
    [
        ("UPDATE exchange_audit SET who = 'ada' WHERE id = 3", "row 3: expected what its digest is of"),
        ("UPDATE exchange_audit SET at = '2020-01-01 00:00:00.000000' WHERE id = 1", "row 1: expected what"),
        ("UPDATE exchange_audit SET result = '{}' WHERE id = 4", "row 4: expected what its digest is of"),
        ("UPDATE exchange_audit SET concludes = 99 WHERE id = 4", "row 4: expected the result of an act before it"),
        ("DELETE FROM exchange_audit WHERE id = 3", "row 4: expected the digest before it"),
        ("UPDATE exchange_audit SET id = 77 WHERE id = 1", "row 2: expected the digest before it"),
        (
            STRAY,
            "row 7: expected the digest before it",
        ),
    ],
)
def test_what_its_owner_changed_is_found_and_is_exit_code_3(
    acted: Side, tmp_path: Path, statement: str, said: str
) -> None:
    changed = tampered(acted, tmp_path / "copy.db", statement)
    done = changed.run("audit", "verify")
    assert done.code == 3
    assert said in done.err
    assert "the triggers that keep exchange_audit from being changed are not there" in done.err
    assert "the audit: corrupt, " in done.out
    assert changed.run("audit", "verify", "--json").line["verdict"] == "corrupt"


def test_an_exported_audit_is_verified_anywhere_with_the_key_alone(acted: Side, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    [key] = (acted.home / "keys").glob("*.pem")
    exported = acted.do("audit", "export", str(file), "--json").line
    assert (exported["rows"], exported["signed"]) == (6, True)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["who"] for one in lines[:6:2]] == ["ada", "bob", "eve"]
    assert acted.refused("audit", "export", str(file), code=1).endswith(
        "expected a new file, found one; nothing was written"
    )
    elsewhere = Side("request", tmp_path / "nothing", {"EXCHANGE_NETWORK": "!"})
    alone = ("audit", "verify", str(file), "--trust", str(key), "--json")
    assert elsewhere.do(*alone).line["rows"] == 6

    other = keys.new(tmp_path / "other", "response-2026")
    assert elsewhere.run("audit", "verify", str(file), "--trust", str(other)).code == 4
    whole = file.read_bytes()
    for damaged in (
        whole.replace(b'"who":"bob"', b'"who":"bOb"'),
        whole.split(b"\n", 1)[1],
        whole[: len(whole) // 3],
    ):
        file.write_bytes(damaged)
        code = elsewhere.run(*alone).code
        assert code == 3, damaged
    file.write_bytes(whole.replace(b'"rows":6', b'"rows":5'))
    assert elsewhere.run(*alone).code == 4
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert elsewhere.run(*alone).code == 4


def test_an_exported_audit_tells_when_its_owner_wrote_it_anew_or_cut_it_off(acted: Side, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    acted.do("audit", "export", str(file))
    acted.do("prune")
    assert acted.do("audit", "verify", str(file), "--json").line["rows"] == 8
    cut = tampered(acted, tmp_path / "copy.db", "DELETE FROM exchange_audit WHERE id > 4")
    done = cut.run("audit", "verify", str(file))
    assert done.code == 3
    assert "expected row 6 as the file has it" in done.err


def test_rows_from_before_the_chain_are_in_it_as_they_stand_and_come_back_out(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/old.db")
    migrate.upgrade(engine)
    revision = migrate.applied_revisions(engine)
    with migrate.configured(engine, None) as config:
        command.downgrade(config, "core_0005")
    with engine.begin() as connection:
        for number in range(3):
            result = "NULL" if number == 1 else "'{}'"
            connection.exec_driver_sql(
                "INSERT INTO exchange_audit (at, who, origin, action, arguments, result)"
                f" VALUES ('2026-11-22 06:15:00', 'ada {number}', 'here', 'prune', '{{}}', {result})"
            )
    migrate.upgrade(engine)
    assert migrate.applied_revisions(engine) == revision
    act(engine, "bob")
    assert audit_chain.check(engine).as_dict() | {"head": ""} == {"rows": 5, "head": "", "wrong": 0, "faults": []}
    with reading(engine) as connection:
        before = audit_log.entries(connection)
    with migrate.configured(engine, None) as config:
        command.downgrade(config, "core_0005")
    with engine.begin() as connection:
        kept = connection.exec_driver_sql("SELECT who, result FROM exchange_audit ORDER BY id DESC").all()
    assert [tuple(row) for row in kept] == [
        (one.who, None if one.result is None else json.dumps(one.result)) for one in before
    ]
    engine.dispose()


@pytest.mark.postgres
def test_a_role_that_may_only_read_and_add_is_enough_and_its_owner_may_switch_the_trigger_off(
    postgres_url: str,
) -> None:
    migrate.upgrade(postgres_url)
    owner = make_engine(postgres_url)
    role = f"adder_{owner.url.database}"
    with owner.begin() as connection:
        for statement in (
            f'CREATE ROLE "{role}" LOGIN',
            f'GRANT SELECT, INSERT ON exchange_audit TO "{role}"',
            f'GRANT USAGE ON SEQUENCE exchange_audit_id_seq TO "{role}"',
        ):
            connection.exec_driver_sql(statement)
    adder = make_engine(owner.url.set(username=role).render_as_string(hide_password=False))
    try:
        act(adder, "ada")
        assert audit_chain.check(adder).wrong == 0
        with pytest.raises(DBAPIError, match="permission denied"), adder.begin() as connection:
            connection.exec_driver_sql("DELETE FROM exchange_audit")
        with owner.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE exchange_audit DISABLE TRIGGER exchange_audit_stays")
            connection.exec_driver_sql("DELETE FROM exchange_audit WHERE concludes IS NULL")
        assert audit_chain.check(adder).wrong > 1
    finally:
        adder.dispose()
        with owner.begin() as connection:
            connection.exec_driver_sql(f'DROP OWNED BY "{role}"')
            connection.exec_driver_sql(f'DROP ROLE "{role}"')
        owner.dispose()
