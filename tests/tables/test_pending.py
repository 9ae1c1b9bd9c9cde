"""What the exporter gets out of the log, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from exchange.channels import Stream
from exchange.database import tables
from exchange.format.record import Op
from exchange.reference.models import Base, ProfileType
from exchange.tables import capture
from tests.tables.lab import Lab, deletes, items, upserts


def family(*more: Any) -> tuple[sa.Table, sa.Table]:
    """Declare parents and children."""
    metadata = sa.MetaData()
    parent = sa.Table("parent", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
    child = sa.Table(
        "child",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.ForeignKey("parent.id")),
        *more,
    )
    return parent, child


def test_changes_of_one_key_become_one_record_with_the_last_version_and_state(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": ""}]))
    for name in "xyz":
        lab.run(sa.update(table).values(name=name).where(table.c.id == 1))
    lab.run(sa.delete(table).where(table.c.id == 2))
    lab.run(sa.delete(table).where(table.c.id == 3), sa.insert(table).values(id=3, name="again"))
    with lab.exporting() as connection:
        before = capture.draw_version(connection)
        assert capture.claim(connection, [stream], 100) == capture.Claimed({"s0": 3}, more_pending=False)
        versions = [row[1] for row in everything(connection, stream)]
        assert before < min(versions)
        assert len({*versions}) == 3
        assert max(versions) < capture.draw_version(connection)
        assert upserts(connection, stream) == [{"id": 1, "name": "z"}, {"id": 3, "name": "again"}]
        assert deletes(connection, stream) == [{"id": 2}]
    assert lab.noted() == []


def test_what_is_taken_comes_back_if_the_exporter_fails(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values(id=1))
    before = lab.noted()
    with lab.engine.connect() as connection, connection.begin() as transaction:
        assert capture.claim(connection, [stream], 100).count == 1
        transaction.rollback()
    assert lab.noted() == before


def test_another_streams_changes_stay(lab: Lab) -> None:
    parent, child = family()
    first, second = lab.create(parent, child)
    lab.run(sa.insert(parent).values(id=1), sa.insert(child).values(id=1))
    with lab.exporting() as connection:
        assert capture.pending(connection, [first, second]) == 2
        assert capture.pending(connection, [first, second], limit=1) == 1
        assert capture.claim(connection, [second], 100).keys == {"s1": 1}
    assert lab.keys("s0") == {'{"id":1}'}


def test_a_batch_is_bounded_and_the_oldest_go_first(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n} for n in range(1, 8)]))
    seen = []
    for more in (True, True, False):
        with lab.exporting() as connection:
            assert capture.claim(connection, [stream], 3).more_pending is more
            seen += [row["id"] for row in upserts(connection, stream)]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_exactly_as_many_as_fit_leave_nothing_pending(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n} for n in range(3)]))
    with lab.exporting() as connection:
        assert not capture.claim(connection, [stream], 3).more_pending


def test_with_nothing_pending_nothing_is_taken(lab: Lab) -> None:
    (stream,) = lab.create(items())
    with lab.exporting() as connection:
        assert capture.claim(connection, [stream], 3) == capture.Claimed({}, more_pending=False)
        assert upserts(connection, stream) == []


def test_later_changes_of_a_taken_key_come_along(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n, "name": "a"} for n in range(1, 6)]))
    lab.run(sa.update(table).values(name="b").where(table.c.id == 1))
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 2)
        assert upserts(connection, stream) == [{"id": 2, "name": "a"}, {"id": 1, "name": "b"}]
    assert lab.keys() == {'{"id":3}', '{"id":4}', '{"id":5}'}


def test_pending_parents_of_taken_rows_come_along(lab: Lab) -> None:
    parent, child = family()
    streams = lab.create(parent, child)
    lab.run(sa.insert(child).values([{"id": 1}, {"id": 2}]))
    lab.run(sa.insert(parent).values([{"id": n} for n in range(1, 5)]))
    lab.run(sa.update(child).values(parent_id=4).where(child.c.id == 1))
    with lab.exporting() as connection:
        taken = capture.claim(connection, streams, 1)
        assert taken == capture.Claimed({"s0": 1, "s1": 1}, more_pending=True)
        assert upserts(connection, streams[0]) == [{"id": 4, "name": None}]
        assert upserts(connection, streams[1]) == [{"id": 1, "parent_id": 4}]


def test_a_row_deleted_later_waits_for_the_batch_in_which_it_goes(lab: Lab) -> None:
    parent, child = family()
    streams = lab.create(parent, child)
    lab.run(sa.insert(parent).values([{"id": 1}, {"id": 2}]), sa.insert(child).values(id=1, parent_id=1))
    with lab.exporting() as connection:
        capture.claim(connection, streams, 100)
    lab.run(sa.update(parent).values(name="x"))  # 1 and 2
    lab.run(sa.update(child).values(parent_id=2), sa.delete(parent).where(parent.c.id == 1))
    with lab.exporting() as connection:
        assert capture.claim(connection, streams, 1).more_pending
        # Parent 1 may not go before its child has left it; what is first to go is parent 2.
        assert deletes(connection, streams[0]) == []
        assert upserts(connection, streams[0]) == [{"id": 2, "name": "x"}]
    with lab.exporting() as connection:
        assert not capture.claim(connection, streams, 100).more_pending
        assert upserts(connection, streams[1]) == [{"id": 1, "parent_id": 2}]
        assert deletes(connection, streams[0]) == [{"id": 1}]


def test_children_come_after_their_parents_in_a_table_that_refers_to_itself(lab: Lab) -> None:
    table = sa.Table(
        "node",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("above", sa.ForeignKey("node.id")),
    )
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n, "above": None} for n in range(1, 7)]))
    above = {1: 2, 2: 3, 3: 4, 5: 6, 6: 5}  # a chain upwards, and a loop
    for node, parent in above.items():
        lab.run(sa.update(table).values(above=parent).where(table.c.id == node))
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 100)
        order = [row["id"] for row in upserts(connection, stream)]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    assert order.index(4) < order.index(3) < order.index(2) < order.index(1)


def test_a_table_that_refers_to_itself_twice_and_in_a_loop_is_ordered_in_time(lab: Lab) -> None:
    table = sa.Table(
        "node",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("left", sa.ForeignKey("node.id")),
        sa.Column("right", sa.ForeignKey("node.id")),
    )
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n} for n in range(1, 41)]))
    lab.run(sa.update(table).where(table.c.id < 40).values(left=table.c.id + 1))
    lab.run(sa.update(table).where(table.c.id < 39).values(right=table.c.id + 2))
    lab.run(sa.update(table).where(table.c.id == 30).values(right=10))
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 1000)
        order = [row["id"] for row in upserts(connection, stream)]
    assert sorted(order) == list(range(1, 41))
    assert order[:10] == list(range(40, 30, -1))


def everything(connection: Connection, stream: Stream) -> list[Any]:
    """Read all rows and deleted keys that were claimed of a stream."""
    readers = (capture.rows, capture.deleted_keys)
    return [row for reader in readers for some in reader(connection, stream) for row in some]


def record_places(connection: Connection, streams: tuple[Stream, ...]) -> list[tuple[str, int, Op, str]]:
    """Read a whole batch in its order."""
    found = [
        (stream.name, row[1], Op.UPSERT, row[0])
        for stream in streams
        for some in capture.rows(connection, stream)
        for row in some
    ]
    return found + [
        (stream.name, row[1], Op.DELETE, row[0])
        for stream in reversed(streams)
        for some in capture.deleted_keys(connection, stream)
        for row in some
    ]


@pytest.mark.parametrize("written", range(9))
def test_what_found_no_room_is_given_back_in_its_order_and_gets_greater_versions(lab: Lab, written: int) -> None:
    parent, child = family()
    streams = lab.create(parent, child)
    lab.run(
        sa.insert(parent).values([{"id": n} for n in range(1, 5)]),
        sa.insert(child).values([{"id": n, "parent_id": 1} for n in range(1, 5)]),
        sa.delete(child).where(child.c.id > 2),
        sa.delete(parent).where(parent.c.id > 2),
    )
    with lab.exporting() as connection:
        capture.claim(connection, streams, 100)
        places = record_places(connection, streams)
        last = capture.Reached(*places[written - 1][:3]) if written else None
        assert capture.give_back(connection, streams, last) == 8 - written
    with lab.exporting() as connection:
        capture.claim(connection, streams, 100)
        again = record_places(connection, streams)
    assert [(stream, op, key) for stream, _, op, key in again] == [(s, op, key) for s, _, op, key in places[written:]]
    assert all(version > max(place[1] for place in places) for _, version, _, _ in again)


def test_levels_count_when_the_rest_is_given_back(lab: Lab) -> None:
    table = sa.Table(
        "node",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("above", sa.ForeignKey("node.id")),
    )
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n} for n in range(1, 5)]))
    lab.run(sa.update(table).where(table.c.id < 4).values(above=table.c.id + 1))
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 100)
        places = record_places(connection, (stream,))
        capture.give_back(connection, [stream], capture.Reached(*places[1][:3]))
    assert lab.keys() == {'{"id":2}', '{"id":1}'}


def test_a_change_committed_late_with_an_early_id_is_not_lost(postgres_lab: Lab) -> None:
    table = items()
    (stream,) = postgres_lab.create(table)
    with postgres_lab.engine.connect() as late, late.begin() as transaction:
        late.execute(sa.insert(table).values(id=1))
        postgres_lab.run(sa.insert(table).values(id=2))
        with postgres_lab.exporting() as connection:
            capture.claim(connection, [stream], 100)
            assert [row["id"] for row in upserts(connection, stream)] == [2]
        transaction.commit()
    with postgres_lab.exporting() as connection:
        capture.claim(connection, [stream], 100)
        assert [row["id"] for row in upserts(connection, stream)] == [1]


def test_changes_at_one_place_in_the_order_are_claimed_together(lab: Lab) -> None:
    table = items()
    (stream,) = lab.create(table)
    lab.run(sa.insert(table).values([{"id": n} for n in range(1, 8)]))
    if lab.engine.dialect.name == "postgresql":
        lab.run("UPDATE exchange_change SET id = 5 WHERE (key::json ->> 'id')::integer < 5")
    seen = []
    while (left := len(lab.noted())) > 0:
        with lab.exporting() as connection:
            capture.claim(connection, [stream], 3)
            found = record_places(connection, (stream,))
            seen += [key for *_, key in found[:2]]
            capture.give_back(connection, [stream], capture.Reached(*found[:2][-1][:3]))
            kept = connection.scalar(sa.select(sa.func.count()).select_from(capture.CLAIMED))
            assert kept == len(found[:2])
        assert len(lab.noted()) < left
    assert len(seen) == len({*seen}) == 7


def test_changes_of_another_cluster_are_older_than_those_of_this_one(postgres_lab: Lab) -> None:
    parent, child = family()
    streams = postgres_lab.create(parent, child)
    postgres_lab.run(sa.insert(parent).values([{"id": 1}, {"id": 2}]), sa.insert(child).values(id=1, parent_id=1))
    postgres_lab.forget()
    postgres_lab.run(sa.update(child).values(parent_id=2), sa.update(parent).values(name="x").where(parent.c.id == 2))
    postgres_lab.run("UPDATE exchange_change SET id = id + 1000000000000000")
    postgres_lab.run(sa.delete(parent).where(parent.c.id == 1))
    with postgres_lab.exporting() as connection:
        capture.claim(connection, streams, 1)
        assert upserts(connection, streams[1]) == [{"id": 1, "parent_id": 2}]
        assert upserts(connection, streams[0]) == [{"id": 2, "name": "x"}]
    with postgres_lab.exporting() as connection:
        capture.claim(connection, streams, 1)
        assert deletes(connection, streams[0]) == [{"id": 1}]
    assert postgres_lab.noted() == []


def test_what_is_committed_while_the_exporter_reads_waits_for_the_next_batch(postgres_lab: Lab) -> None:
    table = items()
    (stream,) = postgres_lab.create(table)
    postgres_lab.run(sa.insert(table).values([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]))
    with postgres_lab.exporting() as connection:
        capture.claim(connection, [stream], 100)
        postgres_lab.run(
            sa.update(table).values(name="b").where(table.c.id == 1), sa.delete(table).where(table.c.id == 2)
        )
        assert upserts(connection, stream) == [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]
    with postgres_lab.exporting() as connection:
        capture.claim(connection, [stream], 100)
        assert upserts(connection, stream) == [{"id": 1, "name": "b"}]
        assert deletes(connection, stream) == [{"id": 2}]


def test_a_table_in_another_schema_is_taken(postgres_lab: Lab) -> None:
    table = sa.Table("order", sa.MetaData(schema="Other Place"), sa.Column("id", sa.Integer, primary_key=True))
    stream = Stream(table, name="orders")
    with postgres_lab.engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema("Other Place"))
        table.create(connection)
        capture.add_version_column(connection, "order", schema="Other Place")
        capture.install(connection, "order", stream="orders", schema="Other Place")
    postgres_lab.run(sa.insert(table).values([{"id": 1}, {"id": 2}]), sa.delete(table).where(table.c.id == 1))
    with postgres_lab.exporting() as connection:
        assert capture.check(connection, stream) == []
        capture.claim(connection, [stream], 100)
        assert upserts(connection, stream) == [{"id": 2}]
        assert deletes(connection, stream) == [{"id": 1}]


def test_orm_units_of_work_are_captured(lab: Lab) -> None:
    stream = Stream(ProfileType)
    with lab.engine.begin() as connection:
        Base.metadata.create_all(connection)
        capture.install(connection, "profile_type")
    with Session(lab.engine) as session:
        session.add(ProfileType(name="student", daily_limit=3))
        session.commit()
    with lab.exporting() as connection:
        capture.claim(connection, [stream], 10)
        (row,) = upserts(connection, stream)
    assert row["name"] == "student"


def test_taken_rows_are_found_by_their_tables_own_index(sqlite_lab: Lab) -> None:
    table = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True))
    (stream,) = sqlite_lab.create(table)
    selects: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        selects.append(statement)

    sa.event.listen(sqlite_lab.engine, "before_cursor_execute", note)
    with sqlite_lab.exporting() as connection:
        capture.claim(connection, [stream], 10)
        upserts(connection, stream)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {selects[-1]}", ("s0",)).all()
    assert any("SEARCH item USING" in row.detail for row in plan)


def test_a_log_believed_to_be_empty_is_still_taken_fast(postgres_lab: Lab) -> None:
    table = items()
    (stream,) = postgres_lab.create(table)
    postgres_lab.run("INSERT INTO item SELECT n, '' FROM generate_series(1, 20000) n", sa.delete(tables.change))
    postgres_lab.run(sa.insert(table).values(id=0, name=""))
    with postgres_lab.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM exchange_change")
    for name in "ab":
        postgres_lab.run(sa.update(table).values(name=name))
    with postgres_lab.exporting() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '20s'")
        assert capture.claim(connection, [stream], 10_000).more_pending
        assert len(upserts(connection, stream)) > 1


@pytest.mark.parametrize("there, whole", [(1_500, True), (15_000, False)])
def test_a_good_part_of_a_table_is_read_as_a_whole_and_in_the_same_order(
    postgres_lab: Lab, there: int, whole: bool
) -> None:
    table = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Text))
    (stream,) = postgres_lab.create(table)
    postgres_lab.run(f"INSERT INTO thing SELECT n, 'some ' || n FROM generate_series(1, {there}) n")
    postgres_lab.forget()
    postgres_lab.run("UPDATE thing SET x = 'other' WHERE id <= 1500 AND id % 2 = 0", "ANALYZE thing")
    postgres_lab.run("UPDATE thing SET x = 'another' WHERE id <= 1500 AND id % 2 = 1")
    with postgres_lab.exporting() as connection:
        keys = capture.claim(connection, [stream], 100_000).keys["s0"]
        assert keys == 1_500
        by_key = [row for some in capture.rows(connection, stream) for row in some]
        scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'thing'"
        before = connection.scalar(sa.text(scans))
        assert [row for some in capture.rows(connection, stream, keys) for row in some] == by_key
        assert (connection.scalar(sa.text(scans)) > before) is whole
    versions = [row[1] for row in by_key]
    assert versions == sorted(versions)
    assert [row[2] for row in by_key[:2]] == [2, 4]
