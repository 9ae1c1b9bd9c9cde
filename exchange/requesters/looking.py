"""A user's requests with their responses: newest first, page by page, and one by one."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database.errors import transient_errors
from exchange.database.locks import glancing
from exchange.database.tables import UtcDateTime
from exchange.format.moments import from_rfc3339, to_rfc3339
from exchange.reference.models import Request, Response
from exchange.requesters.callers import Asker, Caller

MOST_ASKED_AT_ONCE = 500
MOST_ANSWERED_AT_ONCE = 50
"""So many responses are read at once: each may be long."""
_REQUEST = (
    *(Request.id, Request.kind, Request.query, Request.parameters, Request.priority, Request.status),
    Request.created_at,
)
_RESPONSE = (
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


def list_requests(engine: Engine, asker: Asker, limit: int, after: str | None = None) -> tuple[Caller, Page]:
    """Say who asks and give a page of theirs, by one statement.

    Raises Unknown, ValueError for an ``after`` that no page gave, and TransientError.
    """
    binds = {"most": limit + 1, **asker.binds()}
    if after is not None:
        binds["moment"], binds["last"] = _read_place(after)
    query = _page(asker.who(), goes_on=after is not None)
    with transient_errors(), glancing(engine) as connection:
        rows = connection.execute(query, binds).all()
    caller = asker.caller(rows[0] if rows else None)
    found = [row for row in rows if row.id is not None]
    shown = found[:limit]
    return caller, Page([_shown(row) for row in shown], _place(shown[-1]) if len(found) > limit else None)


def find_request(engine: Engine, asker: Asker, number: uuid.UUID) -> tuple[Caller, dict[str, Any] | None]:
    """Say who asks and give one request, if it is theirs, by one statement. Raises Unknown, TransientError."""
    query, binds = _one(asker.who()), {"number": number, **asker.binds()}
    with transient_errors(), glancing(engine) as connection:
        row = connection.execute(query, binds).one_or_none()
    caller = asker.caller(row)
    return caller, None if row is None or row.id is None else _shown(row)


def answered_among(connection: Connection, numbers: Collection[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """Give those of some requests that have a response, ``MOST_ANSWERED_AT_ONCE`` at most.

    Reads in the caller's transaction.
    """
    wanted, found = list(numbers), dict[uuid.UUID, dict[str, Any]]()
    for start in range(0, len(wanted), MOST_ASKED_AT_ONCE):
        most = MOST_ANSWERED_AT_ONCE - len(found)
        if most > 0:
            some = {"some": wanted[start : start + MOST_ASKED_AT_ONCE], "most": most}
            found |= {row.id: _shown(row) for row in connection.execute(_ANSWERED, some)}
    return found


@cache
def _page(who: sa.Select[Any], *, goes_on: bool) -> sa.Select[Any]:
    """Put the query together once for each way of asking. A row of whoever asks comes first, whatever they have."""
    asker = who.cte("who")
    mine = sa.select(asker.c.who_user).scalar_subquery()
    page = sa.select(*_REQUEST).where(Request.user_id == mine)
    if goes_on:
        moment, last = sa.bindparam("moment", type_=UtcDateTime()), sa.bindparam("last", type_=sa.Uuid())
        same = sa.and_(Request.created_at == moment, Request.id < last)
        page = page.where(sa.or_(Request.created_at < moment, same))
    page = page.order_by(Request.created_at.desc(), Request.id.desc()).limit(sa.bindparam("most", type_=sa.Integer()))
    shown = page.subquery("page")
    told = sa.select(*asker.c, *shown.c, *_RESPONSE).select_from(asker).outerjoin(shown, sa.true())
    told = told.outerjoin(Response, Response.request_id == shown.c.id)
    return told.order_by(shown.c.created_at.desc(), shown.c.id.desc())


@cache
def _one(who: sa.Select[Any]) -> sa.Select[Any]:
    asker = who.cte("who")
    wanted = sa.and_(Request.id == sa.bindparam("number", type_=sa.Uuid()), Request.user_id == asker.c.who_user)
    told = sa.select(*asker.c, *_REQUEST, *_RESPONSE).select_from(asker).outerjoin(Request, wanted)
    return told.outerjoin(Response, Response.request_id == Request.id)


_ANSWERED = (
    sa.select(*_REQUEST, *_RESPONSE)
    .join(Response, Response.request_id == Request.id)
    .where(Response.request_id.in_(sa.bindparam("some", expanding=True)))
    .limit(sa.bindparam("most", type_=sa.Integer()))
)


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
