"""Changes that wait to be sent, for a Python program: by stream, and those that no export takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.format.errors import RecordError
from exchange.outgoing import leftover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exchange.api import Exchange
    from exchange.outgoing.leftover import Leftover, Settled, Waiting

__all__ = ["Pending"]


class Pending:
    """Changes that were captured and no batch carries yet."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self) -> Sequence[Waiting]:
        """Say of each stream that is sent from here how many of its changes wait."""
        return leftover.read_waiting(self._exchange.site)

    def leftovers(self) -> Sequence[Leftover]:
        """Give the names under which changes wait that no channel sends from here."""
        return leftover.read_leftovers(self._exchange.site)

    def discard(self, stream: str, reason: str, *, who: str | None = None) -> Settled:
        """Remove what waits under such a name: it is not sent. Raises RefusedArgument if it is none."""
        site = self._exchange.site
        with self._exchange.act(site, "discard_pending", {"stream": stream}, who, reason) as act:
            try:
                done = leftover.discard_leftovers(site, stream)
            except RecordError as error:
                raise RefusedArgument(f"{error.sentence}; nothing was done") from error
            act.came_to(done.as_dict())
        return done

    def move(self, stream: str, to: str, reason: str, *, who: str | None = None) -> Settled:
        """Give what waits under such a name to a stream that is sent from here and has the same key.

        Raises RefusedArgument if either is none.
        """
        site = self._exchange.site
        with self._exchange.act(site, "move_pending", {"stream": stream, "to": to}, who, reason) as act:
            try:
                done = leftover.move_leftovers(site, stream, to)
            except RecordError as error:
                raise RefusedArgument(f"{error.sentence}; nothing was done") from error
            act.came_to(done.as_dict())
        return done
