"""Batches for a Python program: listed, looked at, verified, let in, rejected, sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exchange.api.acts import RefusedArgument, never
from exchange.api.arguments import check_channel, check_limit, check_stem, no_end
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import BatchState
from exchange.format.as_dict import AsDict
from exchange.incoming import release
from exchange.incoming.release import BatchDetail
from exchange.operating import batch_pages, batch_view
from exchange.operating.batch_pages import BatchFilters, BatchPage
from exchange.operating.batch_view import BatchView, VerifiedBatch
from exchange.outgoing import control_batch
from exchange.outgoing import resend as again
from exchange.results import Imported, Resent

if TYPE_CHECKING:
    from exchange.api import Exchange

__all__ = ["BatchFilters", "Batches", "Rejected", "Released"]

_ALL = BatchFilters()


@dataclass(frozen=True)
class Released:
    """What became of a batch that somebody let in; ``untold`` says why the other side is told only later."""

    outcome: Imported
    untold: str | None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return self.outcome.as_dict()


@dataclass(frozen=True)
class Rejected(AsDict):
    """A batch that somebody gave up; ``untold`` says why its sender is told only later."""

    batch: str
    state: BatchState = BatchState.REJECTED
    untold: str | None = None


class Batches:
    """What became of every batch, and what a person can do about one."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # To look at

    def list(self, filters: BatchFilters = _ALL, *, limit: int = 50, after: int | None = None) -> BatchPage:
        """Give a page of those that are meant, newest first; ``after`` is the id that the page before names.

        What the two sides only tell each other is left out unless it is asked for or somebody's worry. Raises
        RefusedArgument if there is no batch to go on after.
        """
        site = self._exchange.site
        check_limit(limit)
        with transient_errors(), reading(site.engine) as connection:
            page = batch_pages.page(site, connection, filters, after=after, limit=limit)
        if page is None:
            raise no_end(after, "batch")
        return page

    def show(
        self,
        batch: str,
        *,
        records: int = 5,
        bad: int = 20,
        reveal: bool = False,
        who: str | None = None,
        reason: str | None = None,
    ) -> BatchView:
        """Give all there is to know about one: its manifest, way, first records, and the first of its dead letters.

        To ``reveal`` shows what is sensitive, too, and is written to the audit. Raises TransientError if the ledger
        has no such batch.
        """
        site, stem = self._exchange.site, check_stem(batch)
        if not reveal:
            return batch_view.batch_view(site, stem, records=records, bad=bad)
        asked = {"batch": stem, "records": records}
        with self._exchange.act(site, "reveal", asked, who, reason) as act:
            found = batch_view.batch_view(site, stem, records=records, bad=bad, reveal=True)
            act.came_to({"records": len(found.records), "dead_letters": len(found.bad)})
        return found

    def verify(self, batch: str) -> VerifiedBatch:
        """Verify the files of one again, from their first byte to the last. Raises TransientError if they are gone."""
        return batch_view.verify_batch(self._exchange.site, check_stem(batch))

    def trial(self, batch: str, *, limit: int = 1000) -> BatchDetail:
        """Give one with what would become of it if its bad records were parked, at most ``limit`` of those named.

        Only of one that was refused for its records; it is applied so, and rolled back. Raises Busy, TransientError.
        """
        return release.batch_detail(self._exchange.site, check_stem(batch), check_limit(limit))

    # To do something about

    def release(
        self,
        batch: str,
        *,
        park: bool = False,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Released:
        """Let in one that is held for its many deletes, or with ``park`` one that was refused for its bad records.

        Every other check is made anew, and the other side is told. That somebody else is at work on its channel is an
        outcome. Raises TransientError if it is neither.
        """
        site, stem = self._exchange.site, check_stem(batch)
        with self._exchange.act(site, "release_batch", {"batch": stem, "park": park or None}, who, reason) as act:
            done = release.release_batch(site, stem, park=park)
            act.came_to(done.as_dict())
            return Released(done, control_batch.after_import(site, [done], stopping))

    def reject(self, batch: str, reason: str, *, who: str | None = None) -> Rejected:
        """Give up one that is quarantined or held, so that its sender is told. Raises Busy, TransientError."""
        site, stem = self._exchange.site, check_stem(batch)
        with self._exchange.act(site, "reject_batch", {"batch": stem}, who, reason) as act:
            release.reject_batch(site, stem, reason)
            done = Rejected(stem)
            act.came_to({"batch": stem, "state": done.state.value})
            return replace(done, untold=control_batch.try_to_publish(site))

    def resend(
        self,
        channel: str | None = None,
        sequences: Sequence[int] = (),
        *,
        code: str | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> Sequence[Resent]:
        """Publish batches again, the same bytes under the next name: those of a channel, or those of a request code.

        One that is lost has no ``attempt``, and a message that says why. Raises Busy, TransientError.
        """
        site = self._exchange.site
        check_channel(channel, site.outgoing(), "sent")
        if (channel is None or not sequences) if code is None else (channel or sequences):
            raise RefusedArgument("expected channel and sequences, or a code; nothing was done")
        asked = {"channel": channel, "sequences": list(sequences) or None, "code": code}
        with self._exchange.act(site, "resend", asked, who, reason) as act:
            if code is not None:
                done = again.resend_by_code(site, code)
            else:
                done = again.resend_by_hand(site, channel or "", sequences)
            act.came_to({"batches": [one.as_dict() for one in done]})
        return done
