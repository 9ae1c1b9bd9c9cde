"""Dead letters in both directions: parked, retried, superseded, discarded; and kept batches replayed and pruned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.tables import DeadLetterState
from exchange.database.whoami import whoami
from exchange.dead_letters import counts, filters, pages, retry, store, transitions
from exchange.format.batch import HEAD_BYTES
from exchange.format.errors import TransientError, Verdict
from exchange.incoming import replay
from exchange.operating import prune
from tests.crossing import shop
from tests.crossing.forging import Forger, account, delete, upsert
from tests.crossing.sides import Link, Side

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000


def letters(side: Side) -> list[store.Parked]:
    """Give all dead letters, oldest first."""
    with side.engine.connect() as connection:
        page = pages.page(connection, filters.Filters(), limit=1_000, oldest_first=True)
        return [letter for one in page.letters if (letter := store.find(connection, one.id))]


def visit(number: int, place: int, version: int) -> dict[str, object]:
    return upsert("visit", version, id=number, country="at", number=place)


def place(number: int, version: int) -> dict[str, object]:
    return upsert("place", version, country="at", number=number, name="p")


def test_equal_causes_have_equal_fingerprints_and_others_not(receiver: Side, forger: Forger) -> None:
    forger.send(
        [
            visit(1, 1, FIRST),
            visit(2, 2, FIRST + 1),
            account(3, FIRST + 2, age=300),
            account(4, FIRST + 3, age=400),
            account(5, FIRST + 4, age="x"),
            account(6, FIRST + 5, age=True),
            b"{",
        ]
    )
    assert receiver.take_in().batches[0].records.parked == 7
    prints = {(letter.line): letter.fingerprint for letter in letters(receiver)}
    assert prints[1] == prints[2]
    assert prints[3] == prints[4]
    assert prints[5] == prints[6]
    assert len(set(prints.values())) == 4


def test_a_retried_letter_applies_once_what_it_waited_for_is_there(receiver: Side, forger: Forger) -> None:
    forger.send([visit(1, 1, FIRST)])
    receiver.take_in()
    [letter] = letters(receiver)
    [still] = retry.retry_letters(receiver.site, [letter.id])
    assert (still.state, still.changed) == (DeadLetterState.PARKED, True)
    forger.send([place(1, FIRST + 1)])
    receiver.take_in()
    [done] = retry.retry_letters(receiver.site, [letter.id])
    assert done.state is DeadLetterState.APPLIED
    assert [row["id"] for row in receiver.rows(shop.visit)] == [1]
    assert letters(receiver)[0].attempts == 3
    [again] = retry.retry_letters(receiver.site, [letter.id])
    assert (again.state, again.changed) == (DeadLetterState.APPLIED, False)
    with receiver.engine.connect() as connection:
        states = [event["to_state"] for event in store.history(connection, letter.id)]
    assert states == ["parked", "parked", "applied"]


def test_a_retried_row_is_not_exported_back(alike: Link) -> None:
    alike.one.execute(sa.insert(shop.seat).values(id=1, code="a"))
    alike.other.execute("INSERT INTO seat (id, code) VALUES (5, 'a')")
    alike.round()
    alike.other.execute("DELETE FROM seat WHERE id = 5")
    [done] = retry.retry_letters(alike.other.site, [letters(alike.other)[0].id])
    assert done.state is DeadLetterState.APPLIED
    assert alike.other.export().batches == ()
    assert alike.one.rows(shop.seat) == alike.other.rows(shop.seat)


def test_an_older_letter_never_overwrites_a_newer_row_and_is_superseded(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    quick_forger.send([account(1, FIRST, age=300), account(2, FIRST, age=300)])
    quick_forger.send([account(1, FIRST + 1, name="newer"), delete("account", FIRST + 2, id=2)])
    quick_receiver.take_in()
    # The constraint that refused them is no longer there, so only their versions stand in the way.
    if quick_receiver.engine.dialect.name == "postgresql":
        quick_receiver.execute("ALTER TABLE account DROP CONSTRAINT account_age")
    done = retry.retry_letters(quick_receiver.site, [letter.id for letter in letters(quick_receiver)])
    assert {one.state for one in done} == {DeadLetterState.SUPERSEDED}
    assert [(row["id"], row["name"]) for row in quick_receiver.rows(shop.account)] == [(1, "newer")]


def test_letters_that_cannot_be_read_stay_parked_with_a_sentence(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([b"{", b"[]", account(1, FIRST, age=300)])
    quick_receiver.take_in()
    done = retry.retry_letters(quick_receiver.site, [letter.id for letter in letters(quick_receiver)])
    assert {one.state for one in done} == {DeadLetterState.PARKED}
    assert all(one.message for one in done)
    [missing] = retry.retry_letters(quick_receiver.site, [999_999])
    assert (missing.state, missing.changed) == (None, False)


def test_a_discarded_letter_stays_so(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_forger.send([account(1, FIRST, age=300)])
    quick_receiver.take_in()
    [letter] = letters(quick_receiver)
    with quick_receiver.engine.begin() as connection:
        assert transitions.discard(connection, letter.id, "it was\x1b[31m a test") is None
        assert "already" in (transitions.discard(connection, letter.id, "again") or "")
        assert "no dead letter" in (transitions.discard(connection, 999, "none") or "")
        assert "\x1b" not in str(store.history(connection, letter.id))
        assert counts.count_parked(connection) == 0
    [done] = retry.retry_letters(quick_receiver.site, [letter.id])
    assert (done.state, done.changed) == (DeadLetterState.DISCARDED, False)


@pytest.mark.same_on
def test_two_people_settle_one_letter_once(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST, age=300)])
    receiver.take_in()
    [letter] = letters(receiver)

    def discard(who: str) -> str | None:
        with receiver.engine.begin() as connection:
            return transitions.discard(connection, letter.id, who)

    with ThreadPoolExecutor() as people:
        [sentence] = filter(None, people.map(discard, ["one", "another"]))
    assert sentence.startswith(f"dead letter {letter.id} is discarded already, by {whoami()} at ")
    with receiver.engine.connect() as connection:
        assert len(store.history(connection, letter.id)) == 2


@pytest.mark.thorough
def test_a_letter_longer_than_is_kept_says_so(quick_receiver: Side, quick_forger: Forger) -> None:
    wide = replace(quick_receiver.site.limits.read, max_record_bytes=32 * 1024 * 1024)
    quick_receiver.limit(read=wide)
    quick_forger.send([account(1, FIRST, name="x" * (tables.MAX_STORED_RECORD_BYTES + 10))])
    quick_receiver.take_in()
    [letter] = letters(quick_receiver)
    assert len(letter.record) == tables.MAX_STORED_RECORD_BYTES < letter.record_bytes
    [done] = retry.retry_letters(quick_receiver.site, [letter.id])
    assert done.state is DeadLetterState.PARKED
    assert "sent again" in done.message


def test_a_line_over_the_limit_is_parked_and_holds_up_nothing(receiver: Side, forger: Forger) -> None:
    receiver.limit(invalid_share=1.0, read=replace(receiver.site.limits.read, max_record_bytes=1024 * 1024))
    long = 3 * HEAD_BYTES
    forger.send([account(1, FIRST), account(2, FIRST, name="x" * long), account(3, FIRST)])
    forger.send([account(4, FIRST)])

    done = receiver.take_in().batches

    assert [(one.records.applied, one.records.parked) for one in done] == [(2, 1), (1, 0)]
    [letter] = letters(receiver)
    assert (letter.error, letter.line, len(letter.record)) == ("size", 2, HEAD_BYTES)
    assert long < letter.record_bytes < long + 200
    assert (
        f"is {letter.record_bytes} bytes long, at most 1048576 are taken (EXCHANGE_MAX_RECORD_BYTES" in letter.message
    )
    [retried] = retry.retry_letters(receiver.site, [letter.id])
    assert "sent again" in retried.message


# Outgoing

SQLITE_EVILS = {
    "a year that Python has not": "UPDATE everything SET day = '10000-01-01' WHERE id = 1",
    "a text too long": "UPDATE everything SET name = 'toolongbyfar' WHERE id = 1",
    "a NUL": "UPDATE everything SET text = 'a' || char(0) || 'b' WHERE id = 1",
    "a word for a number": "UPDATE everything SET whole = 'many' WHERE id = 1",
    "infinity": "UPDATE everything SET real = 9e999 WHERE id = 1",
    "an integer too great": "UPDATE everything SET small = 40000 WHERE id = 1",
    "no date": "UPDATE everything SET day = 'tomorrow' WHERE id = 1",
    "no JSON": "UPDATE everything SET document = '{' WHERE id = 1",
    "no uuid": "UPDATE everything SET mark = 'x' WHERE id = 1",
}
POSTGRESQL_EVILS = {
    "an infinite date": "UPDATE everything SET day = 'infinity' WHERE id = 1",
    "an infinite time": "UPDATE everything SET aware = '-infinity' WHERE id = 1",
    "a year that Python has not": "UPDATE everything SET naive = '10000-01-01' WHERE id = 1",
    "before Christ": "UPDATE everything SET day = '0044-03-15 BC' WHERE id = 1",
    "no number": "UPDATE everything SET real = 'NaN' WHERE id = 1",
    "a decimal that is none": "UPDATE everything SET money = 'NaN' WHERE id = 1",
    "an infinite number": "UPDATE everything SET real = 'infinity' WHERE id = 1",
    "a month": "UPDATE everything SET span = '1 month' WHERE id = 1",
}


@pytest.mark.same_on
def test_what_cannot_cross_is_parked_and_holds_nobody_up(alike: Link) -> None:
    kind = alike.one.engine.dialect.name
    statements = SQLITE_EVILS if kind == "sqlite" else POSTGRESQL_EVILS
    for number, (name, statement) in enumerate(statements.items()):
        alike.one.execute(sa.delete(shop.everything).where(shop.everything.c.id == 1))
        alike.one.execute(sa.insert(shop.everything), [shop.one_of_everything(1), shop.one_of_everything(number + 2)])
        alike.one.execute(statement)
        run = alike.one.export()
        assert (run.parked, run.trouble) == (1, None), name
        assert sum(one.records for one in run.batches) == 1, name
        letter = letters(alike.one)[-1]
        assert (letter.direction, letter.stream, letter.state) == ("out", "everything", "parked"), name
        assert letter.message.isprintable(), name
        assert letter.pointer.startswith("/data/") if letter.pointer else False, name
    alike.there.carry()
    alike.other.take_in()
    assert len(alike.other.rows(shop.everything)) == len(statements)
    parked = [letter.id for letter in letters(alike.one)]
    alike.one.execute(sa.delete(shop.everything).where(shop.everything.c.id == 1))
    alike.one.execute(sa.insert(shop.everything), [shop.one_of_everything(1)])
    assert {one.state for one in retry.retry_letters(alike.one.site, parked)} == {DeadLetterState.APPLIED}
    alike.round()
    assert alike.one.rows(shop.everything) == alike.other.rows(shop.everything)


def test_a_record_over_our_own_limit_is_parked(small: Link) -> None:
    small.one.limit(read=replace(small.one.site.limits.read, max_record_bytes=200))
    small.other.limit(read=replace(small.one.site.limits.read, max_record_bytes=200))
    small.one.execute(sa.insert(shop.note).values(id=1, text="never mind"))
    small.other.execute(sa.insert(shop.note), [{"id": 1, "text": "x" * 300}, {"id": 2, "text": "short"}])
    run = small.other.export()
    assert (run.parked, [one.records for one in run.batches]) == (1, [1])
    assert letters(small.other)[0].error == "size"


def test_a_retried_outgoing_delete_goes_out_as_a_delete(alike: Link) -> None:
    alike.one.execute(sa.insert(shop.account).values(id=1, name="a", age=1))
    alike.round()
    key = _key_text(alike.one)
    with alike.one.engine.begin() as connection:
        store.park(
            connection,
            [
                store.Letter(
                    tables.Direction.OUT,
                    "forth",
                    b"{}",
                    "value",
                    "made up",
                    stream="account",
                    op="upsert",
                    key=key,
                )
            ],
            "test",
        )
    alike.one.execute("DELETE FROM account")
    alike.one.execute(sa.delete(tables.change))  # as if it had been lost
    [done] = retry.retry_letters(alike.one.site, [letters(alike.one)[0].id])
    assert done.state is DeadLetterState.APPLIED
    alike.round()
    assert alike.other.rows(shop.account) == []


def _key_text(side: Side) -> str:
    side.execute("UPDATE account SET name = 'b'")
    return str(side.all(sa.select(tables.change.c.key))[0][0])


# Replay and prune


def test_a_quarantined_batch_is_replayed_after_its_cause_is_gone(quick_receiver: Side, quick_forger: Forger) -> None:
    quick_receiver.limit(invalid_records=0)
    quick_forger.send([visit(1, 1, FIRST)])
    [outcome] = quick_receiver.take_in().batches
    assert outcome.verdict is Verdict.QUARANTINED
    assert (
        replay.replay_batches(quick_receiver.site, outcome.batch).batches[0].verdict is Verdict.QUARANTINED
    )  # nothing is skipped
    quick_receiver.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    assert replay.replay_batches(quick_receiver.site, outcome.batch).batches[0].verdict is Verdict.APPLIED
    assert (
        replay.replay_batches(quick_receiver.site, outcome.batch).batches[0].verdict is Verdict.DUPLICATE
    )  # from the archive: a no-op
    assert [row["id"] for row in quick_receiver.rows(shop.visit)] == [1]
    assert not list(quick_receiver.site.spool.folders.quarantine.iterdir())


def test_a_replay_of_nothing_is_one_sentence(quick_receiver: Side) -> None:
    for stem in ("forth-0123456789ab-0000000001", "../../etc/passwd", "\x1b[0m", ""):
        with pytest.raises(TransientError, match="nothing was done") as raised:
            replay.replay_batches(quick_receiver.site, stem)
        assert raised.value.sentence.isprintable()


def test_prune_keeps_what_is_young_and_the_last_batch_of_a_flow_for_ever(alike: Link) -> None:
    for number in range(3):
        alike.one.execute(sa.insert(shop.account).values(id=number, name="a"))
        alike.round()
    stray = alike.one.site.spool.folders.tmp / "stray.data"
    stray.write_bytes(b"x")
    assert prune.prune_expired(alike.one.site).as_dict() == {
        "sealed": 0,
        "archived": 0,
        "quarantined": 0,
        "strangers": 0,
        "stray": 0,
        "folded": 0,
        "people": 0,
        "letters": 0,
        "files": 0,
    }
    alike.one.limit(retention_days=-1.0)
    alike.other.limit(retention_days=-1.0)
    found = prune.prune_expired(alike.one.site)
    assert (found.sealed, found.stray) == (0, 1)  # nobody has said that the batches arrived
    alike.one.execute(sa.update(tables.batch).values(state="acknowledged"))
    assert prune.prune_expired(alike.one.site).as_dict() == {
        "sealed": 3,
        "archived": 0,
        "quarantined": 0,
        "strangers": 0,
        "stray": 0,
        "folded": 2,
        "people": 0,
        "letters": 0,
        "files": 0,
    }
    assert prune.prune_expired(alike.other.site).archived == 6
    assert prune.prune_expired(alike.one.site).sealed == 0
    assert list(alike.one.site.spool.folders.sealed.iterdir()) == []
    assert [row.sequence for row in alike.one.all(sa.select(tables.batch.c.sequence))] == [3]
    alike.one.execute(sa.insert(shop.account).values(id=9, name="a"))
    alike.round()
    assert alike.one.rows(shop.account) == alike.other.rows(shop.account)
