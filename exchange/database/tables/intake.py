"""Files of people that are loaded."""

from __future__ import annotations

import enum

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text, collate

from exchange.database.tables.base import UtcDateTime, metadata, row_id


class IntakeState(enum.StrEnum):
    """How far a file that people dropped has come."""

    WAITING = "waiting"
    LOADING = "loading"
    LOADED = "loaded"
    DUPLICATE = "duplicate"
    REFUSING = "refusing"
    """It is refused, and what was loaded of it is still to be taken back."""
    REFUSED = "refused"
    CANCELLING = "cancelling"
    """The same of one that a person gave up with all that was loaded of it."""
    CANCELLED = "cancelled"


intake = Table(
    "exchange_intake",
    metadata,
    row_id(),
    Column("intake", String(63), nullable=False),
    Column("stream", String(63), nullable=False),
    Column("file", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("format", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("state", String(12), nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("rows_read", BigInteger, nullable=False, server_default="0"),
    Column("rows_loaded", BigInteger, nullable=False, server_default="0"),
    Column("rows_parked", BigInteger, nullable=False, server_default="0"),
    Column("rows_waiting", BigInteger, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_try_at", UtcDateTime),
    Column("message", Text, nullable=False, server_default=""),
    Column("who", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_exchange_intake_sha256", "sha256", "id"),
    Index("ix_exchange_intake_state", "state", "priority", "id"),
)
Index("ix_exchange_intake_file", collate(intake.c.file, "C")).ddl_if(dialect="postgresql")
Index("ix_exchange_intake_file", intake.c.file).ddl_if(dialect="sqlite")
"""The files of rows that were taken in, each once: ``place`` is where it lies now, ``format`` how its bytes are rows,
and ``terms`` on which they are loaded, as JSON; ``who`` dropped it. ``rows_waiting`` are those of the parked that only
wait for another row. A second file of the same bytes is a row of its own, a duplicate."""

intake_part = Table(
    "exchange_intake_part",
    metadata,
    Column("intake", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("start", BigInteger, nullable=False),
    Column("start_line", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("line", BigInteger, nullable=False),
    Column("stop", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("done_at", UtcDateTime),
)
"""The parts of a file that are loaded beside each other: each from the byte ``start``, where ``start_line`` begins, to
``stop``, or to the file's end. It has come to ``position``, where ``line`` begins: that moves on with each segment,
in the transaction that has its rows, and ``attempts`` since then are counted."""
