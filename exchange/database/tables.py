"""The tables that the exchange keeps beside the application's own.

They hold what must survive a crash: captured changes, the ledger of batches, each channel's position, dead
letters and their history. Nothing here is a cache: losing Redis loses none of it.
The migrations under ``migrations/`` create them; a test compares the two.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    collate,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.event import listen
from sqlalchemy.sql.selectable import NamedFromClause
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

VERSION_COLUMN = "exchange_version"
"""The column that a received table has beside its own: the version of the record that last wrote the row."""

MAX_STORED_RECORD_BYTES = 16 * 1024 * 1024
"""How much of a refused record a dead letter keeps, in bytes: all that a record may have by default.

Of a line that is longer than its reader takes only the head is kept."""


class Direction(enum.StrEnum):
    """Which way a batch or a dead letter went, seen from this network."""

    OUT = "out"
    IN = "in"


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


class GapState(enum.StrEnum):
    """What became of a missing sequence: it came, somebody went on without it, or it never will come."""

    MISSING = "missing"
    ARRIVED = "arrived"
    ACCEPTED = "accepted"
    LOST = "lost"
    SUPERSEDED = "superseded"
    LEFT = "left"


class ResyncState(enum.StrEnum):
    """How far a snapshot of a channel has come."""

    ASKED = "asked"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class RepairState(enum.StrEnum):
    """Whether what was asked of the other side has come."""

    OPEN = "open"
    ANSWERED = "answered"
    WITHDRAWN = "withdrawn"


class RetryState(enum.StrEnum):
    """Whether a retry in the background goes on, or how it ended: its pace stopped it, or a person cancelled it."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


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


class DeadLetterState(enum.StrEnum):
    """Where a refused record is in its life."""

    PARKED = "parked"
    APPLIED = "applied"
    DISCARDED = "discarded"
    SUPERSEDED = "superseded"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware date-time, always UTC, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive value rather than guess its zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a date-time without a zone reached the exchange's own tables"
            raise ValueError(msg)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back UTC, whatever the database kept."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@dataclass(frozen=True)
class Predicate:
    """The condition of a partial index, with its columns in braces.

    A query uses the index only if it says the condition in the same words: SQLite compares them, and a bound value is
    none. So it is written here alone.
    """

    words: str

    def __call__(self, rows: NamedFromClause) -> TextClause:
        """Say it of the rows of its table or of an alias of that."""
        return text(self.words.replace("{", f"{rows.name}.").replace("}", ""))

    def of_index(self) -> dict[str, Any]:
        """Give the options of the index, for both databases."""
        said = text(self.words.replace("{", "").replace("}", ""))
        return {"sqlite_where": said, "postgresql_where": said}


def _id() -> Column[Any]:
    """A 64-bit key that grows by itself; SQLite needs INTEGER for that."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


network = Table(
    "exchange_network",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(31), nullable=False),
    Column("epoch", String(12), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("halted_at", UtcDateTime),
    Column("halted_because", Text),
    Column("home", String(32)),
    Column("home_place", Text),
    CheckConstraint("id = 1", name="single"),
)
"""One row: who this database belongs to, the number of the one home that works with it and where that was first, and
its epoch. While ``halted_because`` says why, nothing is exported."""

epoch = Table(
    "exchange_epoch",
    metadata,
    Column("epoch", String(12), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("number", Integer, nullable=False, server_default="0"),
)
"""The epochs of this network, once another one was begun by hand, after a restore, or an earlier one was heard of that
this database forgot; rows are only ever added. ``number`` alone is their order."""

change = Table(
    "exchange_change",
    metadata,
    _id(),
    Column("stream", String(63), nullable=False),
    Column("op", String(1), nullable=False),
    Column("key", Text, nullable=False),
    Index("ix_exchange_change_stream_id", "stream", "id"),
    sqlite_autoincrement=True,
)
"""What triggers captured and no batch carries yet. ``id`` is the order of changes; ``op`` is I, U or D;
``key`` is a JSON object of the key columns as this database writes them (see ``capture``).

