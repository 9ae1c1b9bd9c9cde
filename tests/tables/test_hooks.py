"""Hooks of streams: what they are told of, within the transaction and after it, and what becomes of one that fails."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, ChannelFaults, HookRows, Stream, check
from exchange.dead_letters.retry import retry_letters
from exchange.format.errors import Reason, Verdict
from exchange.results import Imported
from tests.crossing.sides import Link, Side
from tests.databases import Databases

TABLES = sa.MetaData()
ITEM = sa.Table(
    "item", TABLES, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, unique=True)
)
TAG = sa.Table(
    "tag",
    TABLES,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=True),
)
NOTE = sa.Table("note", TABLES, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String))


class Told:
    """What the hooks were told, and what they are to fail with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, HookRows]] = []
        self.fails: set[str] = set()

    def before(self, stream: str, rows: HookRows) -> None:
        self._note("before", stream, rows)

    def applied(self, stream: str, rows: HookRows) -> None:
        assert rows.connection is not None
        rows.connection.execute(sa.insert(NOTE).values(text=f"{stream} {rows.op} {len(rows.keys)}"))
        if rows.op == "upsert" and stream == "item":
            there = sa.select(sa.func.count()).where(ITEM.c.id.in_([key[0] for key in rows.keys]))
            assert rows.connection.scalar(there) == len(rows.keys)
        self._note("applied", stream, rows)

    def committed(self, stream: str, rows: HookRows) -> None:
        self._note("committed", stream, rows)

    def _note(self, when: str, stream: str, rows: HookRows) -> None:
        self.calls.append((when, stream, rows))
        if when in self.fails:
            raise KeyError(f"secret of {rows.keys}")

    def keys(self, when: str, op: str = "upsert") -> list[Any]:
        """Give the keys that one kind of hook was told, and forget them."""
        found = [key for name, _, rows in self.calls if name == when and rows.op == op for key in rows.keys]
        self.calls = [one for one in self.calls if one[0] != when or one[2].op != op]
        return found


@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough])]
)
def test_hooks_are_told_what_was_applied_and_one_that_fails_undoes_it_or_is_said(  # noqa: PLR0915 - one pair for all
    tmp_path: Path, databases: Databases, kind: str
) -> None:
    told = Told()
    items = Stream(ITEM, before_apply=told.before, on_applied=told.applied, after_commit=told.committed)
    channels = (Channel("items", "plant", "office", [items, Stream(TAG, on_applied=told.applied)]),)
    plant = Side("plant", "office", databases, "sqlite", tmp_path / "plant", channels, metadata=TABLES)
    office = Side("office", "plant", databases, kind, tmp_path / "office", channels, metadata=TABLES)
    link = Link(plant, office)

    def cross() -> Imported:
        _, back = link.round()
        assert [one.verdict for one in back.batches if one.channel != "items"] == []
        return back.batches[-1]

    # New rows go straight into their table, a thousand a call.
    tag = uuid.uuid4()
    plant.execute(sa.insert(ITEM), [{"id": n, "name": f"n{n}"} for n in range(1, 2501)])
    plant.execute(sa.insert(TAG), [{"id": tag}])
    cross()
    assert max(len(rows.keys) for _, _, rows in told.calls) == 1000
    assert {one[0] for one in told.calls} == {"before", "applied", "committed"}
    every = [(n,) for n in range(1, 2501)]
    for when, also in (("before", []), ("applied", [(tag,)]), ("committed", [])):
        assert sorted(told.keys(when), key=str) == sorted([*every, *also], key=str)

    # Others are staged; what is parked, and what is older than its row, was not applied.
    office.execute(sa.update(ITEM).where(ITEM.c.id == 9).values(name="taken"))
    plant.execute(sa.update(ITEM).where(ITEM.c.id == 3).values(name="other"))
    plant.execute(sa.update(ITEM).where(ITEM.c.id == 4).values(name="taken"))
    plant.execute(sa.delete(ITEM).where(ITEM.c.id == 5))
    done = cross()
    assert (done.records.applied, done.records.parked) == (2, 1)
    for when in ("applied", "committed"):
        assert (told.keys(when), told.keys(when, "delete")) == ([(3,)], [(5,)])
    assert sorted(told.keys("before")) == [(3,), (4,)]

    # One that fails in the transaction undoes it, and the next import tries again.
    plant.execute(sa.delete(ITEM).where(ITEM.c.id == 6))
    notes = len(office.rows(NOTE))
    told.fails = {"applied"}
    done = cross()
    assert (done.verdict, done.reason) == (Verdict.WAITING, Reason.CRASHED)
    assert "it failed with KeyError in the application's Told.applied of stream item (on_applied), test_hooks.py" in (
        done.message
    )
    assert "secret" not in done.message
    assert len(office.rows(NOTE)) == notes
    told.fails = {"committed"}
    told.calls.clear()
    done = cross()
    assert done.verdict is Verdict.APPLIED
    assert done.trouble is not None
    assert "(after_commit)" in done.trouble
    assert done.trouble.endswith("the rows are committed, and it is not called again for them")
    assert told.keys("committed", "delete") == [(6,)]

    # A dead letter that is retried, too; a rehearsal calls nobody.
    told.calls.clear()
    office.execute(sa.update(ITEM).where(ITEM.c.id == 9).values(name="free"))
    (rehearsed,) = retry_letters(office.site, [1], rehearse=True)
    assert (rehearsed.state, told.calls) == ("applied", [])
    told.fails = {"before"}
    (failed,) = retry_letters(office.site, [1])
    assert failed.failed
    assert failed.message.startswith("KeyError in the application's Told.before of stream item (before_apply)")
    told.fails = {"committed"}
    (held,) = retry_letters(office.site, [1])
    assert held.state == "applied"
    assert "(after_commit)" in held.message
    assert told.keys("applied") == [(4,)]


def test_a_hook_that_is_no_function_is_a_fault_of_the_declaration() -> None:
    with pytest.raises(ChannelFaults, match=r'stream "item": on_applied= takes a function .* found str'):
        check([Channel("items", "plant", "office", [Stream(ITEM, on_applied="told")])])  # type: ignore[arg-type]
