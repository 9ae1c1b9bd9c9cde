"""A channel in shards on the command line: the declared name means all of them, a shard's name one."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.database import make_engine
from exchange.tables import capture
from tests.cli.conftest import Pair, paired
from tests.databases import Databases

DECLARED = """
import sqlalchemy as sa
from exchange.channels import Channel, Stream
item = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
channels = [Channel("items", "request", "response", [Stream(item)], shards={shards})]
"""


@pytest.fixture
def sharded(tmp_path: Path, databases: Databases, _elsewhere: None) -> Pair:
    """Give two networks whose one channel is in two shards, with rows to send."""
    for shards in (1, 2):
        Path(f"in_{shards}.py").write_text(DECLARED.format(shards=shards))
    pair = paired(tmp_path, databases, "sqlite", "in_2:channels")
    for side in (pair.request, pair.response):
        engine = make_engine(side.database_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE item (id INTEGER PRIMARY KEY)")
            capture.add_version_column(connection, "item")
            if side is pair.request:
                capture.install(connection, "item")
        engine.dispose()
    pair.request.execute(
        "INSERT INTO item (id) WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n LIMIT 40) SELECT i FROM n"
    )
    return pair


def test_the_declared_name_means_all_shards_and_a_shards_name_one(sharded: Pair) -> None:
    sender, receiver = sharded.request, sharded.response
    status = sender.do("status", "--json").line["channels"]
    assert [one["channel"] for one in status] == ["items_0", "items_1"]
    assert sum(one["pending"] for one in status) == 40
    assert [line["channel"] for line in sender.do("export", "items_1", "--json").lines] == ["items_1"]
    assert [line["channel"] for line in sender.do("export", "items", "--json").lines] == ["items_0"]
    said = sender.refused("export", "item", code=2)
    assert "expected one that is sent here (items, items_0, items_1), found 'item'" in said
    sharded.carry()
    assert [line["channel"] for line in receiver.do("import", "items_0", "--json").lines] == ["items_0"]
    assert [line["channel"] for line in receiver.do("import", "items", "--json").lines] == ["items_1"]
    listed = receiver.do("batches", "--channel", "items", "--json").lines
    assert [line["channel"] for line in listed] == ["items_1", "items_0"]
    assert [line["channel"] for line in receiver.do("batches", "--channel", "items_1", "--json").lines] == ["items_1"]
    assert receiver.do("dead-letters", "list", "--channel", "items", "--json").lines == []


def test_the_doctor_says_that_the_two_sides_declare_different_numbers(sharded: Pair) -> None:
    found = sharded.response.run("doctor", "--json").lines
    assert [one["message"] for one in found if one["check"] == "channels"] == ["items (request to response, 2 shards)"]
    sharded.request.do("export")
    sharded.carry()
    sharded.response.environment["EXCHANGE_APP"] = "in_1:channels"
    sharded.response.do("import")
    (warning,) = (one for one in sharded.response.run("doctor", "--json").lines if one["check"] == "shards")
    assert warning["level"] == "warning"
    assert warning["message"] == (
        "request sends channel items in 2 shards, and this side declares 1: all is applied, but one after the other"
    )
    assert warning["remedy"] == "declare shards=2 here too, if several workers are to share it"
    assert "items_1" in {one["channel"] for one in sharded.response.do("status", "--json").line["channels"]}
