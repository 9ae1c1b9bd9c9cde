"""Names that databases quote: of tables, columns, schemas and streams, all the way and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.tables import dead_letter
from exchange.dead_letters import retry, show
from exchange.link.reconcile import report_agreement, request_checkpoints
from tests.crossing.sides import Link, Side
from tests.crossing.talking import cross
from tests.databases import Databases

LONGEST = "größe 写 a.b, $$\\ {b} ?;--"
NAMES = ("100% of %s :as \"it\" 'is'", f"{LONGEST}{'x' * (63 - len(LONGEST.encode()))}")


SCHEMA = "Odd \"%s' :x"


def world(schema: str | None) -> tuple[sa.MetaData, tuple[Channel, ...]]:
    """Declare a table, and one that refers to it, for each name."""
    metadata = sa.MetaData(schema=schema)
    streams = []
    for number, name in enumerate(NAMES):
        parent = sa.Table(
            name,
            metadata,
            sa.Column(f"{name[:-1]}1", sa.Text, primary_key=True),
            sa.Column(f"{name[:-1]}2", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column(f"{name[:-1]}3", sa.Text, unique=True),
            sa.Column(f"{name[:-1]}4", sa.Integer),
        )
        parent.append_constraint(sa.CheckConstraint(parent.c[f"{name[:-1]}4"] < 100, name=f"check {number}"))
        child = sa.Table(
            f"{name[:-1]}!",
            metadata,
            sa.Column(name, sa.Integer, primary_key=True),
            sa.Column(f"{name[:-1]}1", sa.Text),
            sa.Column(f"{name[:-1]}2", sa.Integer),
            sa.ForeignKeyConstraint(
                [f"{name[:-1]}1", f"{name[:-1]}2"], list(parent.primary_key.columns), name=f"fk {number}"
            ),
        )
        streams += [Stream(parent, name=f"parent_{number}"), Stream(child, name=f"child_{number}")]
    return metadata, (Channel("names", "one", "two", streams),)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def named(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks whose tables have such names, on PostgreSQL in such a schema."""
    kind = request.param
    metadata, channels = world(SCHEMA if kind == "postgresql" else None)
    one = Side("one", "two", databases, kind, tmp_path / "one", channels, metadata=metadata)
    two = Side("two", "one", databases, kind, tmp_path / "two", channels, metadata=metadata)
    yield Link(one, two)
    one.engine.dispose()
    two.engine.dispose()


def crosses(link: Link, letters: int = 0) -> None:
    """Bring over what changed; so many records are parked there."""
    run = link.one.export()
    assert (run.trouble, run.faults, run.cautions) == (None, (), ())
    cross(link)
    parked = link.other.all(sa.select(dead_letter.c.message).where(dead_letter.c.state == "parked"))
    assert len(parked) == letters, parked


def assert_same(link: Link) -> None:
    """See that every table is the same on both sides."""
    (channel,) = link.one.site.channels
    for stream in channel.streams:
        assert link.other.rows(stream.table) == link.one.rows(stream.table)


def test_names_of_every_kind_cross(named: Link) -> None:
    one, two = named.one, named.other
    (channel,) = one.site.channels
    tables = [stream.table for stream in channel.streams]
    pairs = [(parent, child, *parent.c) for parent, child in zip(tables[::2], tables[1::2], strict=True)]
    for parent, child, a, b, c, d in pairs:
        one.execute(sa.insert(parent), [{a.name: "k%", b.name: n, c.name: f"{n}:", d.name: n} for n in range(4)])
        key, one_of, two_of = child.c
        one.execute(sa.insert(child), [{key.name: n, one_of.name: "k%", two_of.name: n} for n in range(3)])
    crosses(named)
    assert_same(named)
    for parent, child, a, b, c, _ in pairs:
        # A swap of unique values, a changed key, deletes.
        for number, value in ((1, "swap"), (0, "1:"), (1, "0:")):
            one.execute(sa.update(parent).values({c.name: value}).where(b == number))
        one.execute(sa.update(parent).values({a.name: "other"}).where(b == 3))
        one.execute(sa.delete(child).where(next(iter(child.c)) == 2))
        one.execute(sa.delete(parent).where(b == 2))
    crosses(named)
    assert_same(named)
    # What the receiver refuses is a letter, and is retried.
    for parent, _, a, b, c, _ in pairs:
        two.execute(sa.insert(parent), {a.name: "in the way", b.name: 9, c.name: "0:!"})
        one.execute(sa.update(parent).values({c.name: "0:!"}).where(b == 1))
    crosses(named, len(NAMES))
    letters = [row.id for row in two.all(sa.select(dead_letter.c.id))]
    with two.engine.connect() as connection:
        assert all(show.view(two.site, connection, letter) for letter in letters)
    for parent, _, _, b, _, _ in pairs:
        two.execute(sa.delete(parent).where(b == 9))
    assert {done.state for done in retry.retry_letters(two.site, letters)} == {"applied"}
    assert_same(named)
    # What was changed over there is found, told apart and mended.
    for parent, _, _, b, _, d in pairs:
        two.execute(sa.update(parent).values({d.name: 55}).where(b == 1))
        two.execute(sa.delete(parent).where(b == 3))
    request_checkpoints(one.site)
    for _ in range(3):
        crosses(named)
    assert_same(named)
    agreed = [found for found in report_agreement(two.site) if found.stream.startswith("parent")]
    assert [[key["what"] for key in found.keys] for found in agreed] == [["different", "missing"]] * len(NAMES)
