"""Who signs in to the console and the API, and what waits for a second person."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, String, Table, Text

from exchange.database.tables.base import Predicate, UtcDateTime, metadata, row_id

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
    row_id(),
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

is_proposal_open = Predicate("{state} IN ('open', 'confirming')")
"""Whether a proposal waits for somebody, or is being done."""

proposal = Table(
    "exchange_proposal",
    metadata,
    row_id(),
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
