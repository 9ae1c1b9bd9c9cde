"""What a task says: as its result, and in the log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog

from exchange.database.locks import Busy
from exchange.database.pauses import Pause, Paused
from exchange.format.errors import Verdict
from exchange.format.names import CONTROL, BatchName
from exchange.results import Imported

Result = dict[str, Any]


log = structlog.get_logger("exchange")


class HasFields(Protocol):
    """What a workflow says of one batch or record."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""


def warn(trouble: str | None) -> None:
    """Log what troubles a run: each sentence once an hour, however many runs end with it."""
    if not trouble:
        return
    moment = time.monotonic()
    for sentence in [one for one, at in _warned.items() if moment - at >= WARNED_SECONDS]:
        del _warned[sentence]
    (log.debug if trouble in _warned else log.warning)("trouble", message=trouble)
    _warned.setdefault(trouble, moment)


WARNED_SECONDS = 3600.0


_warned: dict[str, float] = {}


def told(outcomes: Iterable[HasFields], notes: dict[str, Any], nothing: str, what: str = "batches") -> Result:
    """Log each outcome as one event, but not again what waits as it did before; give them all."""
    told = []
    for outcome in outcomes:
        fields = outcome.as_dict()
        told.append(fields)
        say_outcome(outcome)
    trouble = notes.get("trouble")
    warn(trouble)
    for sentence in notes.get("cautions", ()):
        log.warning("caution", message=sentence)
    for sentence in notes.get("faults", ()):
        log.error("fault", message=sentence)
        trouble = trouble or sentence
    done = [f"{len(told)} looked at"] if told else []
    if notes.get("handed"):
        done.append(f"handed to tasks of their own: {', '.join(notes['handed'])}")
    return {**notes, what: told, "message": trouble or "; ".join(done) or nothing}


def say_outcome(outcome: HasFields) -> None:
    """Log what became of one batch or record, by its place and its trace; a control batch is worth what it settles."""
    fields = outcome.as_dict()
    routine = False
    if isinstance(outcome, Imported):
        if not outcome.changed:
            return
        for one in outcome.settled:
            say_outcome(one)
        fields["trace"] = outcome.trace
        with suppress(ValueError):
            name = BatchName.parse(outcome.batch)
            fields |= {"epoch": name.epoch, "sequence": name.sequence}
        routine = outcome.channel == CONTROL and outcome.verdict in {Verdict.APPLIED, Verdict.DUPLICATE}
    said = {name: value for name, value in fields.items() if value not in (None, "")}
    event = said.pop("verdict", None) or said.pop("state", None) or "published"
    (log.debug if routine else log.info)(str(event), **said)


def unless_busy(outcome: Imported) -> Imported:
    """Give what became of a batch. Raises Busy if somebody else has it."""
    if outcome.busy:
        raise outcome.busy
    return outcome


def raise_if_only_busy(busy: Sequence[Busy], done: Sequence[object]) -> None:
    """Answer that somebody else is at work, where that is all there is to say. Raises Busy."""
    if busy and not done:
        raise busy[0]


def refuse_paused(channel: str | None, paused: Sequence[Pause], *, spread: bool) -> None:
    """Answer who paused it where somebody asks for just this channel; to a tick that is no news. Raises Paused."""
    if channel is not None and paused and not spread:
        raise Paused(paused[0])


def counted(counts: dict[str, Any], nothing: str) -> Result:
    """Log what there is of each kind, and give the counts with a sentence."""
    done = {name: count for name, count in counts.items() if count}
    if done:
        log.info("done", **done)
    return counts | {"message": ", ".join(f"{count} {name}" for name, count in done.items()) or nothing}
