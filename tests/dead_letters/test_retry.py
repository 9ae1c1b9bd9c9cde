"""Dead letters mended: superseded, reunited, retried in bulk, edited, given up and taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.database import tables
from exchange.database.locks import locked, writing
from exchange.database.tables import DeadLetterState, dead_letter, event, revision
from exchange.dead_letters import bulk_retry, discard, retry, selections, store
from exchange.dead_letters import edit as editing
from exchange.dead_letters import supersede as watching
from exchange.dead_letters.bulk_retry import BulkRetry, Pace
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.store import Parked
from exchange.format.errors import TransientError, Verdict
from exchange.results import Retried
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account, delete, upsert
from tests.crossing.sides import Link, Side

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
PARKED, APPLIED, SUPERSEDED = DeadLetterState.PARKED, DeadLetterState.APPLIED, DeadLetterState.SUPERSEDED


@pytest.fixture(autouse=True)
def _lenient(request: pytest.FixtureRequest) -> None:
    for name in ("receiver", "quick_receiver"):
        if name in request.fixturenames:
            request.getfixturevalue(name).limit(invalid_share=1.0, invalid_records=100_000)


def visit(number: int, place: int, version: int) -> dict[str, object]:
    return upsert("visit", version, id=number, country="at", number=place)


def place(number: int, version: int) -> dict[str, object]:
    return upsert("place", version, country="at", number=number, name=f"place {number}")


def letters(side: Side) -> list[Parked]:
    """Give all dead letters, oldest first."""
    with side.engine.connect() as connection:
        ids = connection.scalars(sa.select(dead_letter.c.id).order_by(dead_letter.c.id))
        return [letter for one in ids if (letter := store.find(connection, one))]


def states(side: Side) -> list[str]:
    return [letter.state.value for letter in letters(side)]


def told(side: Side, letter_id: int) -> list[str]:
    """Give what was noted of a letter, oldest first."""
    with side.engine.connect() as connection:
        return [one["cause"] for one in store.history(connection, letter_id)]


def park(side: Side, forger: Forger, records: Sequence[dict[str, Any] | bytes]) -> list[Parked]:
    """Let records be refused, each of them; give the letters."""
    before = len(letters(side))
    forger.send(records)
    [outcome] = side.take_in().batches
    assert (outcome.verdict, outcome.records.parked) == (Verdict.APPLIED, len(records))
    return letters(side)[before:]


def select(side: Side, name: str, **filters: Any) -> selections.Selection:
    with writing(side.engine) as connection:
        return selections.create_selection(connection, name, Filters(**({"state": PARKED} | filters)))


def run(side: Side, name: str, pace: Pace | None = None, **how: Any) -> tuple[BulkRetry, list[Retried]]:
    """Retry a selection; give the summary and what became of each."""
    done: list[Retried] = []
    how = {"stopping": lambda: False, "report": done.extend} | how
    return bulk_retry.retry_selection(side.site, name, pace, **how), done


def old(number: int, version: int = FIRST) -> dict[str, object]:
    """Give an account that breaks the table's constraint."""
    return account(number, version, age=300)


def without_constraint(side: Side) -> None:
    """Take away what makes ``old`` accounts refused."""
    if side.engine.dialect.name == "postgresql":
        side.execute("ALTER TABLE account DROP CONSTRAINT account_age")
    else:
        side.execute("PRAGMA writable_schema = ON")
        side.execute("UPDATE sqlite_master SET sql = replace(sql, 'age < 200', 'age < 900') WHERE name = 'account'")
        side.engine.dispose()


# Superseded by itself


