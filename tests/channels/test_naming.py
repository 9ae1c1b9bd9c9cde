"""Models of every kind are streams, their columns by the names of table, model or files; else a sentence says why."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, Text
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    deferred,
    mapped_column,
    registry,
    synonym,
)

from exchange.channels.channel import Channel, ChannelFaults, at_network, check
from exchange.channels.schemas import stream_schema
from exchange.channels.stream import Stream


class Base(DeclarativeBase):
    metadata = MetaData(schema="stock")


class Numbered:
    """What models share."""

    number: Mapped[int] = mapped_column("Item No", primary_key=True)


class Item(Numbered, Base):
    __tablename__ = "item"
    __table_args__ = (sa.UniqueConstraint("label"), {"schema": "shop"})
    name: Mapped[str] = mapped_column("label", Text)
    secret: Mapped[str] = mapped_column(Text, key="hidden")
    notes: Mapped[str | None] = deferred(mapped_column(Text))
    title = synonym("name")
    shouted = column_property(sa.func.upper(sa.column("label")))


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 - SQLAlchemy's way


class Manager(Person):
    __tablename__ = "manager"
    id: Mapped[int] = mapped_column(ForeignKey("stock.person.id"), primary_key=True)
    grade: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Guest(Person):
    room: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "guest"}  # noqa: RUF012


class Animal(ConcreteBase, Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "animal", "concrete": True}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(primary_key=True)
    barks: Mapped[bool]
    __mapper_args__ = {"polymorphic_identity": "dog", "concrete": True}  # noqa: RUF012


def channel(*streams: Stream, **options: Any) -> Channel:
    return Channel("goods", "plant", "office", streams, **options)


def faults(*streams: Stream) -> list[str]:
    with pytest.raises(ChannelFaults) as found:
        check([channel(*streams)])
    return found.value.faults


def test_columns_are_called_in_files_as_it_is_said_and_may_be_named_in_every_way() -> None:
    stream = Stream(
        Item,
        columns={"number": "id", "label": "größe \"x\" 'y'"},
        exclude=["notes"],
        sensitive=["hidden", "größe \"x\" 'y'"],
    )
    check([channel(stream)])
    assert stream.names == ("größe \"x\" 'y'", "secret", "id")
    assert stream.key_names == ("id",)
    assert stream.sensitive == {"größe \"x\" 'y'", "label", "secret"}
    schema = stream_schema(stream)
    assert schema["required"] == [*stream.names]
    assert [*schema["$defs"]["key"]["properties"]] == ["id"]
    assert Stream(Item, columns=["number", "name", "hidden"]).names == ("label", "secret", "Item No")


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            {"columns": {"label": "secret"}},
            "columns label and secret are both called secret in files; call one otherwise",
        ),
        (
            {"columns": {"label": "secret", "secret": "label"}, "sensitive": ["label"]},
            "sensitive= names label, which may mean the columns label and secret",
        ),
        ({"columns": {"title": "t"}}, "columns= names title, which is no column of table item"),
        ({"columns": {"label": ""}}, "columns= calls column label '' in files, expected a name of 1 to 63 bytes"),
        (
            {"columns": {"label": "ü" * 32}},
            f"columns= calls column label '{'ü' * 32}' in files, expected a name of 1 to 63 bytes",
        ),
        ({"exclude": ["shouted"]}, "exclude= names shouted, which is no column of table item"),
        (
            {"table": "a.b.c"},
            "table= names 'a.b.c', which is no table",
        ),
    ],
)
def test_names_that_can_not_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    (fault,) = faults(Stream(Item, **options))
    assert fault.startswith(f'stream "item": {sentence}')


def test_a_column_called_as_another_one_that_stays_at_home_is_no_twin() -> None:
    stream = Stream(Item, columns={"label": "notes"}, exclude=["notes"])
    check([channel(stream)])
    assert stream.names == ("notes", "secret", "Item No")


def test_models_that_inherit_cross_by_their_tables_or_are_refused() -> None:
    both = channel(Stream(Manager), Stream(Person))
    check([both])
    assert [stream.name for stream in both.streams] == ["person", "manager"]
    check([channel(Stream(Dog), Stream(Animal))])
    (some,) = faults(Stream(Guest, name="guest"))
    assert some.startswith('stream "guest": Guest has no table of its own but is some rows of that of Person, and a')
    (half,) = faults(Stream(Manager))
    assert half.startswith('stream "manager": the other half of each of its rows is in table stock.person, from which')


def test_tables_that_are_mapped_by_hand_or_reflected_cross() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE part (b integer NOT NULL, "A b" text NOT NULL, c numeric(6, 2), PRIMARY KEY ("A b", b))'
        )
        connection.exec_driver_sql(
            'CREATE TABLE use (id integer PRIMARY KEY, b int, a text, FOREIGN KEY (a, b) REFERENCES part ("A b", b))'
        )
        connection.exec_driver_sql("CREATE VIEW seen AS SELECT * FROM part")
        reflected = Table("use", MetaData(), autoload_with=connection)
        view = Table("seen", MetaData(), autoload_with=connection)
        found: Any = automap_base()
        found.prepare(autoload_with=connection)

    class Part:
        pass

    registry().map_imperatively(Part, reflected.metadata.tables["part"])
    by_hand = channel(Stream(reflected), Stream(Part))
    check([by_hand])
    assert [stream.name for stream in by_hand.streams] == ["part", "use"]
    assert by_hand.streams[0].key_names == ("A b", "b")
    automatic = channel(Stream(found.classes.use), Stream(found.classes.part))
    check([automatic])
    assert [*map(stream_schema, automatic.streams)] == [*map(stream_schema, by_hand.streams)]
    (fault,) = faults(Stream(view))
    assert "has no primary key" in fault


def test_tables_are_found_under_the_names_of_a_network_and_refer_to_each_other_there() -> None:
    metadata = MetaData()
    item = Table(
        "item", metadata, Column("no", Integer, primary_key=True, key="id"), Column("of", ForeignKey("item.id"))
    )
    line = Table("line", metadata, Column("id", Integer, primary_key=True), Column("item", ForeignKey("item.id")))
    places: dict[str, Any] = {"plant": "stock.Item", "office": sa.table("a.b", schema="c.d")}
    streams = [Stream(line), Stream(item, table=places)]
    tenants = [Stream(line, name="line_2", table="two.line"), Stream(item, name="item_2", table="two.item")]
    declared = (channel(*streams), Channel("second", "plant", "office", tenants))
    check(declared)
    for network, key, schema in (("plant", "stock.Item", "stock"), ("office", "c.d.a.b", "c.d")):
        (first, second) = at_network(declared, network)
        assert [(one.table.schema, one.table.key) for one in first.streams] == [(schema, key), (None, "line")]
        assert first.streams[1].parents() == {key: False}
        assert {one.elements[0].target_table_key for one in first.streams[0].table.foreign_key_constraints} == {key}
        assert second.streams[1].parents() == {"two.item": False}
        assert at_network((first, second), network) == (first, second)
    assert declared[0].streams[0].table is item


def test_a_place_is_of_the_channels_networks_and_of_one_stream() -> None:
    item = Table("item", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(3)))
    assert faults(Stream(item, table={"elsewhere": "x", "plant": "y"})) == [
        'channel "goods": table= of stream item names elsewhere, which is neither of its networks'
    ]
    assert faults(Stream(item), Stream(item, name="twin", table={"plant": "twin"})) == [
        "table item: it is in more than one stream (stream item of channel goods, stream twin of channel goods)"
    ]
