"""A model that changed under its schema version is found out, and what the other side does not read waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.database.locks import reading
from exchange.database.tables import schema
from exchange.link import known_schemas
from exchange.link.peer_state import read_peer_state
from exchange.outgoing import control_batch
from tests.crossing.sides import Link, Side
from tests.databases import Databases

metadata = sa.MetaData()
item = sa.Table(
    "item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20), nullable=False)
)
price = sa.Table("price", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("cents", sa.Integer))
CHANNELS = (Channel("stock", "one", "two", [Stream(item), Stream(price)]),)


def grown(*columns: sa.Column[Any], **options: Any) -> tuple[Channel, ...]:
    """Declare the same with another model of item."""
    table = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
    return (Channel("stock", "one", "two", [Stream(table, **options), Stream(price)]),)


def wider() -> list[sa.Column[Any]]:
    return [sa.Column("name", sa.String(20), nullable=False), sa.Column("size", sa.Integer)]


def with_size(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"size": 7}


def declare(side: Side, channels: tuple[Channel, ...]) -> None:
    """Have a side declare other channels."""
    checkers = {stream.name: Checker(stream) for channel in channels for stream in channel.streams}
    side.site = replace(side.site, channels=channels, checkers=checkers)


@pytest.fixture
def link(tmp_path: Path, databases: Databases) -> Iterator[Link]:
    one, two = (
        Side(name, peer, databases, "sqlite", tmp_path / name, CHANNELS, metadata=metadata)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    yield Link(one, two)
    for side in (one, two):
        side.engine.dispose()


def tell(link: Link) -> None:
    """Have the reading side say what it reads."""
    control_batch.publish_control_batch(link.other.site)
    link.back.carry()
    assert link.one.take_in().trouble is None


def test_a_model_that_changed_under_its_version_holds_up_its_own_stream_alone(link: Link) -> None:
    one, two = link.one, link.other
    one.execute(sa.insert(item), [{"id": 1, "name": "a"}])
    link.round()
    assert [row.stream for row in one.all(sa.select(schema))] == ["item", "price"]
    one.execute("ALTER TABLE item ADD COLUMN size INTEGER")
    one.execute(sa.insert(item), [{"id": 2, "name": "b"}])
    one.execute(sa.insert(price), [{"id": 1, "cents": 5}])

    declare(one, grown(*wider()))
    run = one.export()
    assert [batch.records for batch in run.batches] == [1]
    (fault,) = run.faults
    assert "stream item: its model changed, and its schema version is still 1: column size was added" in fault
    assert "`exchange schema --raise item`" in fault
    declare(
        one,
        grown(
            sa.Column("size", sa.Integer),
            sa.Column("name", sa.String(20), nullable=False, server_default="x"),
            sensitive=["name"],
        ),
    )
    assert "column size was added" in one.export().faults[0]

    declare(one, grown(*wider(), schema_version=2, upgrades={1: with_size}))
    assert one.export().faults == ()
    declare(one, CHANNELS)  # taken back: the first version is as it was
    assert one.export().faults == ()

    link.there.carry()
    declare(two, grown(sa.Column("name", sa.String(30))))
    waits = two.take_in().trouble
    assert (
        "its schema version is still 1: column name became nullable; column name has another maxLength: it was 20"
        in str(waits)
    )
    assert "its batches wait" in str(waits)
    declare(two, CHANNELS)
    assert two.take_in().trouble is None
    assert [row["id"] for row in two.rows(price)] == [1]


def test_a_person_takes_a_changed_model_as_it_is(link: Link) -> None:
    one = link.one
    one.export()
    declare(one, grown(sa.Column("title", sa.Text)))
    with one.engine.begin() as connection:
        said = known_schemas.accept_schema(one.site, connection, "item")
    assert said == ["column title was added", "column name is gone"]
    assert one.export().faults == ()


def test_what_the_other_side_does_not_read_waits_and_goes_when_it_does(link: Link) -> None:
    one, two = link.one, link.other
    tell(link)
    one.execute("ALTER TABLE item ADD COLUMN size INTEGER")
    declare(one, grown(*wider(), schema_version=2, upgrades={1: with_size}))
    one.execute(sa.insert(item), [{"id": 1, "name": "a"}])
    one.execute(sa.insert(price), [{"id": 1, "cents": 5}])
    run = one.export()
    assert [batch.records for batch in run.batches] == [1]
    assert run.faults == ()
    (caution,) = run.cautions
    assert "stream item is sent in schema version 2, and two reads it up to 1; its changes wait here" in caution
    with reading(one.engine) as connection:
        assert [one.message for one in read_peer_state(one.site, connection).unread] == [caution.partition("; upg")[0]]
    link.there.carry()
    assert two.take_in().trouble is None

    two.execute("ALTER TABLE item ADD COLUMN size INTEGER")
    declare(two, grown(*wider(), schema_version=2, upgrades={1: with_size}))
    two.take_in()
    assert control_batch.after_export(two.site) is None  # at once, though one went just now
    link.back.carry()
    one.take_in()
    assert [batch.records for batch in one.export().batches] == [1]
    link.there.carry()
    two.take_in()
    assert two.all(sa.text("SELECT id, name, size FROM item")) == [(1, "a", None)]  # type: ignore[arg-type]


def test_a_stream_or_channel_that_the_other_side_does_not_declare_waits(link: Link) -> None:
    one, two = link.one, link.other
    declare(two, (Channel("stock", "one", "two", [Stream(item)]),))
    tell(link)
    one.execute(sa.insert(item), [{"id": 1, "name": "a"}])
    one.execute(sa.insert(price), [{"id": 1, "cents": 5}])
    run = one.export()
    assert [batch.records for batch in run.batches] == [1]
    assert "stream price of channel stock: two reads no such stream; its changes wait here" in run.cautions[0]
    declare(two, (Channel("stock", "one", "two", [Stream(item, schema_version=3)]),))
    tell(link)
    cautions = one.export().cautions
    assert "stream item is sent in schema version 1, and two reads it from 3 on" in cautions[0]
    assert "stream price of channel stock: two reads no such stream" in cautions[1]
    with reading(one.engine) as connection:
        assert known_schemas.unread_streams(replace(one.site, one_way=True), connection) == {}
    declare(two, (Channel("stock", "one", "two", [Stream(item), grown_price()]),))
    tell(link)
    with reading(one.engine) as connection:
        (unlike,) = known_schemas.unlike_streams(one.site, connection)
    assert "stream price is of schema version 1 on both sides" in unlike.message


def grown_price() -> Stream:
    table = sa.Table("price", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("euro", sa.Float))
    return Stream(table)
