"""What happened, who did what, and who is told of it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text

from exchange.database.tables.base import UtcDateTime, metadata, row_id

audit = Table(
    "exchange_audit",
    metadata,
    row_id(),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("origin", String(255), nullable=False),
    Column("action", String(63), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("why", Text),
    Column("result", Text),
    Column("call", String(64)),
    Column("concludes", BigInteger),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Index("uq_exchange_audit_call", "call", unique=True),
    Index("uq_exchange_audit_concludes", "concludes", unique=True),
    Index("uq_exchange_audit_previous", "previous", unique=True),
)
"""What people did by hand: who, when, from where, what with which arguments (JSON), why, and ``call``, the id of the
task that was called. What came of it (JSON) is a row of its own that ``concludes`` it; there is none while it runs, or
if it was killed. Each row has a digest of all its columns and of the digest before it (see
``format.audit_file``). Triggers refuse any change and removal."""

event = Table(
    "exchange_event",
    metadata,
    row_id(),
    Column("subject", String(12), nullable=False),
    Column("subject_id", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("from_state", String(12)),
    Column("to_state", String(12), nullable=False),
    Column("cause", Text, nullable=False),
    Column("who", String(255), nullable=False),
    Index("ix_exchange_event_subject_subject_id", "subject", "subject_id"),
)
"""Every change of state of a batch or a dead letter. Rows are only ever added, and go with what they tell of, once its
retention is over."""

alarm = Table(
    "exchange_alarm",
    metadata,
    Column("alarm", String(31), primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("level", String(7), nullable=False),
    Column("message", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("since", UtcDateTime),
    Column("first_at", UtcDateTime, nullable=False),
    Column("gone_at", UtcDateTime),
    Column("told", String(7), nullable=False),
    Column("told_at", Text, nullable=False),
    Column("told_to", Text, nullable=False),
    Column("held_back", Integer, nullable=False),
)
"""What the watcher found not well: since when by itself (``first_at``) and by what it found (``since``). ``told`` is
what people were told of it last (a level, ``gone``, or nothing yet), ``told_at`` a JSON array of the last moments
when they were, ``held_back`` how often they were not since, as it comes and goes. A row is removed a while after it is
``gone_at``."""

silence = Table(
    "exchange_silence",
    metadata,
    Column("alarm", String(31), primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("until", UtcDateTime, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("reason", Text, nullable=False),
)
"""Alarms of which nobody is told for a while, by whose word; an empty ``subject`` is whichever."""

message = Table(
    "exchange_message",
    metadata,
    row_id(),
    Column("number", String(32), nullable=False),
    Column("target", String(63), nullable=False),
    Column("once", String(63), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(7), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Index("uq_exchange_message_once", "target", "once", unique=True),
)
"""What people are told, one row for each target by its name: its URL is in no database. ``body`` is JSON, ``once`` what
is told once however many watch, ``number`` what its receiver knows it by. The newest are kept, so many of a target."""

sample = Table(
    "exchange_sample",
    metadata,
    Column("place", String(255), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False),
)
"""How full the disk of a folder was, in bytes, a few times a day for some weeks: what a forecast is made of."""
