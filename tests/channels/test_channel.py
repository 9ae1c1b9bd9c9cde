"""A declaration of channels is ordered, or refused with every fault named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from exchange.channels.channel import Channel, ChannelFaults, check, load_channels
from exchange.channels.stream import Stream
from exchange.format.errors import RecordError
from exchange.operating.assemble import assemble
from exchange.settings import SettingsFaults, load_settings


def table(name: str, *columns: Any, metadata: MetaData | None = None, **options: Any) -> Table:
    key = Column("id", Integer, primary_key=True)
    return Table(name, metadata if metadata is not None else MetaData(), key, *columns, **options)


def channel(*streams: Stream, name: str = "orders", **options: Any) -> Channel:
    return Channel(name, "here", "there", streams, **options)


def faults(*channels: Channel) -> list[str]:
    with pytest.raises(ChannelFaults) as found:
        check(channels)
    return found.value.faults


def test_a_stream_carries_all_columns_but_its_own_databases_and_the_excluded_ones() -> None:
    stream = Stream(
        table(
            "t",
            Column("name", String(5)),
            Column("secret", String(5)),
            Column("twice", Integer, sa.Computed("id * 2")),
            Column("exchange_version", sa.BigInteger),
        ),
        exclude=["secret"],
    )
    check([channel(stream)])
    assert [column.name for column in stream.columns] == ["id", "name"]
    assert [column.name for column in stream.excluded] == ["secret"]
    assert list(stream.codecs) == ["id", "name"]
    assert stream.name == "t"


def test_columns_keep_the_tables_order() -> None:
    stream = Stream(table("t", Column("a", Integer), Column("b", Integer)), columns=["b", "id"])
    assert [column.name for column in stream.columns] == ["id", "b"]


def test_a_mapped_class_makes_a_stream_by_the_names_of_its_columns() -> None:
    class Base(DeclarativeBase):
        pass

    class Thing(Base):
        __tablename__ = "things"
        one: Mapped[int] = mapped_column("first", primary_key=True)
        two: Mapped[str] = mapped_column(String(3), primary_key=True)

    stream = Stream(Thing, name="thing")
    check([channel(stream)])
    assert [column.name for column in stream.key] == ["first", "two"]


def test_what_is_no_table_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="mapped class or a Table"):
        Stream(int)


def test_streams_come_parents_first_and_else_as_declared() -> None:
    metadata = MetaData()
    tables = {
        "child": table("child", Column("p", ForeignKey("parent.id")), metadata=metadata),
        "other": table("other", metadata=metadata),
        "parent": table(
            "parent", Column("up", ForeignKey("parent.id")), Column("r", ForeignKey("root.id")), metadata=metadata
        ),
        "root": table("root", metadata=metadata),
    }
    ordered = channel(*map(Stream, tables.values()))
    check([ordered])
    assert [stream.name for stream in ordered.streams] == ["other", "root", "parent", "child"]
    assert ordered.stream("root").table is tables["root"]
    with pytest.raises(KeyError):
        ordered.stream("nobody")


def test_a_reference_to_a_table_that_no_stream_of_the_channel_carries_orders_nothing() -> None:
    metadata = MetaData()
    table("elsewhere", metadata=metadata)
    check([channel(Stream(table("t", Column("e", ForeignKey("elsewhere.id")), metadata=metadata)))])


def circle(*, deferrable: bool | None) -> tuple[Stream, Stream]:
    metadata = MetaData()
    a = table("a", Column("b", ForeignKey("b.id")), metadata=metadata)
    b = table("b", Column("a", ForeignKey("a.id", deferrable=deferrable)), metadata=metadata)
    return Stream(a), Stream(b)


def test_a_cycle_of_foreign_keys_is_refused() -> None:
    assert faults(channel(*circle(deferrable=None))) == [
        (
            'channel "orders": the foreign keys of a, b form a cycle, so no order puts parents first;'
            " make one of them deferrable"
        )
    ]


def test_a_cycle_is_opened_at_a_deferrable_foreign_key() -> None:
    opened = channel(*circle(deferrable=True))
    check([opened])
    assert [stream.name for stream in opened.streams] == ["b", "a"]


def test_a_reference_that_does_not_cross_closes_no_cycle() -> None:
    metadata = MetaData()
    a = Stream(table("a", Column("b", ForeignKey("b.id")), metadata=metadata), exclude=["b"])
    b = Stream(table("b", Column("a", ForeignKey("a.id")), metadata=metadata))
    check([channel(a, b)])


def stream_faults() -> Iterator[tuple[Stream, str]]:
    yield Stream(table("t"), exclude=["nope"]), "exclude= names nope, which is no column of table t"
    yield Stream(table("t"), columns=["id", "nope"]), "columns= names nope, which is no column of table t"
    yield Stream(table("t"), sensitive=["nope"]), "sensitive= names nope, which is no column of table t"
    yield Stream(table("t"), exclude="id"), "exclude= takes a list of column names, found one text"
    yield Stream(Table("t", MetaData(), Column("x", Integer))), "table t has no primary key"
    yield (
        Stream(table("t", Column("x", Integer, nullable=False, default=5)), exclude=["x"]),
        "column x is left out, but it is NOT NULL and has no default in the receiving database",
    )
    yield Stream(table("t"), exclude=["id"]), "key column id is left out, but the receiver needs the whole key"
    yield Stream(table("t", Column("x", Integer)), columns=["x"]), "key column id is left out"
    yield Stream(table("t", Column("x", sa.ARRAY(sa.PickleType)))), "column x of type ARRAY"
    yield (
        Stream(Table("t", MetaData(), Column("x", sa.Float, primary_key=True))),
        "column x of type Float() can't cross: equal values of it may be written differently",
    )
    yield (
        Stream(Table("t", MetaData(), Column("id", Integer, sa.Identity(always=True), primary_key=True))),
        "column id is GENERATED ALWAYS AS IDENTITY",
    )
    yield (
        Stream(table("t", Column("x", Integer, sa.Computed("id"))), columns=["id", "x"]),
        "columns= names x, which each side's database computes itself",
    )
    yield (
        Stream(table("t", Column("exchange_version", Integer)), columns=["id", "exchange_version"]),
        "columns= names exchange_version, which is the exchange's own",
    )
    yield Stream(table("T")), "its name must be a lower-case letter"
    yield Stream(table("t"), name="../t"), "its name must be a lower-case letter"
    yield Stream(table("t"), name="_receipt"), "its name must be a lower-case letter"
    yield Stream(table("exchange_batch")), "exchange_batch is the exchange's own table"
    yield Stream(table("t", Column("x", Integer)), columns=["id"], exclude=["x"]), "give columns= or exclude=, not both"
    yield Stream(table("t"), schema_version=0), "schema_version must be a whole number from 1, found 0"
    yield Stream(table("t"), schema_version=True), "schema_version must be a whole number from 1, found True"
    yield (
        Stream(table("t"), schema_version=2, upgrades={2: dict}),
        "upgrades has a step from version 2, expected one from 1 to 1",
    )
    yield (
        Stream(table("t"), schema_version=3, upgrades={1: dict}),
        "upgrades has no step from version 2, so those before it lead nowhere",
    )
    nothing: Any = None
    yield Stream(table("t"), schema_version=2, upgrades={1: nothing}), "upgrades[1] is None, expected a function"


@pytest.mark.parametrize("stream, sentence", list(stream_faults()))
def test_a_wrong_stream_is_refused_in_a_sentence(stream: Stream, sentence: str) -> None:
    found = faults(channel(stream))
    assert any(sentence in fault and f'stream "{stream.name}"' in fault for fault in found), found


@pytest.mark.parametrize(
    "column",
    [
        Column("x", Integer, nullable=True),
        Column("x", Integer, nullable=False, server_default="5"),
        Column("x", Integer, sa.Identity(), nullable=False),
        Column("x", Integer, sa.Computed("id"), nullable=False),
    ],
)
def test_a_column_that_the_receiver_fills_itself_may_be_left_out(column: Column[Any]) -> None:
    check([channel(Stream(table("t", column), exclude=["x"]))])


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"name": "Orders"}, "its name must be a lower-case letter"),
        ({"name": "o" * 32}, "its name must be a lower-case letter"),
        ({"name": "orders\n"}, "its name must be a lower-case letter"),
        ({"name": "control"}, "the name is reserved"),
        ({"target": "here"}, 'source and target are both "here"'),
        ({"source": "Here!"}, 'source "Here!" is no network name'),
        (
            {"source": "plant-1"},
            'source "plant-1" is no network name, which must be a lower-case letter, then at most 30 letters, digits',
        ),
        ({"on_invalid": "ignore"}, "on_invalid must be park or reject, found 'ignore'"),
        ({"streams": []}, "it has no stream"),
    ],
)
def test_a_wrong_channel_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    right = {"name": "orders", "source": "here", "target": "there", "streams": [Stream(table("t"))]}
    found = faults(Channel(**{**right, **options}))
    assert len(found) == 1
    assert sentence in found[0]
    assert found[0].isprintable()


def test_a_name_or_a_table_belongs_to_one_stream_of_all_channels() -> None:
    metadata = MetaData()
    t, u = table("t", metadata=metadata), table("u", metadata=metadata)
    found = faults(
        channel(Stream(t), name="one"),
        channel(Stream(t, name="t2"), Stream(u, name="t"), name="two"),
        channel(Stream(u), name="two"),
    )
    assert found == [
        'channel "two": 2 channels have this name',
        'stream "t": more than one has this name (channel one, channel two)',
        "table t: it is in more than one stream (stream t of channel one, stream t2 of channel two)",
        "table u: it is in more than one stream (stream t of channel two, stream u of channel two)",
    ]


def test_all_faults_are_named_at_once() -> None:
    wrong = Stream(Table("t", MetaData(), Column("x", sa.PickleType)), exclude=["nope"], schema_version=-1)
    found = faults(Channel("X", "here", "here", [wrong]))
    assert len(found) == 6


def test_no_channel_at_all_is_a_fault() -> None:
    assert faults() == ["no channel is declared"]


def test_an_older_record_is_lifted_step_by_step_and_left_as_it_was() -> None:
    def split(data: dict[str, Any]) -> dict[str, Any]:
        data["first"], data["last"] = data.pop("name").split(" ")
        return data

    stream = Stream(table("t"), schema_version=3, upgrades={1: split, 2: lambda data: {**data, "active": True}})
    assert stream.oldest_version == 1
    old = {"id": 1, "name": "Ada Lovelace"}
    assert stream.upgrade(old, 1) == {"id": 1, "first": "Ada", "last": "Lovelace", "active": True}
    assert old == {"id": 1, "name": "Ada Lovelace"}
    assert stream.upgrade({"id": 1}, 3) == {"id": 1}
    with pytest.raises(RecordError, match="schema version 1 can't be lifted: its step failed: KeyError"):
        stream.upgrade({"id": 1}, 1)


def test_a_missing_step_or_one_that_gives_no_data_refuses_the_record() -> None:
    stream = Stream(table("t"), schema_version=3, upgrades={2: lambda _data: None})  # type: ignore[dict-item,return-value]
    assert stream.oldest_version == 2
    for version, words in ((1, "no upgrade step is declared"), (2, "its step gave no dict")):
        with pytest.raises(RecordError, match=words) as refused:
            stream.upgrade({}, version)
        assert (refused.value.error, refused.value.pointer) == ("upgrade", "/data")


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("nothing", "expected package.module:attribute"),
        ("a:b:c", "expected package.module:attribute"),
        (":b", "expected package.module:attribute"),
        ("no_such_module_here:channels", "importing no_such_module_here failed: ModuleNotFoundError"),
        ("json:channels", "module json has no channels"),
        ("json:loads", "expected a list of Channel objects, found <function"),
        ("declared_badly:channels", "no channel is declared"),
        ("fails_at_import:channels", "importing fails_at_import failed: ZeroDivisionError"),
    ],
)
def test_a_name_that_leads_to_no_channels_is_refused_in_one_sentence(
    spec: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "declared_badly.py").write_text("channels = []\n")
    (tmp_path / "fails_at_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ChannelFaults) as found:
        load_channels(spec)
    assert len(found.value.faults) == 1
    assert sentence in found.value.faults[0]


def test_channels_declared_in_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "declared_here.py").write_text(
        "import sqlalchemy as sa\n"
        "from exchange.channels import Channel, Stream\n"
        "t = sa.Table('t', sa.MetaData(), sa.Column('id', sa.Integer, primary_key=True))\n"
        "channels = [Channel('orders', 'here', 'there', [Stream(t)])]\n"
    )
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    monkeypatch.chdir(tmp_path)
    (found,) = load_channels("declared_here:channels")
    assert found.name == "orders"


def test_a_channel_in_shards_is_so_many_channels_in_the_files() -> None:
    declared = channel(Stream(table("t")), shards=3)
    check([declared])
    assert [part.name for part in declared.in_files()] == ["orders_0", "orders_1", "orders_2"]
    assert all(part.declared == "orders" and part.called("orders") for part in declared.in_files())
    assert declared.in_files()[1].called("orders_1")
    assert not declared.in_files()[1].called("orders_2")
    (whole,) = channel(Stream(table("t"))).in_files()
    assert (whole.name, whole.shard) == ("orders", None)


def split(*streams: Stream) -> frozenset[str]:
    part = channel(*streams, shards=2).in_files()[0]
    assert part.shard is not None
    return part.shard.split


def test_streams_linked_by_foreign_keys_and_rows_with_rivals_are_not_split() -> None:
    metadata = MetaData()
    elsewhere = table("elsewhere", metadata=metadata)
    streams = [
        Stream(table("parent", metadata=metadata)),
        Stream(table("child", Column("p", ForeignKey("parent.id")), metadata=metadata)),
        Stream(table("tree", Column("p", ForeignKey("tree.id")), metadata=metadata)),
        Stream(table("named", Column("name", Integer, unique=True), metadata=metadata)),
        Stream(table("indexed", Column("name", String), sa.Index("i", "name", unique=True), metadata=metadata)),
        Stream(table("folded", sa.Index("j", sa.text("lower(id)"), unique=True), metadata=metadata)),
        Stream(table("kept", Column("p", ForeignKey("parent.id")), metadata=metadata), exclude=["p"]),
        Stream(table("free", Column("p", ForeignKey("elsewhere.id")), metadata=metadata)),
        Stream(table("harmless", Column("a", Integer, index=True), sa.UniqueConstraint("a", "id"), metadata=metadata)),
    ]
    assert elsewhere.name not in {stream.name for stream in streams}
    assert split(*streams) == {"free", "harmless"}


@pytest.mark.parametrize("wrong", [0, -1, 65, 2.0, "2", True, None])
def test_shards_that_are_no_number_from_1_to_64_are_refused(wrong: Any) -> None:
    (fault,) = faults(channel(Stream(table("t")), shards=wrong))
    assert fault == (
        f'channel "orders": shards must be a whole number from 1 to 64, found {wrong!r}: keys fall into 256 parts by'
        " their hash, and more shards would share them unevenly"
    )


def test_a_channel_of_which_nothing_could_be_split_has_no_shards() -> None:
    metadata = MetaData()
    parent, child = (
        Stream(table("parent", metadata=metadata)),
        Stream(table("child", Column("p", ForeignKey("parent.id")), metadata=metadata)),
    )
    (fault,) = faults(channel(parent, child, shards=2))
    assert fault == (
        'channel "orders": shards=2 would split nothing, for the rows of parent, child keep an order among each'
        " other (foreign keys within the channel, or unique values beside the key); leave shards out"
    )


def test_the_names_of_shards_must_be_names_and_nobody_elses() -> None:
    (fault,) = faults(channel(Stream(table("t")), name="a" * 29, shards=11))
    assert (
        fault
        == f'channel "{"a" * 29}": its last shard would be called {"a" * 29}_10, and a name has at most 31 characters'
    )
    (fault,) = faults(channel(Stream(table("t")), shards=2), channel(Stream(table("u")), name="orders_1"))
    assert fault == 'channel "orders_1": a shard of orders and another channel both have this name'


def test_a_side_on_sqlite_does_not_start_with_a_column_that_it_can_not_have(tmp_path: Path) -> None:
    computed = [Column("words", postgresql.TSVECTOR()), Column("twice", Integer, sa.Computed("1"))]
    stream = Stream(table("t", Column("host", postgresql.INET()), *computed))
    channels = [Channel("c", "here", "there", [stream])]
    given = {"network": "here", "peer": "there", "home": str(tmp_path)}

    with pytest.raises(SettingsFaults) as refused:
        assemble(load_settings(given), keyless=True, channels=channels)
    (fault,) = refused.value.faults
    assert fault == (
        'EXCHANGE_APP: stream "t": column host of type INET() can\'t be had on SQLite: give it'
        ' .with_variant(sqlalchemy.String(), "sqlite"), or leave it out'
    )
    assemble(
        load_settings(given | {"database_url": "postgresql://nobody@localhost/none"}), keyless=True, channels=channels
    ).engine.dispose()
    assert ([c.name for c in stream.columns], [c.name for c in stream.computed]) == (["id", "host"], ["words", "twice"])
