"""Schemas for a Python program: what the records of each stream are, and models taken as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exchange.api.acts import RefusedArgument
from exchange.channels.schemas import stream_schema
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import Direction
from exchange.format.as_dict import AsDict
from exchange.format.errors import printable
from exchange.link import known_schemas

if TYPE_CHECKING:
    from exchange.api import Exchange

__all__ = ["AcceptedSchema", "Schemas", "StreamSchema"]


@dataclass(frozen=True)
class StreamSchema(AsDict):
    """A stream's JSON schema; ``changed`` says how its model differs from the one of its version, None if not."""

    stream: str
    channel: str
    direction: Direction
    version: int
    schema: dict[str, Any]
    changed: str | None


@dataclass(frozen=True)
class AcceptedSchema(AsDict):
    """A stream whose model was taken as it is, and what had changed."""

    stream: str
    version: int
    changes: tuple[str, ...]


class Schemas:
    """What the records of each stream are."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self) -> Sequence[StreamSchema]:
        """Give the schema of each stream."""
        site = self._exchange.site
        found = []
        with transient_errors(), reading(site.engine) as connection:
            changed = {way: known_schemas.changed_schemas(site, connection, way) for way in Direction}
        for channel in site.channels:
            way = Direction.OUT if channel.source == site.network else Direction.IN
            for one in channel.streams:
                problem = changed[way].get(one.name)
                said = str(problem) if problem else None
                schema = stream_schema(one)
                found.append(StreamSchema(one.name, channel.name, way, one.schema_version, schema, said))
        return found

    def accept(self, stream: str, *, who: str | None = None, reason: str | None = None) -> AcceptedSchema:
        """Take a stream's model for the one of its version: a person's word that no record of it has crossed yet."""
        site = self._exchange.site
        known = {one.name: one for channel in site.channels for one in channel.streams}
        if stream not in known:
            shown = printable(repr(stream), 80)
            raise RefusedArgument(f"stream: expected one of {', '.join(sorted(known))}, found {shown}")
        with self._exchange.act(site, "accept_schema", {"stream": stream}, who, reason) as act:
            with transient_errors(), writing(site.engine) as connection:
                changes = known_schemas.accept_schema(site, connection, stream)
            act.came_to({"stream": stream, "changes": changes})
        return AcceptedSchema(stream, known[stream].schema_version, tuple(changes))
