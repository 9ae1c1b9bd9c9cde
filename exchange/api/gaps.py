"""Gaps for a Python program: what is missing of the channels that come in, and going on without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.api.arguments import check_channel, check_limit, no_end
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import GapState
from exchange.link import gap_answers, gap_report
from exchange.link import gaps as link_gaps
from exchange.link.peer_state import read_peer_state

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.format.control import Range
    from exchange.link.gap_answers import GapAnswer
    from exchange.link.gap_report import Gap
    from exchange.link.gap_report import Gaps as GapPage
    from exchange.link.gaps import AcceptedGap

__all__ = ["Gaps"]


class Gaps:
    """Batches that others came before."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(
        self,
        channel: str | None = None,
        state: GapState = GapState.MISSING,
        *,
        limit: int = 50,
        after: str | None = None,
    ) -> GapPage:
        """Give a page of what is missing, or of what became of it, by channel and sequence.

        ``after`` is where the page before ended, as it says. Raises RefusedArgument for what is no such end.
        """
        check_limit(limit)
        try:
            return gap_report.list_gaps(self._exchange.site, channel=channel, state=state, limit=limit, after=after)
        except ValueError as error:
            raise no_end(after, "gap") from error

    def answers(self, found: Sequence[Gap]) -> tuple[GapAnswer, ...]:
        """Say of some that are missing what is being done about each."""
        return gap_answers.answers(self._exchange.site, found)

    def theirs(self) -> Mapping[str, tuple[Range, ...]]:
        """Give what the peer says by its last receipts that it misses of the channels that go out."""
        site = self._exchange.site
        with transient_errors(), reading(site.engine) as connection:
            there = read_peer_state(site, connection).channels
        return {name: one.missing for name, one in there.items() if one.missing}

    def accept(
        self,
        channel: str,
        sequence: int,
        reason: str,
        *,
        through: int | None = None,
        snapshot: bool = True,
        who: str | None = None,
    ) -> AcceptedGap:
        """Go on without what a channel misses, one sequence or ``through`` another, and ask for a snapshot of it.

        ``channel`` is as the list has it. If a batch comes after all, it changes nothing. Raises RefusedArgument, Busy,
        and TransientError if nothing is missing there.
        """
        site = self._exchange.site
        check_channel(channel or "", site.incoming(), "received")
        if through is not None and through < sequence:
            raise RefusedArgument(f"through: expected {sequence} or more, found {through}; nothing was done")
        asked = {"channel": channel, "sequence": sequence, "through": through, "no_snapshot": not snapshot}
        with self._exchange.act(site, "accept_gap", asked, who, reason) as act:
            last = through or sequence
            done = link_gaps.accept_by_hand(site, channel, sequence, last, reason, snapshot=snapshot)
            act.came_to(done.as_dict())
        return done
