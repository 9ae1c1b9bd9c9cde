"""The reference application's tables: a request network asks, a response network owns the users and answers.

Both networks have all of them; which side may write a table is said by the channels, not here. The rows a
side only receives keep to the same constraints as the owner's.
"""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Enum, ForeignKey, Index, MetaData, String, Text, Uuid, func, text, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from exchange.database.engine import now
from exchange.database.tables import UtcDateTime

LOWEST_PRIORITY = 0
HIGHEST_PRIORITY = 9


class RequestStatus(enum.StrEnum):
    """What the asking side says of its request; whether it is answered, a response row says."""

    PENDING = "pending"
    CANCELLED = "cancelled"


class ResponseStatus(enum.StrEnum):
    """How the answering side ended its work on a request."""

    ANSWERED = "answered"
    FAILED = "failed"


class Base(DeclarativeBase):
    """Constraints have predictable names: a refused record is reported with the name of the one it breaks."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


def _stored_by_value(kind: type[enum.StrEnum], name: str) -> Enum:
    """Keep an enum as text under a check constraint, so that a new member is an ordinary migration."""
    return Enum(
        kind,
        name=name,
        native_enum=False,
        length=16,
        create_constraint=True,
        values_callable=lambda members: [member.value for member in members],
    )


class ProfileType(Base):
    """What a group of users may do: requests a UTC day, and how urgent theirs are (9 before 0)."""

    __tablename__ = "profile_type"
    __table_args__ = (
        CheckConstraint("name <> ''", name="name_not_empty"),
        CheckConstraint("daily_limit >= 0", name="daily_limit_not_negative"),
        CheckConstraint(f"priority BETWEEN {LOWEST_PRIORITY} AND {HIGHEST_PRIORITY}", name="priority_range"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    daily_limit: Mapped[int]
    priority: Mapped[int] = mapped_column(default=5, server_default=text("5"))


class User(Base):
    """Who may ask. The password's hash stays on the network that owns users: elsewhere it is null."""

    __tablename__ = "user"
    __table_args__ = (
        CheckConstraint("name <> ''", name="name_not_empty"),
        CheckConstraint("email <> ''", name="email_not_empty"),
        # A request in flight must never find its user's id given to somebody else.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    profile_type_id: Mapped[int] = mapped_column(ForeignKey("profile_type.id"), index=True)
    active: Mapped[bool] = mapped_column(default=True, server_default=true())
    password_hash: Mapped[str | None] = mapped_column(String(255))

    profile_type: Mapped[ProfileType] = relationship()


class Request(Base):
    """What a user asks. The other network answers with a response row and never changes this one."""

    __tablename__ = "request"
    __table_args__ = (
        CheckConstraint("kind <> ''", name="kind_not_empty"),
        CheckConstraint(f"priority BETWEEN {LOWEST_PRIORITY} AND {HIGHEST_PRIORITY}", name="priority_range"),
        # The daily limit counts one user's requests since midnight.
        Index("ix_request_user_id_created_at", "user_id", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))
    kind: Mapped[str] = mapped_column(String(64))
    query: Mapped[str] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default=text("'{}'"))
    priority: Mapped[int] = mapped_column(default=5, server_default=text("5"))
    status: Mapped[RequestStatus] = mapped_column(
        _stored_by_value(RequestStatus, "status"),
        default=RequestStatus.PENDING,
        server_default=RequestStatus.PENDING.value,
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, server_default=func.current_timestamp())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=now, onupdate=now, server_default=func.current_timestamp()
    )

    user: Mapped[User] = relationship()


class Response(Base):
    """The one answer to a request: a result, or the error that took its place."""

    __tablename__ = "response"
    __table_args__ = (
        CheckConstraint(
            "(status = 'answered' AND error IS NULL) OR (status = 'failed' AND error IS NOT NULL)",
            name="error_when_failed",
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("request.id"), unique=True)
    status: Mapped[ResponseStatus] = mapped_column(_stored_by_value(ResponseStatus, "status"))
    result: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    processed_by: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime] = mapped_column(UtcDateTime)

    request: Mapped[Request] = relationship()


class AnswerAttempt(Base):
    """Work on a request begun and not ended, local to the answering network: a row that stays is a crash.

    Written before the handler runs and removed with the response's insert, in one transaction.
    """

    __tablename__ = "answer_attempt"

    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("request.id", ondelete="CASCADE"), primary_key=True)
    attempts: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    who: Mapped[str] = mapped_column(String(255))


class AnswerLater(Base):
    """A request that its handler had no answer to yet, local to the answering network: removed with its response."""

    __tablename__ = "answer_later"

    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("request.id", ondelete="CASCADE"), primary_key=True)
    handler: Mapped[str] = mapped_column(String(255))
    tries: Mapped[int]
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    message: Mapped[str] = mapped_column(Text)


class HandlerOutcome(Base):
    """When a handler last answered, and when and why it last did not, local to the answering network: one row each."""

    __tablename__ = "handler_outcome"

    handler: Mapped[str] = mapped_column(String(255), primary_key=True)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    message: Mapped[str | None] = mapped_column(Text)
