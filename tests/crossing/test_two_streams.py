"""Two declarations over one table: the channels concerned stand still with a sentence, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.operating.doctor import Level
from exchange.operating.doctor.quick import check_tables
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.databases import Databases

# What these show the databases have no say in.
pytestmark = pytest.mark.same_on("postgresql")

metadata = sa.MetaData()
item, other, back = (
    sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    for name in ("item", "other", "back")
)
channels = (
    Channel("items", "one", "two", [Stream(item)]),
    Channel("others", "one", "two", [Stream(other)]),
    Channel("backs", "two", "one", [Stream(back)]),
)
ALIAS = {"sqlite": ("ITEM", None), "postgresql": ("item", "public")}


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_a_table_of_two_streams_stops_those_alone(kind: str, tmp_path: Path, databases: Databases) -> None:
    one = Side("one", "two", databases, kind, tmp_path / "one", channels, metadata=metadata)
    two = Side("two", "one", databases, kind, tmp_path / "two", channels, metadata=metadata)
    link = Link(one, two)
    for table in (item, other):
        one.execute(sa.insert(table), [{"id": 1, "text": "a"}])
    assert one.export().trouble is None
    link.there.carry()
    name, schema = ALIAS[kind]
    alias = sa.Table(
        name, sa.MetaData(schema=schema), *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in item.c)
    )
    mirror = Channel("mirrors", "one", "two", [Stream(alias, name="mirror")])
    answer = Channel("answers", "two", "one", [Stream(alias, name="answer")])

    declare(two, (*channels, mirror))
    run = two.take_in()
    assert "channel items" in str(run.trouble)
    assert "of the streams item and mirror: each would undo what the other one did" in str(run.trouble)
    assert [one.channel for one in run.batches] == ["others"]
    declare(two, channels)
    assert [one.channel for one in two.take_in().batches] == ["items"]

    declare(one, (*channels, answer))
    one.execute(sa.insert(item), [{"id": 2, "text": "b"}])
    one.execute(sa.insert(other), [{"id": 2, "text": "b"}])
    exported = one.export()
    assert [batch.channel for batch in exported.batches] == ["others"]
    assert any("of the streams item and answer" in fault for fault in exported.faults)
    declare(one, (channels[1], channels[2], answer))  # item is captured by what another set-up declares
    assert "received as stream answer and sent as stream item" in str(one.take_in().trouble)
    assert [found.level for found in check_tables(None, one.site)] == [Level.FAULT]  # type: ignore[arg-type]
    for side in (one, two):
        side.engine.dispose()


def declare(side: Side, declared: tuple[Channel, ...]) -> None:
    """Have a side declare other channels."""
    checkers = {stream.name: Checker(stream) for channel in declared for stream in channel.streams}
    side.site = replace(side.site, channels=declared, checkers=checkers)
