"""What one more small batch costs each side, and a run that finds none: statements, transactions, commits and syncs.

Counted, not timed. ARCHITECTURE.md says what each commit and each sync is for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels import Channel, Stream
from exchange.database import positions
from tests.crossing.conftest import needs_postgres
from tests.crossing.sides import Link, Side
from tests.databases import Databases

ROWS = 100


@dataclass
class Cost:
    """What was asked of a database, and how often a file or folder was waited for until it is on the disk."""

    statements: int = 0
    """But for those that begin a transaction."""
    transactions: int = 0
    commits: int = 0
    """Of transactions that may write: each is one sync of the database's log."""
    syncs: int = 0


@contextmanager
def counted(side: Side, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cost]:
    """Count what is done until the end of the block."""
    cost = Cost()

    def begin(_connection: Connection) -> None:
        cost.transactions += 1
        cost.statements -= 1  # that begins it

    def commit(connection: Connection) -> None:
        cost.commits += not connection.get_execution_options().get("exchange_read_only")

    def execute(*_: object) -> None:
        cost.statements += 1

    def counting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(file: int) -> None:
            cost.syncs += 1
            sync(file)

        return call

    listeners: dict[str, Callable[..., Any]] = {"begin": begin, "commit": commit, "before_cursor_execute": execute}
    for name, listener in listeners.items():
        sa.event.listen(side.engine, name, listener)
    with monkeypatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, counting(getattr(os, name)))
        yield cost
    for name, listener in listeners.items():
        sa.event.remove(side.engine, name, listener)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def link(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Link]:
    """Give two networks with one table of small rows."""
    metadata = sa.MetaData()
    columns = (sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
    channels = (Channel("items", "one", "two", [Stream(sa.Table("item", metadata, *columns))]),)
    one, two = (
        Side(name, peer, databases, request.param, tmp_path / name, channels, metadata=metadata)
        for name, peer in (("one", "two"), ("two", "one"))
    )
    yield Link(one, two)
    one.engine.dispose()
    two.engine.dispose()


def crossed(link: Link, number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Cost, Cost]:
    """Have one batch of new rows cross; give what it cost its sender and its receiver."""
    rows = ", ".join(f"({ROWS * number + one}, 'name {one}')" for one in range(ROWS))
    link.one.execute(f"INSERT INTO item (id, name) VALUES {rows}")
    with counted(link.one, monkeypatch) as out:
        assert [one.records for one in link.one.export().batches] == [ROWS]
    link.there.carry()
    with counted(link.other, monkeypatch) as into:
        assert [one.records.applied for one in link.other.take_in().batches] == [ROWS]
    return out, into


def test_a_small_batch_costs_so_many_statements_transactions_and_syncs(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "NOTED_SECONDS", 1e6)  # what is noted every few seconds is not the batch's
    for number in range(2):  # nor is what a process asks once
        crossed(link, number, monkeypatch)
    with counted(link.one, monkeypatch) as idle_out:
        link.one.export()
    with counted(link.other, monkeypatch) as idle_in:
        link.other.take_in()
    out, into = crossed(link, 2, monkeypatch)

    assert [(one.commits, one.syncs) for one in (idle_out, idle_in)] == [(0, 0), (0, 0)]
    assert [(one.commits, one.syncs) for one in (out, into)] == [(3, 6), (3, 1)]
    costs = (idle_out, idle_in, out, into)
    assert all(one.transactions <= most for one, most in zip(costs, (10, 7, 18, 14), strict=True)), costs
    assert all(one.statements <= most for one, most in zip(costs, (26, 16, 68, 56), strict=True)), costs
