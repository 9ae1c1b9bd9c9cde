"""Agreement for a Python program: how both sides' rows compared, and having them compared again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.channels.channel import known_names
from exchange.format.errors import printable
from exchange.link import reconcile

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.link.reconcile import Asked, StreamAgreement
    from exchange.site import Site

__all__ = ["Agreement"]


class Agreement:
    """How the rows of both sides compare."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self, channel: str | None = None) -> Sequence[StreamAgreement]:
        """Say how each stream agreed the last time, of one channel or of all. Raises RefusedArgument."""
        site = self._exchange.site
        _check(site, channel)
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
        _check(site, channel)
        with self._exchange.act(site, "reconcile", {"channel": channel}, who, reason) as act:
            asked = reconcile.request_checkpoints(site, channel, incoming=incoming, reason=reason)
            act.came_to({"channels": [one.as_dict() for one in asked]})
        return asked


def _check(site: Site, channel: str | None) -> None:
    known = known_names([*site.outgoing(), *site.incoming()])
    if channel is not None and channel not in known:
        names, found = ", ".join(known) or "none", printable(repr(channel), 80)
        raise RefusedArgument(f"channel: expected one that is sent or received here ({names}), found {found}")