@pytest.mark.parametrize(
    "receiver, few, at_once",
    [
        pytest.param("sqlite", 10_000, 1, id="sqlite, keys known, one by one"),
        pytest.param("sqlite", 0, 10_000, id="sqlite, keys looked up, together"),
        pytest.param("postgresql", 10_000, 10_000, id="postgresql, keys known, together", marks=needs_postgres),
        pytest.param("postgresql", 0, 1, id="postgresql, keys looked up, one by one", marks=needs_postgres),
    ],
    indirect=["receiver"],
)
def test_a_later_record_of_a_key_supersedes_its_letters(
    receiver: Side, forger: Forger, monkeypatch: pytest.MonkeyPatch, few: int, at_once: int
) -> None:
    monkeypatch.setattr(watching, "FEW", few)
    monkeypatch.setattr(watching, "AT_ONCE", at_once)
    park(receiver, forger, [old(1), old(2), old(3), old(4), visit(1, 1, FIRST)])
    forger.send(
        [account(1, FIRST + 1), account(9, FIRST + 1), delete("account", FIRST + 2, id=2), account(3, FIRST - 1)]
    )
    stem = forger.send([old(4, FIRST + 5)])
    receiver.take_in()

    assert states(receiver) == ["superseded", "superseded", "parked", "parked", "parked"]
    assert told(receiver, letters(receiver)[0].id)[-1].startswith("superseded: a later record of its key came")
    fourth = letters(receiver)[3]
    assert (fourth.batch, fourth.version, fourth.seen) == (stem, FIRST + 5, 2)
    assert len(told(receiver, fourth.id)) == 1


def test_a_key_that_is_twice_in_a_batch_stays_parked(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST), account(1, FIRST + 1)])
    quick_receiver.take_in()

    assert [(one.error, one.state) for one in letters(quick_receiver)] == [("repeated_key", PARKED)]


def test_an_import_meets_no_letter_of_another_direction(quick_receiver: Side, quick_forger: Forger) -> None:
    mine = store.Letter(
        tables.Direction.OUT, "back", b"{}", "value", "bad", stream="account", op="upsert", key='{"id":1}', version=1
    )
    with quick_receiver.engine.begin() as connection:
        store.park(connection, [mine], "test")
    quick_forger.send([account(1, FIRST)])
    quick_receiver.take_in()

    assert states(quick_receiver) == ["parked"]


def test_a_row_that_goes_out_after_all_supersedes_its_letters(alike: Link) -> None:
    evil = "a" * 10 if alike.one.engine.dialect.name == "sqlite" else None
    row = shop.one_of_everything(1)
    alike.one.execute(sa.insert(shop.everything), [row, shop.one_of_everything(2)])
    for number in (1, 2):
        if evil:
            alike.one.execute(f"UPDATE everything SET name = '{evil}' WHERE id = {number}")
        else:
            alike.one.execute(f"UPDATE everything SET day = 'infinity' WHERE id = {number}")
    assert alike.one.export().parked == 2
    alike.one.execute("UPDATE everything SET whole = 5 WHERE id = 2")
    fields = {"name": row["name"], "day": row["day"]}
    alike.one.execute(sa.update(shop.everything).where(shop.everything.c.id == 1).values(fields))
    assert alike.one.export().parked == 1

    assert states(alike.one) == ["superseded", "parked"]
    assert letters(alike.one)[1].seen == 2
    assert told(alike.one, letters(alike.one)[0].id)[-1] == "superseded: its row went out with a later export"
    alike.there.carry()
    alike.other.take_in()
    assert [one["id"] for one in alike.other.rows(shop.everything)] == [1]


# Reunited


def test_an_orphan_is_retried_by_itself_when_its_parent_has_come(receiver: Side, forger: Forger) -> None:
    park(receiver, forger, [visit(1, 1, FIRST), visit(2, 2, FIRST), old(1)])
    for _ in range(3):  # a look costs a letter nothing
        forger.send([account(5, FIRST)])
        assert receiver.take_in().reunited == ()
    assert [one.attempts for one in letters(receiver)] == [1, 1, 1]
    forger.send([place(1, FIRST + 1)])
    run = receiver.take_in()

    assert [(one.id, one.state) for one in run.reunited] == [(letters(receiver)[0].id, APPLIED)]
    assert states(receiver) == ["applied", "parked", "parked"]
    assert [row["id"] for row in receiver.rows(shop.visit)] == [1]
    assert told(receiver, letters(receiver)[0].id)[-1].startswith("retried by itself")


def test_of_very_many_orphans_a_run_looks_at_all_as_long_as_it_finds_some_whose_row_has_come(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(orphans_at_once=3)
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(8)])
    quick_forger.send([place(number, FIRST) for number in range(8)])

    assert len(quick_receiver.take_in().reunited) == 8

    assert states(quick_receiver) == ["applied"] * 8


