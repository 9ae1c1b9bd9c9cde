"""Records that did not take effect, and retries of them."""

from __future__ import annotations

import enum

from sqlalchemy import BigInteger, Column, Float, Identity, Index, Integer, LargeBinary, String, Table, Text

from exchange.database.tables.base import Predicate, UtcDateTime, metadata, row_id


class RetryState(enum.StrEnum):
    """Whether a retry in the background goes on, or how it ended: its pace stopped it, or a person cancelled it."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class DeadLetterState(enum.StrEnum):
    """Where a refused record is in its life."""

    PARKED = "parked"
    APPLIED = "applied"
    DISCARDED = "discarded"
    SUPERSEDED = "superseded"


is_parked_with_key = Predicate("{state} = 'parked' AND {key} IS NOT NULL")
"""Whether a dead letter waits whose key is known."""

is_open = Predicate("{state} = 'parked' AND {identity} IS NOT NULL")
"""Whether a dead letter waits that is known to be of one row: of each row there is one."""

is_orphan = Predicate("{state} = 'parked' AND {error} = 'foreign_key'")
"""Whether a dead letter waits for a row that it refers to."""

is_scheduled = Predicate("{next_try_at} IS NOT NULL")
"""Whether a dead letter is tried again by time, if it is parked."""

is_seen_again = Predicate("{seen} > 1")
"""Whether a record of a dead letter's row came more than once."""

is_of_intake = Predicate("{intake} IS NOT NULL")
"""Whether a dead letter is a row of a file that people dropped."""

_SEEN = ("state", "fingerprint", "seen", "first_seen", "last_seen")

dead_letter = Table(
    "exchange_dead_letter",
    metadata,
    row_id(),
    Column("direction", String(3), nullable=False),
    Column("channel", String(31), nullable=False),
    Column("batch", String(80)),
    Column("line", BigInteger),
    Column("stream", String(63)),
    Column("op", String(6)),
    Column("key", Text),
    Column("version", BigInteger),
    Column("schema_version", Integer),
    Column("record", LargeBinary, nullable=False),
    Column("record_bytes", BigInteger, nullable=False),
    Column("pointer", Text),
    Column("error", String(31), nullable=False),
    Column("message", Text, nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("producer", String(200)),
    Column("cause", Text, nullable=False, server_default=""),
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("identity", String(32)),
    Column("seen", BigInteger, nullable=False, server_default="1"),
    Column("first_seen", UtcDateTime),
    Column("last_seen", UtcDateTime),
    Column("next_try_at", UtcDateTime),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("intake", BigInteger),
    Index("ix_exchange_dead_letter_intake", "intake", "line", **is_of_intake.of_index()),
    Index("uq_exchange_dead_letter_identity", "identity", unique=True, **is_open.of_index()),
    Index("ix_exchange_dead_letter_seen", *_SEEN, **is_seen_again.of_index()),
    Index("ix_exchange_dead_letter_due", "state", "next_try_at", "id", **is_scheduled.of_index()),
    Index("ix_exchange_dead_letter_state", "state", "created_at", "id"),
    Index("ix_exchange_dead_letter_fingerprint", "fingerprint", "state", "created_at", "id"),
    Index("ix_exchange_dead_letter_key", "key", "stream"),
    Index("ix_exchange_dead_letter_batch", "batch", "line"),
    Index(
        "ix_exchange_dead_letter_parked_key",
        "stream",
        "key",
        **is_parked_with_key.of_index(),
    ),
    Index(
        "ix_exchange_dead_letter_orphan",
        "channel",
        "id",
        **is_orphan.of_index(),
    ),
)
"""Records that did not take effect. ``record`` holds the exact bytes as they came, at most
``MAX_STORED_RECORD_BYTES`` of ``record_bytes``; what a person made of it is a revision, and ``revision`` the number of
the newest. ``cause`` names the constraint, ``producer`` who wrote the batch. ``identity`` says of which row it is
(``dead_letters.joining``): of each one letter is parked. Where the same came again it has what came last, ``seen``
how often that was, and ``last_seen`` (NULL: once). ``next_try_at`` is when it is tried again by itself (NULL: only by
hand, or when a row comes that it waits for), ``tries`` how often it was so. ``first_seen`` is when the row's first
letter was parked, if this one took its place."""

dead_letter_count = Table(
    "exchange_dead_letter_count",
    metadata,
    Column("fingerprint", String(16), primary_key=True),
    Column("state", String(12), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("part", BigInteger, Identity(), primary_key=True),
    Column("letters", BigInteger, nullable=False),
)
"""How many dead letters of a fingerprint came in an hour (since 1970) and are in a state: the sum over ``part``.
Triggers keep it true, whoever changes a letter; ``dead_letters.counts`` reads it."""

revision = Table(
    "exchange_dead_letter_revision",
    metadata,
    Column("letter", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
    Column("difference", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("why", Text, nullable=False),
)
"""What people made of a dead letter, one row each time; rows are only ever added."""

selection = Table(
    "exchange_selection",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("filters", Text, nullable=False),
    Column("letters", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
)
"""A set of dead letters that a person looked at and gave a name."""

selected = Table(
    "exchange_selected",
    metadata,
    Column("selection", String(63), primary_key=True),
    Column("letter", BigInteger, primary_key=True, autoincrement=False),
    Column("attempts", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String(12)),
)
"""The dead letters of a selection, as they were when it was made, and what its retry made of each; NULL before."""

is_retry_open = Predicate("{state} IN ('running', 'paused')")
"""Whether a retry in the background has not ended."""

background_retry = Table(
    "exchange_retry",
    metadata,
    row_id(),
    Column("selection", String(63), nullable=False),
    Column("state", String(12), nullable=False),
    Column("letters", BigInteger, nullable=False),
    Column("tried", BigInteger, nullable=False, server_default="0"),
    Column("applied", BigInteger, nullable=False, server_default="0"),
    Column("superseded", BigInteger, nullable=False, server_default="0"),
    Column("parked", BigInteger, nullable=False, server_default="0"),
    Column("position", BigInteger),
    Column("rate", Float),
    Column("canary", BigInteger),
    Column("stop_after", BigInteger),
    Column("who", String(255), nullable=False),
    Column("why", Text),
    Column("worker", String(255)),
    Column("changed_by", String(255)),
    Column("message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Index("uq_exchange_retry_open", "selection", unique=True, **is_retry_open.of_index()),
)
"""Selections that are tried in the background, each by one retry at a time: how many ``letters`` were left when it was
asked for, how many were ``tried`` and what became of them, the last one at ``position``; who asked for it and why, its
pace, and who stopped it with which ``message``. ``worker`` is whoever has the turn: nobody else can count anything."""
