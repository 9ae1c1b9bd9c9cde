"""``exchange doctor`` on a side that has work to do: what it finds, how bad it is, since when, and what comes next."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Pair, Side, paired
from tests.crossing.forging import last_byte_changed
from tests.databases import Databases

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

LONG_AGO = "2026-01-01 00:00:00.000000"


def findings(side: Side, check: str, **environment: str) -> list[dict[str, Any]]:
    """Give what a check of doctor found that is not well."""
    return [
        line
        for line in side.run("doctor", "--json", **environment).lines
        if line["check"] == check and line["level"] != "ok"
    ]


def said(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["level"], one["message"].partition(":")[0]) for one in found]


@pytest.fixture
def stuck(any_pair: Pair) -> tuple[Pair, str]:
    """Give two networks where the second of three batches could not be read; what names begin with."""
    sender, receiver = any_pair.response, any_pair.request
    sender.do("seed")
    sender.do("export")
    for limit in (7, 8):
        sender.execute(f"UPDATE profile_type SET daily_limit = {limit}")
        sender.do("export")
    (first,) = (sender.home / "outgoing").glob("directory-*-0000000001.manifest.jsonl")
    stem = first.name.removesuffix("1.manifest.jsonl")
    any_pair.carry()
    (data,) = (one for one in (receiver.home / "incoming").glob(f"{stem}2.*") if "manifest" not in one.name)
    data.write_bytes(last_byte_changed(data.read_bytes()))
    receiver.run("import", EXCHANGE_SETTLE_SECONDS="0")
    return any_pair, stem


def test_doctor_ends_with_1_while_a_batch_blocks_its_channel_and_says_since_when_and_what_next(
    stuck: tuple[Pair, str],
) -> None:
    pair, stem = stuck
    receiver = pair.request
    assert receiver.run("doctor").code == 1
    assert receiver.run("health", "--only", "database", "--only", "folder").code == 0
    blocked, missing = findings(receiver, "batches")
    assert (blocked["level"], blocked["command"]) == ("fault", f"exchange quarantine show {stem}2")
    assert blocked["message"].startswith(f"batch {stem}2 of channel directory: quarantined: ")
    assert 0 <= blocked["age_seconds"] < 600
    assert (missing["level"], missing["command"]) == ("warning", "exchange gaps --channel directory")
    assert missing["message"] == "of channel directory 1 batch is missing, sequence 2"

    receiver.execute(f"UPDATE exchange_batch SET updated_at = '{LONG_AGO}'")
    receiver.execute(f"UPDATE exchange_gap SET noticed_at = '{LONG_AGO}'")
    assert said(findings(receiver, "batches")) == [
        ("fault", f"batch {stem}2 of channel directory"),
        ("fault", f"batch {stem}3 of channel directory"),
        ("fault", "of channel directory 1 batch is missing, sequence 2"),
    ]
    receiver.execute(f"UPDATE exchange_batch SET state = 'held', reason = 'deletes' WHERE stem = '{stem}3'")
    (held,) = (one for one in findings(receiver, "batches") if "held for a person" in one["message"])
    assert (held["level"], held["command"]) == ("fault", f"exchange batches show {stem}3")

    shown = receiver.run("doctor", COLUMNS="80").out.splitlines()
    assert f"         $ exchange quarantine show {stem}2" in shown
    assert all(len(line) <= 80 or " " not in line.strip() for line in shown)
    assert "since 2026-01-01 00:00:00Z" in "\n".join(shown)


def test_a_fault_of_one_check_keeps_no_other_from_looking(pair: Pair) -> None:
    side = pair.request
    (side.home / "keys/trusted/other.pem").write_text("no key")
    side.execute("ALTER TABLE exchange_agreement RENAME TO exchange_agreement_away")
    lines = side.run("doctor", "--json").lines
    faulty = {line["check"]: line["message"] for line in lines if line["level"] == "fault"}
    assert "other.pem" in faulty["keys"]
    assert "exchange_agreement" in faulty["agreement"]
    assert {line["check"] for line in lines} > {"database", "writes", "tables", "batches", "link"}


def test_the_last_error_of_a_channel_is_kept_until_it_is_done(any_pair: Pair) -> None:
    side = any_pair.request
    side.execute("ALTER TABLE exchange_gap RENAME TO exchange_gap_away")
    for _ in range(2):
        assert side.run("import").code == 1
    side.execute("ALTER TABLE exchange_gap_away RENAME TO exchange_gap")
    failed = [one for one in side.do("status", "--json").line["failed_runs"] if one["channel"] == "directory"]
    (found,) = failed
    assert (found["direction"], found["runs"]) == ("in", 2)
    assert "exchange_gap" in found["message"]
    assert "channel directory: 2 imports failed since" in side.do("status").err
    assert [one["level"] for one in findings(side, "runs")] == ["fault", "fault"]
    side.do("import")
    assert side.do("status", "--json").line["failed_runs"] == findings(side, "runs") == []


@pytest.mark.thorough
@pytest.mark.postgres
def test_doctor_tries_to_write_and_finds_a_sequence_behind_its_rows(tmp_path: Path, databases: Databases) -> None:
    side = paired(tmp_path, databases, "postgresql").response
    assert findings(side, "writes") == findings(side, "sequences") == []
    side.execute("INSERT INTO profile_type (id, name, daily_limit, priority) VALUES (70, 'own', 1, 1)")
    (behind,) = findings(side, "sequences")
    assert behind["level"] == "warning"
    assert "a row of profile_type has 70" in behind["message"]
    role = f"reader_{uuid.uuid4().hex[:8]}"
    side.execute(f"CREATE ROLE {role} LOGIN")
    try:
        side.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        (refused,) = findings(side, "writes", EXCHANGE_DATABASE_URL=side.database_url.replace("postgres@", f"{role}@"))
        assert refused["level"] == "fault"
        assert "permission denied" in refused["message"]
    finally:
        side.execute(f"DROP OWNED BY {role}")
        side.execute(f"DROP ROLE {role}")
    side.execute("ALTER TABLE profile_type RENAME TO other")
    assert [len(findings(side, check)) for check in ("tables", "sequences", "first start")] == [1, 0, 0]


@pytest.mark.same_on
def test_doctor_compares_received_tables_with_their_model(any_pair: Pair) -> None:
    side = any_pair.request
    sqlite = side.database_url.startswith("sqlite")
    assert findings(side, "columns") == []
    side.execute('ALTER TABLE "user" RENAME email TO mail')
    if sqlite:
        own = "CREATE TRIGGER own AFTER INSERT ON profile_type BEGIN UPDATE profile_type SET priority = 2; END"
        expected = ["triggers of table profile_type may change or drop rows that are received: own"]
    else:
        own = 'ALTER TABLE "user" ALTER name TYPE varchar(3)'
        expected = ["column name of table user is VARCHAR(3), and "]
    side.execute(own)
    expected += [
        "table user of stream user has no column email",
        "column mail of table user is NOT NULL without a default",
    ]
    found = {one["message"]: one["level"] for one in findings(side, "columns")}
    assert all(any(message.startswith(said) for message in found) for said in expected), found
    assert sorted(found.values())[:3] == ["fault", "fault", "warning"]
