"""Both networks as they run in life: what is dropped into a folder of one of them is in the other one's table."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

import exchange
from exchange.database.engine import make_engine
from exchange.database.locks import reading
from exchange.database.tables import IntakeState, dead_letter
from exchange.intake import standing
from exchange.operating import migrate
from exchange.operating.assemble import branches
from exchange.reference.models import ProfileType, User
from exchange.settings import Settings
from tests.databases import Databases
from tests.networks import NAMES, Network, two_networks, until

pytestmark = [pytest.mark.processes, pytest.mark.valkey, pytest.mark.thorough]

DECLARED = """
from exchange.channels.intake import Intake
from exchange.reference import channels
from exchange.reference.models import ProfileType, User

intakes = [
    Intake("profiles", stream=ProfileType, folder="drop/profiles", priority=1),
    Intake("users", stream=User, folder="drop/users", marker=".ok"),
]
"""

SETTINGS = {
    "EXCHANGE_APP": "people_files:channels",
    "EXCHANGE_SCHEMAS": str(Path(exchange.__file__).parents[1] / "schemas"),
    "EXCHANGE_SETTLE_SECONDS": "1",
    "EXCHANGE_INTAKE_PART_BYTES": "50000",
    **{f"EXCHANGE_{what}_EVERY": "1" for what in ("EXPORT", "IMPORT")},
}


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes import the declaration."""
    (tmp_path / "declared").mkdir(mode=0o755)
    (tmp_path / "declared" / "people_files.py").write_text(DECLARED)
    monkeypatch.syspath_prepend(tmp_path / "declared")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'declared'}:{Path(exchange.__file__).parents[1]}")


def prepared(urls: dict[str, str]) -> dict[str, str]:
    """Make the reference application's tables: its own declaration is not the one here."""
    for name, url in urls.items():
        engine = make_engine(url)
        migrate.upgrade(engine, branches(Settings(network=name, peer="other")), network=name)
        engine.dispose()
    return urls


def users_of(numbers: range) -> str:
    """Write users as CSV, without a header."""
    return "".join(f"{number},u{number},u{number}@example.org,1\n" for number in numbers)


def count(network: Network, table: type[User | ProfileType]) -> int:
    with reading(network.engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize("nudged", [False, True])
def test_a_csv_that_is_dropped_on_one_side_is_in_the_other_ones_table_with_letters_for_its_bad_rows(
    tmp_path: Path, declared: None, nudged: bool
) -> None:
    urls = prepared({name: f"sqlite:///{tmp_path}/{name}.db" for name in NAMES})
    more = {"EXCHANGE_NUDGE": "true"} if nudged else {"EXCHANGE_INTAKE_EVERY": "1"}
    with two_networks(tmp_path, urls, Path(sys.executable), **SETTINGS, **more) as networks:
        here, there = networks["response"], networks["request"]
        folder = here.home / "drop"
        (folder / "profiles" / "profiles.csv").write_text("id;name;daily_limit\n1;basic;10\n2;urgent;many\n3;slow;1\n")
        users = users_of(range(1, 5001))
        bad = "5001,,nobody@example.org,1\n5002,u1,twice@example.org,1\n5003,x\n"
        (folder / "users" / "users.csv").write_text(f"id,name,email,profile_type_id\n{users}{bad}")
        until(lambda: count(there, ProfileType) == 2, there.log.read_text)
        assert count(here, User) == 0  # it has no marker yet
        (folder / "users" / "users.csv.ok").touch()
        until(lambda: count(there, User) == 5000, here.log.read_text)
        until((folder / "users" / "done" / "users.csv").exists, here.log.read_text)
        with reading(here.engine) as connection:
            files = standing.list_files(connection)
            letters = connection.execute(
                sa.select(dead_letter.c.line, dead_letter.c.record).where(dead_letter.c.stream == "user")
            ).all()
        assert [(one.file, one.state, one.rows_parked) for one in files] == [
            ("users.csv", IntakeState.LOADED, 3),
            ("profiles.csv", IntakeState.LOADED, 1),
        ]
        assert files[0].parts > 1
        assert sorted((line, bytes(record)) for line, record in letters) == [
            (5002, b"5001,,nobody@example.org,1"),
            (5003, b"5002,u1,twice@example.org,1"),
            (5004, b"5003,x"),
        ]
        assert not (folder / "users" / "users.csv.ok").exists()
        shutil.copy(folder / "users" / "done" / "users.csv", folder / "users" / "again.csv")
        (folder / "users" / "again.csv.ok").touch()
        until((folder / "users" / "done" / "again.csv.txt").exists, here.log.read_text)
        listed = [json.loads(line) for line in here.exchange("files", "--json").splitlines()]
        assert [one["state"] for one in listed] == ["duplicate", "loaded", "loaded"]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_file_whose_workers_are_killed_again_and_again_is_loaded_once_and_whole(
    tmp_path: Path, declared: None, databases: Databases, kind: str
) -> None:
    there = f"sqlite:///{tmp_path}/there.db"
    urls = {
        "request": there,
        "response": databases.fresh(kind) if kind == "postgresql" else f"sqlite:///{tmp_path}/h.db",
    }
    rows = 100_000
    with two_networks(
        tmp_path, prepared(urls), Path(sys.executable), EXCHANGE_INTAKE_EVERY="1", **SETTINGS
    ) as networks:
        here = networks["response"]
        folder = here.home / "drop"
        (folder / "profiles" / "profiles.csv").write_text("id,name,daily_limit\n1,basic,10\n")
        until(lambda: count(here, ProfileType) == 1, here.log.read_text)
        (folder / "users" / "users.csv").write_text(f"id,name,email,profile_type_id\n{users_of(range(1, rows + 1))}")
        (folder / "users" / "users.csv.ok").touch()
        for share in (0.0, 0.2, 0.5):
            until(lambda share=share: count(here, User) > share * rows, here.log.read_text)  # type: ignore[misc]
            for child in here.child("worker").children():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        until((folder / "users" / "done" / "users.csv").exists, here.log.read_text)
        with reading(here.engine) as connection:
            file = standing.list_files(connection, states=[IntakeState.LOADED])[0]
        assert (file.file, file.rows_loaded, file.rows_parked, count(here, User)) == ("users.csv", rows, 0, rows)
        until(lambda: count(networks["request"], User) == rows, here.log.read_text)