On PostgreSQL ``id`` is where the write-ahead log stood: a number drawn from a sequence would be what the application's
``lastval()`` gives. Two changes of two sessions may have the same, so there is no key. The sequence of the column gives
versions to records when they are claimed."""
listen(
    change,
    "after_create",
    DDL(
        "ALTER TABLE exchange_change DROP CONSTRAINT pk_exchange_change,"
        " ALTER id SET DEFAULT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
        # Without a key, what is deleted could not be published where an application publishes all its tables.
        " REPLICA IDENTITY FULL"
    ).execute_if(dialect="postgresql"),  # type: ignore[no-untyped-call]
)


importing = Table(
    "exchange_importing",
    metadata,
    Column("stream", String(63), primary_key=True),
)
"""The streams that the running import writes, so that triggers skip them. Only SQLite uses it, and only
inside the importer's transaction: it is empty in every committed state."""

tombstone = Table(
    "exchange_tombstone",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Index("ix_exchange_tombstone_stream_version", "stream", "version"),
)
"""Received deletes: an older upsert must not bring the row back. ``key`` is the record's key, canonical JSON."""

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
    _id(),
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

tombstone_mark = Table(
    "exchange_tombstone_mark",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
"""How far the versions of a stream's tombstones reached at a moment: by that it is known how old they are."""

is_missing = Predicate("{state} = 'missing'")
"""Whether a gap is still one."""

gap = Table(
    "exchange_gap",
    metadata,
    Column("channel", String(31), primary_key=True),
    Column("epoch", String(12), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(12), nullable=False),
    Column("noticed_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("cause", Text),
    Column("who", String(255)),
    Index("ix_exchange_gap_state", "state", "channel", "epoch", "sequence"),
    Index(
        "ix_exchange_gap_missing",
        "channel",
        "epoch",
        "sequence",
        **is_missing.of_index(),
    ),
)
"""Incoming sequences that others came before, and what became of each."""

receipt = Table(
    "exchange_receipt",
    metadata,
    Column("channel", String(31), primary_key=True),
    Column("epoch", String(12), primary_key=True),
    Column("through", BigInteger, nullable=False),
    Column("said", Text, nullable=False),
    Column("heard_at", UtcDateTime, nullable=False),
)
"""What the other side said last of a channel that we send: ``said`` is the data of its ``_receipt`` record."""

peer = Table(
    "exchange_peer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String(12), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("sent_at", UtcDateTime, nullable=False),
    Column("heard_at", UtcDateTime, nullable=False),
    Column("said", Text, nullable=False),
    CheckConstraint("id = 1", name="single"),
)
"""One row: the other side's last sign of life. ``sent_at`` is by its clock, ``heard_at`` by ours, ``said`` the data
of its ``_heartbeat`` record."""

resync = Table(
    "exchange_resync",
    metadata,
    _id(),
    Column("channel", String(31), nullable=False),
    Column("want", String(12), nullable=False),
    Column("streams", Text),
    Column("buckets", Text),
    Column("prune", Integer, nullable=False, server_default="0"),
    Column("answers", String(80)),
    Column("reason", Text, nullable=False),
    Column("who", String(255), nullable=False),
    Column("state", String(12), nullable=False),
    Column("version", BigInteger),
    Column("cursor", Text),
    Column("unsent", Text),
    Column("parts", Integer, nullable=False, server_default="0"),
    Column("records", BigInteger, nullable=False, server_default="0"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("epoch", String(12)),
    Column("contains_from", BigInteger),
    Column("contains_through", BigInteger),
    Column("expected", BigInteger),
    Column("begun_at", UtcDateTime),
    Index("uq_exchange_resync_answers", "answers", unique=True),
    Index("ix_exchange_resync_state", "state", "channel", "id"),
)
"""What this side shall send beside changes, asked for by a person, the schedule or the other side (``answers`` is
the name of its request): a ``snapshot`` or a ``checkpoint`` of a channel, and how far it has come. ``streams`` is a
JSON array, ``buckets`` a JSON object of them and of how many they are; NULL for all. ``epoch`` is the one in which it
was begun, ``contains_through`` the last batch of its channel then: a whole snapshot has what batches from
``contains_from`` through that one held (NULL where it does not). ``expected`` is how many rows there were about when it
was begun, at ``begun_at``; NULL where it is of some buckets."""

first_load = Table(
    "exchange_first_load",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("after", BigInteger, nullable=False),
    Column("shards", Integer),
    Column("done_at", UtcDateTime),
    Column("rollout", Text),
)
"""Whether the rows that a stream's table had when its changes began to be captured were sent once: then it is
``done_at``. Snapshots of it count that were asked for behind number ``after`` of ``exchange_resync``, of as many
``shards`` as its channel had then; NULL before any was asked for. A stream without a row was captured by an earlier
version, and never sent. ``rollout`` is a JSON object, as ``database.rollouts`` reads it, for as long as not all keys of
the stream were sent; else NULL."""

loading = Table(
    "exchange_loading",
    metadata,
    Column("channel", String(31), primary_key=True),
    Column("name", String(80), nullable=False),
    Column("part", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("expected", BigInteger, nullable=False),
    Column("begun_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""The snapshot that a channel is receiving, ``name`` as its manifests say it: the last ``part`` that was applied, how
many ``records`` came through that one, and about how many are ``expected`` in all."""

repair = Table(
    "exchange_repair",
    metadata,
    _id(),
    Column("name", String(80), nullable=False),
    Column("channel", String(31), nullable=False),
    Column("want", String(12), nullable=False),
    Column("streams", Text),
    Column("buckets", Text),
    Column("prune", Integer, nullable=False, server_default="0"),
    Column("reason", Text, nullable=False),
    Column("who", String(255), nullable=False),
    Column("state", String(12), nullable=False),
    Column("asked_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Index("uq_exchange_repair_name", "name", unique=True),
    Index("ix_exchange_repair_state", "state", "channel"),
)
"""What this side asked the other one for: a ``snapshot`` or a ``checkpoint`` of a channel; told until it came."""

agreement = Table(
    "exchange_agreement",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("channel", String(31), primary_key=True),
    Column("stream", String(63), primary_key=True),
    Column("epoch", String(12), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("compared_at", UtcDateTime, nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),
    Column("buckets", Text, nullable=False),
    Column("found", Text),
    Column("since", UtcDateTime),
    Column("repairs", Integer, nullable=False, server_default="0"),
    Column("in_vain", Text),
)
"""How a stream compared at its last checkpoint: rows ``sent`` and ``received`` there, the ``buckets`` that differ (a
JSON array), what a repair ``found`` different (JSON; NULL where nobody looked), and since when.
``in_vain`` is what repairs did not help, as ``link.vain_repairs`` has it."""

stranger = Table(
    "exchange_stranger",
    metadata,
    Column("day", Date, primary_key=True),
    Column("cause", String(31), primary_key=True),
    Column("batches", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("samples", Text, nullable=False),
)
"""What came of a day (UTC) that nobody vouches for, counted by its cause, a reason for which batches are refused.
``bytes`` are those of all their files, ``samples`` a JSON array of the first ones: name, and what was said of it."""

deleted = Table(
    "exchange_deleted",
    metadata,
    Column("stream", String(63), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("deleted", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
)
"""How many rows of a received stream batches deleted in an hour (since 1970), and how many rows there were before the
first of those went at most; of a large table fewer, a power of two. What a person let in is not counted."""

ahead = Table(
    "exchange_ahead",
    metadata,
    Column("channel", String(31), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("who", String(255), nullable=False),
    Column("reason", Text, nullable=False),
)
"""How far ahead of this side's clock a person lets the versions of an incoming channel be, by its declared name: the
version that was believed, and when."""

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

schema = Table(
    "exchange_schema",
    metadata,
    Column("direction", String(3), primary_key=True),
    Column("stream", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("schema", Text, nullable=False),
    Column("channel", String(31), nullable=False),
    Column("since", UtcDateTime, nullable=False),
)
"""The schema that each version of a stream had when this side first sent or read it: ``schema`` as its file has it,
``digest`` of what counts in it, ``channel`` the declared one that it was seen in last, and since when."""

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
"""Who last took a lock, for the sentence a second caller gets. The lock itself is the database's."""

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
    _id(),
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
    _id(),
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

audit = Table(
    "exchange_audit",
    metadata,
    _id(),
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
    _id(),
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
    _id(),
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

user = Table(
    "exchange_user",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("hash", Text),
    Column("role", String(15), nullable=False),
    Column("sees_sensitive", Boolean, nullable=False),
    Column("disabled_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("signed_in_at", UtcDateTime),
)
"""Who signs in to the console: ``hash`` is what Argon2 made of the password, NULL where only a proxy vouches."""

session = Table(
    "exchange_session",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("begun_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("address", String(63), nullable=False),
    Index("ix_exchange_session_name", "name", "begun_at"),
)
"""Who is signed in: ``digest`` is the SHA-256 of what the cookie holds, which no database has. A row goes with the end
of its session, the newest of a user are kept."""

sign_in = Table(
    "exchange_sign_in",
    metadata,
    _id(),
    Column("name", String(64), nullable=False),
    Column("address", String(63), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_exchange_sign_in_name", "name", "at"),
    Index("ix_exchange_sign_in_address", "address", "at"),
    Index("ix_exchange_sign_in_at", "at"),
)
"""Attempts to sign in that failed a while ago, or are under way: by the SHA-256 of the name, as anything may be typed
there, and by the address. The newest are kept."""

token = Table(
    "exchange_token",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("role", String(15), nullable=False),
    Column("sees_sensitive", Boolean, nullable=False),
    Column("made_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("used_at", UtcDateTime),
    Column("used_from", String(63)),
    Index("uq_exchange_token_digest", "digest", unique=True),
)
"""What programs show: ``digest`` is the SHA-256 of a token, which is shown once. Rows go a while after their end."""

requester = Table(
    "exchange_requester",
    metadata,
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(255), nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("signed_in_at", UtcDateTime),
)
"""Passwords of users of the directory, whose rows the other side owns: no stream has this table, and no hash crosses.
A row goes a while after its user."""

requester_session = Table(
    "exchange_requester_session",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", Integer, nullable=False),
    Column("family", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("begun_at", UtcDateTime, nullable=False),
    Column("renewed_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("address", String(63), nullable=False),
    Index("uq_exchange_requester_session_family", "family", unique=True),
    Index("ix_exchange_requester_session_user_id", "user_id", "begun_at"),
)
"""Who is signed in over HTTP: ``family`` and ``digest`` are the SHA-256 of both halves of the refresh token, the second
of which is new each time. The newest of a user are kept, and a row goes once its session is over."""

api_key = Table(
    "exchange_api_key",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("user_id", Integer),
    Column("scopes", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("old_digest", String(64)),
    Column("old_until", UtcDateTime),
    Column("made_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("rotated_at", UtcDateTime),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("used_at", UtcDateTime),
    Column("used_from", String(63)),
    Index("uq_exchange_api_key_digest", "digest", unique=True),
    Index("ix_exchange_api_key_old_digest", "old_digest"),
)
"""What programs show in order to ask or to write rows: SHA-256 of the key that is shown once, and of the one before it
for as long as both are good. ``scopes`` are words with blanks between them. Rows go a while after their end."""

asked = Table(
    "exchange_asked",
    metadata,
    _id(),
    Column("user_id", Integer, nullable=False),
    Column("profile_type_id", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_exchange_asked_user_id", "user_id", "at"),
    Index("ix_exchange_asked_profile_type_id", "profile_type_id", "at"),
    Index("ix_exchange_asked_at", "at"),
)
"""What was asked over HTTP within the window that limits count in: a row goes once it is older."""

idempotency = Table(
    "exchange_idempotency",
    metadata,
    Column("user_id", Integer, primary_key=True, autoincrement=False),
    Column("key", String(255), primary_key=True),
    Column("body", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_exchange_idempotency_at", "at"),
)
"""What was answered to whom under which Idempotency-Key, and the SHA-256 of what was asked. Rows go after a day."""

is_proposal_open = Predicate("{state} IN ('open', 'confirming')")
"""Whether a proposal waits for somebody, or is being done."""

proposal = Table(
    "exchange_proposal",
    metadata,
    _id(),
    Column("state", String(12), nullable=False),
    Column("action", String(63), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("frozen", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("who", String(255), nullable=False),
    Column("also", Text, nullable=False),
    Column("origin", String(255), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("closed_by", String(255)),
    Column("closed_at", UtcDateTime),
    Column("result", Text),
    Index("ix_exchange_proposal_open", "id", **is_proposal_open.of_index()),
)
"""What one person proposed and another one is to confirm: the act by its name, with its ``arguments`` as the audit has
them, what of it is ``frozen`` beside those, and ``facts``, how what it concerns was then (JSON each). ``also`` are
other names of whoever proposed it. It is kept as long as the batches' retention says after its end."""

intake = Table(
    "exchange_intake",
    metadata,
    _id(),
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
