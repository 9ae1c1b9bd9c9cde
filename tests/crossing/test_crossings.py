"""Rows cross both ways between databases of each kind, and are on the other side what they were."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.dead_letters import retry
from exchange.format.errors import Verdict
from exchange.results import ImportRun
from tests.crossing import shop
from tests.crossing.conftest import every_pair, needs_postgres
from tests.crossing.shop import account, everything, node, note, one_of_everything, person, place, seat, team, visit
from tests.crossing.sides import Link, Side


def applied(run: ImportRun) -> ImportRun:
    """Say that every batch of a run was applied, and nothing parked."""
    assert run.trouble is None
    assert [(one.verdict, one.records.parked) for one in run.batches] == [(Verdict.APPLIED, 0)] * len(run.batches), run
    return run


def assert_crosses(link: Link) -> None:
    """Make a round both ways, in which every batch is applied, and see that every table is the same then."""
    for run in link.round():
        applied(run)
    assert_equal(link)


def assert_equal(link: Link) -> None:
    """See that both sides have the same rows, but for what does not cross."""
    for table in (*shop.FORTH, *shop.BACK):
        mine, theirs = link.one.rows(table), link.other.rows(table)
        for row in (*mine, *theirs):
            row.pop("password", None)
        assert mine == theirs, table.name


def pending(side: Side) -> int:
    """Count what is captured and not exported."""
    return int(side.all(sa.select(sa.func.count()).select_from(tables.change))[0][0])


@every_pair
@pytest.mark.quick
def test_every_type_crosses_and_is_what_it_was(link: Link) -> None:
    link.one.execute(sa.insert(everything), [one_of_everything(1), one_of_everything(2, empty=True)])
    assert_crosses(link)
    assert link.other.rows(everything)[0]["money"] == shop.TYPES["money"][1]
    assert link.other.rows(everything)[1]["document"] is None


def test_a_null_takes_the_place_of_a_value_and_gives_it_back(link: Link) -> None:
    link.one.execute(sa.insert(everything), [one_of_everything(1)])
    assert_crosses(link)
    for empty in (True, False):
        link.one.execute(sa.update(everything).values(one_of_everything(1, empty=empty)))
        assert_crosses(link)


def test_both_ways_in_one_round_and_nothing_comes_back(link: Link) -> None:
    link.one.execute(sa.insert(account), [{"id": n, "name": f"n{n}", "password": "x"} for n in range(3)])
    assert_crosses(link)
    link.other.execute(sa.insert(note), [{"id": n, "account": n, "text": "hello"} for n in range(3)])
    link.one.execute(sa.update(account).values(name="other"))
    assert_crosses(link)
    assert (pending(link.one), pending(link.other)) == (0, 0)
    assert link.one.export().batches == link.other.export().batches == ()


def test_excluded_columns_keep_the_receivers_own_values(small: Link) -> None:
    small.one.execute(sa.insert(account), [{"id": 1, "name": "a", "password": "theirs"}])
    assert_crosses(small)
    assert small.other.rows(account)[0]["password"] is None
    small.other.execute(sa.update(account).values(password="mine"))
    small.one.execute(sa.update(account).values(name="b", password="changed"))
    assert_crosses(small)
    assert small.other.rows(account) == [{"id": 1, "name": "b", "age": None, "password": "mine"}]


def test_composite_keys_cross_with_their_references(link: Link) -> None:
    link.one.execute(sa.insert(place), [{"country": c, "number": n, "name": "p"} for c in ("at", "ch") for n in (1, 2)])
    visits = [{"id": 1, "country": "at", "number": 2}, {"id": 2, "country": "ch", "number": 1}]
    link.one.execute(sa.insert(visit), visits)
    assert_crosses(link)
    link.one.execute(sa.update(visit).where(visit.c.id == 1).values(country="ch", number=1))
    link.one.execute(sa.delete(place).where(place.c.country == "at"))
    assert_crosses(link)


def test_a_changed_key_is_a_delete_and_an_insert(link: Link) -> None:
    link.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": f"p{n}"} for n in (1, 2, 3)])
    assert_crosses(link)
    link.one.execute(sa.update(place).where(place.c.number < 3).values(country="de"))
    assert_crosses(link)
    link.one.execute(sa.update(place).where(place.c.number == 1).values(country="at"))
    assert_crosses(link)


def test_trees_cross_root_first_and_go_leaves_first(link: Link) -> None:
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, str(n)) for n in range(20)]
    rows = [{"id": one, "parent": ids[(n - 1) // 2] if n else None, "name": str(n)} for n, one in enumerate(ids)]
    link.one.execute(sa.insert(node), rows)
    assert_crosses(link)
    link.one.execute(sa.update(node).where(node.c.id == ids[0]).values(parent=ids[0]))
    link.one.execute(sa.update(node).where(node.c.id == ids[7]).values(parent=ids[19]))
    assert_crosses(link)
    with link.one.engine.begin() as connection:
        for one in reversed(ids[3:]):
            connection.execute(sa.update(node).where(node.c.parent == one).values(parent=None))
            connection.execute(sa.delete(node).where(node.c.id == one))
    assert_crosses(link)
    link.one.execute(sa.update(node).values(parent=None))
    link.one.execute(sa.delete(node))
    assert_crosses(link)


def test_a_cycle_of_deferred_references_crosses(link: Link) -> None:
    with link.one.engine.begin() as connection:
        connection.execute(sa.insert(team), [{"id": n, "name": "t", "leader": n * 10} for n in (1, 2)])
        connection.execute(sa.insert(person), [{"id": n * 10, "name": "p", "team": n} for n in (1, 2)])
    assert_crosses(link)
    with link.one.engine.begin() as connection:
        connection.execute(sa.delete(team).where(team.c.id == 2))
        connection.execute(sa.delete(person).where(person.c.id == 20))
    assert_crosses(link)


@pytest.mark.parametrize(
    "alike, second",
    [
        *(("sqlite", second) for second in ("swap", "chain", "ring", "handed over", "handed on", "new row")),
        # With an update, a delete and an insert of who gives a value up or gets it.
        *(pytest.param("postgresql", second, marks=needs_postgres) for second in ("ring", "handed on", "new row")),
    ],
    indirect=["alike"],
)
def test_unique_values_pass_between_rows(alike: Link, second: str) -> None:
    alike.one.execute(sa.insert(seat), [{"id": n, "code": c, "row": 1, "rank": n} for n, c in enumerate("abcd", 1)])
    assert_crosses(alike)
    after: dict[str, dict[int, str]] = {
        "swap": {1: "b", 2: "a"},
        "chain": {1: "b", 2: "c", 3: "d", 4: "e"},
        "ring": {1: "b", 2: "c", 3: "d", 4: "a"},
        "handed over": {2: "a", 1: ""},
        "handed on": {1: "z", 2: "a", 3: "b", 4: ""},
        "new row": {1: "z", 9: "a"},
    }
    ranks = {1: 4, 2: 3, 3: 2, 4: 1}
    with alike.one.engine.begin() as connection:
        connection.execute(sa.update(seat).values(code="tmp-" + seat.c.code, rank=None))
        for key, code in after[second].items():
            if not code:
                connection.execute(sa.delete(seat).where(seat.c.id == key))
            elif key == 9:
                connection.execute(sa.insert(seat).values(id=9, code=code, row=1, rank=9))
            else:
                connection.execute(sa.update(seat).where(seat.c.id == key).values(code=code))
        for key, rank in ranks.items():
            connection.execute(sa.update(seat).where(seat.c.id == key).values(rank=rank))
    assert_crosses(alike)


def test_a_deleted_key_that_comes_back_is_there(small: Link) -> None:
    for turn in range(3):
        small.one.execute(sa.insert(account).values(id=1, name=f"turn {turn}"))
        assert_crosses(small)
        small.one.execute(sa.delete(account))
        if turn != 1:
            assert_crosses(small)


def test_many_changes_of_one_row_are_one_record(small: Link) -> None:
    small.one.execute(sa.insert(account).values(id=1, name="first"))
    for turn in range(50):
        small.one.execute(sa.update(account).values(name=f"turn {turn}"))
    small.one.execute(sa.insert(account).values(id=2, name="short-lived"))
    small.one.execute(sa.delete(account).where(account.c.id == 2))
    exported = small.one.export()
    assert [one.records for one in exported.batches] == [2]  # the row, and the delete of the other
    assert_crosses(small)


def test_truncate_and_bulk_statements_cross(link: Link) -> None:
    link.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(30)])
    assert_crosses(link)
    link.one.execute("UPDATE place SET name = 'q' WHERE number % 2 = 0")
    assert_crosses(link)
    if link.one.engine.dialect.name == "postgresql":
        link.one.execute("TRUNCATE place CASCADE")
    else:
        link.one.execute("DELETE FROM place")
    assert_crosses(link)
    assert link.other.rows(place) == []


def test_a_cascade_from_a_received_table_onto_an_owned_one_is_captured(link: Link) -> None:
    link.one.execute(sa.insert(account), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    assert_crosses(link)
    link.other.execute(sa.insert(note), [{"id": n, "account": 1 + n % 2, "text": "t"} for n in range(4)])
    assert_crosses(link)
    link.one.execute(sa.delete(account).where(account.c.id == 1))
    link.round()
    assert {row["account"] for row in link.other.rows(note)} == {2}
    link.round()  # the cascaded deletes, back
    assert_equal(link)
    assert (pending(link.one), pending(link.other)) == (0, 0)


@pytest.mark.same_on("postgresql")
def test_bounded_batches_apply_by_themselves_with_parents_in_later_ones(alike: Link) -> None:
    alike.one.limit(batch_records=7, batch_bytes=1500)
    ids = [uuid.UUID(int=n + 1) for n in range(20)]
    alike.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(10)])
    alike.one.execute(sa.insert(node), [{"id": one, "parent": None, "name": str(n)} for n, one in enumerate(ids)])
    alike.one.execute(sa.insert(visit), [{"id": n, "country": "at", "number": 9 - n} for n in range(10)])
    # Children first, so that the changes of their parents are the last ones pending.
    for n, one in enumerate(ids):
        alike.one.execute(sa.update(node).where(node.c.id == one).values(parent=ids[(n + 13) % 20] if n < 19 else None))
    exported = alike.one.export()
    assert len(exported.batches) > 4
    assert_crosses(alike)


@pytest.mark.same_on("postgresql")
def test_bounded_batches_carry_deletes_of_what_later_ones_still_held(alike: Link) -> None:
    alike.one.execute(sa.insert(place), [{"country": "at", "number": n, "name": "p"} for n in range(12)])
    alike.one.execute(sa.insert(visit), [{"id": n, "country": "at", "number": n} for n in range(12)])
    assert_crosses(alike)
    alike.one.limit(batch_records=7, batch_bytes=700)
    alike.one.execute(sa.update(place).values(name="q"))
    alike.one.execute(sa.update(visit).values(number=11 - visit.c.number))
    alike.one.execute(sa.delete(visit).where(visit.c.id < 9))
    alike.one.execute(sa.delete(place).where(place.c.number > 2))
    assert_crosses(alike)
    alike.one.execute(sa.delete(visit))
    alike.one.execute(sa.delete(place))
    assert_crosses(alike)


def test_unique_values_pass_between_rows_of_different_batches(alike: Link) -> None:
    alike.one.execute(sa.insert(seat), [{"id": n, "code": f"c{n}", "row": 1, "rank": n} for n in range(8)])
    assert_crosses(alike)
    alike.one.limit(batch_records=3)
    with alike.one.engine.begin() as connection:
        connection.execute(sa.update(seat).values(code="x" + seat.c.code, rank=None))
        for n in range(8):
            connection.execute(sa.update(seat).where(seat.c.id == n).values(code=f"c{(n + 3) % 8}", rank=7 - n))
    _, run = alike.round()
    assert all(one.verdict is Verdict.APPLIED for one in run.batches)
    # None of these batches holds the whole ring: all of it is parked, never half, and named.
    assert [row["code"] for row in alike.other.rows(seat)] == [f"c{n}" for n in range(8)]
    letters = alike.other.all(sa.select(tables.dead_letter.c.error, tables.dead_letter.c.message))
    assert len(letters) == 8
    assert all(error == "unique" and "is taken by the row id = " in message for error, message in letters)
    alike.one.limit(batch_records=100)
    alike.one.execute(sa.update(seat).values(row=seat.c.row))
    assert_crosses(alike)
    parked = [row[0] for row in alike.other.all(sa.select(tables.dead_letter.c.id))]
    assert {one.state for one in retry.retry_letters(alike.other.site, parked)} == {tables.DeadLetterState.SUPERSEDED}
    assert_equal(alike)


def versions(side: Side, table: sa.Table) -> list[Any]:
    """Give the versions that the rows of a received table have."""
    return [row[0] for row in side.all(sa.select(sa.column("exchange_version")).select_from(sa.table(table.name)))]


def test_received_rows_have_the_version_of_their_change_and_the_owners_none(small: Link) -> None:
    small.one.execute(sa.insert(account).values(id=1, name="a"))
    assert_crosses(small)
    [first] = versions(small.other, account)
    small.one.execute(sa.update(account).values(name="b"))
    assert_crosses(small)
    [second] = versions(small.other, account)
    assert second > first > 1_600_000_000_000_000
    assert versions(small.one, account) == [None]


def test_a_value_handed_on_by_a_delete_that_must_stay_leaves_both_rows_as_they_were(alike: Link) -> None:
    """The row that is to go is held by a row of the receiver's own: nothing may be left of its giving up."""
    alike.one.execute(sa.insert(seat), [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}])
    assert_crosses(alike)
    alike.other.execute("CREATE TABLE guest (id integer PRIMARY KEY, seat integer NOT NULL REFERENCES seat (id))")
    alike.other.execute("INSERT INTO guest VALUES (1, 1)")
    with alike.one.engine.begin() as connection:
        connection.execute(sa.delete(seat).where(seat.c.id == 1))
        connection.execute(sa.update(seat).values(code="a"))
    _, run = alike.round()
    assert run.batches[0].records.parked == 2
    assert [row["code"] for row in alike.other.rows(seat)] == ["a", "b"]
    errors = alike.other.all(sa.select(tables.dead_letter.c.error).order_by(tables.dead_letter.c.error))
    assert [row[0] for row in errors] == ["foreign_key", "unique"]


def test_a_value_handed_on_by_a_row_that_the_database_refuses_leaves_both_rows_as_they_were(alike: Link) -> None:
    alike.one.execute(sa.insert(seat), [{"id": 1, "code": "a", "rank": 1}, {"id": 2, "code": "b", "rank": 2}])
    assert_crosses(alike)
    if alike.other.engine.dialect.name == "postgresql":
        alike.other.execute("ALTER TABLE seat ADD CHECK (rank < 100)")
    else:
        alike.other.execute(
            "CREATE TRIGGER seat_rank BEFORE UPDATE ON seat WHEN NEW.rank >= 100"
            " BEGIN SELECT RAISE(ABORT, 'the rank is too high'); END"
        )
    with alike.one.engine.begin() as connection:
        connection.execute(sa.update(seat).where(seat.c.id == 1).values(code="z", rank=100))
        connection.execute(sa.update(seat).where(seat.c.id == 2).values(code="a"))
    _, run = alike.round()
    assert run.batches[0].records.parked == 2
    assert [row["code"] for row in alike.other.rows(seat)] == ["a", "b"]