def test_an_orphan_that_is_refused_for_another_cause_then_is_not_tried_for_ever(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    park(quick_receiver, quick_forger, [upsert("visit", FIRST, id=1, country="at", number=1)])
    quick_receiver.limit(poison_after=1)
    quick_receiver.execute(sa.update(dead_letter).values(attempts=2))
    quick_forger.send([place(1, FIRST)])

    assert quick_receiver.take_in().reunited == ()
    assert states(quick_receiver) == ["parked"]
    assert retry.retry_letters(quick_receiver.site, [letters(quick_receiver)[0].id])[0].state is APPLIED


# Retried together


@pytest.mark.same_on
def test_letters_of_one_selection_get_their_own_outcomes(receiver: Side, forger: Forger) -> None:
    park(receiver, forger, [visit(1, 1, FIRST), visit(2, 2, FIRST), old(1), old(2), b"{", old(3, FIRST + 1)])
    receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    newer = sa.table("account", sa.column("id"), sa.column("name"), sa.column("exchange_version"))
    receiver.execute(sa.insert(newer).values(id=2, name="b", exchange_version=FIRST + 9))
    receiver.execute(sa.insert(newer).values(id=1, name="a", exchange_version=FIRST + 1))
    receiver.execute(sa.insert(newer).values(id=3, name="c", exchange_version=FIRST + 1))
    chosen = select(receiver, "all")
    bulk, done = run(receiver, "all")

    by_id = {one.id: one.state for one in done}
    by_line = sorted(letters(receiver), key=lambda letter: letter.line or 0)
    assert [by_id[one.id] for one in by_line] == [APPLIED, PARKED, SUPERSEDED, SUPERSEDED, PARKED, APPLIED]
    assert (chosen.letters, bulk.tried, bulk.failed, bulk.stopped) == (6, 6, 2, None)
    assert [one.attempts for one in letters(receiver)] == [2] * 6
    orphan = by_line[1]
    assert told(receiver, orphan.id)[-1] == f"retried: {orphan.message}"
    assert [row["id"] for row in receiver.rows(shop.visit)] == [1]


def test_parents_are_tried_before_children_whatever_came_first(quick_receiver: Side, quick_forger: Forger) -> None:
    long = "x" * 50
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(5)])
    bad = [upsert("place", FIRST, country="at", number=number, name=long) for number in range(5)]
    for letter in park(quick_receiver, quick_forger, bad):
        draft = editing.begin_edit(quick_receiver.site, letter.id)
        editing.save_edit(quick_receiver.site, draft, editing.with_changes(draft, ["/data/name=short"], []), "too long")
    select(quick_receiver, "all")
    bulk, _ = run(quick_receiver, "all")

    assert (bulk.states[APPLIED], bulk.failed) == (10, 0)


def test_a_rehearsal_says_what_would_happen_and_changes_nothing(receiver: Side, forger: Forger) -> None:
    park(receiver, forger, [visit(1, 1, FIRST), visit(2, 2, FIRST)])
    receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    select(receiver, "all")
    before = (letters(receiver), receiver.all(sa.select(event.c.id)))
    bulk, done = run(receiver, "all", rehearse=True)

    assert [one.state for one in done] == [APPLIED, PARKED]
    assert bulk.as_dict()["dry_run"] is True
    assert (letters(receiver), receiver.all(sa.select(event.c.id))) == before
    assert receiver.rows(shop.visit) == []
    assert [one.state for one in retry.retry_letters(receiver.site, [letters(receiver)[0].id], rehearse=True)] == [
        APPLIED
    ]
    assert states(receiver) == ["parked", "parked"]
    assert run(receiver, "all")[0].states == {APPLIED: 1, PARKED: 1}


def test_a_canary_that_does_not_hold_ends_the_run(quick_receiver: Side, quick_forger: Forger) -> None:
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(20)])
    quick_receiver.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in range(2, 20)])
    select(quick_receiver, "all")
    bulk, done = run(quick_receiver, "all", Pace(canary=4))
    assert (len(done), bulk.failed) == (4, 2)
    assert bulk.stopped == "stopped: 2 of the first 4 did not hold; what is left was not tried"

    bulk, done = run(quick_receiver, "all", Pace(canary=4))
    assert (len(done), bulk.failed, bulk.stopped) == (16, 0, None)


