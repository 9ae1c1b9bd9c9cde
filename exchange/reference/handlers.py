"""Handlers answer requests: functions from a Question to a value that JSON can hold.

A handler may raise: its error becomes the response. ``EXCHANGE_HANDLER`` names the one to use, as
``package.module:function``.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Question:
    """A request as a handler sees it: values only, none of them attached to the database."""

    id: uuid.UUID
    user: str
    kind: str
    query: str
    parameters: Mapping[str, Any]
    priority: int
    created_at: datetime


Handler = Callable[[Question], Any]


def load_handler(spec: str) -> Handler:
    """Import the handler that ``package.module:function`` names. Raises ValueError with one sentence."""
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"a handler is named package.module:function, found {spec!r}")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        # A module of somebody else's may fail in any way when it is imported.
        raise ValueError(f"the handler {spec!r} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"the handler {spec!r} is a {type(found).__name__}, a function is expected")  # noqa: TRY004 - the fault is a setting's
    handler: Handler = found
    return handler


def echo(question: Question) -> dict[str, Any]:
    """Answer with the question: the handler that the exchange ships, to see the line work."""
    return {
        "echo": question.query,
        "kind": question.kind,
        "parameters": dict(question.parameters),
        "user": question.user,
    }
