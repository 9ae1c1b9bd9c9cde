"""Epochs for a Python program: the lives of this database, those of the other side's, and a person's word on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.link import epoch_adoption, epochs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exchange.api import Exchange
    from exchange.link.epoch_adoption import Decided, Received, Undecided
    from exchange.link.epochs import KnownEpoch, NewEpoch

__all__ = ["Epochs"]


class Epochs:
    """The lives of both databases."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self) -> Sequence[KnownEpoch]:
        """Give the epochs that this database knows of itself, the newest first."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return epochs.list_epochs(connection)

    def received(self) -> Sequence[Received]:
        """Give the other side's, as each channel knows them."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return epoch_adoption.list_received(connection)

    def undecided(self) -> Sequence[Undecided]:
        """Give those of the other side that wait for a person's word: nothing proves that they come next."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return epoch_adoption.list_undecided(connection)

    def new(self, reason: str, continues: str | None = None, *, who: str | None = None) -> NewEpoch:
        """Begin a new life after an earlier copy of the database was restored, or it was made anew: all is sent.

        ``continues`` is the epoch that the other side is in, where this database does not know it. Raises Busy,
        TransientError.
        """
        site = self._exchange.site
        with self._exchange.act(site, "new_epoch", {"continues": continues}, who, reason) as act:
            done = epochs.begin_epoch(site, reason, continues)
            act.came_to(done.as_dict())
        return done

    def adopt(self, epoch: str, reason: str, *, who: str | None = None) -> Decided:
        """Take an epoch of the other side for its newest. Raises TransientError for one that waits for no decision."""
        site = self._exchange.site
        with self._exchange.act(site, "adopt_epoch", {"epoch": epoch}, who, reason) as act:
            done = epoch_adoption.adopt_epoch(site, epoch, reason)
            act.came_to(done.as_dict())
        return done

    def refuse(self, epoch: str, reason: str, *, who: str | None = None) -> Decided:
        """Take an epoch of the other side for one that it left. Raises as ``adopt`` does."""
        site = self._exchange.site
        with self._exchange.act(site, "refuse_epoch", {"epoch": epoch}, who, reason) as act:
            done = epoch_adoption.refuse_epoch(site, epoch, reason)
            act.came_to(done.as_dict())
        return done
