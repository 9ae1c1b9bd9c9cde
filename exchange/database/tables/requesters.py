"""Who asks over HTTP, and how often."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from exchange.database.tables.base import UtcDateTime, metadata, row_id

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
    row_id(),
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
