"""A batch over which we fall costs itself: counted, told, quarantined after the set number; the others go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError

from exchange.database import attempts as counted_attempts
from exchange.database import ledger, tables
from exchange.database.batch_fault import interrupted_by
from exchange.database.tables import BatchState
from exchange.format.errors import Reason, RecordError, TransientError, Verdict
from exchange.format.manifest import Manifest
from exchange.incoming import apply, control_batch, judge, manifests, replay, transaction
from exchange.incoming.held import OpenBatches
from exchange.operating import status
from exchange.testing import servers
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, trusted_forger
from tests.crossing.forging import EPOCH, account, upsert
from tests.crossing.processes import KILLED, fork, join, until
from tests.crossing.rubbish import limited
from tests.crossing.sides import Side
from tests.crossing.talking import CONTROL, Mouth
from tests.databases import At

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FAULTS: tuple[Exception, ...] = (
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("Python int too large to convert to SQLite INTEGER"),
    KeyError("a fault of ours"),
    RecordError("value", "/data", "it got out of where it is caught"),
    DataError("INSERT", {}, psycopg.errors.NumericValueOutOfRange("out of range")),
)
"""What nobody foresees, of each kind."""

Fail = Callable[..., Any]


def failing(error: Exception) -> Fail:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def attempts(side: Side) -> list[tuple[str, int]]:
    return [(row.batch, row.attempts) for row in side.all(sa.select(tables.attempt).order_by(tables.attempt.c.batch))]


def verdicts(side: Side) -> list[tuple[Verdict, Reason | None]]:
    run = side.take_in()
    assert run.trouble is None
    return [(one.verdict, one.reason) for one in run.batches]


STEPS: dict[str, tuple[Any, str]] = {
    "looked at": (judge, "compare_with_ledger"),
    "judged": (judge, "_deletes_too_much"),
    "claimed": (transaction, "claim_files"),
    "applied": (apply, "apply_records"),
    "written down": (ledger, "count"),
}
"""Steps of taking a batch in, each of which may be the one that fails."""


@pytest.mark.parametrize("step", STEPS)
def test_whatever_goes_wrong_with_a_batch_is_counted_and_quarantines_it_in_the_end(
    quick_receiver: Side, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = FAULTS[[*STEPS].index(step) % len(FAULTS)]
    forger = trusted_forger(quick_receiver)
    bad = forger.send([account(1, 1)])
    waiting = forger.send([account(2, 2)])
    with monkeypatch.context() as patched:
        patched.setattr(*STEPS[step], failing(error))
        for number in (1, 2):
            first, second = quick_receiver.take_in().batches
            assert (first.batch, first.verdict, first.reason) == (bad, Verdict.WAITING, Reason.CRASHED)
            assert type(error).__name__ in first.message or "out of range" not in first.message
            assert attempts(quick_receiver)[0] == (bad, number)
            assert second.batch == waiting
            [said, *_] = status.read_status(quick_receiver.site).stumbles
            assert f"batch {bad} could not be taken in, {number} of 3 attempts failed" in said
        first, *_ = quick_receiver.take_in().batches
        assert (first.batch, first.verdict, first.reason) == (bad, Verdict.QUARANTINED, Reason.CRASHED)
    assert bad not in [key for key, _ in attempts(quick_receiver)]
    assert f"batch {bad} is quarantined" in status.read_status(quick_receiver.site).stumbles[-1]
    assert replay.replay_batches(quick_receiver.site, bad).batches[0].verdict is Verdict.APPLIED
    assert (Verdict.APPLIED, None) in verdicts(quick_receiver)
    assert status.read_status(quick_receiver.site).stumbles == ()
    assert attempts(quick_receiver) == []


@pytest.mark.parametrize(
    "receiver, error",
    [
        *(pytest.param("sqlite", error, id=f"sqlite-{type(error).__name__}") for error in FAULTS),
        *(
            pytest.param("postgresql", error, id=f"postgresql-{type(error).__name__}", marks=needs_postgres)
            for error in FAULTS[-2:]
        ),
    ],
    indirect=["receiver"],
)
def test_one_batch_over_which_we_fall_stops_no_other(
    receiver: Side, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(receiver)
    bad = forger.send([account(1, 1)])
    mouth = Mouth(replace(forger, channel=CONTROL, sequence=0, previous=None))
    apply_records = apply.apply_records

    def fall(site: Any, connection: Any, arrival: Any, data: Any) -> Any:
        apply_records(site, connection, arrival, data)
        raise error

    monkeypatch.setattr(apply, "apply_records", fall)
    said = upsert(
        "_heartbeat", 1, epoch=EPOCH, period_seconds=300, next_expected_by="2026-11-22T06:20:00Z", sent=[], heard=None
    )
    mouth.forger.send([said], claims={"kind": CONTROL, "schemas": {"_heartbeat": 1}})
    run = receiver.take_in()
    assert run.trouble is None
    assert {one.channel: (one.verdict, one.reason) for one in run.batches} == {
        CONTROL: (Verdict.APPLIED, None),
        "forth": (Verdict.WAITING, Reason.CRASHED),
    }
    [row] = receiver.all(sa.select(tables.batch).where(tables.batch.c.stem == bad))
    assert (row.state, row.reason) == (BatchState.WAITING, Reason.CRASHED)
    assert receiver.rows(tables.tombstone) == []


def test_a_batch_that_takes_all_memory_leaves_enough_for_the_others(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(quick_receiver)
    bad = forger.send([account(1, 1)], claims={"trace": "greedy"})
    mouth = Mouth(replace(forger, channel=CONTROL, sequence=0, previous=None))
    apply_records = apply.apply_records

    def take_all(site: Any, connection: Any, arrival: Any, data: Any) -> Any:
        kept = []
        while arrival.manifest.trace == "greedy":
            kept.append(bytearray(100_000))
        return apply_records(site, connection, arrival, data)

    monkeypatch.setattr(apply, "apply_records", take_all)
    with limited(64 * 1024**2):
        for verdict in (Verdict.WAITING, Verdict.WAITING, Verdict.QUARANTINED):
            mouth.forger.send([], claims={"kind": CONTROL})
            assert {one.batch: one.verdict for one in quick_receiver.take_in().batches if one.batch == bad} == {
                bad: verdict
            }
    assert quick_receiver.all(sa.select(tables.position.c.sequence).where(tables.position.c.channel == CONTROL)) == [
        (3,)
    ]


def test_a_manifest_that_cannot_be_read_at_all_is_counted_by_its_name(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(quick_receiver)
    stem = forger.send([account(1, 1)])
    monkeypatch.setattr(Manifest, "parse", failing(MemoryError()))
    for number in (1, 2):
        assert verdicts(quick_receiver) == [(Verdict.WAITING, Reason.CRASHED)]
        assert attempts(quick_receiver) == [(f"unread {stem}", number)]
    assert f"batch unread {stem}" in status.read_status(quick_receiver.site).stumbles[0]
    assert verdicts(quick_receiver) == [(Verdict.QUARANTINED, Reason.CRASHED)]
    monkeypatch.undo()
    assert replay.replay_batches(quick_receiver.site, stem).batches[0].verdict is Verdict.APPLIED


def test_a_batch_that_cannot_even_be_written_down_is_quarantined_as_a_file_with_a_name(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(quick_receiver)
    stem = forger.send([account(1, 1)])
    record_all = ledger.record_all

    def refuse(connection: Any, direction: Any, state: Any, batches: Any, **more: Any) -> Any:
        if any(one.manifest is not None for one in batches):
            raise OverflowError("a number too wide for the driver")
        return record_all(connection, direction, state, batches, **more)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "record_all", refuse)
        assert verdicts(quick_receiver) == [(Verdict.WAITING, Reason.CRASHED)]
        assert verdicts(quick_receiver) == [(Verdict.WAITING, Reason.CRASHED)]
        assert verdicts(quick_receiver) == [(Verdict.QUARANTINED, Reason.CRASHED)]
    [row] = quick_receiver.all(sa.select(tables.batch))
    assert (row.stem, row.state, row.manifest) == (stem, BatchState.QUARANTINED, None)


def test_a_control_batch_over_which_we_fall_is_told_until_a_newer_one_has_said_it_all(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    mouth = Mouth(trusted_forger(quick_receiver))
    with monkeypatch.context() as patched:
        patched.setattr(control_batch, "apply_control_batch", failing(RecursionError()))
        assert mouth.say().verdict is Verdict.WAITING
    assert "RecursionError" in status.read_status(quick_receiver.site).stumbles[0]
    mouth.forger.send([], claims={"kind": CONTROL})
    mouth.forger.sequence = 1
    older, newer = quick_receiver.take_in().batches
    assert {older.verdict, newer.verdict} == {Verdict.APPLIED}
    assert status.read_status(quick_receiver.site).stumbles == ()


def test_attempts_at_files_that_went_away_are_forgotten(quick_receiver: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    forger = trusted_forger(quick_receiver)
    forger.send([account(1, 1)])
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "parse", failing(MemoryError()))
        quick_receiver.take_in()
    for path in quick_receiver.site.spool.folders.incoming.glob("forth-*"):
        path.unlink()
    assert quick_receiver.take_in().batches == ()
    assert attempts(quick_receiver) == []


def test_a_data_file_that_its_carrier_made_unreadable_stops_nobody(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forger = trusted_forger(quick_receiver)
    bad = forger.deliver(forger.make([account(1, 1)]))
    claim = transaction.claim_files

    def claim_with_a_second_name(site: Any, arrival: Any) -> Any:
        claimed = claim(site, arrival)
        os.link(claimed.sighting.folder / claimed.sighting.file(f"{bad}.jsonl.zst"), tmp_path / "a second name")
        return claimed

    monkeypatch.setattr(transaction, "claim_files", claim_with_a_second_name)
    assert verdicts(quick_receiver) == [(Verdict.INCOMPLETE, Reason.INCOMPLETE)]
    assert attempts(quick_receiver) == []
    (tmp_path / "a second name").unlink()
    monkeypatch.undo()
    assert verdicts(quick_receiver) == [(Verdict.APPLIED, None)]


def test_what_cannot_be_told_of_those_that_wait_is_judged_one_by_one(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(quick_receiver)
    forger.send([account(1, 1)])
    monkeypatch.setattr(OpenBatches, "_behind", failing(ZeroDivisionError()))
    assert verdicts(quick_receiver) == [(Verdict.APPLIED, None)]


def test_an_import_that_is_told_to_stop_blames_nobody_and_goes_no_further(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):  # noqa: N818
        pass

    forger = trusted_forger(quick_receiver)
    stem = forger.send([account(1, 1)])
    with monkeypatch.context() as patched, interrupted_by(Enough):
        patched.setattr(manifests, "split_manifest", failing(Enough()))
        with pytest.raises(Enough):
            quick_receiver.take_in()
        assert attempts(quick_receiver) == []
        patched.undo()
        patched.setattr(apply, "apply_records", failing(Enough()))
        with pytest.raises(Enough):
            quick_receiver.take_in()
    assert attempts(quick_receiver) == [(stem, 1)]  # one that is told to stop each time is too large
    assert verdicts(quick_receiver) == [(Verdict.APPLIED, None)]


@pytest.mark.same_on
@pytest.mark.postgres
def test_a_connection_that_dies_is_no_fault_of_the_batch(receiver: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    forger = trusted_forger(receiver)
    forger.send([account(1, 1)])
    apply_records = apply.apply_records

    def cut(site: Any, connection: Any, arrival: Any, data: Any) -> Any:
        apply_records(site, connection, arrival, data)
        driver = connection.connection.driver_connection
        if isinstance(driver, psycopg.Connection):
            with site.engine.connect() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": driver.info.backend_pid})
            connection.execute(sa.text("SELECT 1"))
        raise TransientError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(apply, "apply_records", cut)
        for _ in range(4):
            run = receiver.take_in()
            assert run.batches == ()
            assert run.trouble is not None
            assert attempts(receiver) == []
    assert verdicts(receiver) == [(Verdict.APPLIED, None)]


def test_an_attempt_that_could_not_be_taken_back_is_taken_back_before_the_next_one(
    quick_receiver: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = trusted_forger(quick_receiver)
    stem = forger.send([account(1, 1)])

    take_back, away = counted_attempts._take_back, False

    def go_away(*_: Any) -> Any:
        nonlocal away
        away = True
        raise OSError("the disk is away")

    def take_back_if_there(connection: Any, key: str) -> None:
        if away:
            raise OSError("the disk is still away")
        take_back(connection, key)

    with monkeypatch.context() as patched:
        patched.setattr(apply, "apply_records", go_away)
        patched.setattr(counted_attempts, "_take_back", take_back_if_there)
        for again in range(4):
            away = False
            if again % 2:  # by another process, which knows nothing of this one's
                assert join(fork(quick_receiver.take_in, quick_receiver)) == 0
            else:
                assert [one.verdict for one in quick_receiver.take_in().batches] == [Verdict.WAITING]
            counted_attempts._owed.clear()
            assert attempts(quick_receiver) == [(stem, 1)]
    assert verdicts(quick_receiver) == [(Verdict.APPLIED, None)]
    assert attempts(quick_receiver) == []


@pytest.mark.torture
@pytest.mark.postgres
def test_a_server_that_is_killed_again_and_again_is_no_fault_of_the_batch_and_a_killed_import_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.postgres() as url:
        side = Side("two", "one", At(url), "postgresql", tmp_path / "two", shop.channels, metadata=shop.metadata)
        forger = trusted_forger(side)
        forger.send([account(1, 1)])
        apply_records = apply.apply_records

        def kill_the_server(site: Any, connection: Any, arrival: Any, data: Any) -> Any:
            # PostgreSQL begins anew, with all its processes, when one of them is killed.
            counts = apply_records(site, connection, arrival, data)
            os.kill(connection.scalar(sa.text("SELECT pg_backend_pid()")), signal.SIGKILL)
            connection.execute(sa.text("SELECT 1"))
            return counts

        with monkeypatch.context() as patched:
            patched.setattr(apply, "apply_records", kill_the_server)
            for _ in range(4):
                assert join(fork(side.take_in, side)) == 0
                until(lambda: answers(side))
        assert [one.verdict for one in side.take_in().batches] == [Verdict.APPLIED]

        forger.send([account(2, 2)])
        with monkeypatch.context() as patched:
            patched.setattr(apply, "apply_records", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            for _ in range(3):
                assert join(fork(side.take_in, side)) == -signal.SIGKILL
        assert [(one.verdict, one.reason) for one in side.take_in().batches] == [(Verdict.QUARANTINED, Reason.CRASHED)]
        side.engine.dispose()


def answers(side: Side) -> bool:
    try:
        side.all(sa.select(tables.attempt.c.batch))
    except sa.exc.OperationalError:
        return False
    return True


def test_crashes_are_told_before_they_quarantine(quick_receiver: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    forger = trusted_forger(quick_receiver)
    stem = forger.send([account(1, 1)])

    def die(*_: Any) -> Any:
        os._exit(KILLED)

    monkeypatch.setattr(apply, "apply_records", die)
    for _ in range(2):
        assert join(fork(quick_receiver.take_in, quick_receiver)) == KILLED
    [said] = status.read_status(quick_receiver.site).stumbles
    assert f"batch {stem} could not be taken in, 2 of 3 attempts failed (the process died)" in said
