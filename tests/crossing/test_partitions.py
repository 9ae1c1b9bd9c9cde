"""Tables that are partitioned on either side or both: by list, range and hash, with parts of parts, and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.locks import reading
from exchange.database.tables import dead_letter
from exchange.dead_letters import retry
from exchange.tables.loader.fitness import indistinct, unfit
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.crossing.talking import cross
from tests.databases import Databases

# That a receiver without a partition parks the row, test_unlike_tables shows; how a sender has them, test_unseen.
pytestmark = [needs_postgres, pytest.mark.thorough]

PARTITIONS = (
    "CREATE TABLE event_north PARTITION OF event FOR VALUES IN ('north')",
    "CREATE TABLE event_south PARTITION OF event FOR VALUES IN ('south') PARTITION BY RANGE (id)",
    "CREATE TABLE event_south_1 PARTITION OF event_south FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE event_south_2 PARTITION OF event_south FOR VALUES FROM (100) TO (200)",
    "CREATE TABLE seen_0 PARTITION OF seen FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE seen_1 PARTITION OF seen FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE note_old PARTITION OF note FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE note_else PARTITION OF note DEFAULT",
)


def declare(metadata: sa.MetaData, **partitioned: str) -> None:
    """Declare the tables; the key of a partitioned one has the columns by which it is."""
    by: dict[str, Any] = {name: {"postgresql_partition_by": partitioned[name]} for name in partitioned}
    event = sa.Table(
        "event",
        metadata,
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text),
        **by.get("event", {}),
    )
    sa.Table(
        "seen",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("region", sa.Text),
        sa.Column("event", sa.Integer),
        sa.ForeignKeyConstraint(["region", "event"], [event.c.region, event.c.id]),
        **by.get("seen", {}),
    )
    sa.Table(
        "note",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Integer, primary_key="note" in by, autoincrement=False, nullable=False),
        **by.get("note", {}),
    )


WHOLE, PARTED = sa.MetaData(), sa.MetaData()
declare(WHOLE)
declare(PARTED, event="LIST (region)", seen="HASH (id)", note="RANGE (at)")
for statement in PARTITIONS:
    sa.event.listen(PARTED, "after_create", sa.DDL(statement))  # type: ignore[no-untyped-call]
event, seen, note = (WHOLE.tables[name] for name in ("event", "seen", "note"))
CHANNELS = (Channel("forth", "one", "two", [Stream(table) for table in (event, seen, note)]),)


def crosses(link: Link) -> dict[str, str]:
    """Bring over what changed; give the sentences of letters by their keys, or see that all is the same."""
    run = link.one.export()
    assert (run.trouble, run.faults, run.cautions) == (None, (), ())
    cross(link)
    parked = sa.select(dead_letter.c.key, dead_letter.c.message).where(dead_letter.c.state == "parked")
    letters = {row.key: row.message for row in link.other.all(parked)}
    if not letters:
        assert [link.one.rows(table) for table in (event, seen, note)] == [
            link.other.rows(table) for table in (event, seen, note)
        ]
    return letters


@pytest.fixture(
    params=[
        pytest.param((PARTED, PARTED), id="both"),
        pytest.param((PARTED, WHOLE), id="sender"),
        pytest.param((WHOLE, PARTED), id="receiver"),
    ],
)
def link(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks, with partitions on one of them or both."""
    here, there = request.param
    one = Side("one", "two", databases, "postgresql", tmp_path / "one", CHANNELS, metadata=here)
    two = Side("two", "one", databases, "postgresql", tmp_path / "two", CHANNELS, metadata=there)
    yield Link(one, two)
    one.engine.dispose()
    two.engine.dispose()


def is_partitioned(side: Side) -> bool:
    """Say whether a side's tables are."""
    with reading(side.engine) as connection:
        return "event_north" in sa.inspect(connection).get_table_names()


