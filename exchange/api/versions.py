"""Versions that are ahead of this side's clock, for a Python program: believed, or forgotten of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.api.arguments import check_channel
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.format.strict_json import MAX_INTEGER
from exchange.tables import version_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exchange.api import Exchange
    from exchange.tables.version_limit import AllowedAhead, Freed

__all__ = ["Versions"]


class Versions:
    """How far ahead those of a channel may be, and what frees a row that one has frozen."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self) -> Sequence[AllowedAhead]:
        """Give the channels of which a person let in versions far ahead of this side's clock."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return version_limit.listed(connection)

    def let_in(self, channel: str, version: int, reason: str, *, who: str | None = None) -> AllowedAhead:
        """Believe a version of a channel that comes in, and what is as far ahead from now on.

        Raises RefusedArgument and Busy.
        """
        site = self._exchange.site
        check_channel(channel or "", site.incoming(), "received")
        if not 1 <= version <= MAX_INTEGER:
            raise RefusedArgument(f"version: expected 1 to {MAX_INTEGER}; nothing was done")
        with self._exchange.act(site, "let_in_versions", {"channel": channel, "version": version}, who, reason) as act:
            done = version_limit.allow_ahead_by_hand(site, channel, version, reason)
            act.came_to(done.as_dict())
        return done

    def free(self, stream: str, key: str, reason: str, *, who: str | None = None) -> Freed:
        """Let a row, or a key that was deleted, take the next record again, whatever its version.

        ``key`` is the record's key as JSON. Raises Busy, and TransientError if there is no such key.
        """
        site = self._exchange.site
        with self._exchange.act(site, "free_row", {"stream": stream, "key": key}, who, reason) as act:
            done = version_limit.free(site, stream, key)
            act.came_to(done.as_dict())
        return done
