"""The rule that a dead letter breaks, in the words of whoever made it: the stream's schema, or the database."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sqlalchemy import Connection

from exchange.channels.channel import Stream
from exchange.channels.schemas import stream_schema
from exchange.dead_letters.store import Brief
from exchange.tables.loader.constraints import reflect

_PLACE = 2
"""Steps of a pointer to a column: the record's member, and the column in it."""


def rule_of(connection: Connection, stream: Stream, letter: Brief) -> str | None:
    """Give the words of the rule that a letter breaks, as they are now; None if it is no such rule."""
    if letter.error in {"schema", "value"}:
        return _of_schema(stream, letter.pointer or "")
    if letter.cause and letter.error in {"foreign_key", "unique", "constraint"}:
        return next(_of_database(connection, stream, letter.cause), None)
    return None


def _of_schema(stream: Stream, pointer: str) -> str:
    schema = stream_schema(stream)
    steps = pointer.split("/")[1:]
    if len(steps) >= _PLACE:
        name = steps[1].replace("~1", "/").replace("~0", "~")
        if name in schema["properties"]:
            return f"{name}: {json.dumps(schema['properties'][name], ensure_ascii=False)}"
    return json.dumps({name: schema[name] for name in ("required", "additionalProperties")}, ensure_ascii=False)


def _of_database(connection: Connection, stream: Stream, name: str) -> Iterator[str]:
    constraints = reflect(connection, [stream.table])
    for key in constraints.foreign_keys:
        if key.name == name:
            here, there = ", ".join(key.columns), ", ".join(key.referred_columns)
            yield f"{name}: FOREIGN KEY {key.table} ({here}) REFERENCES {key.referred} ({there})"
    for unique in constraints.uniques.get(stream.table.name, ()):
        if unique.name == name:
            yield f"{name}: UNIQUE ({', '.join(unique.columns)})"
    for check in constraints.checks.get(stream.table.name, ()):
        if check.name == name:
            yield f"{name}: CHECK ({check.expression})"
