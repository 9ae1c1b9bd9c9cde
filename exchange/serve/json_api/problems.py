"""What keeps something from being answered, as problem details (RFC 9457), with the sentences that commands have."""

from __future__ import annotations

import secrets
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

from exchange.api import NeedsSecondPerson, RefusedArgument
from exchange.database.locks import Busy
from exchange.files.keys import KeyFault
from exchange.format.errors import BatchError, RecordError, TransientError
from exchange.people.roles import Forbidden
from exchange.serve.json_api.looks import NotThere
from exchange.settings import SettingsFaults

MEDIA_TYPE = "application/problem+json"

_TITLES = {
    400: "what was asked makes no sense",
    401: "nobody knows who asks",
    403: "whoever asks may not do it",
    404: "there is no such thing",
    405: "that is not asked so",
    408: "it took too long",
    409: "not as things stand",
    413: "it is too large",
    415: "it is written as nothing that is read here",
    421: "it was asked of another host",
    422: "it can't be taken",
    429: "too much was asked",
    431: "its headers are too large",
    500: "a fault of the exchange itself",
    503: "not to be had now",
    507: "there is no room",
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Answer with a problem; ``detail`` is one sentence."""
    said = {"type": "about:blank", "title": _TITLES[status], "status": status, "detail": detail, **more}
    return JSONResponse(said, status, headers, MEDIA_TYPE)


_STATUS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    (Forbidden, 403),
    (NotThere, 404),
    ((Busy, TransientError), 409),
    (RefusedArgument, 400),
    ((RecordError, BatchError, KeyFault), 422),
    (SettingsFaults, 503),
)


def problem_of(error: Exception) -> JSONResponse:
    """Answer with what an exception says; one that nobody thought of is logged under a number.

    What needs a second person was proposed, which is no problem: it says under which number.
    """
    if isinstance(error, TransientError) and isinstance(error.__cause__, SQLAlchemyError | OSError):
        return problem(503, str(error), {"Retry-After": "10"})
    if isinstance(error, NeedsSecondPerson):
        return JSONResponse(error.as_dict(), 202)
    for kinds, status in _STATUS:
        if isinstance(error, kinds):
            more = {"who": error.who, "since": error.as_dict()["since"]} if isinstance(error, Busy) else {}
            return problem(status, str(error), **more)
    number = secrets.token_hex(4)
    structlog.get_logger("exchange").error("failed", number=number, error=type(error).__name__)
    return problem(500, f"a fault of the exchange itself kept this from being answered; its log has it under {number}")
