"""Quarantine for a Python program: batches whose files were refused, looked at, let in or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.api.acts import never
from exchange.api.arguments import check_label, check_limit, no_end
from exchange.api.batches import Released
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState
from exchange.format.as_dict import AsDict
from exchange.incoming import quarantine, stranger_counts, strangers
from exchange.outgoing import control_batch

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.incoming.quarantine import QuarantinedDetail, QuarantinePage
    from exchange.incoming.stranger_counts import StrangersOfDay

__all__ = ["Cleared", "Discarded", "Quarantine"]


@dataclass(frozen=True)
class Discarded(AsDict):
    """A batch in quarantine that somebody gave up."""

    batch: str
    state: BatchState = BatchState.DISCARDED


@dataclass(frozen=True)
class Cleared(AsDict):
    """How many files that nobody vouches for were removed."""

    removed: int


class Quarantine:
    """Batches whose files were refused."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self, channel: str | None = None, *, limit: int = 50, after: str | None = None) -> QuarantinePage:
        """Give a page of what lies there, in the order of names, what nobody vouches for last.

        ``after`` is where the page before ended, as it says. Raises RefusedArgument for what is no such end.
        """
        check_limit(limit)
        try:
            return quarantine.list_quarantined(self._exchange.site, channel=channel, limit=limit, after=after)
        except ValueError as error:
            raise no_end(after, "batch") from error

    def show(self, batch: str) -> QuarantinedDetail:
        """Look at one closely: its files are verified again. Raises TransientError if there is none of this name."""
        return quarantine.quarantined_detail(self._exchange.site, check_label(batch))

    def strangers(self, *, limit: int = 50) -> Sequence[StrangersOfDay]:
        """Give what came that nobody vouches for, by day and cause, the newest first."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return stranger_counts.strangers_by_day(connection, limit=check_limit(limit))

    def release(
        self,
        batch: str,
        *,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Released:
        """Judge one anew, as if it had just arrived: every check is made, the signature's too.

        That somebody else is at work on its channel is an outcome. Raises TransientError if there is none.
        """
        site, label = self._exchange.site, check_label(batch)
        with self._exchange.act(site, "release_quarantined", {"batch": label}, who, reason) as act:
            done = quarantine.release_files(site, label)
            act.came_to(done.as_dict())
            return Released(done, control_batch.after_import(site, [done], stopping))

    def discard(self, batch: str, reason: str, *, who: str | None = None) -> Discarded:
        """Give one up: nobody is told, its files go to the archive. Raises Busy, TransientError."""
        site, label = self._exchange.site, check_label(batch)
        with self._exchange.act(site, "discard_quarantined", {"batch": label}, who, reason) as act:
            quarantine.discard_files(site, label, reason)
            done = Discarded(label)
            act.came_to(done.as_dict())
        return done

    def clear(self, reason: str | None = None, *, who: str | None = None) -> Cleared:
        """Remove all files that nobody vouches for. What was counted of them stays."""
        site = self._exchange.site
        with self._exchange.act(site, "clear_strangers", {}, who, reason) as act:
            done = Cleared(strangers.clear_strangers(site))
            act.came_to(done.as_dict())
        return done
