"""Other sessions of a PostgreSQL database: who holds a lock, and who has held one for long.

What is said of them is what this role may know: without ``pg_read_all_stats`` neither their state nor their age.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.database.engine import now
from exchange.format.errors import Problem, printable
from exchange.format.moments import in_words

LONG = timedelta(minutes=1)
"""A transaction that holds a lock for longer is named before anybody waits for it."""

_HOLDERS = """
    SELECT s.pid, s.usename AS role, s.application_name AS program, s.state, x.gid,
        coalesce(s.xact_start, x.prepared) AS since, max(c.relname) AS place
    FROM pg_locks l
    LEFT JOIN pg_class c ON c.oid = l.relation
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_activity s ON s.pid = l.pid
    LEFT JOIN pg_prepared_xacts x ON l.pid IS NULL AND l.virtualtransaction = '-1/' || x.transaction
    WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (c.relkind IN ('r', 'p') AND n.nspname <> 'pg_catalog' AND l.mode <> 'AccessShareLock'
        OR l.locktype = 'advisory' AND l.classid = CAST(:space AS oid))
    GROUP BY 1, 2, 3, 4, 5, 6
    ORDER BY bool_or(strpos(:names, c.relname) > 0) DESC NULLS LAST, since NULLS LAST, s.pid"""


def lock_holder(connection: Connection, statement: str, space: int) -> tuple[str, datetime | None]:
    """Name whoever holds a lock on tables that a statement names, or else any, and since when.

    ``space`` is the first half of the keys of our advisory locks. A look through the locks can't tell which of several
    was waited for; the one whose transaction is the oldest is named. Who waited in vain can ask no more: give another
    connection than that.
    """
    found = connection.execute(sa.text(_HOLDERS), {"names": statement, "space": space}).first()
    if found is None:
        return "a transaction that has ended by now", None
    return f"{_described(found)} holds a lock{f' on {found.place}' if found.place else ''}", found.since


def long_holders(connection: Connection, tables: Sequence[str]) -> list[Problem]:
    """Name transactions that have held a lock on one of these tables for long; none of this program's own.

    Reads in the caller's transaction.
    """
    if not dialect_of(connection).is_postgresql:
        return []
    rows = connection.execute(sa.text(_HOLDERS), {"names": " ".join(tables), "space": 0})
    return [
        Problem(
            f"{_described(one)} holds a lock on {one.place} since {in_words(one.since)}: what needs it has to wait",
            "have whoever that is commit or end it"
            + (
                f", or end it: `SELECT pg_terminate_backend({one.pid})`"
                if one.pid
                else f": `ROLLBACK PREPARED '{one.gid}'`"
            ),
            since=one.since,
        )
        for one in rows
        if one.place in tables
        and one.since is not None
        and now() - one.since > LONG
        and not (one.program or "").startswith("exchange ")
    ]


def _described(row: Any) -> str:
    if row.pid is None:
        return f"a prepared transaction ({printable(row.gid, 60)})" if row.gid else "a prepared transaction"
    words = [f"process {row.pid}", f"role {row.role}" if row.role else "", row.program or "", row.state or ""]
    return printable(", ".join(filter(None, words)), 200)
