"""A user's requests with their responses: newest first, page by page, and one by one."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.reference.models import Request, Response

MOST_ASKED_AT_ONCE = 500
_COLUMNS = (
    *(Request.id, Request.kind, Request.query, Request.parameters, Request.priority, Request.status),
    Request.created_at,
    Response.id.label("response"),
    Response.status.label("answered_as"),
    *(Response.result, Response.error, Response.started_at, Response.finished_at),
)


@dataclass(frozen=True)
class Page:
    """Some of a user's requests; ``after`` is what the next page begins after, None at the end."""

    requests: list[dict[str, Any]]
    after: str | None

    @property
    def waiting(self) -> list[uuid.UUID]:
        """Name those without a response, the oldest first."""
        return [uuid.UUID(one["id"]) for one in reversed(self.requests) if one["response"] is None]


def list_requests(engine: Engine, user_id: int, limit: int, after: str | None = None) -> Page:
    """Give a page. Raises ValueError for an ``after`` that no page gave, and TransientError."""
    query = _of(user_id).order_by(Request.created_at.desc(), Request.id.desc()).limit(limit + 1)
    if after is not None:
        moment, last = _read_place(after)
        same = sa.and_(Request.created_at == moment, Request.id < last)
        query = query.where(sa.or_(Request.created_at < moment, same))
    with transient_errors(), reading(engine) as connection:
        rows = connection.execute(query).all()
    shown = rows[:limit]
    return Page([_shown(row) for row in shown], _place(shown[-1]) if len(rows) > limit else None)


def find_request(engine: Engine, user_id: int, number: uuid.UUID) -> dict[str, Any] | None:
    """Give one, if it is this user's. Raises TransientError."""
    with transient_errors(), reading(engine) as connection:
        row = connection.execute(_of(user_id).where(Request.id == number)).one_or_none()
    return None if row is None else _shown(row)


def answered_among(connection: Connection, numbers: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Say which of some requests have a response. Reads in the caller's transaction."""
    wanted, found = list(numbers), set[uuid.UUID]()
    for start in range(0, len(wanted), MOST_ASKED_AT_ONCE):
        some = wanted[start : start + MOST_ASKED_AT_ONCE]
        found.update(connection.scalars(sa.select(Response.request_id).where(Response.request_id.in_(some))))
    return found


def _of(user_id: int) -> sa.Select[Any]:
    joined = sa.select(*_COLUMNS).outerjoin(Response, Response.request_id == Request.id)
    return joined.where(Request.user_id == user_id)


def _shown(row: Row[Any]) -> dict[str, Any]:
    response = None
    if row.response is not None:
        response = {
            "status": row.answered_as.value,
            "result": row.result,
            "error": row.error,
            "started_at": to_rfc3339(row.started_at),
            "finished_at": to_rfc3339(row.finished_at),
        }
    return {
        "id": str(row.id),
        "kind": row.kind,
        "query": row.query,
        "parameters": row.parameters,
        "priority": row.priority,
        "status": row.status.value,
        "created_at": to_rfc3339(row.created_at),
        "response": response,
    }


def _place(row: Row[Any]) -> str:
    return base64.urlsafe_b64encode(f"{to_rfc3339(row.created_at)} {row.id}".encode()).decode().rstrip("=")


def _read_place(text: str) -> tuple[datetime, uuid.UUID]:
    try:
        said = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)).decode("ascii")
        moment, _, number = said.partition(" ")
        return from_rfc3339(moment), uuid.UUID(number)
    except (ValueError, binascii.Error, UnicodeError):
        raise ValueError("after: expected what the page before gave as its `after`") from None
