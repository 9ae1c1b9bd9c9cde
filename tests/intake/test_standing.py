"""What is told of files that people dropped: by doctor, with the alarm's name; and how long the ledger knows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels.intake import Intake
from exchange.database.engine import now
from exchange.database.tables import IntakeState, intake
from exchange.intake import folders, standing
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.operating.doctor.intake import check_intake, check_misplaced
from exchange.operating.prune import prune_expired
from exchange.operating.status import read_status
from exchange.settings import Settings
from exchange.site import Site
from tests.crossing import shop
from tests.crossing.sides import Side
from tests.databases import Databases
from tests.intake.ledger_rows import add_file


@pytest.fixture
def site(tmp_path: Path, databases: Databases) -> Iterator[Site]:
    side = Side("one", "two", databases, "sqlite", tmp_path / "home", shop.channels, metadata=shop.metadata)
    site = replace(side.site, intakes=(Intake("accounts", stream="account", folder="drop"),))
    assert folders.make_all(site, None, beyond=True) == []
    yield site
    side.engine.dispose()


def told(site: Site) -> list[tuple[Alarm | None, Level]]:
    return [(one.alarm, one.level) for one in findings(site)]


def findings(site: Site) -> list[Finding]:
    settings = Settings(network="one", peer="two", home=site.spool.folders.home)
    return [*check_misplaced(settings, site), *check_intake(settings, site)]


def test_a_refused_file_is_an_alarm_until_it_is_removed_or_a_later_one_of_its_name_is_loaded(site: Site) -> None:
    assert told(site) == [(None, Level.OK)]
    refused = site.spool.folders.home / "drop" / "refused"
    with site.engine.begin() as connection:
        for name in ("a.csv", "b.csv"):
            (refused / name).touch()
            add_file(connection, IntakeState.REFUSED, file=name, place=str(refused / name), message="it has no header")
    assert told(site) == [(Alarm.FILE_REFUSED, Level.FAULT)] * 2
    (one, _) = findings(site)
    assert "b.csv of intake people, dropped by ada, was refused: it has no header" in one.message
    assert (one.command, one.whose) == ("exchange files", "whoever dropped it's")
    (refused / "b.csv").unlink()
    with site.engine.begin() as connection:
        add_file(connection, IntakeState.LOADED, file="a.csv")
    assert told(site) == [(None, Level.OK)]
    assert [one.file for one in read_status(site).files_refused] == ["b.csv"]


def test_a_file_that_waits_or_fails_or_comes_no_further_is_late(site: Site) -> None:
    old = now() - timedelta(hours=2)
    cases: tuple[tuple[dict[str, Any], list[Level]], ...] = (
        ({"state": IntakeState.WAITING, "created_at": old}, [Level.WARNING]),
        ({"state": IntakeState.WAITING}, []),
        ({"state": IntakeState.LOADING, "created_at": old, "updated_at": old}, [Level.FAULT]),
        ({"state": IntakeState.LOADING, "attempts": 1, "message": "the disk is full"}, [Level.WARNING]),
        ({"state": IntakeState.LOADING, "attempts": 5, "message": "the disk is full"}, [Level.FAULT]),
    )
    for values, levels in cases:
        with site.engine.begin() as connection:
            connection.execute(sa.delete(intake))
            add_file(connection, **{"file": "a.csv", **values})
        expected: list[tuple[Alarm | None, Level]] = [(Alarm.FILE_LATE, level) for level in levels]
        assert told(site) == (expected or [(None, Level.OK)]), values


def test_a_folder_that_is_away_or_has_strange_things_in_it_is_told(site: Site) -> None:
    drop = site.spool.folders.home / "drop"
    (drop / "link.csv").symlink_to("elsewhere")
    (strange,) = findings(site)
    assert (strange.level, strange.alarm) == (Level.WARNING, None)
    assert "link.csv" in strange.message
    drop.rename(drop.with_name("away"))
    assert told(site) == [(Alarm.DROP_FOLDER, Level.FAULT)]
    odd = replace(site, intakes=(Intake("odd", stream="account", folder="keys/drop"),))
    assert (Alarm.DROP_FOLDER, Level.FAULT) in told(odd)


def test_the_ledger_speaks_of_a_file_for_as_long_as_retention_says(site: Site) -> None:
    done = site.spool.folders.home / "drop" / "done"
    (done / "a.csv").touch()
    old = now() - timedelta(days=100)
    with site.engine.begin() as connection:
        for state in (IntakeState.LOADED, IntakeState.REFUSED, IntakeState.LOADING):
            add_file(connection, state, file="a.csv", updated_at=old)
        assert standing.forget(connection, now() - timedelta(days=30)) == 2
        assert [one.state for one in standing.list_files(connection)] == [IntakeState.LOADING]
    assert prune_expired(site).files == 0
    assert (done / "a.csv").exists()
