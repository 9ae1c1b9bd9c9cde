"""Runs and processes: what is paused, who works at what, how often it succeeded and failed."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text

from exchange.database.tables.base import UtcDateTime, metadata

pause = Table(
    "exchange_pause",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("resumed_at", UtcDateTime),
)
"""Channels, by their declared names, that a person paused, each at most once: the last time. It is paused while
``resumed_at`` is NULL."""

success = Table(
    "exchange_success",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)
"""When each channel was last exported or imported to its end, with or without anything to do: what alarms watch."""

failed_run = Table(
    "exchange_failed_run",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("runs", BigInteger, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("message", Text, nullable=False),
)
"""How many exports or imports of a channel failed for want of a disk or database since the last one that was done: the
first of them ``since``, the last ``at``, for which ``message`` is the sentence."""

process = Table(
    "exchange_process",
    metadata,
    Column("kind", String(12), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("every_seconds", Integer, nullable=False),
)
"""When beat last ticked and when a worker last got something done, on each machine, and how often that is to be: one
row a kind and machine, written every few seconds at most. Rows of machines that are gone are removed after days."""

attempt = Table(
    "exchange_attempt",
    metadata,
    Column("batch", String(80), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("why", Text),
)
"""Imports begun and not ended: a row that stays is a crash. Keyed by the batch's place, written before the work.
``why`` says what went wrong the last time, where something could still say so; NULL after a process that died."""

holder = Table(
    "exchange_holder",
    metadata,
    Column("lock", String(80), primary_key=True),
    Column("who", String(255), nullable=False),
    Column("since", UtcDateTime, nullable=False),
)
"""Who last took a lock on SQLite, as the version before wrote it. Now that word is in the lock's own file."""
