"""A model that changed under its schema version, on the command line: refused, raised, or taken as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Side

MODULE = """import sqlalchemy as sa

from exchange.channels import Channel, Stream

metadata = sa.MetaData()
thing = sa.Table("thing", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String({})))
channels = [Channel("things", "response", "request", [Stream(thing)])]
"""


@pytest.fixture
def grown(side: Side, monkeypatch: pytest.MonkeyPatch) -> Side:
    """Give a side that remembers a model, and has another one now."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for number, length in enumerate((10, 20)):
        Path(f"thing_model_{number}.py").write_text(MODULE.format(length))
    side.environment["EXCHANGE_APP"] = "thing_model_0:channels"
    side.do("init")
    side.do("migrate")
    side.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY, name VARCHAR(20))")
    side.run("export")
    side.environment["EXCHANGE_APP"] = "thing_model_1:channels"
    return side


def test_a_changed_model_is_refused_and_raised_in_its_source(grown: Side) -> None:
    done = grown.run("export")
    assert done.code == 1
    assert (
        "column name has another maxLength: it was 10 and is 20; its changes wait; `exchange schema --raise thing`"
        in done.err
    )
    (found,) = [one for one in grown.run("doctor", "--json").lines if one["check"] == "schemas"]
    assert (found["level"], found["command"]) == ("fault", "exchange schema --raise thing")
    assert "nothing was written" in grown.refused("schema", "--raise", code=2)
    raised = grown.do("schema", "--raise", "thing", "--write", "schemas", "--yes", "--json").line
    assert (raised["stream"], raised["version"], raised["by_hand"]) == ("thing", 2, None)
    assert {str(Path(one).name) for one in raised["files"]} == {"1.json", "2.json"}
    assert '"maxLength": 10' in Path("schemas/streams/thing/1.json").read_text()
    source = Path("thing_model_1.py").read_text()
    assert "Stream(thing, schema_version=2, upgrades={1: thing_from_1})" in source
    del sys.modules["thing_model_1"]
    grown.do("schema", "--check", "schemas")
    assert "schema version" not in grown.run("export").err
    assert "as schema version 2 says" in grown.do("schema", "--raise", "thing").err
    del sys.modules["thing_model_1"]


def test_a_changed_model_of_which_nothing_crossed_is_taken_as_it_is(grown: Side) -> None:
    assert "name the streams" in grown.refused("schema", "--accept", code=2)
    assert grown.do("schema", "--accept", "thing", "--reason", "not in use yet", "--json").line["changes"]
    assert "schema version" not in grown.run("export").err
    assert grown.do("audit", "--json", "--limit", "2").lines[-1]["action"] == "accept_schema"
    for number in range(2):
        del sys.modules[f"thing_model_{number}"]
