"""The ledger: every batch that went or came, each channel's position, and what was counted."""

from __future__ import annotations

import enum

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, String, Table, Text, collate

from exchange.database.tables.base import Predicate, UtcDateTime, metadata, row_id


class BatchState(enum.StrEnum):
    """Where a batch is in its life. ``states.TRANSITIONS`` says which may follow which."""

    SEALED = "sealed"
    PUBLISHED = "published"
    ACKNOWLEDGED = "acknowledged"
    REJECTED = "rejected"
    WAITING = "waiting"
    HELD = "held"
    APPLIED = "applied"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


holds_place = Predicate(
    "{state} NOT IN ('quarantined', 'discarded') AND ({state} <> 'rejected' OR {direction} = 'out')"
    " AND {manifest} IS NOT NULL"
)
"""Whether a batch holds its place: one that is quarantined, given up or unbelieved holds none."""

is_kept = Predicate("{pruned_at} IS NULL")
"""Whether a batch's files were not pruned."""

_is_due_again = Predicate("{again_at} IS NOT NULL")

has_reason = Predicate("{reason} IS NOT NULL")
"""Whether it is known why a batch waits, is held or was refused."""

has_trace = Predicate("{trace} IS NOT NULL")
"""Whether a batch's manifest named a trace."""

batch = Table(
    "exchange_batch",
    metadata,
    row_id(),
    Column("direction", String(3), nullable=False),
    Column("channel", String(31), nullable=False),
    Column("epoch", String(12), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("stem", String(80), nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(31)),
    Column("message", Text),
    Column("manifest", Text),
    Column("digest", String(64)),
    Column("records", BigInteger, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Column("applied", BigInteger, nullable=False, server_default="0"),
    Column("duplicate", BigInteger, nullable=False, server_default="0"),
    Column("stale", BigInteger, nullable=False, server_default="0"),
    Column("parked", BigInteger, nullable=False, server_default="0"),
    Column("trace", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("pruned_at", UtcDateTime),
    Column("published_at", UtcDateTime),
    Column("again_at", UtcDateTime),
    Column("signature", Text),
    Column("erased_at", UtcDateTime),
    Index(
        "uq_exchange_batch_place",
        "direction",
        "channel",
        "epoch",
        "sequence",
        unique=True,
        **holds_place.of_index(),
    ),
    Index("ix_exchange_batch_stem_id", "stem", "id"),
    Index("ix_exchange_batch_state", "state", "direction", "channel", "id"),
    Index(
        "ix_exchange_batch_kept",
        "direction",
        "updated_at",
        **is_kept.of_index(),
    ),
    Index(
        "ix_exchange_batch_again",
        "again_at",
        **_is_due_again.of_index(),
    ),
    Index("ix_exchange_batch_time", "state", "direction", "channel", "created_at", "id"),
    Index("ix_exchange_batch_reason", "reason", "created_at", "id", **has_reason.of_index()),
)
# By the bytes of a name, whatever order the database has for texts; on SQLite that is the order.
Index("ix_exchange_batch_name", collate(batch.c.stem, "C"), batch.c.id).ddl_if(dialect="postgresql")
Index("ix_exchange_batch_trace", collate(batch.c.trace, "C"), **has_trace.of_index()).ddl_if(dialect="postgresql")
Index("ix_exchange_batch_trace", batch.c.trace, **has_trace.of_index()).ddl_if(dialect="sqlite")
"""The ledger. A place (channel, epoch, sequence) is taken once per direction, by a manifest that we believe; what
was quarantined, or given up by a person, takes none. ``manifest`` is line 1 of the manifest, ``digest`` its SHA-256,
``bytes`` the data file's size on disk. ``published_at`` is when it was last put out, ``again_at`` when its next copy
is due on a one-way link; ``signature`` is line 2 of an incoming one's manifest: the proof, shown to its sender, that
it was sent. ``erased_at`` is when its bytes were removed by hand, as a record was in them that was to be forgotten."""

position = Table(
    "exchange_position",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("epoch", String(12), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", String(64)),
    Column("current", Integer, nullable=False, server_default="1"),
    Column("adopted_at", UtcDateTime, nullable=False),
    Column("applied", BigInteger, nullable=False, server_default="0"),
    Column("duplicate", BigInteger, nullable=False, server_default="0"),
    Column("stale", BigInteger, nullable=False, server_default="0"),
    Column("parked", BigInteger, nullable=False, server_default="0"),
    Column("newest_version", BigInteger),
)
"""How far a channel has come, stored with the data it speaks of. ``digest`` is that of the last manifest, NULL
behind a place that was given up. One row of a channel is ``current``; the others are epochs that were left.
``applied`` and the other counts are of all records of the epoch that were imported, as is ``newest_version``."""

folded = Table(
    "exchange_folded",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("epoch", String(12), primary_key=True),
    Column("through", BigInteger, nullable=False),
    Column("places", BigInteger, nullable=False),
    Column("batches", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("duplicate", BigInteger, nullable=False),
    Column("stale", BigInteger, nullable=False),
    Column("parked", BigInteger, nullable=False),
)
"""What is left of rows of ``exchange_batch`` and ``exchange_gap`` whose retention is over, one row for an epoch of a
channel: ``database.folded`` says what it counts. A place up to ``through`` without a row was settled long ago."""

batch_count = Table(
    "exchange_batch_count",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("outcome", String(12), primary_key=True),
    Column("part", BigInteger, Identity(), primary_key=True),
    Column("batches", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("standing", BigInteger, nullable=False),
)
"""How many batches ever came to a state, with the records and bytes in them, and how many are ``standing`` in it now:
the sums over ``part``. Outcome ``resent`` counts those that were published once more. Triggers keep it true, whoever
moves a batch; on PostgreSQL each adds to a part that nobody else is adding to, so that no transaction waits."""

work_count = Table(
    "exchange_work_count",
    metadata,
    Column("what", String(31), primary_key=True),
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("label", String(31), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("microseconds", BigInteger, nullable=False),
)
"""How often a step was done or something happened; ``label`` is the bucket of how long a step took, by its number in
``tally.BOUNDS``, or an outcome."""