def test_rows_cross_from_and_to_partitions_and_between_them(link: Link) -> None:
    one, two = link.one, link.other
    here, there = is_partitioned(one), is_partitioned(two)
    one.execute(sa.insert(event), [{"region": to, "id": n} for to in ("north", "south") for n in (1, 2, 150)])
    one.execute(sa.insert(seen), [{"id": n, "region": "south", "event": n} for n in (1, 2, 150)])
    one.execute(sa.insert(note), [{"id": n, "at": n} for n in (1, 2, 15)])
    assert crosses(link) == {}
    # Rows change in their partitions and move to others, by their key or by another column.
    one.execute(sa.update(event).values(text="new").where(event.c.id == 1))
    one.execute(sa.update(note).values(at=50).where(note.c.id == 1))
    one.execute(sa.update(seen).values(region="north").where(seen.c.id == 2))
    one.execute(sa.update(event).values(region="north", id=160).where(event.c.region == "south", event.c.id == 2))
    # Both ends of a reference go with one batch.
    one.execute(sa.delete(seen).where(seen.c.id == 150))
    one.execute(sa.delete(event).where(event.c.id == 150))
    assert crosses(link) == {}
    # What the receiver has no partition for is parked, with what refers to it; what holds a row there is named.
    two.execute("CREATE SCHEMA elsewhere")
    two.execute(
        "CREATE TABLE elsewhere.holder (id int PRIMARY KEY, region text, event int,"
        " FOREIGN KEY (region, event) REFERENCES event)"
    )
    two.execute("INSERT INTO elsewhere.holder VALUES (1, 'north', 160)")
    if there:
        two.execute("ALTER TABLE event_south DETACH PARTITION event_south_2")
        if here:
            one.execute("CREATE TABLE event_west PARTITION OF event FOR VALUES IN ('west')")
        one.execute(sa.insert(event), [{"region": "south", "id": 170}, {"region": "west", "id": 1}])
        one.execute(sa.insert(seen), {"id": 7, "region": "west", "event": 1})
    one.execute(sa.delete(event).where(event.c.id == 160))
    letters = crosses(link)
    assert letters.pop('{"region":"north","id":160}').startswith(
        "rows of elsewhere.holder still refer to region = north"
    )
    with reading(one.engine) as connection:
        kept = [problem.message for stream in CHANNELS[0].streams for problem in indistinct(connection, stream)]
    assert [said.partition(",")[0] for said in kept] == (
        ["table note may have two rows with one key of stream note (id)"] if here else []
    )
    two.execute("DELETE FROM elsewhere.holder")
    if not there:
        assert letters == {}
        return
    refused = (
        'the database refused this upsert of event: no partition of relation "{}" found for row; it is parked until'
    )
    assert letters['{"region":"south","id":170}'].startswith(refused.format("event_south"))
    assert letters['{"region":"west","id":1}'].startswith(refused.format("event"))
    assert "refers to a row of event that is not here" in letters['{"id":7}']
    two.execute("CREATE TABLE event_rest PARTITION OF event DEFAULT")
    two.execute("CREATE TABLE event_south_rest PARTITION OF event_south DEFAULT")
    ids = [row.id for row in two.all(sa.select(dead_letter.c.id).order_by(dead_letter.c.stream))]
    assert {done.state for done in retry.retry_letters(two.site, ids)} == {"applied"}
    assert crosses(link) == {}
    sees_triggers_of_partitions(link)
    with reading(two.engine) as connection:
        (slower,) = unfit(connection, CHANNELS[0].stream("note"))
    assert slower.remedy.startswith("a partitioned table has such an index only with its partition columns")


def sees_triggers_of_partitions(link: Link) -> None:
    """See that what a trigger of one partition makes of a row is said."""
    one, two = link.one, link.other
    two.execute(
        "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text := upper(NEW.text); RETURN NEW;"
        " END $$; CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON event_rest FOR EACH ROW EXECUTE FUNCTION loud()"
    )
    one.execute(sa.update(event).values(text="soft"))
    assert one.export().trouble is None
    link.there.carry()
    (done,) = two.take_in().batches
    assert done.message == "1 row is not as sent: trigger loud of event changed what was written"
