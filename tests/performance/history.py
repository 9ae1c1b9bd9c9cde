"""Years of work in a few statements: a ledger, letters and files as they would be after many batches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import tables
from exchange.database.engine import now
from exchange.format.manifest import BatchKind, Manifest, OpCounts
from tests.crossing.forging import EPOCH
from tests.crossing.sides import Side

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)

KINDS = 7
"""How many causes the dead letters have."""

MOMENTS = 100
"""And at how many moments they came."""

MANIFEST = (
    Manifest(
        channel="back",
        source="two",
        target="one",
        epoch=EPOCH,
        sequence=1,
        kind=BatchKind.CHANGES,
        created_at=LONG_AGO,
        producer="by hand",
        schemas={"note": 1},
        records={"note": OpCounts(10, 0)},
        encoding=("zstd",),
        sha256="0" * 64,
        bytes=1_000,
        content_sha256="0" * 64,
        content_bytes=5_000,
        previous="d" * 64,
        trace=None,
    )
    .encode()
    .decode()
)


def fill(connection: Connection, table: sa.FromClause, count: int, values: Mapping[str, Any]) -> None:
    """Insert rows 1 to ``count``; a value may be a function of the expression for the row's number."""
    first = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    numbers = first.union_all(sa.select(first.c.n + 1).where(first.c.n < count))
    columns = [
        value(numbers.c.n) if callable(value) else sa.literal(value, table.c[name].type)
        for name, value in values.items()
    ]
    connection.execute(sa.insert(table).from_select(list(values), sa.select(*columns)))  # type: ignore[arg-type]


def text_of(before: str, number: sa.ColumnElement[int], after: str = "") -> sa.ColumnElement[str]:
    """Write the SQL for a text with a number in it."""
    return sa.literal(before) + sa.cast(number, sa.String) + sa.literal(after)


def _moment_of(number: sa.ColumnElement[int]) -> sa.ColumnElement[datetime]:
    """Write the SQL for one of some moments: letters of one batch have it in common."""
    moments = ((number % MOMENTS == one, LONG_AGO + timedelta(minutes=one)) for one in range(MOMENTS))
    return sa.case(*((which, sa.literal(moment, tables.UtcDateTime)) for which, moment in moments))


def live(side: Side, batches: int) -> None:
    """Let a side have taken in and sent ``batches``, each half of them acknowledged, with letters, events and files."""
    with side.engine.begin() as connection:
        remember(connection, batches)
    keep_files(side, batches)


