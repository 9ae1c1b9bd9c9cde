"""Both sides get another declaration, either one first, with batches under way: nothing is stuck, nothing is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.engine import now
from exchange.database.locks import reading
from exchange.database.tables import batch, dead_letter
from exchange.incoming import importer
from exchange.link import send_requests
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


@pytest.mark.parametrize("sender_first", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_a_declaration_changes_on_one_side_before_the_other(
    tmp_path: Path, databases: Databases, *, sender_first: bool
) -> None:
    one, two = (
        Side(name, peer, databases, "sqlite", tmp_path / name, OLD_CHANNELS, metadata=BEFORE)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    link = Link(one, two)
    write(one, 1)
    turn(link)
    with one.engine.begin() as connection:  # how streams compared is told with every receipt from then on
        send_requests.add_request(connection, channel="flow", want="checkpoint", reason="to see")
    for _ in range(2):
        turn(link)
    write(one, 2)
    one.export()
    link.there.carry()  # it is under way
    write(one, 3)  # and this waits
    new_names = ("wider", "moved", "renamed", "added", "other")
    for number, side in enumerate((one, two) if sender_first else (two, one), 4):
        upgrade(side)
        write(one, number, new_names if sender_first or side is one else NAMES)
        for _ in range(3):
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
    left = [(found.stream, found.changes) for found in read_leftovers(one.site)]
    assert left == ([("gone", 1)] if sender_first else [])
    assert list(doctor._first_start(None, one.site)) == []  # type: ignore[arg-type]
    for side in (one, two):
        side.engine.dispose()


def test_a_channel_that_was_taken_out_is_told_from_one_that_is_not_known_yet(
    tmp_path: Path, databases: Databases
) -> None:
    one, two = (
        Side(name, peer, databases, "sqlite", tmp_path / name, OLD_CHANNELS, metadata=BEFORE)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    link = Link(one, two)
    write(one, 1)
    turn(link)
    turn(link)
    write(one, 2)
    one.export()
    link.there.carry()
    declare(two, OLD_CHANNELS[:1])
    (held,) = [found for found in two.take_in().batches if found.channel == "notes"]
    assert "no incoming channel notes any more: if it was taken out for good, `exchange batches reject`" in held.message
    control_batch.publish_control_batch(two.site)
    link.back.carry()
    one.take_in()
    for channels, said in ((OLD_CHANNELS, 1), (OLD_CHANNELS[:1], 0)):  # taken out here, too, it is nobody's worry
        declare(one, channels)
        with reading(one.engine) as connection:
            assert len(answers.refusals(one.site, connection, now())) == said
            assert len(list(read_peer_state(one.site, connection).troubles())) == said
    for side in (one, two):
        side.engine.dispose()
