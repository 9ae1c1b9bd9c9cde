"""The OpenAPI document, made of the very table of what may be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from exchange import __version__
from exchange.people.roles import Role, least_role
from exchange.serve.json_api.problems import MEDIA_TYPE
from exchange.serve.json_api.table import LARGEST, Endpoint, Field, Kind

_PROBLEMS = {"400": "Refused", "401": "Unknown", "403": "Forbidden", "409": "Conflict", "503": "Away"}


_PROBLEMS_OF_LINES = {"404": "Nothing", "415": "Unread", "507": "Room"}
_PROBLEMS_OF_THE_DOOR = {"408": "Slow", "413": "Large", "422": "Untaken", "429": "Often"}


def _refused(problems: Mapping[str, str]) -> dict[str, Any]:
    return {code: {"$ref": f"#/components/responses/{name}"} for code, name in problems.items()}


_PROPOSED = {
    "202": {
        "description": "It needs a second person: it was proposed, and nothing else was done.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def document(endpoints: Iterable[Endpoint], prefix: str) -> dict[str, Any]:
    """Give the document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(f"{prefix}{one.path}", {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "exchange",
            "version": __version__,
            "description": "One side of an exchange: what its commands show and do. Lists come in pages: `after` of one"
            " is `after` of the next. What can't be done is a problem (RFC 9457) whose `detail` is one sentence.",
        },
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "exchange_session",
                    "description": "What changes something shows X-CSRF-Token, too.",
                },
                "access": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "What /sign-in and /refresh give.",
                },
                "key": {"type": "http", "scheme": "bearer", "description": "What `exchange api-keys add` shows once."},
            },
            "schemas": {"Problem": _PROBLEM},
            "responses": {
                name: {
                    "description": says,
                    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
                for name, says in (
                    ("Refused", "What was asked makes no sense; nothing was done."),
                    ("Unknown", "Nobody knows who asks."),
                    ("Forbidden", "Whoever asks may not do it; nothing was done."),
                    ("Conflict", "Not as things stand, or somebody else is at work; nothing was done."),
                    ("Away", "What it needs is not to be had now: ask again."),
                    ("Slow", "The body took too long; nothing was done."),
                    ("Large", "The body is too large; nothing was done."),
                    ("Untaken", "What was said can't be taken; nothing was done."),
                    ("Nothing", "There is no such thing; nothing was done."),
                    ("Unread", "The body is of a kind or packed in a way that is not read here; nothing was done."),
                    ("Room", "There is no room for it; nothing was done."),
                    ("Often", "Too much was asked; Retry-After says when to ask again. Nothing was done."),
                )
            },
        },
    }


_PROBLEM = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def _operation(one: Endpoint) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.says,
        "description": _for_whom(one),
        "parameters": [_parameter(one, field) for field in one.fields if _in_address(one, field)],
        "responses": {
            str(one.status): _answer(one),
            **({} if one.action is None or one.method == "GET" else _PROPOSED),
            **_refused(_PROBLEMS | (_PROBLEMS_OF_THE_DOOR if one.is_of_the_door else {})),
            **(_refused(_PROBLEMS_OF_LINES) | {"200": _answer(one)} if one.receives_lines else {}),
        },
    }
    if one.is_of_the_door:
        said["security"] = [] if one.by_anybody else [{"access": []}, {"key": []}]
    if one.receives_lines:
        lines = {"schema": {"type": "string", "description": "An object a line."}}
        said["requestBody"] = {"required": True, "content": {"application/jsonl": lines}}
    body = [field for field in one.fields if not _in_address(one, field)]
    if body:
        schema = {
            "type": "object",
            "properties": {field.name: _schema(field) for field in body},
            "required": [field.name for field in body if field.needed],
            "additionalProperties": False,
        }
        required = any(field.needed for field in body)
        said["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return said


def _for_whom(one: Endpoint) -> str:
    if one.by_anybody:
        return "For anybody, over https or on this machine itself."
    if one.scope:
        return f"For users of the directory and programs, with the scope {one.scope}."
    needed = Role.VIEWER if one.action is None else least_role(one.action)
    written = f" In the audit as {one.action}." if one.action and one.method != "GET" else ""
    return f"For the role {needed} or one that may do more.{written}"


def _in_address(one: Endpoint, field: Field) -> bool:
    return one.asks_in_address or field.name in one.in_path


def _parameter(one: Endpoint, field: Field) -> dict[str, Any]:
    inside = field.name in one.in_path
    return {
        "name": field.name,
        "in": "path" if inside else "query",
        "required": inside or field.needed,
        "description": field.says,
        "schema": _schema(field),
    }


def _schema(field: Field) -> dict[str, Any]:
    said: dict[str, Any] = {"description": field.says}
    match field.kind:
        case Kind.TEXTS:
            return said | {"type": "array", "items": {"type": "string"}}
        case Kind.NUMBERS:
            return said | {"type": "array", "items": {"type": "integer", "minimum": 1}}
        case Kind.MOMENT:
            return said | {"type": "string"}
        case Kind.NUMBER:
            most = {} if field.most == LARGEST else {"maximum": field.most}
            return said | {"type": "integer", "minimum": 0, **most}
    if field.among:
        said["enum"] = [one.value for one in field.among]
    return said | {"type": field.kind.value}


def _answer(one: Endpoint) -> dict[str, Any]:
    if one.lines:
        return {"description": "A line of JSON each.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}
    return {"description": one.says, "content": {"application/json": {"schema": {"type": "object"}}}}