@pytest.mark.parametrize("number_of_letters, most", [(60, 1), (60, 3), (60, 7), (20, 1), (20, 3)])
def test_a_run_ends_right_after_as_many_failures_as_may_be(
    quick_receiver: Side, quick_forger: Forger, number_of_letters: int, most: int
) -> None:
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(number_of_letters)])
    quick_receiver.execute(
        sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in range(0, number_of_letters, 2)]
    )
    select(quick_receiver, "all")
    bulk, done = run(quick_receiver, "all", Pace(stop_after=most))

    assert (bulk.failed, bulk.tried, len(done)) == (most, 2 * most, 2 * most)
    assert bulk.stopped == f"stopped: {most} failed, and no more may; what is left was not tried"
    assert states(quick_receiver).count("applied") == most


def test_a_run_that_was_stopped_goes_on_where_it_ended(
    quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_receiver.limit(group_letters=10)
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(50)])
    quick_receiver.execute(sa.insert(shop.place), [{"country": "at", "number": n, "name": "p"} for n in range(50)])
    select(quick_receiver, "all")
    asked = iter([False, False, True])
    bulk, done = run(quick_receiver, "all", stopping=lambda: next(asked))
    assert (bulk.tried, len(done)) == (20, 20)
    assert "goes on" in (bulk.stopped or "")

    class Killed(BaseException):
        pass

    def die(_: Sequence[Retried]) -> None:
        raise Killed

    with pytest.raises(Killed):
        run(quick_receiver, "all", report=die)
    bulk, done = run(quick_receiver, "all")
    assert (bulk.tried, bulk.stopped) == (20, None)
    assert [one.attempts for one in letters(quick_receiver)] == [2] * 50
    assert run(quick_receiver, "all")[0].tried == 0


def test_a_rate_is_kept(quick_receiver: Side, quick_forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("exchange.dead_letters.bulk_retry.time.sleep", slept.append)
    monkeypatch.setattr("exchange.dead_letters.bulk_retry.time.monotonic", lambda: sum(slept))
    park(quick_receiver, quick_forger, [visit(number, number, FIRST) for number in range(10)])
    select(quick_receiver, "all")
    _, done = run(quick_receiver, "all", Pace(rate=2.0))

    assert (len(done), round(sum(slept), 3)) == (10, 5.0)


@pytest.mark.parametrize("receiver", [pytest.param("postgresql", marks=needs_postgres)], indirect=True)
def test_one_letter_that_the_database_refuses_at_the_end_loses_no_other(receiver: Side, forger: Forger) -> None:
    park(receiver, forger, [upsert("team", FIRST, id=n, name="t", leader=n) for n in range(5)])
    receiver.execute("ALTER TABLE person DISABLE TRIGGER ALL")
    receiver.execute(sa.insert(shop.person), [{"id": n, "name": "p", "team": n} for n in range(5)])
    receiver.execute(
        "CREATE FUNCTION no_third() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.id = 3 THEN RAISE EXCEPTION 'not the third' USING ERRCODE = '23514'; END IF;"
        " RETURN NULL; END$$"
    )
    receiver.execute(
        "CREATE CONSTRAINT TRIGGER no_third AFTER INSERT ON team DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION no_third()"
    )
    select(receiver, "all")
    bulk, done = run(receiver, "all")

    assert bulk.states == {APPLIED: 4, PARKED: 1}
    [refused] = [one for one in done if one.failed]
    assert refused.message == "the database refused this upsert of team: not the third; it is parked"
    assert [row["id"] for row in receiver.rows(shop.team)] == [0, 1, 2, 4]


def test_a_channel_that_is_worked_on_is_told_at_once(receiver: Side, forger: Forger) -> None:
    [letter] = park(receiver, forger, [visit(1, 1, FIRST)])
    select(receiver, "all")
    other = replace(receiver.site)
    with locked(other.engine, "import forth"), pytest.raises(Exception, match=r"import forth is busy: .* since"):
        run(receiver, "all")
    assert letters(receiver) == [letter]


def test_letters_of_both_directions_are_retried_together(quick_receiver: Side, quick_forger: Forger) -> None:
    park(quick_receiver, quick_forger, [visit(1, 1, FIRST)])
    keys = ['{"id" : 1}', '{"id" : 2}']
    mine = [
        store.Letter(tables.Direction.OUT, "back", b"{}", "value", "bad", stream="note", op="upsert", key=key)
        for key in (*keys, keys[0])
    ]
    gone = store.Letter(tables.Direction.IN, "unknown", b"{}", "value", "bad")
    with quick_receiver.engine.begin() as connection:
        store.park(connection, [*mine, gone], "test")
    select(quick_receiver, "all")
    bulk, _ = run(quick_receiver, "all")

    assert states(quick_receiver) == ["parked", "applied", "applied", "parked"]
    assert (bulk.tried, bulk.as_dict()["left"]) == (3, 1)
    assert sorted(row.key for row in quick_receiver.all(sa.select(tables.change))) == keys


# Poison


def test_what_failed_too_often_is_left_out_until_asked_for_by_its_id(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_receiver.limit(poison_after=2)
    [letter] = park(quick_receiver, quick_forger, [visit(1, 1, FIRST)])
    select(quick_receiver, "all")
    assert [run(quick_receiver, "all", again=True)[0].tried for _ in range(4)] == [1, 1, 0, 0]
    bulk, _ = run(quick_receiver, "all", again=True)
    assert (bulk.poison, bulk.as_dict()["left"]) == (1, 1)
    quick_receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))

    assert retry.retry_letters(quick_receiver.site, [letter.id])[0].state is APPLIED


