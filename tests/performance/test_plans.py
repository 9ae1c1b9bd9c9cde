"""How the databases find the rows that the exchange asks for: by an index, however large a table has become."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import audit_log, ledger, tables
from exchange.database.locks import reading, writing
from exchange.database.tables import BatchState, DeadLetterState, Direction
from exchange.dead_letters import auto_retry, counts, groups, pages, retry, store
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.store import Letter
from exchange.format.errors import Verdict
from exchange.incoming import importer
from exchange.intake import ledger as intake_ledger
from exchange.intake import standing
from exchange.link import asked_requests, gap_report, gaps, send_requests
from exchange.operating import batch_pages, folding, prune
from exchange.operating.batch_pages import BatchFilters
from exchange.operating.retention_clock import RetentionClock
from exchange.outgoing import resend
from exchange.people import attempts, tokens
from exchange.people.sessions import Lifetime, list_sessions
from exchange.requesters import asking
from exchange.requesters import sessions as requester_sessions
from exchange.requesters.callers import Means, Shown, Unknown, caller_of
from exchange.settings import Settings
from exchange.watching.health import Health
from exchange.watching.metrics import render_metrics
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, trusted_forger
from tests.crossing.forging import EPOCH, Forger, account, delete, upsert
from tests.crossing.sides import Side, quick_engine
from tests.databases import Filled
from tests.performance.history import (
    KINDS,
    LONG_AGO,
    MANIFEST,
    act,
    analyse,
    ask,
    fill,
    keep_files,
    park,
    remember,
    sign_in,
    text_of,
)
from tests.performance.watching import watched

BATCHES = 5_000
LETTERS = 30_000
ROWS, CHANGED = 30_000, 10
FIRST = 1_700_000_000_000_000
HOUR = timedelta(hours=1)
GROWING = (
    "exchange_batch",
    "exchange_event",
    "exchange_change",
    "exchange_dead_letter",
    "exchange_tombstone",
    "exchange_audit",
)
TABLES = tuple(table.name for table in shop.FORTH)

with_and_without_statistics = pytest.mark.parametrize(
    "analysed", [True, pytest.param(False, marks=pytest.mark.thorough)], ids=["with statistics", "without"]
)


# Sides after years, made once


def filled(
    request: pytest.FixtureRequest, network: str, name: str, fill_tables: Callable[[Connection], None]
) -> Iterator[Side]:
    """Give a side of the shop whose database is a copy of one that was filled so."""

    def fill_database(url: str) -> None:
        engine = quick_engine(url)
        with engine.begin() as connection:
            fill_tables(connection)
        engine.dispose()

    databases = Filled(request.getfixturevalue("databases"), name, fill_database)
    folder = request.getfixturevalue("tmp_path") / network
    peer = "one" if network == "two" else "two"
    side = Side(network, peer, databases, request.param, folder, shop.channels, metadata=shop.metadata)
    yield side
    side.engine.dispose()


each_kind = ["sqlite", pytest.param("postgresql", marks=[needs_postgres, pytest.mark.thorough])]


@pytest.fixture(params=each_kind)
def receiver(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Give the receiving side with a long history and large tables."""

    def fill_tables(connection: Connection) -> None:
        remember(connection, BATCHES)
        act(connection, BATCHES)
        sign_in(connection, BATCHES)
        ask(connection, BATCHES)
        grow(connection, exchange_version=1)

    for side in filled(request, "two", "after years", fill_tables):
        keep_files(side, BATCHES)
        yield side


@pytest.fixture
def forger(receiver: Side) -> Forger:
    """Give somebody whom the receiver trusts and whose batches follow on that history."""
    forger = trusted_forger(receiver)
    forger.sequence, forger.previous = BATCHES, "d" * 64
    return forger


