"""Both sides get another declaration, either one first, with batches under way: nothing is stuck, nothing is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.stream import HIDDEN
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import batch, dead_letter, repair
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.retry import retry_letters
from exchange.incoming import importer
from exchange.link import asked_requests, send_requests
from exchange.link.peer_state import read_peer_state
from exchange.operating.doctor import database as doctor
from exchange.outgoing import answers, control_batch, exporter
from exchange.outgoing.leftover import read_leftovers
from exchange.tables import capture
from tests.crossing.sides import Link, Side
from tests.crossing.test_two_streams import declare
from tests.databases import Databases


def table(metadata: sa.MetaData, name: str, *columns: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(one, sa.String(20)) for one in columns),
    )


BEFORE, AFTER = sa.MetaData(), sa.MetaData()
NAMES = ("wider", "moved", "named", "gone", "other")
OLD = {name: Stream(table(BEFORE, name, "text")) for name in NAMES}
OLD_CHANNELS = (
    Channel("flow", "one", "two", [OLD[name] for name in ("wider", "moved", "named", "gone")]),
    Channel("notes", "one", "two", [OLD["other"]]),
)


def lifted(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"size": None}


NEW_CHANNELS = (
    Channel(
        "flow",
        "one",
        "two",
        [
            Stream(table(AFTER, "wider", "text", "size"), schema_version=2, upgrades={1: lifted}),
            Stream(table(AFTER, "renamed", "text"), name="named"),
            Stream(table(AFTER, "added", "text")),
        ],
        shards=2,
    ),
    Channel("notes", "one", "two", [Stream(table(AFTER, "other", "text")), Stream(table(AFTER, "moved", "text"))]),
)


def upgrade(side: Side) -> None:
    """Migrate the tables as an application would, and declare the new channels."""
    side.engine.dispose()
    for statement in (
        "ALTER TABLE wider ADD COLUMN size VARCHAR(20)",
        "ALTER TABLE named RENAME TO renamed",
        "CREATE TABLE added (id INTEGER PRIMARY KEY, text VARCHAR(20))",
    ):
        side.execute(statement)
    with side.engine.begin() as connection:
        if side.site.network == "one":
            capture.drop(connection, "gone")
            capture.install(connection, "renamed", stream="named")
            capture.install(connection, "added")
        else:
            capture.add_version_column(connection, "added")
    declare(side, NEW_CHANNELS)


def write(side: Side, number: int, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        side.execute(f"INSERT INTO {name} (id, text) VALUES ({number}, 'x')")


def turn(link: Link) -> None:
    """Import, export and carry on both sides, with the signs of life that time brings."""
    for side, carrier in ((link.one, link.there), (link.other, link.back)):
        run = importer.import_batches(side.site)
        assert run.trouble is None, run.trouble
        control_batch.after_import(side.site, run.batches, importer.never)
        assert exporter.export(side.site, stopping=importer.never).faults == ()
        control_batch.publish_control_batch(side.site)
        carrier.carry()


def old_sides(tmp_path: Path, databases: Databases) -> list[Side]:
    return [
        Side(name, peer, databases, "sqlite", tmp_path / name, OLD_CHANNELS, metadata=BEFORE)
        for name, peer in (("one", "two"), ("two", "one"))
    ]


@pytest.mark.parametrize("sender_first", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_a_declaration_changes_on_one_side_before_the_other(
    tmp_path: Path, databases: Databases, *, sender_first: bool
) -> None:
    one, two = old_sides(tmp_path, databases)
    link = Link(one, two)
    write(one, 1)
    turn(link)
    with one.engine.begin() as connection:  # how streams compared is told with every receipt from then on
        send_requests.add_request(connection, channel="flow", want="checkpoint", reason="to see")
    turn(link)
    write(one, 2)
    one.export()
    link.there.carry()  # it is under way
    write(one, 3)  # and this waits
    new_names = ("wider", "moved", "renamed", "added", "other")
    for number, side in enumerate((one, two) if sender_first else (two, one), 4):
        upgrade(side)
        write(one, number, new_names if sender_first or side is one else NAMES)
        for _ in range(3 if sender_first else 2):
            turn(link)

    for name in ("wider", "moved", "renamed", "added", "other"):
        rows = [side.all(sa.text(f"SELECT id, text FROM {name} ORDER BY id")) for side in (one, two)]  # type: ignore[arg-type]
        assert rows[0] == rows[1], name
        assert len(rows[0]) >= 1
    waiting = sa.select(batch.c.stem).where(
        batch.c.channel != "control", batch.c.state.in_(["held", "waiting", "quarantined", "rejected", "published"])
    )
    assert [side.all(waiting) for side in (one, two)] == [[], []]
    letters = [(row.stream, row.error) for row in two.all(sa.select(dead_letter))]
    assert letters == ([] if sender_first else [("gone", "undeclared")] * 3)
    assert one.all(sa.select(dead_letter)) == []
    with reading(two.engine) as connection:
        letters_there: list[Any] = list(connection.execute(sa.select(dead_letter)))
    shown = [Mask(two.site.channels).record(letter, letter.record) for letter in letters_there]
    assert {json.loads(text or "{}").get("data") for text in shown} <= {HIDDEN}  # nobody knows what of it is sensitive
    tried = [row.id for row in two.all(sa.select(dead_letter.c.id))]
    assert {done.message.partition(";")[0] for done in retry_letters(two.site, tried)} <= {
        "stream gone is not declared here any more"
    }
    declare(two, (*NEW_CHANNELS, Channel("again", "one", "two", [OLD["gone"]])))
    assert {done.state for done in retry_letters(two.site, tried)} <= {"applied"}
    left = [(found.stream, found.changes) for found in read_leftovers(one.site)]
    assert left == ([("gone", 1)] if sender_first else [])
    assert list(doctor._first_start(None, one.site)) == []  # type: ignore[arg-type]
    for side in (one, two):
        side.engine.dispose()


KEYED = sa.MetaData()


def renamed_and_keyed() -> tuple[Channel, ...]:
    """Declare other names for a column, of two tables in two ways, and for a stream, and another key for a table."""
    told, kept = table(KEYED, "wider", "words"), table(KEYED, "moved", "words")
    keyed = sa.Table(
        "gone",
        KEYED,
        *(sa.Column(one, sa.String(20), primary_key=True) for one in ("id", "site")),
        sa.Column("text", sa.String(20)),
    )
    steps = {1: lambda data: {"id": data["id"], "words": data["text"]}}
    lifts = {1: lambda data: {"id": str(data["id"]), "site": "here", "text": data["text"]}}
    streams = [
        Stream(told, schema_version=2, upgrades=steps),
        Stream(kept, columns={"id": "id", "words": "text"}),
        Stream(table(KEYED, "named", "text"), name="called"),
        Stream(keyed, schema_version=2, upgrades=lifts),
    ]
    return (Channel("flow", "one", "two", streams), OLD_CHANNELS[1])


@pytest.mark.thorough
@pytest.mark.parametrize("sender_first", [True, False])
def test_names_and_keys_change_on_one_side_before_the_other(
    tmp_path: Path, databases: Databases, *, sender_first: bool
) -> None:
    one, two = old_sides(tmp_path, databases)
    link = Link(one, two)
    write(one, 1)
    for _ in range(2):
        turn(link)
    write(one, 2)
    one.export()
    link.there.carry()
    KEYED.clear()
    channels = renamed_and_keyed()
    for number, side in enumerate((one, two) if sender_first else (two, one), 3):
        side.engine.dispose()
        made_anew = (
            "id VARCHAR(20), site VARCHAR(20), text VARCHAR(20), exchange_version BIGINT, PRIMARY KEY (id, site)"
        )
        for statement in (
            "ALTER TABLE wider RENAME COLUMN text TO words",
            "ALTER TABLE moved RENAME COLUMN text TO words",
            f"CREATE TABLE keyed ({made_anew})",
            "INSERT INTO keyed (id, site, text, exchange_version) SELECT id, 'here', text, exchange_version FROM gone",
            "DROP TABLE gone",
            "ALTER TABLE keyed RENAME TO gone",
        ):
            side.execute(statement)
        if side is one:
            with one.engine.begin() as connection:
                capture.drop(connection, "named")
                capture.install(connection, "named", stream="called")
                capture.install(connection, "gone")
        declare(side, channels)
        if sender_first or side is one:
            for name in ("wider", "moved"):
                one.execute(f"INSERT INTO {name} (id, words) VALUES ({number}, 'x')")
            one.execute(f"INSERT INTO gone (id, site, text) VALUES ('{number}', 'there', 'x')")
            one.execute(f"INSERT INTO named (id, text) VALUES ({number}, 'x')")
            one.execute("DELETE FROM gone WHERE id = '1'")
        else:
            write(one, number)
        for _ in range(3):
            turn(link)

    for name, columns in (("wider", "words"), ("moved", "words"), ("named", "text"), ("gone", "site, text")):
        rows = [side.all(sa.text(f"SELECT id, {columns} FROM {name} ORDER BY id")) for side in (one, two)]  # type: ignore[arg-type]
        assert rows[0] == rows[1], name
        assert len(rows[0]) >= 1
    letters = [(row.stream, row.error) for row in two.all(sa.select(dead_letter))]
    assert letters == ([] if sender_first else [("named", "undeclared")] * 2)
    for side in (one, two):
        side.engine.dispose()


def test_what_was_parked_before_its_stream_was_moved_or_split_is_retried_when_its_row_comes(
    tmp_path: Path, databases: Databases
) -> None:
    metadata = sa.MetaData()
    parent = table(metadata, "parent", "text")
    children = [
        sa.Table(
            name, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("of", sa.ForeignKey("parent.id"))
        )
        for name in ("moved", "split")
    ]
    moved, split = map(Stream, children)
    late = Stream(parent)
    before = (Channel("flow", "one", "two", [moved, split]), Channel("late", "one", "two", [late]))
    after = (Channel("flow", "one", "two", [split], shards=2), Channel("late", "one", "two", [late, moved]))
    one, two = (
        Side(name, peer, databases, "sqlite", tmp_path / name, before, metadata=metadata)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    link = Link(one, two)
    one.execute(sa.insert(parent), [{"id": 1, "text": "a"}])
    for child in children:
        one.execute(sa.insert(child), [{"id": 1, "of": 1}])
    exporter.export(one.site, channel="flow", stopping=importer.never)
    link.there.carry()
    two.take_in()
    waiting = sa.select(dead_letter.c.stream).where(dead_letter.c.state == "parked")
    assert sorted(row.stream for row in two.all(waiting)) == ["moved", "split"]
    for side in (one, two):
        declare(side, after)
    one.export()
    link.there.carry()
    two.take_in()
    assert two.all(waiting) == []
    assert [len(two.rows(child)) for child in children] == [1, 1]
    for side in (one, two):
        side.engine.dispose()


def test_a_channel_that_was_taken_out_is_told_from_one_that_is_not_known_yet(
    tmp_path: Path, databases: Databases
) -> None:
    one, two = old_sides(tmp_path, databases)
    link = Link(one, two)
    write(one, 1)
    turn(link)
    turn(link)
    write(one, 2)
    one.export()
    link.there.carry()
    with two.engine.begin() as connection:
        asked_requests.ask_peer(two.site, connection, channel="notes", want="snapshot", reason="they differ", who="me")
    declare(two, OLD_CHANNELS[:1])
    (held,) = [found for found in two.take_in().batches if found.channel == "notes"]
    assert "no incoming channel notes any more: if it was taken out for good, `exchange batches reject`" in held.message
    control_batch.publish_control_batch(two.site)
    link.back.carry()
    one.take_in()
    assert [row.state for row in two.all(sa.select(repair.c.state).where(repair.c.who == "me"))] == ["withdrawn"]
    for channels, said in ((OLD_CHANNELS, 1), (OLD_CHANNELS[:1], 0)):  # taken out here, too, it is nobody's worry
        declare(one, channels)
        with reading(one.engine) as connection:
            assert len(answers.refusals(one.site, connection, now())) == said
            assert len(list(read_peer_state(one.site, connection).troubles())) == said
    for side in (one, two):
        side.engine.dispose()
