"""Tables and columns that are called otherwise on the two sides, in schemas of their own: they are one in the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.orm import Session

from exchange.channels import Channel, Stream
from exchange.channels.channel import at_network
from exchange.channels.schemas import stream_schema
from exchange.channels.stream import HIDDEN
from exchange.database.tables import dead_letter
from exchange.dead_letters import retry, show
from exchange.dead_letters.masking import Mask
from exchange.link.reconcile import report_agreement, request_checkpoints
from exchange.tables import capture
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.crossing.talking import cross
from tests.databases import Databases

COLUMNS = {
    "one": {"item_no": "id", "Label of it": "label", "secret": "secret"},
    "two": {"Größe \"id\" of 'it'": "id", "select": "label", "id": "secret"},
}
PLACES = {
    "sqlite": {"one": "stock_item", "two": "Item copy"},
    "postgresql": {"one": "stock.item", "two": "Goods.Item copy"},
}
LINES = {"sqlite": {"two": "line copy"}, "postgresql": {"one": "stock.line", "two": "line copy"}}


def world(kind: str, network: str) -> tuple[sa.MetaData, tuple[Channel, ...]]:
    """Give the tables as a side's database has them, and channels over a model that knows nothing of schemas."""
    columns = COLUMNS[network]
    key, label, secret = columns
    declared, real = sa.MetaData(), sa.MetaData()
    for metadata, item, line in (
        (declared, "item", "line"),
        (real, PLACES[kind][network], LINES[kind].get(network, "line")),
    ):
        schema, _, name = item.rpartition(".")
        parent = sa.Table(
            name,
            metadata,
            sa.Column(key, sa.Integer, primary_key=True, key="number"),
            sa.Column(label, sa.Text, unique=True),
            sa.Column(secret, sa.Text),
            schema=schema or None,
        )
        schema, _, name = line.rpartition(".")
        sa.Table(
            name,
            metadata,
            sa.Column(f"{network}_line", sa.Integer, primary_key=True),
            sa.Column("item", sa.ForeignKey(parent.c.number), key="of"),
            schema=schema or None,
        )
    goods, lines = (declared.tables[name] for name in ("item", "line"))
    renamed = {"number": "id", label: "label", secret: "secret"}
    streams = [
        Stream(lines, columns={f"{network}_line": "id"}, table=LINES[kind]),
        Stream(goods, columns=renamed, table=PLACES[kind], sensitive=["secret"]),
    ]
    return real, (Channel("forth", "one", "two", streams),)


KINDS = [
    pytest.param("sqlite-sqlite", marks=pytest.mark.thorough),
    pytest.param("postgresql-postgresql", marks=needs_postgres),
    pytest.param("postgresql-sqlite", marks=[needs_postgres, pytest.mark.thorough]),
    pytest.param("sqlite-postgresql", marks=[needs_postgres, pytest.mark.thorough]),
]


