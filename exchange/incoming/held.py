"""Batches that wait or are held: what every import needs of them, without asking the ledger of each.

Behind one missing batch thousands may wait for days. As long as all is as the ledger says, nothing is done about
them; whatever is to change is judged and settled anew, under its channel's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile

from sqlalchemy import Connection

from exchange.database import ledger, positions
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, import_lock, locked, reading
from exchange.database.tables import BatchState, Direction
from exchange.files.batch_files import Listing
from exchange.format.errors import Reason, Unsupported, Verdict
from exchange.format.lineage import LeftEpoch, left_by
from exchange.format.names import CONTROL
from exchange.format.placement import Decision, Position, decide
from exchange.incoming import superseding
from exchange.incoming.judge import unfinished, verdict_on
from exchange.incoming.manifests import Arrival, Stranger
from exchange.link import epoch_adoption, gaps
from exchange.results import Imported
from exchange.site import Site

_STATES = {Verdict.WAITING: BatchState.WAITING, Verdict.HELD: BatchState.HELD}


class OpenBatches:
    """What waits or is held, as the ledger had it when the run began. One for each run."""

    def __init__(self, site: Site, connection: Connection) -> None:
        self._site = site
        self._open = ledger.open_batches(connection)
        self._at = {entry.place: entry for entry in self._open if entry.believed}
        self._recorded: set[tuple[str, str, int]] = set()
        self._standings: dict[str, tuple[Position | None, frozenset[str]]] = {}
        self._decisions: dict[tuple[str, str, tuple[LeftEpoch, ...]], Decision | None] = {}

    def unchanged_outcome(self, seen: Arrival | Stranger, here: Iterable[Arrival | Stranger] = ()) -> Imported | None:
        """Give the outcome of a batch about which nothing changed; None if it has to be judged and settled.

        ``here`` are this and those that came behind it, nothing before them to be applied any more: if it is new and
        waits, all of them are written down at once.
        """
        if isinstance(seen, Arrival) and superseding.contained_before(seen) is not None:
            return None  # it may be the next one, whatever is missing before it
        verdict = self._unsupported(seen) if isinstance(seen, Stranger) else self._behind(seen)
        if verdict is None or verdict.verdict is None or self._lacks_data(seen, verdict):
            return None
        if isinstance(seen, Arrival) and here and self._is_new(seen, verdict):
            with transient_errors(), suppress(Busy):
                self._record_waiting(seen.channel.name, self._new_behind(seen, here))
        if not self._is_recorded(seen, verdict):
            return None
        changed = seen.place in self._recorded
        return Imported(
            seen.sighting.stem, seen.place[0], verdict.verdict, verdict.reason, verdict.sentence, changed=changed
        )

    def is_past(self, seen: Arrival | Stranger) -> bool:
        """Whether its channel has gone beyond it already: nothing waits for such, and of copies there may be many."""
        if isinstance(seen, Stranger):
            return False
        position, left_epochs = self._standing(seen.channel.name)
        _, epoch, sequence = seen.place
        passed = position is not None and position.epoch == epoch and sequence <= position.sequence
        return passed or epoch in left_epochs

    def _lacks_data(self, seen: Arrival | Stranger, behind: Decision) -> bool:
        """Whether a batch that waits behind a gap is one itself: its turn would come without its data file."""
        return isinstance(seen, Arrival) and behind.reason is Reason.GAP and unfinished(self._site, seen) is not None

    def _is_new(self, seen: Arrival, behind: Decision) -> bool:
        """Whether a batch waits behind a gap, and the ledger does not say so."""
        return (behind.verdict, behind.reason) == (Verdict.WAITING, Reason.GAP) and seen.place not in self._at

    def _new_behind(self, first: Arrival, here: Iterable[Arrival | Stranger]) -> dict[int, tuple[Arrival, str]]:
        """Give by their sequences those that came behind the same gap and are new, each with what is to be said."""
        new: dict[int, tuple[Arrival, str]] = {}
        for seen in takewhile(lambda seen: seen.place[:2] == first.place[:2], here):
            if isinstance(seen, Arrival) and seen.place[2] not in new:
                behind = self._behind(seen)
                if self._is_new(seen, behind) and not self._lacks_data(seen, behind):
                    new[seen.place[2]] = (seen, behind.sentence)
        return new

    def _record_waiting(self, channel: str, new: dict[int, tuple[Arrival, str]]) -> None:
        """Write down that batches wait, but for those of whose place anything else is known. Raises Busy."""
        (first, _), *_ = new.values()
        flow = gaps.Flow(*first.place[:2])
        with locked(self._site.engine, import_lock(channel)) as connection:
            if positions.current_position(connection, Direction.IN, channel) != self._standings[channel][0]:
                del self._standings[channel]
                return  # somebody was at work: this one is judged by itself
            known = ledger.held_places(connection, Direction.IN, *flow, new) | gaps.given_up_among(
                connection, flow, new
            )
            waits = [(seen, said) for sequence, (seen, said) in new.items() if sequence not in known]
            fresh = [
                ledger.NewBatch(
                    seen.sighting.stem, seen.place, said, seen.manifest, seen.line, seen.digest, seen.signature
                )
                for seen, said in waits
            ]
            numbers = ledger.record_all(connection, Direction.IN, BatchState.WAITING, fresh, reason=Reason.GAP)
        for number, (seen, _) in zip(numbers, waits, strict=True):
            stem, state = seen.sighting.stem, BatchState.WAITING
            self._at[seen.place] = ledger.OpenBatch(
                number, *seen.place, stem, state, Reason.GAP, seen.digest, believed=True
            )
            self._recorded.add(seen.place)

    def _is_recorded(self, seen: Arrival | Stranger, verdict: Decision) -> bool:
        """Whether the ledger has just this verdict; of what is beyond the look-ahead it says nothing."""
        entry = self._at.get(seen.place)
        if entry is None:
            return verdict.reason is Reason.LOOK_AHEAD
        said = (entry.digest, entry.state, entry.reason)
        return verdict.verdict in _STATES and said == (seen.digest, _STATES[verdict.verdict], verdict.reason)

    def _unsupported(self, seen: Stranger) -> Decision | None:
        known = seen.manifest is not None and isinstance(seen.fault, Unsupported)
        return verdict_on(seen.fault) if known else None

    def _behind(self, seen: Arrival) -> Decision:
        position, left_epochs = self._standing(seen.channel.name)
        return decide(
            seen.manifest,
            seen.digest,
            position=position,
            left_epochs=left_epochs,
            known_digest=None,  # where a batch waits none is applied
            ordered=seen.channel.ordered,
            look_ahead=self._site.limits.look_ahead,
            undecided=self._undecided(seen, position),
        )

    def _undecided(self, seen: Arrival, position: Position | None) -> Decision | None:
        """Judge an epoch that is new on its channel, once for all batches that say the same of it."""
        if position is not None and position.epoch == seen.manifest.epoch:
            return None
        said = (*seen.place[:2], tuple(left_by(seen.manifest).values()))
        if said not in self._decisions or seen.channel.name == CONTROL:
            with reading(self._site.engine) as connection:
                self._decisions[said] = epoch_adoption.undecided_epoch(connection, seen.manifest, position)
        return self._decisions[said]

    def _standing(self, name: str) -> tuple[Position | None, frozenset[str]]:
        """Give where a channel stands, and the epochs that it left."""
        if name not in self._standings:
            with reading(self._site.engine) as connection:
                self._standings[name] = (
                    positions.current_position(connection, Direction.IN, name),
                    positions.left_epochs(connection, name),
                )
        return self._standings[name]

    def forget_after(self, outcome: Imported) -> None:
        """Forget where a channel stands if a batch of it has been settled: it may have been applied."""
        if outcome.changed and outcome.verdict is not Verdict.WAITING:
            self._standings.pop(outcome.channel, None)
            self._decisions.clear()

    def quarantine_gone(self, sightings: Listing, but: Collection[str] = ()) -> Iterator[Imported]:
        """Settle those whose files are no longer there: nobody would ever hear of them. Of some channels none.

        Raises Busy where somebody else is at work, after giving those that were settled.
        """
        there = {sighting.stem for sighting in sightings.batches}
        sentence = "its files went away before it could be applied; have it sent again"
        for entry in self._open:
            channel = self._site.channel(entry.channel)
            still = channel is not None and channel.declared in but
            if still or entry.stem in there or self._site.spool.has(entry.stem):
                continue
            with locked(self._site.engine, import_lock(entry.channel)) as connection:
                # Its files may be gone because another process has just applied it.
                found = ledger.by_id(connection, entry.id)
                if (found.stem, found.state) != (entry.stem, entry.state):
                    continue
                ledger.move(connection, found, BatchState.QUARANTINED, sentence, reason=Reason.INCOMPLETE)
                if entry.believed and entry.channel != CONTROL and entry.reason != Reason.UNPROVEN_EPOCH:
                    gaps.record_refused(connection, entry.place, self._site.limits.look_ahead)
            yield Imported(entry.stem, entry.channel, Verdict.QUARANTINED, Reason.INCOMPLETE, sentence)
