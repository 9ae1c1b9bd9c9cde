"""What an exporter can't see, or sees otherwise than it is: it is said, and only its own stream stands still."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.database.engine import make_engine
from exchange.database.tables import dead_letter
from exchange.format.errors import TransientError
from exchange.link import send_requests
from exchange.tables import capture
from tests.crossing.sides import Link, Side
from tests.databases import Databases

metadata = sa.MetaData()

item, other = (
    sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    for name in ("item", "other")
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("month", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text),
    postgresql_partition_by="RANGE (month)",
)

channels = (
    Channel("items", "one", "two", [Stream(item), Stream(event)]),
    Channel("others", "one", "two", [Stream(other)]),
)


def linked(tmp_path: Path, databases: Databases, kind: str) -> Iterator[Link]:
    """Make two networks with these tables."""
    one = Side("one", "two", databases, kind, tmp_path / "one", channels, metadata=metadata)
    two = Side("two", "one", databases, kind, tmp_path / "two", channels, metadata=metadata)
    yield Link(one, two)
    one.engine.dispose()
    two.engine.dispose()


@pytest.fixture
def on_postgresql(tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give both on PostgreSQL."""
    yield from linked(tmp_path, databases, "postgresql")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def link(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give both on one kind of database, each kind in turn."""
    yield from linked(tmp_path, databases, request.param)


@pytest.fixture
def as_clerk(on_postgresql: Link) -> Iterator[Callable[[Side], Side]]:
    """Let a side work as a role that is no superuser, and owns what is in its database."""
    role = f"clerk_{uuid.uuid4().hex[:8]}"
    on_postgresql.one.execute(f"CREATE ROLE {role} LOGIN")
    lent: list[Side] = []

    def change(side: Side) -> Side:
        with side.engine.begin() as connection:
            connection.execute(sa.text(f"GRANT ALL ON SCHEMA public TO {role}"))
            tables = connection.scalars(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
            for name in tables:
                connection.execute(sa.text(f"ALTER TABLE {name} OWNER TO {role}"))
        clerk = copy.copy(side)
        clerk.site = replace(
            side.site, engine=make_engine(side.engine.url.set(username=role).render_as_string(hide_password=False))
        )
        lent.extend((side, clerk))
        return clerk

    yield change
    for side, clerk in zip(lent[::2], lent[1::2], strict=True):
        clerk.engine.dispose()
        side.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
        side.execute(f"DROP OWNED BY {role}")
    on_postgresql.one.execute(f"DROP ROLE {role}")


@pytest.mark.postgres
def test_rows_that_the_exporting_role_may_not_see_are_never_taken_for_deleted(
    on_postgresql: Link, as_clerk: Callable[[Side], Side]
) -> None:
    link = on_postgresql
    for table in (item, other):
        link.one.execute(sa.insert(table), [{"id": number, "text": "seen"} for number in (1, 2)])
    link.round()
    clerk = as_clerk(link.one)
    link.one.execute("ALTER TABLE item ENABLE ROW LEVEL SECURITY")
    link.one.execute("CREATE POLICY mine ON item USING (text <> 'hidden')")
    clerk.execute(sa.update(other).values(text="changed"))
    clerk.execute(sa.update(item).values(text="hidden").where(item.c.id == 1))
    assert clerk.export().faults == ()  # it owns the table
    link.one.execute("ALTER TABLE item FORCE ROW LEVEL SECURITY")
    link.one.execute(sa.update(item).values(text="hidden").where(item.c.id == 1))
    clerk.execute(sa.update(other).values(text="changed again"))
    send_requests.add_snapshot_requests(clerk.site, "items", ["item"])
    run = clerk.export()
    [fault] = run.faults
    assert "row-level security hides rows of table" in fault
    assert "BYPASSRLS" in fault
    assert [one.channel for one in run.batches] == ["others"]
    link.there.carry()
    assert {one.records.applied for one in link.other.take_in().batches} == {1, 2}
    assert [row["id"] for row in link.other.rows(item)] == [1, 2]
    link.one.execute("ALTER TABLE item NO FORCE ROW LEVEL SECURITY")
    run = clerk.export()
    assert (run.faults, [one.channel for one in run.batches]) == ((), ["items"] * 2)
    link.there.carry()
    link.other.take_in()
    assert link.other.rows(item) == link.one.rows(item)


@pytest.mark.postgres
def test_a_receiving_role_under_row_level_security_is_told_so(
    on_postgresql: Link, as_clerk: Callable[[Side], Side]
) -> None:
    link = on_postgresql
    link.one.execute(sa.insert(item), [{"id": number, "text": "mine"} for number in (1, 2)])
    link.one.execute(sa.insert(other), {"id": 1})
    link.one.export()
    link.there.carry()
    clerk = as_clerk(link.other)
    link.other.execute("ALTER TABLE item ENABLE ROW LEVEL SECURITY")
    link.other.execute("ALTER TABLE item FORCE ROW LEVEL SECURITY")
    link.other.execute("CREATE POLICY mine ON item USING (text <> 'mine')")
    run = clerk.take_in()
    assert "row-level security" in str(run)
    assert [one.channel for one in run.batches if one.records.applied] == ["others"]
    with clerk.engine.connect() as connection:
        [problem] = capture.check(connection, channels[0].stream("item"), captured=False)
    assert problem.stops
    link.other.execute(f"ALTER ROLE {clerk.engine.url.username} BYPASSRLS")
    assert [one.records.applied for one in clerk.take_in().batches] == [2]


def made_anew(table: sa.Table) -> list[str]:
    """Say how Alembic's batch mode changes a table."""
    return [
        f"CREATE TABLE anew AS SELECT * FROM {table.name} WHERE 1 = 0",
        f"INSERT INTO anew SELECT * FROM {table.name}",
        f"DROP TABLE {table.name}",
        f"ALTER TABLE anew RENAME TO {table.name}",
    ]


def test_a_table_that_lost_its_triggers_is_named_and_the_others_go_on(link: Link) -> None:
    for table in (item, other):
        link.one.execute(sa.insert(table), {"id": 1})
    link.round()
    for statement in [*made_anew(item), "DROP TABLE event"]:
        link.one.execute(statement)
    for table in (item, other):
        link.one.execute(sa.insert(table), {"id": 2})
    with pytest.raises(TransientError, match="table event of stream event does not exist"):
        link.one.seal(channels[0])
    run = link.one.export()
    gone, fault = sorted(run.faults)
    assert "table event of stream event does not exist" in gone
    assert "table item is not captured" in fault
    assert "op.install_capture('item')" in fault
    assert "`exchange resync`" in fault
    assert [one.channel for one in run.batches] == ["others"]
    with link.one.engine.begin() as connection:
        capture.install(connection, "item", ["id"])
    send_requests.add_snapshot_requests(link.one.site, "items", ["item"])
    assert link.one.export().faults == (gone,)
    link.there.carry()
    link.other.take_in()
    assert [row["id"] for row in link.other.rows(item)] == [1, 2]


@pytest.mark.postgres
def test_triggers_that_do_not_fire_are_said(on_postgresql: Link) -> None:
    side = on_postgresql.one
    side.execute("ALTER TABLE item DISABLE TRIGGER ALL")
    assert "its triggers are disabled" in " ".join(side.export().faults)
    side.execute("ALTER TABLE item ENABLE TRIGGER ALL")
    assert "were disabled and enabled again since, and noted nothing meanwhile" in " ".join(side.export().faults)
    with side.engine.begin() as connection:
        capture.install(connection, "item")
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(sa.insert(item), {"id": 1})
    run = side.export()
    assert (run.faults, run.cautions, [one.records for one in run.batches]) == ((), (), [1])


@pytest.mark.postgres
def test_changes_of_a_table_that_only_has_the_same_name_are_not_taken_for_its_own(on_postgresql: Link) -> None:
    side = on_postgresql.one
    side.execute("CREATE SCHEMA shop")
    side.execute("CREATE TABLE shop.item (id integer PRIMARY KEY, text text)")
    with side.engine.begin() as connection:
        capture.drop(connection, "item")
        capture.install(connection, "item", schema="shop")
    side.execute("INSERT INTO shop.item VALUES (7)")
    side.execute(sa.insert(other), {"id": 1})
    run = side.export()
    missing, mixed = run.faults
    assert "are missing" in missing
    assert 'stream item is of table "public"."item", but changes of shop.item are noted under its name' in mixed
    assert [one.channel for one in run.batches] == ["others"]
    with side.engine.begin() as connection:
        capture.install(connection, "item")
    assert side.export().faults == (mixed,)
    with side.engine.begin() as connection:
        capture.drop(connection, "item", schema="shop")
    assert side.export().faults == ()


def months(side: Side, *numbers: int) -> None:
    """Make partitions."""
    for number in numbers:
        side.execute(f"CREATE TABLE event_{number} PARTITION OF event FOR VALUES FROM ({number}) TO ({number + 1})")


def years(side: Side) -> None:
    """Make a partition that is partitioned, in a schema of its own and with names that have to be quoted."""
    side.execute('CREATE SCHEMA "years ago"')
    side.execute(
        'CREATE TABLE "years ago"."event 100%" PARTITION OF event FOR VALUES FROM (12) TO (24) PARTITION BY HASH (id)'
    )
    side.execute(
        'CREATE TABLE "years ago"."it\'s" PARTITION OF "years ago"."event 100%"'
        " FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )


def events_cross(link: Link) -> None:
    """Bring over what happened, in two exports that have nothing to complain of."""
    assert [run.faults for run in (link.one.export(), link.one.export())] == [(), ()]
    link.there.carry()
    link.other.take_in()
    assert link.other.rows(event) == link.one.rows(event)


@pytest.mark.postgres
def test_rows_that_a_partition_had_when_it_was_attached_cross_too(on_postgresql: Link) -> None:
    link = on_postgresql
    one, two = link.one, link.other
    months(one, 1)
    two.execute("CREATE TABLE event_all PARTITION OF event DEFAULT")
    with one.engine.begin() as connection:
        capture.install(connection, "event")
    one.execute("CREATE TABLE event_2 (LIKE event INCLUDING ALL)")
    one.execute("INSERT INTO event_2 VALUES (1, 2, 'before'), (2, 2, 'before')")
    one.execute("ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (2) TO (3)")
    one.execute("UPDATE event SET text = 'after' WHERE id = 2")
    with one.engine.connect() as connection:
        [problem] = capture.check(connection, channels[0].stream("event"))
    assert "event_2 became partitions of it" in problem.message
    events_cross(link)
    assert len(two.rows(event)) == 2
    one.execute("TRUNCATE event_2")
    events_cross(link)
    assert two.rows(event) == []

    one.execute("CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (3) TO (4)")
    one.execute("INSERT INTO event_3 VALUES (3, 3)")
    with one.engine.connect() as held, held.begin():
        held.execute(sa.text("LOCK TABLE event_3 IN SHARE MODE"))
        [fault] = one.export().faults
    assert "call op.install_capture again" in fault
    events_cross(link)


@pytest.mark.postgres
def test_partitioned_tables_cross_however_their_rows_are_written(on_postgresql: Link) -> None:
    link = on_postgresql
    one, two = link.one, link.other
    months(one, 1, 2)
    years(one)
    two.execute("CREATE TABLE event_all PARTITION OF event DEFAULT")
    with one.engine.begin() as connection:
        capture.install(connection, "event")
        assert capture.check(connection, channels[0].stream("event")) == []

    one.execute(sa.insert(event), [{"id": n, "month": 1 + n % 2, "text": "new"} for n in range(6)])
    one.execute("INSERT INTO event_2 VALUES (7, 2, 'straight')")
    events_cross(link)
    for statement in (
        "UPDATE event_2 SET text = 'straight' WHERE id = 1",
        "UPDATE event SET text = 'parent' WHERE id = 2",
        "UPDATE event SET month = 1 WHERE id = 3",
        "DELETE FROM event_1 WHERE id = 0",
    ):
        one.execute(statement)
    events_cross(link)
    one.execute("TRUNCATE event_1")
    one.execute(sa.insert(event), {"id": 20, "month": 12})
    one.execute('UPDATE "years ago"."event 100%" SET text = \'sub\'')
    events_cross(link)
    one.execute('TRUNCATE "years ago"."it\'s"')
    events_cross(link)
    assert one.rows(event)
    months(one, 3)
    one.execute("INSERT INTO event_3 VALUES (8, 3)")
    events_cross(link)
    assert one.export().cautions == ()
    one.execute("ALTER TABLE event DETACH PARTITION event_2")
    assert "event_2 are its partitions no more" in " ".join(one.export().cautions)
    with one.engine.begin() as connection:
        capture.install(connection, "event")
    send_requests.add_snapshot_requests(one.site, "items", ["event"], prune=True)
    assert one.export().cautions == ()
    events_cross(link)
    assert [row["id"] for row in two.rows(event)] == [8]
    one.execute("TRUNCATE event")
    events_cross(link)
    assert two.rows(event) == []
    one.execute("ALTER TABLE event_1 DISABLE TRIGGER ALL")
    assert "its triggers are disabled on event_1" in " ".join(one.export().faults)
    with one.engine.begin() as connection:
        with pytest.raises(capture.CaptureFault, match="event_3 is a partition of event, which is captured already"):
            capture.install(connection, "event_3")
        capture.drop(connection, "event")
        assert capture.captured_tables(connection) == ["item", "other"]


@pytest.mark.postgres
def test_a_table_that_becomes_part_of_another_is_said(on_postgresql: Link) -> None:
    one = on_postgresql.one
    one.execute("CREATE TABLE above (id integer NOT NULL, text text, exchange_version bigint) PARTITION BY LIST (id)")
    one.execute("ALTER TABLE above ATTACH PARTITION item DEFAULT")
    assert "through public.above fires none of its triggers" in " ".join(one.export().faults)
    with one.engine.begin() as connection:
        capture.install(connection, "item")
    one.execute("INSERT INTO above VALUES (1)")
    run = one.export()
    assert (run.faults, len(run.batches)) == ((), 1)
    one.execute("CREATE TABLE below () INHERITS (other)")
    assert "table other has children by inheritance (public.below)" in " ".join(one.export().faults)
    with one.engine.begin() as connection, pytest.raises(capture.CaptureFault, match="make it a partitioned table"):
        capture.install(connection, "other")


def test_a_change_that_names_its_row_by_columns_of_before_says_so_and_the_others_go_on(link: Link) -> None:
    side = link.one
    side.execute(sa.insert(item), [{"id": 1}, {"id": 2}])
    side.execute("ALTER TABLE item RENAME COLUMN id TO number")
    renamed = sa.Table("item", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))
    stream = Stream(renamed)
    checkers = {**side.site.checkers, "item": Checker(stream)}
    side.site = replace(side.site, channels=(Channel("items", "one", "two", [stream]),), checkers=checkers)
    assert side.export().parked == 2
    with side.engine.begin() as connection:
        capture.install(connection, "item")
    side.execute(sa.insert(renamed), {"number": 3})
    assert [one.records for one in side.export().batches] == [1]
    (words,) = {row.message for row in side.all(sa.select(dead_letter.c.message))}
    assert words == (
        "this change names its row by id, and the key of stream item is number now; it is not sent: `exchange resync"
        " items` sends the whole table, and with --prune-missing what is gone from it"
    )


@pytest.mark.postgres
def test_a_table_that_somebody_locks_or_takes_from_the_role_holds_up_its_own_channel(
    on_postgresql: Link, as_clerk: Callable[[Side], Side]
) -> None:
    link = on_postgresql
    clerk = as_clerk(link.one)
    for number, table in enumerate((item, other)):
        clerk.execute(sa.insert(table), {"id": number})
    link.one.execute("ALTER TABLE item OWNER TO CURRENT_USER")
    run = clerk.export()
    assert "may not read table" in run.faults[0]
    assert [one.channel for one in run.batches] == ["others"]
    link.one.execute(f"GRANT SELECT ON item TO {clerk.engine.url.username}")
    clerk.execute(sa.update(other).values(text="x"))
    patient = clerk.site
    hurried = make_engine(clerk.engine.url.render_as_string(hide_password=False), lock_seconds=0.1)
    clerk.site = replace(patient, engine=hurried)
    with link.one.engine.begin() as holder:
        holder.execute(sa.text("LOCK TABLE item"))
        run = clerk.export()
    clerk.site = patient
    hurried.dispose()
    assert "holds a lock on item" in str(run.busy)
    assert [one.channel for one in run.batches] == ["others"]


@pytest.mark.postgres
def test_a_renamed_table_is_captured_under_its_streams_name_and_our_own_tables_may_have_policies(
    on_postgresql: Link, as_clerk: Callable[[Side], Side]
) -> None:
    link = on_postgresql
    link.one.execute(sa.insert(item), [{"id": 1}, {"id": 2}])
    link.one.execute("ALTER TABLE item RENAME TO item_before")
    gone = " ".join(link.one.export().faults)
    assert "table item of stream item does not exist" in gone
    link.one.execute("DELETE FROM item_before WHERE id = 1")
    link.one.execute("TRUNCATE item_before")
    link.one.execute("ALTER TABLE item_before RENAME TO item")
    link.one.execute(sa.insert(item), {"id": 3})
    assert link.one.export().faults == ()
    link.there.carry()
    link.other.take_in()
    assert [row["id"] for row in link.other.rows(item)] == [3]
    clerk = as_clerk(link.one)
    for table in ("exchange_network", "exchange_change"):
        link.one.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        link.one.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        trouble = clerk.export().trouble or ""
        assert f'row-level security policy for table "{table}"' in trouble
        assert "BYPASSRLS" in trouble
        link.one.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