@pytest.fixture(params=KINDS)
def placed(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks that call their tables and columns otherwise."""
    sides = {}
    for network, peer, kind in zip(("one", "two"), ("two", "one"), request.param.split("-"), strict=True):
        metadata, channels = world(kind, network)
        sides[network] = Side(network, peer, databases, kind, tmp_path / network, channels, metadata=metadata)
    yield Link(sides["one"], sides["two"])
    for side in sides.values():
        side.engine.dispose()


def crosses(link: Link) -> None:
    """Bring over what changed."""
    run = link.one.export()
    assert (run.trouble, run.faults, run.cautions) == (None, (), ())
    cross(link)


def in_files(side: Side) -> dict[str, list[dict[str, Any]]]:
    """Give the rows of both tables under the names that files have."""
    (channel,) = side.site.channels
    rows = {stream: side.all(sa.select(*stream.columns).order_by(*stream.key)) for stream in channel.streams}
    return {one.name: [dict(zip(one.names, row, strict=True)) for row in some] for one, some in rows.items()}


def test_tables_and_columns_called_otherwise_are_one_in_files(placed: Link) -> None:
    one, two = placed.one, placed.other
    (mine,), (theirs,) = one.site.channels, two.site.channels
    assert [*map(stream_schema, mine.streams)] == [*map(stream_schema, theirs.streams)]
    assert [stream.name for stream in theirs.streams] == ["item", "line"]
    (item, line), (copy, line_copy) = ([stream.table for stream in channel.streams] for channel in (mine, theirs))
    one.execute(sa.insert(item), [{"number": n, "Label of it": f"l{n}", "secret": f"s{n}"} for n in range(4)])
    one.execute(sa.insert(line), [{"one_line": n, "of": n} for n in range(3)])
    crosses(placed)
    one.execute(sa.update(item).values({"number": 9}).where(item.c.number == 3))
    one.execute(sa.delete(line).where(line.c.of == 2))
    one.execute(sa.delete(item).where(item.c.number == 2))
    crosses(placed)
    rows = in_files(one)
    assert rows == in_files(two)
    assert rows["item"][-1] == {"id": 9, "label": "l3", "secret": "s3"}
    assert rows["line"] == [{"id": 0, "item": 0}, {"id": 1, "item": 1}]
    # What the receiver can't take is named as files name it, and edited and retried as such.
    two.execute(sa.delete(line_copy))
    two.execute(sa.delete(copy).where(copy.c.number == 1))
    two.execute(sa.insert(copy), {"number": 50, "select": "taken", "id": "no"})
    one.execute(sa.update(line).values({"of": 1}).where(line.c.one_line == 0))
    one.execute(sa.update(item).values({"Label of it": "taken"}).where(item.c.number == 9))
    crosses(placed)
    letters = {row.stream: row for row in two.all(sa.select(dead_letter))}
    item_letter, line_letter = letters["item"], letters["line"]
    assert (item_letter.key, item_letter.pointer) == ('{"id":9}', "/data/label")
    assert item_letter.message.startswith("label = taken is taken by the row id = 50 of Item copy (constraint ")
    assert (line_letter.key, line_letter.pointer) == ('{"id":0}', "/data/item")
    assert line_letter.message.startswith(f"item = 1 refers to a row of {copy.fullname} that is not here")
    with two.engine.connect() as connection:
        shown = show.view(two.site, connection, item_letter.id)
    assert shown is not None
    assert shown.row is not None
    assert shown.row.data == {"id": 9, "label": "l3", "secret": HIDDEN}
    assert shown.differences == [("label", "taken", "l3")]
    assert "s3" not in (Mask(two.site.channels).record(item_letter, item_letter.record) or "s3")
    two.execute(sa.delete(copy).where(copy.c.number == 50))
    assert {done.state for done in retry.retry_letters(two.site, [item_letter.id])} == {"applied"}
    # A comparison names rows so, and mends them.
    request_checkpoints(one.site)
    for _ in range(3):
        crosses(placed)
    assert in_files(one) == in_files(two)
    (found, _) = report_agreement(two.site)
    assert found.keys == ({"what": "missing", "key": {"id": 1}},)


PAGE = (Path(__file__).parents[2] / "CHANNELS.md").read_text().partition("## Tables and columns under other names")[2]
DECLARED, MIGRATION = re.findall(r"^```python\n(.*?)^```$", PAGE.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


def run_block(code: str, **known: Any) -> dict[str, Any]:
    """Run what a page shows."""
    exec(compile(code, "CHANNELS.md", "exec", dont_inherit=True), known)  # noqa: S102 - what a reader puts into a file
    return known


@needs_postgres
@pytest.mark.thorough
def test_what_the_page_declares_and_migrates_crosses(
    tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = run_block(DECLARED, __name__="declared")
    sides = []
    for network, peer, kind in (("plant", "office", "postgresql"), ("office", "plant", "sqlite")):
        (stream,) = at_network(declared["channels"], network)[0].streams
        metadata, channels = stream.table.metadata, tuple(declared["channels"])
        sides.append(Side(network, peer, databases, kind, tmp_path / network, channels, metadata=metadata))
    plant, office = sides
    link = Link(plant, office)
    with plant.engine.begin() as connection:
        capture.drop(connection, "item", "stock")
        monkeypatch.setenv("EXCHANGE_NETWORK", "plant")
        run_block(MIGRATION, op=Operations(MigrationContext.configure(connection)))["upgrade"]()
    turned = plant.engine.execution_options(schema_translate_map={None: "stock"})
    with Session(turned) as session, session.begin():
        session.add(declared["Item"](number=7, label="bolt", supplier="somebody"))
    crosses(link)
    assert in_files(plant) == in_files(office) == {"item": [{"id": 7, "name": "bolt", "supplier": "somebody"}]}
    for side in sides:
        side.engine.dispose()