@pytest.fixture(params=each_kind)
def parked(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Give the receiving side with very many dead letters."""
    yield from filled(request, "two", "many letters", lambda connection: park(connection, LETTERS))


@pytest.fixture(params=each_kind)
def sender(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Give the sending side with large tables, and with a log full of another channel's changes."""

    def fill_tables(connection: Connection) -> None:
        grow(connection)
        connection.execute(sa.delete(tables.change))
        pending = {"stream": "elsewhere", "op": "I", "key": lambda n: text_of('{"id":', n, "}")}
        fill(connection, tables.change, ROWS, pending)

    yield from filled(request, "one", "large tables", fill_tables)


def grow(connection: Connection, **more: Any) -> None:
    """Fill the tables; a node hangs below none, a visit refers to the place of its number."""
    for table, values in (
        (shop.place, {"country": "de", "number": lambda n: n, "name": "somewhere"}),
        (shop.visit, {"id": lambda n: n, "country": "de", "number": lambda n: n}),
        (shop.seat, {"id": lambda n: n, "code": lambda n: text_of("s", n), "rank": lambda n: n, "row": 1}),
        (shop.account, {"id": lambda n: n, "name": lambda n: text_of("account ", n)}),
    ):
        fill(connection, wide(table) if more else table, ROWS, values | more)
    connection.execute(
        sa.insert(wide(shop.node) if more else shop.node),
        [{"id": uuid.UUID(int=number), "name": "node", **more} for number in range(ROWS // 4)],
    )


def wide(table: sa.Table) -> sa.Table:
    """Give a received table with its version."""
    columns = [sa.Column(column.name, column.type) for column in table.columns]
    return sa.Table(table.name, sa.MetaData(), *columns, sa.Column(tables.VERSION_COLUMN, sa.BigInteger))


# Indexes


def asked(question: Callable[[Connection], object]) -> Callable[[Side, Forger], None]:
    """Make a piece of work of a question to the database."""

    def ask(side: Side, _forger: Forger) -> None:
        with reading(side.engine) as connection:
            question(connection)

    return ask


def found(filters: Filters) -> Callable[[Side, Forger], None]:
    """Make one of asking for dead letters."""
    return asked(lambda connection: pages.page(connection, filters))


def listed(filters: BatchFilters) -> Callable[[Side, Forger], None]:
    """Make one of listing batches."""

    def ask(side: Side, _forger: Forger) -> None:
        with reading(side.engine) as connection:
            batch_pages.page(side.site, connection, filters)

    return ask


QUERIES: dict[str, Callable[[Side, Forger], object]] = {
    # Is anything pending? Asked of each channel at every export.
    "ix_exchange_change_stream_id": lambda side, _: side.export(),
    # May a record be older than a delete that came before? Asked of each stream of a batch.
    "ix_exchange_tombstone_stream_version": lambda _, forger: applied(forger, [account(1, FIRST)]),
    # What became of the batch at this place?
    "uq_exchange_batch_place": asked(lambda c: ledger.at_place(c, Direction.IN, "forth", EPOCH, 77)),
    # What was last said of these files?
    "ix_exchange_batch_stem_id": asked(lambda c: ledger.by_stem(c, Direction.IN, f"forth-{EPOCH}-77")),
    # What waits, is held or is sealed? Asked at every import and export; and `exchange status` counts by it.
    "ix_exchange_batch_state": asked(ledger.open_batches),
    # Which sealed batches need no longer be kept?
    "ix_exchange_batch_kept": lambda side, _: prune_files(side),
    # `exchange batches`: the newest
    "ix_exchange_batch_time": listed(BatchFilters()),
    # ... by what they were refused for
    "ix_exchange_batch_reason": listed(BatchFilters(reason="corrupt")),
    # ... by trace
    "ix_exchange_batch_trace": listed(BatchFilters(trace="00-77-")),
    # ... and by how their name begins
    "ix_exchange_batch_name": listed(BatchFilters(stem=f"forth-{EPOCH}-77")),
    # What is missing? Asked at every import.
    "ix_exchange_gap_missing": lambda side, _: gaps.record_gaps(side.site),
    # `exchange gaps --state`
    "ix_exchange_gap_state": lambda side, _: gap_report.list_gaps(
        side.site, channel=None, state=tables.GapState.ARRIVED, limit=50
    ),
    # Of which batches is a further copy due? Asked at every export on a one-way link.
    "ix_exchange_batch_again": lambda side, _: resend.resend_due(replace(side.site, one_way=True), importer.never),
    # Does anybody want a snapshot? Asked of each channel at every export.
    "ix_exchange_resync_state": asked(lambda c: send_requests.next_open_request(c, "forth")),
    # Was this request of the other side's taken before? Asked of each that a control batch tells.
    "uq_exchange_resync_answers": lambda side, _: ask_again(side),
    # Did we ask for this snapshot? Asked when one has come.
    "uq_exchange_repair_name": asked(lambda c: asked_requests.is_ours(c, "forth", "n77")),
    # What is still to be asked for? Told in every control batch.
    "ix_exchange_repair_state": lambda side, _: close_requests(side),
    # `exchange dead-letters list`, by what letters of one fingerprint have in common
    "ix_exchange_dead_letter_fingerprint": found(Filters(state=DeadLetterState.PARKED, channels=("forth",))),
    # ... by words in their message
    "ix_exchange_dead_letter_state": found(Filters(state=DeadLetterState.PARKED, text="bad")),
    # ... by key
    "ix_exchange_dead_letter_key": found(Filters(keys=('{"id":77}',))),
    # ... and by batch
    "ix_exchange_dead_letter_batch": found(Filters(batch=f"forth-{EPOCH}-77")),
    # Which files of people are to be loaded? Asked at each look at their folders, and by `exchange status`.
    "ix_exchange_intake_state": asked(standing.open_files),
    # Does the ledger know a file that is claimed? Was a file that was refused mended, and loaded under its name?
    "ix_exchange_intake_file": asked(lambda c: standing.at_places(c, ["/taken/file 77"])),
    # Were these bytes taken in before?
    "ix_exchange_intake_sha256": asked(lambda c: intake_ledger.original_of(c, "77", "account")),
    # Why are rows of a file parked? Asked by its page, again and again.
    "ix_exchange_dead_letter_intake": asked(lambda c: standing.find_file(c, 77)),
    # Does a record make a parked one pointless? Asked of each stream of a batch, and of one that goes out.
    "ix_exchange_dead_letter_parked_key": lambda _, forger: applied(forger, [account(2, FIRST)]),
    # Has the row of a record that is parked a letter already?
    "uq_exchange_dead_letter_identity": lambda side, _: parked_again(side),
    # How often did the records of letters come? Asked by `exchange status` and for each cause.
    "ix_exchange_dead_letter_seen": asked(counts.backlog),
    # Which records wait for a row that may have come? Asked after each import.
    "ix_exchange_dead_letter_orphan": lambda side, _: auto_retry.retry_orphans(
        side.site, side.site.incoming(), importer.never, everything=False
    ),
    # Which of them are to be tried by themselves now? Asked each minute.
    "ix_exchange_dead_letter_due": lambda side, _: auto_retry.retry_due(side.site, importer.never),
    # `exchange dead-letters show`
    "ix_exchange_event_subject_subject_id": asked(lambda c: store.history(c, 77)),
    # Was this call made before, and did it come to its end? Asked at every call by hand.
    "uq_exchange_audit_call": lambda side, _: call_again(side),
    "uq_exchange_audit_concludes": lambda side, _: call_again(side),
    # How often did this name fail to sign in lately, how often did this address, and what is so long ago that it counts
    # no more? Asked at each attempt.
    **dict.fromkeys(
        ("ix_exchange_sign_in_name", "ix_exchange_sign_in_address", "ix_exchange_sign_in_at"),
        lambda side, _: attempts.begin_attempt(side.engine, "user 77", "10.0.0.7"),
    ),
    # Where else is this user signed in? Asked by `exchange users`, and at each sign-in.
    "uq_exchange_requester_session_family": lambda side, _: renew_session(side),
    "ix_exchange_requester_session_user_id": lambda side, _: end_sessions(side),
    "ix_exchange_asked_at": lambda side, _: sweep_asked(side),
    "ix_exchange_idempotency_at": lambda side, _: sweep_asked(side),
    "ix_exchange_asked_user_id": lambda side, _: count_asked(side),
    "ix_exchange_asked_profile_type_id": lambda side, _: count_asked(side),
    "uq_exchange_api_key_digest": lambda side, _: show_key(side),
    "ix_exchange_api_key_old_digest": lambda side, _: show_key(side),
    "ix_exchange_session_name": lambda side, _: list_sessions(side.engine, Lifetime(HOUR, HOUR), "user 77"),
    # Whose token is this? Asked at each call.
    "uq_exchange_token_digest": lambda side, _: tokens.person_of_token(side.engine, f"{tokens.PREFIX}77", "::1"),
}
"""Each index and the work that needs it."""

AS_WELL = {
    "ix_exchange_batch_name": "ix_exchange_batch_stem_id",
    "ix_exchange_batch_state": "ix_exchange_batch_time",
    "ix_exchange_gap_missing": "ix_exchange_gap_state",
    "ix_exchange_sign_in_at": "ix_exchange_sign_in_name",
}
"""What a database may take instead, and reads as little by it."""

NOT_TAKEN = {"ix_exchange_proposal_open"}
"""And what is there for a query that was not seen to take it: proposals that wait are read by their numbers."""

COUNTED = {"ix_exchange_asked_at", "ix_exchange_idempotency_at"}
"""And what PostgreSQL takes once it has counted: before that it believes that most rows are old."""

KEEPING = {"uq_exchange_audit_previous", "uq_exchange_message_once", "uq_exchange_retry_open"}
"""And those in which nobody looks anything up: they keep two acts from following on the same one, a report from being
sent twice, and a selection from being tried twice at once."""


def parked_again(side: Side) -> None:
    """Park a record of a row."""
    again = Letter(
        Direction.IN, "forth", b"{}", "value", "bad", stream="account", op="upsert", key='{"id":2}', version=1
    )
    with side.engine.connect() as connection:
        store.park(connection, [again], "a test")
        connection.rollback()


def call_again(side: Side) -> None:
    """Make a call by hand that was made before."""
    with (
        pytest.raises(audit_log.Repeated),
        audit_log.audited(side.engine, "retry", {}, who="somebody", origin="here", call="c77"),
    ):
        pass


def ask_again(side: Side) -> None:
    """Take a request that was taken before."""
    with writing(side.engine) as connection:
        assert not send_requests.add_request(
            connection, channel="forth", want="snapshot", reason="again", answers="n77"
        )


def close_requests(side: Side) -> None:
    """See that a checkpoint has come."""
    with writing(side.engine) as connection:
        asked_requests.close_compared(connection, "forth")


def prune_files(side: Side) -> None:
    """Let go of files alone: of dead letters and rows of the ledger there would be more to remove than to keep."""
    prune._prune_sealed(side.site, RetentionClock(side.site.spool.folders))


def end_sessions(side: Side) -> None:
    """End all that a user is signed in by over HTTP."""
    with writing(side.engine) as connection:
        assert requester_sessions.end_of(connection, 77) == 1
        connection.rollback()


def sweep_asked(side: Side) -> None:
    """Let go of what is over of those who ask over HTTP."""
    with writing(side.engine) as connection:
        assert asking.sweep_asked(connection, 3600.0) + requester_sessions.sweep(connection) == 0


def count_asked(side: Side) -> None:
    """See whether a user, or all of a profile, asked too often."""
    someone, places, asked = sa.literal(77), {"user_place": 9, "profile_place": 9}, tables.asked
    of_user = asking._oldest(asked.c.user_id, someone, "user")
    counted = (of_user, asking._oldest(asked.c.profile_type_id, someone, "profile"))
    with reading(side.engine) as connection:
        found = connection.execute(sa.select(*counted), asking._moments(3600.0) | places).one()
    assert tuple(found) == (None, None)


def show_key(side: Side) -> None:
    """Show what is no API key."""
    with pytest.raises(Unknown):
        caller_of(side.engine, Shown(Means.KEY, "77", 0, "127.0.0.1", directory_is_here=False))


def renew_session(side: Side) -> None:
    """Show what renews no session."""
    with pytest.raises(requester_sessions.NotRenewed):
        requester_sessions.renew(side.engine, "a.b")


def test_every_index_is_there_for_a_query() -> None:
    indexes = {str(index.name) for table in tables.metadata.tables.values() for index in table.indexes}

    assert set(QUERIES) | KEEPING | NOT_TAKEN == indexes


@with_and_without_statistics
def test_each_index_is_used_by_its_query(receiver: Side, forger: Forger, *, analysed: bool) -> None:
    if analysed:
        analyse(receiver)
    unused = {}
    for name, work in QUERIES.items():
        with watched(receiver.engine) as seen:
            work(receiver, forger)
        if not analysed and name in COUNTED:
            continue
        if not {name, AS_WELL.get(name, name)} & set(seen.indexes) or seen.read_whole(*GROWING):
            unused[name] = (seen.indexes, seen.read_whole(*GROWING))

    assert unused == {}


def applied(forger: Forger, records: list[dict[str, Any]]) -> None:
    """Deliver a batch and see it applied."""
    stem = forger.send(records)
    run = forger.receiver.take_in()
    assert [(one.batch, one.verdict) for one in run.batches] == [(stem, Verdict.APPLIED)], run


# Export


def change_some(side: Side) -> None:
    """Change rows of each table, and delete some."""
    count = CHANGED
    with writing(side.engine) as connection:
        for table in (shop.visit, shop.seat, shop.account):
            connection.execute(sa.update(table).where(table.c.id <= count).values(id=table.c.id))
            last = sa.select(sa.func.max(table.c.id)).scalar_subquery()
            connection.execute(sa.delete(table).where(table.c.id == last))
        connection.execute(sa.update(shop.place).where(shop.place.c.number <= count).values(name="elsewhere"))
        few = [uuid.UUID(int=number) for number in range(count)]
        connection.execute(sa.update(shop.node).where(shop.node.c.id.in_(few)).values(parent=uuid.UUID(int=0)))


@with_and_without_statistics
def test_an_export_of_some_changed_rows_reads_no_large_table(sender: Side, *, analysed: bool) -> None:
    if analysed:
        analyse(sender)
    for most in (100_000, 2 * CHANGED):  # all that is pending, and the oldest of it
        sender.limit(batch_records=most)
        change_some(sender)

        with watched(sender.engine) as seen:
            run = sender.export()

        assert sum(batch.records for batch in run.batches) == 5 * CHANGED + 3
        assert seen.read_whole("exchange_change", *TABLES) == []


# Import


def read_by(forger: Forger, batches: dict[str, list[dict[str, Any]]]) -> dict[str, list[tuple[str, str]]]:
    """Apply batches, and give the large tables that each of them read from end to end."""
    read = {}
    for name, records in batches.items():
        with watched(forger.receiver.engine) as seen:
            applied(forger, records)
        read[name] = seen.read_whole(*GROWING, *TABLES)
    return {name: whole for name, whole in read.items() if whole}


NUMBERS = range(1, CHANGED + 1)
BROUGHT: dict[str, list[dict[str, Any]]] = {
    "new rows": [account(ROWS + n, FIRST + n) for n in NUMBERS],
    "changed rows": [account(n, FIRST + n) for n in NUMBERS],
    "both": [account(ROWS + CHANGED // 2 + n, FIRST + 2 * CHANGED + n) for n in NUMBERS],
    "older records": [account(n, FIRST) for n in NUMBERS],
    "rows that refer to others": [upsert("visit", FIRST + n, id=n, country="de", number=n + 1) for n in NUMBERS],
    "rows that refer to none": [
        upsert("visit", FIRST + 2 * CHANGED + n, id=n, country="de" if n % 5 else "fr", number=n) for n in NUMBERS
    ],
    "unique values that are taken": [
        upsert("seat", FIRST + n, id=n, code=f"s{n + (n < CHANGED // 2)}", rank=n, row=1) for n in NUMBERS
    ],
    "deleted rows": [delete("seat", FIRST + 4 * CHANGED + n, id=n) for n in NUMBERS],
    "rows that come back": [
        upsert("seat", FIRST + 6 * CHANGED + n, id=n, code=f"s{n}", rank=n, row=1) for n in NUMBERS
    ],
}
"""What batches bring, for every way in which rows enter a table and leave it."""


@with_and_without_statistics
def test_an_import_of_some_records_reads_no_large_table(forger: Forger, *, analysed: bool) -> None:
    if analysed:
        analyse(forger.receiver)

    assert read_by(forger, BROUGHT) == {}


def test_many_deletes_before_do_not_have_a_large_table_counted_at_every_batch(forger: Forger) -> None:
    forger.receiver.limit(deleted_rows=CHANGED)
    counted = []
    for first in range(1, 1 + 10 * CHANGED, CHANGED):
        gone = [delete("seat", FIRST + n, id=n) for n in range(first, first + CHANGED)]
        with watched(forger.receiver.engine) as seen:
            applied(forger, gone)
        assert seen.read_whole(*GROWING) == []
        counted.append(sum(table == "seat" and "count(" in statement for table, statement in seen.begun))

    assert 0 < sum(counted) <= 5, counted  # whenever twice as many went


# What people ask for


@with_and_without_statistics
def test_what_people_ask_for_reads_no_row_of_a_large_table_in_vain(receiver: Side, *, analysed: bool) -> None:
    if analysed:
        analyse(receiver)
    with reading(receiver.engine) as connection:
        parked = pages.page(connection, Filters(state=DeadLetterState.PARKED), limit=1).letters[0].id
    with watched(receiver.engine) as seen:
        with reading(receiver.engine) as connection:
            for state in set(BatchState) - {BatchState.APPLIED, BatchState.ACKNOWLEDGED}:  # of those any fifty do
                batch_pages.page(receiver.site, connection, BatchFilters(state=state))
            for filters in (
                Filters(),
                Filters(state=DeadLetterState.PARKED, channels=("forth",)),
                Filters(keys=("[]",)),
            ):
                pages.page(connection, filters)
            store.history(connection, parked)
            counts.count_parked(connection)
        retry.retry_letters(receiver.site, [parked])
        importer.import_batches(receiver.site, stem=f"forth-{EPOCH}-0000000077")

    assert seen.read_whole(*GROWING) == []


# Dead letters

PAGES = {
    "all": Filters(),
    "a state": Filters(DeadLetterState.DISCARDED),
    "a state that few are in": Filters(DeadLetterState.PARKED),
    "a channel": Filters(channels=("forth",)),
    "a cause": Filters(fingerprint="f" * 15 + "3"),
    "a cause that is none": Filters(fingerprint="0"),
    "a time": Filters(since=LONG_AGO, until=LONG_AGO + timedelta(minutes=2)),
    "a state and a time": Filters(DeadLetterState.DISCARDED, until=LONG_AGO + timedelta(minutes=50)),
    "a key": Filters(keys=('{"id":77}',)),
    "a batch": Filters(batch=f"forth-{EPOCH}-77"),
}


@with_and_without_statistics
def test_a_page_and_the_grouped_view_look_at_few_of_many_dead_letters(
    parked: Side, monkeypatch: pytest.MonkeyPatch, *, analysed: bool
) -> None:
    monkeypatch.setattr("exchange.dead_letters.pages.COUNTED", 100)
    if analysed:
        analyse(parked)
    looked = {}
    for name, filters in PAGES.items():
        with watched(parked.engine) as seen, reading(parked.engine) as connection:
            page = pages.page(connection, filters)
            if page.after:
                pages.page(connection, filters, after=pages.cursor(connection, page.after))
        looked[name] = (seen.read_whole("exchange_dead_letter"), seen.steps)
    with watched(parked.engine) as seen, reading(parked.engine) as connection:
        assert len(groups.grouped(connection, Filters(DeadLetterState.PARKED))) == KINDS
    looked["the grouped view"] = (seen.read_whole("exchange_dead_letter"), seen.steps)

    a_row = 1 if parked.engine.dialect.name == "postgresql" else 100  # instructions
    assert {name: one for name, one in looked.items() if one[0] or one[1] > LETTERS // 5 * a_row} == {}


@with_and_without_statistics
def test_letting_some_dead_letters_go_reads_no_large_table(receiver: Side, *, analysed: bool) -> None:
    applied_long_ago = sa.update(tables.dead_letter).where(tables.dead_letter.c.id <= CHANGED)
    receiver.execute(applied_long_ago.values(state=DeadLetterState.APPLIED))
    if analysed:
        analyse(receiver)
    letter_days = {DeadLetterState.APPLIED: 1.0, DeadLetterState.DISCARDED: 100_000.0}
    receiver.limit(letter_days=letter_days)
    with watched(receiver.engine) as seen:
        assert prune._prune_letters(receiver.site, RetentionClock(receiver.site.spool.folders)) == CHANGED
        with reading(receiver.engine) as connection:
            counts.backlog(connection)

    assert seen.read_whole(*GROWING) == []


@with_and_without_statistics
def test_a_scrape_of_metrics_reads_no_large_table_and_asks_as_much_however_long_the_history(
    receiver: Side, *, analysed: bool
) -> None:
    if analysed:
        analyse(receiver)
    settings = Settings(network=receiver.site.network, peer=receiver.site.peer, home=receiver.home)
    with watched(receiver.engine) as seen:
        text = render_metrics(settings, receiver.site, Health("two", LONG_AGO, ())).decode()

    assert seen.read_whole(*GROWING) == []
    assert seen.statements <= 34
    assert f'state="applied"}} {BATCHES}.0' in text


def test_folding_looks_at_no_more_of_the_ledger_and_its_events_however_long_they_are(receiver: Side) -> None:
    clock = RetentionClock(receiver.site.spool.folders)
    receiver.limit(retention_days=36_500)
    analyse(receiver)
    with watched(receiver.engine) as seen:
        assert folding.fold_settled(receiver.site, clock, 36_500) == 0
    assert seen.read_whole(*GROWING) == []
    with receiver.engine.begin() as connection:
        more = {"direction": "in", "channel": "forth", "state": "applied", "epoch": EPOCH, "digest": "d" * 64}
        moments = {"created_at": LONG_AGO, "updated_at": LONG_AGO, "manifest": MANIFEST}
        place = {"sequence": lambda n: n + BATCHES, "stem": lambda n: text_of("more-", n)}
        fill(connection, tables.batch, BATCHES, more | moments | place)
        happened = {"at": LONG_AGO, "to_state": "applied", "cause": "applied", "who": "me", "subject": "batch"}
        fill(connection, tables.event, BATCHES, happened | {"subject_id": lambda n: n + BATCHES})
    analyse(receiver)
    with watched(receiver.engine) as later:
        assert folding.fold_settled(receiver.site, clock, 36_500) == 0
    assert later.read_whole(*GROWING) == []
    assert later.steps < seen.steps + BATCHES, (later.steps, seen.steps)
