"""``exchange adopt`` on an application that isn't ours."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from exchange.channels.channel import load_channels
from exchange.cli.app import app
from tests.adopting import laboratory
from tests.adopting.walk import walking
from tests.databases import Databases


def forget() -> None:
    """Have the application imported anew, as by another process."""
    for name in [one for one in sys.modules if one.partition(".")[0] in {laboratory.PACKAGE, "channels"}]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path
    forget()


def adopt(url: str, *words: str, code: int = 0, models: str = "lending.models:Base") -> list[dict[str, Any]]:
    """Run the command for a script; give what it printed."""
    forget()
    given = ("adopt", models, "--source", "plant", "--peer", "office", "--database", url, "--json", *words)
    done = CliRunner().invoke(app, given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def remarks(lines: list[dict[str, Any]], severity: str) -> dict[str, str]:
    """Give the remarks of a severity, by their places."""
    chosen = [one for one in lines if one["kind"] == "remark" and one["severity"] == severity]
    return {f"{one['table'] or ''}.{one['column'] or one['trigger'] or ''}": one["message"] for one in chosen}


def made(place: Path, url: str) -> None:
    """Make the laboratory application and its database, with a few rows."""
    laboratory.write_application(place, url)
    forget()
    laboratory.migrate(place, url)
    laboratory.fill(url, 500)


def change(url: str, *statements: str) -> None:
    """Do what the application's people did by hand."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def streams(place: Path) -> dict[str, list[str]]:
    """Give the streams of each channel that is declared."""
    assert (place / "lending" / "channels.py").exists()
    forget()
    return {one.name: [stream.name for stream in one.streams] for one in load_channels("lending.channels:channels")}


def test_an_application_is_adopted_by_two_files_and_again_by_what_is_new_alone(place: Path) -> None:
    url = f"sqlite:///{place / 'own.db'}"
    made(place, url)
    change(
        url,
        "UPDATE price_rule SET percent = 'a lot' WHERE price_rule_id = 3",
        "ALTER TABLE actor ADD COLUMN nick TEXT",
    )
    before = Path("own.db").read_bytes()
    files = set(place.rglob("*.py"))

    dry = adopt(url, "--dry-run")
    assert set(place.rglob("*.py")) == files
    assert remarks(dry, "stops").keys() == {"page_view."}
    loses = remarks(dry, "loses")
    assert "does not cross" in loses["actor.nick"]
    assert "1 of 5 rows can't cross: percent: expected" in loses["price_rule.percent"]
    assert "the first has the key 3" in loses["price_rule.percent"]
    assert {"film.title_length", "staff.password", "staff.store_id", "actor.touched_actor"} <= remarks(
        dry, "note"
    ).keys()

    lines = adopt(url, "--yes", "--exclude", "review")
    assert Path("own.db").read_bytes() == before
    new = set(place.rglob("*.py")) - files
    assert {str(path) for path in new} == {one["path"] for one in lines if one["kind"] == "file"}
    assert sum(one["kind"] == "command" and one["network"] == "office" for one in lines) == 4
    declared = streams(place)
    assert "page_view" not in str(declared)
    assert declared["price_rule"] == ["price_rule"]
    assert declared["film"].index("country") < declared["film"].index("city") < declared["film"].index("customer")
    (migration,) = (path for path in new if path.parent.name == "versions")
    assert 'op.install_capture("payment", source="plant")' in migration.read_text()
    assert 'op.pass_imports("actor", "touched_actor")' in migration.read_text()
    assert 'down_revision = "c3d2"' in migration.read_text().replace("'", '"')

    # Again, after a person edited the module, and with a table more.
    module = place / "lending" / "channels.py"
    module.write_text(module.read_text().replace("Stream(Actor),", "Stream(Actor, sensitive=['last_name']),  # mine"))
    edited = module.read_text()
    lines = adopt(url, "--yes")
    text = module.read_text()
    assert streams(place)["film"][-1] == "review" or "review" in streams(place)["film"]
    assert "# mine" in text
    assert [line for line in edited.splitlines() if line not in text.splitlines()] == []
    second = next(Path(one["path"]) for one in lines if one["kind"] == "file" and "versions" in one["path"])
    assert second.read_text().count("install_capture(") == 1
    assert f"down_revision = '{migration.name.partition('_')[0]}'" in second.read_text()
    adopt(url, "--yes")
    assert module.read_text() == text

    # And with a table less.
    models = place / "lending" / "models.py"
    models.write_text(models.read_text().replace("class PriceRule(Base)", "class Discount(Base)"))
    forget()
    said = CliRunner().invoke(app, ["adopt", "lending.models:Base", "--source", "plant", "--peer", "office", "--yes"])
    assert "PriceRule is in channels.py and not in the models any more" in said.output
    assert module.read_text() == text


@pytest.mark.thorough
@pytest.mark.postgres
def test_what_a_postgresql_has_is_said_beforehand(place: Path, databases: Databases) -> None:
    url = databases.fresh("postgresql")
    made(place, url)
    change(
        url,
        "UPDATE lending.customer SET create_date = 'infinity' WHERE customer_id = 4",
        "CREATE TABLE lending.category_more () INHERITS (lending.category)",
    )
    lines = adopt(url, "--yes")
    stops, loses, notes = (remarks(lines, severity) for severity in ("stops", "loses", "note"))
    assert "no primary key" in stops["lending.page_view."]
    assert "children by inheritance" in stops["lending.category."]
    assert "bigint" in loses["lending.price_rule."].lower()
    assert "does not cross" in loses["lending.price_rule.note"]
    assert "1 of 25 rows" in loses["lending.customer.create_date"]
    assert "refers to lending.category" in loses["lending.film_category."]
    assert "partitioned" in notes["lending.payment."] or "partitioned" in str(lines)
    assert "lending.film.found" in loses
    assert "lending.film.touched" in notes
    text = next(Path(one["path"]) for one in lines if one["kind"] == "file" and "versions" in one["path"]).read_text()
    assert 'op.install_capture("payment", source="plant", schema="lending")' in text
    assert "ALTER CONSTRAINT fk_staff_store_id_store DEFERRABLE" in text


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.parametrize(
    "database",
    [pytest.param("sqlite", marks=pytest.mark.torture), pytest.param("postgresql", marks=pytest.mark.postgres)],
)
def test_the_walk_through_takes_ten_commands_and_two_files(tmp_path: Path, database: str, forked_python: Path) -> None:
    hurry = {f"EXCHANGE_{what}": "1" for what in ("EXPORT_EVERY", "IMPORT_EVERY", "SETTLE_SECONDS")}
    with walking(database, 5_000, tmp_path, forked_python, **hurry) as walk:
        walked = walk.go()
    assert len(walked.commands) <= 10
    assert len(walked.files) == 2
    assert not walked.edited_by_hand
    assert {one.table: one for one in walked.compared if one.differ} == {}
