"""The audit's chain: rows are only ever added, each with the digest of the one before it, and checked against that.

Whoever owns the database can write the whole chain anew, or cut off its end: only a file that was written out before,
signed and kept elsewhere, tells that. Rows from before the chain are in it as they were when it began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database.dialects import dialect_of
from exchange.database.encodings import narrow_encoding
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import AUDIT_LOCK, reading, wait_for, writing
from exchange.database.tables import audit
from exchange.format.as_dict import AsDict
from exchange.format.audit_file import FIRST, AuditEnding, AuditRow
from exchange.format.errors import printable
from exchange.format.signed_file import FileFault

FETCH_ROWS = 500
MOST_FAULTS = 20
"""So many faults are named; all are counted."""

_TRIGGERS = {
    "postgresql": "SELECT count(*) = 1 FROM pg_trigger WHERE tgname = 'exchange_audit_stays'"
    " AND tgenabled IN ('O', 'A') AND tgrelid = to_regclass('exchange_audit')",
    "sqlite": "SELECT count(*) = 3 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'exchange_audit'"
    " AND name IN ('exchange_audit_stays_insert', 'exchange_audit_stays_update', 'exchange_audit_stays_delete')",
}


@contextmanager
def adding(engine: Engine, patience_seconds: float) -> Iterator[Connection]:
    """Open a transaction in which rows may be added; whoever adds waits for whoever adds. Raises Busy, TransientError.

    Commits at the end of the block.
    """
    with transient_errors(), writing(engine, patience_seconds=patience_seconds) as connection:
        wait_for(connection, AUDIT_LOCK)
        yield connection


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Add a row with what ``values`` hold, after the last one, and give its id. Call it within ``adding``.

    Commits nothing; two who add at once would name one row as the one before theirs, which the table refuses.
    """
    last = connection.execute(sa.select(audit.c.id, audit.c.digest).order_by(audit.c.id.desc()).limit(1)).one_or_none()
    empty = dict.fromkeys(("why", "result", "call", "concludes"))
    narrow = narrow_encoding(connection)
    row = AuditRow(
        **{
            **empty,
            "arguments": "{}",
            "at": now(),
            **(values if narrow is None else {name: narrow.storable(value) for name, value in values.items()}),
            "id": _next_id(connection, last.id if last else 0),
            "previous": last.digest if last else FIRST,
        }
    )
    connection.execute(sa.insert(audit).values(**vars(row), digest=row.digest))
    return row.id


def _next_id(connection: Connection, last: int) -> int:
    if not dialect_of(connection).is_postgresql:
        return last + 1
    sequence = sa.func.pg_get_serial_sequence(audit.name, "id")
    return int(connection.execute(sa.select(sa.func.nextval(sequence))).scalar_one())


@dataclass(frozen=True)
class Checked(AsDict):
    """What a check came to. ``faults`` has a sentence for each of the first that were found of ``wrong``."""

    rows: int
    head: str
    wrong: int
    faults: tuple[str, ...]


def check(engine: Engine, kept: AuditEnding | None = None) -> Checked:
    """Check every row of the database, and that what a file ``kept`` is still there. Raises TransientError.

    Reads in a transaction of its own.
    """
    walk = _ChainChecker(kept)
    with transient_errors(), reading(engine) as connection:
        missing = missing_triggers(connection)
        if missing:
            walk.fault(missing)
        for values in each_row(connection):
            walk.see(values)
    if kept is not None and kept.rows and not walk.kept_seen:
        walk.fault(
            f"expected row {kept.last} as the file has it, with the digest {kept.head}; it is not there any more"
        )
    return Checked(walk.rows, walk.head, walk.wrong, tuple(walk.faults))


def missing_triggers(connection: Connection) -> str | None:
    """Say in one sentence that nothing keeps the audit from being changed; None if triggers do.

    Reads in the caller's transaction.
    """
    if connection.exec_driver_sql(_TRIGGERS[dialect_of(connection).name]).scalar_one():
        return None
    return "the triggers that keep exchange_audit from being changed are not there, or are switched off"


class _ChainChecker:
    """Sees row after row, and remembers what was wrong."""

    def __init__(self, kept: AuditEnding | None) -> None:
        self.rows, self.wrong, self.head, self.kept_seen = 0, 0, FIRST, False
        self.faults: list[str] = []
        self._kept = kept
        self._open: set[int] = set()

    def fault(self, sentence: str) -> None:
        """Count a fault, and keep its sentence if there are not too many."""
        self.wrong += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(sentence)

    def see(self, values: Mapping[str, Any]) -> None:
        """Check the next row: what it says of the one before, its own digest, and which act it ends."""
        row, digest = AuditRow.of(values), values["digest"]
        self.rows += 1
        if row.previous != self.head:
            self.fault(f"row {row.id}: expected the digest before it, {self.head}, found {printable(row.previous, 80)}")
        try:
            if row.digest != digest:
                self.fault(f"row {row.id}: expected what its digest is of, found something else: it was changed")
        except FileFault as error:
            self.fault(f"{error}: it was changed")
        if row.concludes is None:
            self._open.add(row.id)
        elif row.concludes in self._open:
            self._open.remove(row.concludes)
        else:
            self.fault(f"row {row.id}: expected the result of an act before it, found one of row {row.concludes}")
        self.head = str(digest)
        if self._kept is not None and (row.id, digest) == (self._kept.last, self._kept.head):
            self.kept_seen = True


def each_row(connection: Connection) -> Iterator[Mapping[str, Any]]:
    """Give all rows, the first one first, a few at a time.

    Reads in the caller's transaction; read it to its end or close it before the connection does anything else.
    """
    streamed = {"stream_results": True, "yield_per": FETCH_ROWS}
    with connection.execute(sa.select(audit).order_by(audit.c.id), execution_options=streamed) as rows:
        for row in rows.mappings():
            yield dict(row)