# Selections


def test_a_selection_hits_nothing_that_came_later(quick_receiver: Side, quick_forger: Forger) -> None:
    park(quick_receiver, quick_forger, [visit(1, 1, FIRST)])
    assert select(quick_receiver, "first", stream="visit").letters == 1
    park(quick_receiver, quick_forger, [visit(2, 1, FIRST)])
    quick_receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    run(quick_receiver, "first")

    assert states(quick_receiver) == ["applied", "parked"]


def test_a_selection_that_changed_is_told_and_nothing_is_done(quick_receiver: Side, quick_forger: Forger) -> None:
    found = park(quick_receiver, quick_forger, [visit(1, 1, FIRST), visit(2, 2, FIRST), visit(3, 3, FIRST), old(4)])
    select(quick_receiver, "all")
    discard.discard_letters(quick_receiver.site, "a test", ids=[found[0].id])
    quick_forger.send([account(4, FIRST + 1)])  # which supersedes a letter: no surprise
    quick_receiver.take_in()
    with pytest.raises(TransientError) as refused:
        run(quick_receiver, "all")
    assert refused.value.sentence.startswith(
        "1 of the letters of selection all changed since it was made:"
        f" dead letter {found[0].id} is discarded already, by "
    )
    assert "nothing was changed" in refused.value.sentence
    with pytest.raises(TransientError, match="changed since"):
        discard.discard_letters(quick_receiver.site, "a test", selection="all")
    assert states(quick_receiver) == ["discarded", "parked", "parked", "superseded"]

    assert run(quick_receiver, "all", skip_changed=True)[0].tried == 2


def test_a_selection_has_a_name_of_its_own(quick_receiver: Side, quick_forger: Forger) -> None:
    with pytest.raises(TransientError, match="nothing was selected"):
        select(quick_receiver, "all")
    park(quick_receiver, quick_forger, [visit(1, 1, FIRST)])
    select(quick_receiver, "all")
    with pytest.raises(TransientError, match="selection all is there already, by "):
        select(quick_receiver, "all")
    with pytest.raises(TransientError, match=r"there is no selection other \(there are: all\); nothing was changed"):
        run(quick_receiver, "other")
    with writing(quick_receiver.engine) as connection:
        assert [one.name for one in selections.list_selections(connection)] == ["all"]
        selections.delete_selection(connection, "all")
        assert selections.list_selections(connection) == []
    assert select(quick_receiver, "all").left == 1


# Given up, and taken back


def test_letters_are_discarded_and_restored_all_or_none(quick_receiver: Side, quick_forger: Forger) -> None:
    ids = [one.id for one in park(quick_receiver, quick_forger, [visit(n, n, FIRST) for n in range(3)])]
    discard.discard_letters(quick_receiver.site, "a test", ids=ids[:1])
    for refused in (ids, [*ids[1:], 999]):
        with pytest.raises(TransientError, match=r"nothing was changed|there is no dead letter 999"):
            discard.discard_letters(quick_receiver.site, "a test", ids=refused)
        assert states(quick_receiver) == ["discarded", "parked", "parked"]
    with pytest.raises(TransientError, match=r"is parked, last changed by .*; nothing was changed"):
        discard.restore_letters(quick_receiver.site, "a test", ids=ids)
    assert discard.restore_letters(quick_receiver.site, "a mistake", ids=ids[:1]) == 1
    assert states(quick_receiver) == ["parked"] * 3
    assert told(quick_receiver, ids[0])[1:] == ["discarded: a test", "restored: a mistake"]


