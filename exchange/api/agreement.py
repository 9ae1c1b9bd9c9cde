"""Agreement for a Python program: how both sides' rows compared, and having them compared again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exchange.api.arguments import check_channel
from exchange.link import reconcile

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.link.reconcile import Asked, StreamAgreement

__all__ = ["Agreement"]


class Agreement:
    """How the rows of both sides compare."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self, channel: str | None = None) -> Sequence[StreamAgreement]:
        """Say how each stream agreed the last time, of one channel or of all. Raises RefusedArgument."""
        site = self._exchange.site
        check_channel(channel, [*site.outgoing(), *site.incoming()], "sent or received")
        return reconcile.report_agreement(site, channel)

    def reconcile(
        self,
        channel: str | None = None,
        *,
        incoming: bool = True,
        who: str | None = None,
        reason: str | None = None,
    ) -> Sequence[Asked]:
        """Have both sides compare their rows at one point of each channel, without a pause in writing.

        What differs is repaired by itself. With ``incoming`` also the channels that the other side has to begin with.
        Raises RefusedArgument, Busy, TransientError.
        """
        site = self._exchange.site
        check_channel(channel, [*site.outgoing(), *site.incoming()], "sent or received")
        with self._exchange.act(site, "reconcile", {"channel": channel}, who, reason) as act:
            asked = reconcile.request_checkpoints(site, channel, incoming=incoming, reason=reason)
            act.came_to({"channels": [one.as_dict() for one in asked]})
        return asked
