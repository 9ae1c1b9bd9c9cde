"""Who the two sides are and what they know of each other: epochs, gaps, receipts, snapshots, repairs, comparisons."""

from __future__ import annotations

import enum

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Index, Integer, String, Table, Text

from exchange.database.tables.base import Predicate, UtcDateTime, metadata, row_id


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
    row_id(),
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
    row_id(),
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