def test_a_selection_is_discarded_and_restored(quick_receiver: Side, quick_forger: Forger) -> None:
    park(quick_receiver, quick_forger, [visit(n, n, FIRST) for n in range(3)])
    quick_receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    select(quick_receiver, "all")
    run(quick_receiver, "all")
    assert discard.discard_letters(quick_receiver.site, "nobody needs them", selection="all") == 2
    assert states(quick_receiver) == ["discarded", "applied", "discarded"]
    assert discard.restore_letters(quick_receiver.site, "somebody does", selection="all") == 2
    assert run(quick_receiver, "all")[0].tried == 2


# Edited


def edit(side: Side, letter: Parked, *values: str, removed: Sequence[str] = ()) -> editing.Edited:
    draft = editing.begin_edit(side.site, letter.id)
    return editing.save_edit(side.site, draft, editing.with_changes(draft, values, removed), "a test")


def test_an_edit_is_a_revision_and_the_retry_takes_it(receiver: Side, forger: Forger) -> None:
    [letter] = park(receiver, forger, [account(1, FIRST, age="many")])
    done = edit(receiver, letter, "/data/age=42")
    assert (done.revision, done.difference) == (1, '/data/age: "many" -> 42')
    assert edit(receiver, letter, "/data/name=x").revision == 2
    [kept] = letters(receiver)
    assert (kept.record, kept.revision, kept.attempts) == (letter.record, 2, 1)
    rows = receiver.all(sa.select(revision).order_by(revision.c.number))
    assert [(row.number, row.why, bool(row.who and row.at)) for row in rows] == [
        (1, "a test", True),
        (2, "a test", True),
    ]
    assert told(receiver, letter.id)[1:] == ["revision 1: a test", "revision 2: a test"]

    assert retry.retry_letters(receiver.site, [letter.id])[0].state is APPLIED
    assert [(row["name"], row["age"]) for row in receiver.rows(shop.account)] == [("x", 42)]
    with pytest.raises(TransientError, match=r"is applied already, by .*; nothing was changed"):
        editing.begin_edit(receiver.site, letter.id)


@pytest.mark.parametrize(
    "values, sentence",
    [
        (["/data/age=old"], "/data/age: age: 'old' is not"),
        (["/data/id=2"], '/key: key: expected {"id":1} as it came, found {"id":2}; nothing was changed'),
        (["/version=5"], f"/version: version: expected {FIRST} as it came, found 5; nothing was changed"),
        (["/stream=seat"], "seat"),
        (["/stream=nothing"], "/stream: expected a record of"),
        (["/op=delete"], "key: expected an object, and no data beside it"),
        (["/data/age=99999999999"], "nothing was changed"),
        (["/data=5"], "/data: data: expected an object"),
        (["/data/name/deep=5"], "expected a JSON pointer into the record, such as /data/status"),
        (["data=5"], "expected a JSON pointer"),
        (["/data/age"], "--set: expected POINTER=VALUE, found '/data/age'; nothing was changed"),
        (["/data/age=300"], "is as it was; nothing was changed"),
    ],
)
def test_an_edit_that_makes_no_sense_is_one_sentence_and_changes_nothing(
    quick_receiver: Side, quick_forger: Forger, values: list[str], sentence: str
) -> None:
    [letter] = park(quick_receiver, quick_forger, [old(1)])
    with pytest.raises(TransientError) as refused:
        edit(quick_receiver, letter, *values)
    assert sentence in refused.value.sentence
    assert refused.value.sentence.isprintable()
    assert letters(quick_receiver) == [letter]


@pytest.mark.parametrize(
    "text, sentence",
    [
        (b"{", "the record is not strict JSON"),
        (b"[]", "the record: expected an object"),
        (b'{"a": 1, "a": 2}', "twice in one object"),
        (b"\xff", "the record is not strict JSON"),
        (b"", "the record is not strict JSON"),
        (b'"' + b"x" * 17_000_000 + b'"', "bytes long"),
    ],
)
def test_a_text_that_is_no_record_is_refused(
    quick_receiver: Side, quick_forger: Forger, text: bytes, sentence: str
) -> None:
    [letter] = park(quick_receiver, quick_forger, [old(1)])
    with pytest.raises(TransientError, match=sentence):
        editing.save_edit(quick_receiver.site, editing.begin_edit(quick_receiver.site, letter.id), text, "a test")
    assert letters(quick_receiver) == [letter]


