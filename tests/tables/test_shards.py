"""Which shard a key falls to: always the same one, on both databases, and every key to exactly one."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels.channel import Channel, Shard
from exchange.channels.stream import Stream
from exchange.tables import capture
from tests.tables.lab import Lab

KEYS: list[tuple[sa.types.TypeEngine[Any], Any, str]] = [
    (sa.Integer(), 42, '{"id" : 42}'),
    (sa.BigInteger(), -(2**62), '{"id" : -4611686018427387904}'),
    (sa.Text(), 'é "quoted" \\ \t\u2028', '{"id" : "é \\"quoted\\" \\\\ \\t\u2028"}'),
    (sa.Text(), "", '{"id" : ""}'),
    (
        sa.Uuid(),
        uuid.UUID("6513270e-0000-4000-8000-00000000abcd"),
        '{"id" : "6513270e-0000-4000-8000-00000000abcd"}',
    ),
]


def pending_by_shard(lab: Lab, stream: Stream, of: int) -> list[int]:
    with lab.exporting() as connection:
        return [
            capture.pending(connection, [stream], shard=Shard(number, of, frozenset({stream.name})))
            for number in range(of)
        ]


@pytest.mark.parametrize("kind, value, text", KEYS, ids=lambda value: str(value)[:12])
def test_a_key_falls_to_the_same_shard_on_both_databases_and_for_ever(
    lab: Lab, kind: sa.types.TypeEngine[Any], value: Any, text: str
) -> None:
    table = sa.Table("item", sa.MetaData(), sa.Column("id", kind, primary_key=True, autoincrement=False))
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values(id=value))
    expected = hashlib.sha256(text.encode()).digest()[0] % 7
    assert pending_by_shard(lab, stream, 7) == [int(number == expected) for number in range(7)]


def test_a_key_of_two_columns_falls_to_the_same_shard_on_both_databases(lab: Lab) -> None:
    columns = (sa.Column(name, sa.Text, primary_key=True) for name in ("country", "code"))
    table = sa.Table("item", sa.MetaData(), *columns)
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values(country="at", code="7"))
    expected = hashlib.sha256(b'{"country" : "at", "code" : "7"}').digest()[0] % 5
    assert pending_by_shard(lab, stream, 5).index(1) == expected


def test_every_key_is_taken_by_one_shard_and_they_share_alike(lab: Lab) -> None:
    table = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": number} for number in range(900)]))
    assert all(250 < count < 350 for count in pending_by_shard(lab, stream, 3))
    taken: set[int] = set()
    for number in range(3):
        shard = Shard(number, 3, frozenset({"s0"}))
        more = True
        while more:
            with lab.exporting() as connection:
                found = capture.claim(connection, [stream], 70, shard)
                keys = {row[2] for some in capture.rows(connection, stream) for row in some}
            assert found.count == len(keys) <= 70
            assert taken.isdisjoint(keys)
            taken |= keys
            more = found.more_pending
    assert len(taken) == 900
    assert lab.noted() == []


def test_a_key_that_changes_again_stays_in_its_shard_and_becomes_one_record(lab: Lab) -> None:
    table = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": number, "n": 0} for number in range(60)]))
    lab.run(sa.update(table).values(n=1), sa.delete(table).where(table.c.id >= 50))
    found = []
    for number in range(2):
        with lab.exporting() as connection:
            capture.claim(connection, [stream], 7, Shard(number, 2, frozenset({"s0"})))
            found += [row[2] for some in capture.rows(connection, stream) for row in some]
    assert len(found) == len(set(found)) > 0


def test_streams_that_are_not_split_are_taken_by_the_first_shard_alone(lab: Lab) -> None:
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent", sa.ForeignKey("parent.id")),
    )
    free = sa.Table("free", metadata, sa.Column("id", sa.Integer, primary_key=True))
    streams = lab.create(parent, child, free)
    lab.run(*(sa.insert(table).values([{"id": number} for number in range(20)]) for table in (parent, child, free)))
    first, second = Channel("c", "here", "there", streams, shards=2).in_files()
    with lab.exporting() as connection:
        taken = [capture.claim(connection, streams, 100, part.shard).keys for part in (second, first)]
    assert taken[0].keys() == {"s2"}
    assert {name: taken[1][name] for name in ("s0", "s1")} == {"s0": 20, "s1": 20}
    assert taken[0]["s2"] + taken[1]["s2"] == 20