def remember(connection: Connection, batches: int) -> None:
    """Fill the database of a side that has taken in and sent ``batches``."""
    moments = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    common = {"epoch": EPOCH, "sequence": lambda n: n, "digest": "d" * 64, "records": 10, "bytes": 1_000, **moments}
    for direction, channel, state in (("in", "forth", "applied"), ("out", "back", "acknowledged")):
        values = {"direction": direction, "channel": channel, "state": state, "manifest": MANIFEST, **common}
        stem = {"stem": lambda n, channel=channel: text_of(f"{channel}-{EPOCH}-", n)}
        fill(connection, tables.batch, batches, values | stem)
        moment = {"digest": "d" * 64, "adopted_at": LONG_AGO}
        place = {"direction": direction, "channel": channel, "epoch": EPOCH, "sequence": batches}
        connection.execute(sa.insert(tables.position).values(**place, **moment))
    refused = {"direction": "in", "channel": "forth", "state": "quarantined", "reason": "corrupt", **common}
    fill(connection, tables.batch, batches // 20, refused | {"stem": lambda n: text_of("bad-", n)})
    park(connection, batches)
    happened = {"at": LONG_AGO, "to_state": "applied", "cause": "applied", "who": "me", "subject_id": lambda n: n}
    for subject in ("batch", "dead_letter"):
        fill(connection, tables.event, 2 * batches, happened | {"subject": subject})
    gone = {"stream": "account", "key": lambda n: text_of('{"id":-', n, "}"), "version": lambda n: n}
    fill(connection, tables.tombstone, batches, gone)
    read = {
        "intake": "people",
        "stream": "account",
        "format": '{"kind": "csv"}',
        "terms": "{}",
        "state": "loaded",
        "who": "me",
    }
    named = {"file": lambda n: text_of("file ", n), "place": lambda n: text_of("/done/", n), "bytes": 1_000, **moments}
    fill(connection, tables.intake, batches, read | named | {"sha256": lambda n: text_of("", n)})
    pending = {"stream": "elsewhere", "op": "I", "key": lambda n: text_of('{"id":', n, "}")}
    fill(connection, tables.change, 5 * batches, pending)


def keep_files(side: Side, batches: int) -> None:
    """Leave the files of some of them."""
    folders = side.site.spool.folders
    for folder in (folders.archive, folders.quarantine, folders.sealed):
        for number in range(batches // 100):
            (folder / f"forth-{EPOCH}-{number:010d}.manifest.jsonl").touch()


def park(connection: Connection, letters: int) -> None:
    """Leave dead letters that were discarded, and some that were not."""
    letter = {
        "direction": "in",
        "channel": "forth",
        "stream": "account",
        "key": lambda n: text_of('{"id":', n, "}"),
        "record": b"x",
        "record_bytes": 1,
        "error": "type",
        "message": "bad",
        "fingerprint": lambda n: text_of("f" * 15, n % KINDS),
        "created_at": _moment_of,
        "updated_at": LONG_AGO,
    }
    fill(connection, tables.dead_letter, letters, letter | {"state": "discarded"})
    fill(connection, tables.dead_letter, letters // 20, letter | {"state": "parked"})


def act(connection: Connection, count: int) -> None:
    """Let gaps, requests of both sides and people's acts be a thing of the past."""
    closed = {"channel": "forth", "epoch": EPOCH, "state": tables.GapState.ARRIVED, "noticed_at": now()}
    connection.execute(sa.insert(tables.gap), [{**closed, "sequence": n} for n in range(1, count)])
    past = {"channel": "forth", "want": "snapshot", "reason": "long ago", "who": "somebody", "state": "done"}
    moments = dict.fromkeys(("created_at", "updated_at"), now())
    asked_for = [{**past, **moments, "answers": f"n{n}"} for n in range(count)]
    connection.execute(sa.insert(tables.resync), asked_for)
    answered = {**past, "state": tables.RepairState.ANSWERED, "asked_at": now()}
    connection.execute(sa.insert(tables.repair), [{**answered, "name": f"n{n}"} for n in range(count)])
    acted = {"at": now(), "who": "somebody", "origin": "here", "action": "retry", "arguments": "{}"}
    begun = [{"id": n, "call": f"c{n}", "previous": f"p{n}", "digest": f"p{n + 1}"} for n in range(1, count)]
    ended = [{"concludes": n, "id": n + count, "previous": f"q{n}", "digest": f"q{n + 1}"} for n in range(1, count)]
    for rows in (begun, ended):
        connection.execute(sa.insert(tables.audit), [acted | row for row in rows])


def sign_in(connection: Connection, count: int) -> None:
    """Let so many people be signed in, fail to, show tokens, and have proposed what others confirmed."""
    moment = now()
    named: dict[str, Any] = {"name": lambda n: text_of("user ", n)}
    begun: dict[str, Any] = {
        "digest": lambda n: text_of("d", n),
        "begun_at": moment,
        "seen_at": moment,
        "address": "::1",
    }
    fill(connection, tables.session, count, named | begun)
    fill(connection, tables.sign_in, count, named | {"address": lambda n: text_of("10.", n), "at": moment})
    shown: dict[str, Any] = {
        "digest": lambda n: text_of("d", n),
        "role": "viewer",
        "sees_sensitive": False,
        "made_by": "somebody",
    }
    fill(connection, tables.token, count, named | shown | {"created_at": moment, "expires_at": moment})
    what: dict[str, Any] = dict.fromkeys(("arguments", "frozen", "facts"), "{}") | {
        "action": "epoch new",
        "why": "years ago",
    }
    closed: dict[str, Any] = {
        "state": "confirmed",
        "who": "one",
        "also": "[]",
        "origin": "here",
        "at": moment,
        "expires_at": moment,
    }
    fill(connection, tables.proposal, count, what | closed)


def ask(connection: Connection, count: int) -> None:
    """Let so many users be signed in over HTTP, have asked, and programs have keys."""
    moment = now()
    later = moment + timedelta(days=20)
    of_user: dict[str, Any] = {"user_id": lambda n: n}
    session: dict[str, Any] = {
        "id": lambda n: text_of("s", n),
        "family": lambda n: text_of("f", n),
        "digest": lambda n: text_of("d", n),
        "begun_at": moment,
        "renewed_at": moment,
        "expires_at": later,
        "address": "::1",
    }
    fill(connection, tables.requester_session, count, of_user | session)
    key: dict[str, Any] = {
        "name": lambda n: text_of("key ", n),
        "scopes": "requests:read",
        "digest": lambda n: text_of("d", n),
        "old_digest": lambda n: text_of("o", n),
        "made_by": "somebody",
        "created_at": moment,
        "expires_at": later,
    }
    fill(connection, tables.api_key, count, of_user | key)
    fill(connection, tables.asked, count, of_user | {"profile_type_id": lambda n: n, "at": moment})
    answered: dict[str, Any] = {"key": lambda n: text_of("k", n), "body": "b", "answer": "{}", "at": moment}
    fill(connection, tables.idempotency, count, of_user | answered)


def analyse(side: Side) -> None:
    """Let the database count, as it does by itself from time to time."""
    with side.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
