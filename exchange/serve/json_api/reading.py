"""What was said in a request: its body within bounds of size and time, and the fields of a row of the table."""

from __future__ import annotations

from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.format import strict_json
from exchange.format.errors import RecordError
from exchange.serve.json_api.problems import problem
from exchange.serve.json_api.table import Endpoint

THROWN_AWAY = 8
"""So many times what a body may have is read of it."""
BODY_SECONDS = 10.0
"""So long a body may take."""


class BodyRefused(Exception):  # noqa: N818 - an answer to whoever asks
    """A body that is too large, or too slow."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


async def body_of(request: Request, most_bytes: int) -> bytes:
    """Read a body of at most so many bytes, within ``BODY_SECONDS``. Raises BodyRefused.

    Of one that is larger some more is read and thrown away: who still sends hears no answer.
    """
    found, read = bytearray(), 0
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for part in request.stream():
                read += len(part)
                if read <= most_bytes:
                    found += part
                elif read > most_bytes * THROWN_AWAY:
                    break
        if read > most_bytes:
            raise BodyRefused(413, f"the body: expected at most {most_bytes} bytes, found more")
    except TimeoutError:
        raise BodyRefused(408, f"the body: expected all of it within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise BodyRefused(408, "the body: expected all of it, and the connection ended") from None
    return bytes(found)


def body_problem(error: BodyRefused) -> Response:
    """Answer with why a body was not read; what is left of it is read by nobody."""
    return problem(error.status, f"{error}; nothing was done", {"Connection": "close"})


def read_said(request: Request, body: bytes, wanted: Endpoint) -> dict[str, Any]:
    """Read the fields of a row of the table. Raises RefusedArgument."""
    return wanted.read(request.path_params, _query(request), {} if wanted.asks_in_address else _object(body))


def _query(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise RefusedArgument(f"{name[:80]!r}: expected it once, found it again; nothing was done")
        found[name] = value
    return found


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        said = strict_json.loads(body)
    except RecordError as error:
        raise RefusedArgument(f"the body is no JSON: {error.sentence}; nothing was done") from error
    if not isinstance(said, dict):
        raise RefusedArgument("the body: expected an object; nothing was done")
    return said