def test_a_letter_that_could_not_be_read_becomes_a_record(quick_receiver: Side, quick_forger: Forger) -> None:
    [letter] = park(quick_receiver, quick_forger, [b"{"])
    draft = editing.begin_edit(quick_receiver.site, letter.id)
    assert draft.text == "{"
    with pytest.raises(TransientError, match="nothing can be set in it"):
        editing.with_changes(draft, ["/data/age=1"], [])
    editing.save_edit(quick_receiver.site, draft, json.dumps(account(1, FIRST)).encode(), "written anew")
    [kept] = letters(quick_receiver)
    assert (kept.stream, kept.op, kept.key, kept.version) == ("account", "upsert", '{"id":1}', FIRST)
    assert retry.retry_letters(quick_receiver.site, [letter.id])[0].state is APPLIED


def test_what_is_too_much_can_be_removed(quick_receiver: Side, quick_forger: Forger) -> None:
    [letter] = park(quick_receiver, quick_forger, [account(1, FIRST, extra={"a/b": [1, 2]})])
    with pytest.raises(TransientError, match="there is nothing in the record"):
        edit(quick_receiver, letter, removed=["/data/other"])
    with pytest.raises(TransientError, match="was unexpected"):
        edit(quick_receiver, letter, "/data/extra/a~1b/1=3")
    assert edit(quick_receiver, letter, removed=["/data/extra"]).difference == '/data/extra: {"a/b":[1,2]} -> nothing'
    assert retry.retry_letters(quick_receiver.site, [letter.id])[0].state is APPLIED


def test_of_two_editors_one_wins_and_the_other_is_told(quick_receiver: Side, quick_forger: Forger) -> None:
    [letter] = park(quick_receiver, quick_forger, [old(1)])
    mine, theirs = (editing.begin_edit(quick_receiver.site, letter.id) for _ in range(2))
    editing.save_edit(quick_receiver.site, theirs, editing.with_changes(theirs, ["/data/age=1"], []), "first")
    with pytest.raises(TransientError) as refused:
        editing.save_edit(quick_receiver.site, mine, editing.with_changes(mine, ["/data/age=2"], []), "second")
    assert refused.value.sentence.startswith(f"dead letter {letter.id} is parked, last changed by ")
    assert letters(quick_receiver)[0].revision == 1


def test_hidden_columns_are_neither_shown_nor_lost(quick_receiver: Side, quick_forger: Forger) -> None:
    secret = Stream(shop.account, exclude=["password"], sensitive=["name"])
    others = [stream for stream in quick_receiver.site.channels[0].streams if stream.name != "account"]
    channel = Channel("forth", "one", "two", [*others, secret])
    checkers = {**quick_receiver.site.checkers, "account": Checker(secret)}
    quick_receiver.site = replace(
        quick_receiver.site, channels=(channel, quick_receiver.site.channels[1]), checkers=checkers
    )
    unread, letter = park(quick_receiver, quick_forger, [b'{"name": "hush', account(1, FIRST, name="hush", age=300)])
    draft = editing.begin_edit(quick_receiver.site, letter.id)
    assert "hush" not in draft.text
    done = editing.save_edit(quick_receiver.site, draft, draft.text.replace("300", "30").encode(), "a test")
    assert done.difference == "/data/age: 300 -> 30"
    assert "hush" not in edit(quick_receiver, letter, "/data/name=hush2").difference
    retry.retry_letters(quick_receiver.site, [letter.id])
    assert [row["name"] for row in quick_receiver.rows(shop.account)] == ["hush2"]
    with pytest.raises(TransientError, match="may hold what nobody is to see"):
        _ = editing.begin_edit(quick_receiver.site, unread.id).text


def test_an_outgoing_letter_is_mended_in_its_row(quick_receiver: Side) -> None:
    mine = store.Letter(tables.Direction.OUT, "back", b"{}", "value", "bad", stream="note", key='{"id" : 1}')
    with quick_receiver.engine.begin() as connection:
        store.park(connection, [mine], "test")
    with pytest.raises(TransientError, match="mend its row"):
        editing.begin_edit(quick_receiver.site, letters(quick_receiver)[0].id)
    with pytest.raises(TransientError, match="there is no dead letter 99"):
        editing.begin_edit(quick_receiver.site, 99)
