"""What a run says it did: values that the command line, the tasks and the logs show alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from exchange.database.ledger import Counts, Settled
from exchange.database.locks import Busy
from exchange.database.pauses import Pause
from exchange.database.tables import DeadLetterState
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, Reason, Verdict, printable


@dataclass(frozen=True)
class Imported:
    """What became of one batch that was looked at. Unless ``changed``, it waits or is held as it did before."""

    batch: str
    channel: str
    verdict: Verdict
    reason: Reason | None = None
    message: str = ""
    records: Counts = field(default_factory=Counts)
    changed: bool = field(default=True, compare=False)
    busy: Busy | None = field(default=None, compare=False)
    trouble: str | None = field(default=None, compare=False)
    """What a folder did to it: it was not taken for that, or its files could not be moved after it was.

    Or which of the application's hooks failed after its commit.
    """
    trace: str | None = field(default=None, compare=False)
    settled: tuple[Settled, ...] = field(default=(), compare=False)
    """What a control batch said of batches that this side sent."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "batch": self.batch,
            "channel": self.channel,
            "verdict": self.verdict.value,
            "reason": self.reason.value if self.reason else None,
            "records": self.records.as_dict(),
            "message": self.message,
            **({"who": self.busy.who, "since": self.busy.as_dict()["since"]} if self.busy else {}),
        }


@dataclass(frozen=True)
class Retried:
    """What became of one dead letter. ``state`` is None if there is no such letter.

    ``message`` is for the person who looks at the letter: it may quote a value. ``rule`` names what refused it.
    """

    id: int
    state: DeadLetterState | None
    message: str
    changed: bool
    rule: str = ""

    @property
    def failed(self) -> bool:
        """Say whether it was tried and stays parked."""
        return self.changed and self.state is DeadLetterState.PARKED

    def without_values(self) -> Self:
        """Give it as logs, results and the audit may have it: without a value of its record."""
        if not self.rule:
            return self
        said = f"{printable(self.rule, 300)}; it stays parked, `exchange dead-letters show {self.id}` says more"
        return replace(self, message=said)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "id": self.id,
            "state": self.state.value if self.state else None,
            "message": self.message,
            "changed": self.changed,
        }


@dataclass(frozen=True)
class Strangers:
    """What became of files that nobody vouches for: ``put_aside``, or ``left`` in incoming, and ``why``.

    ``first`` are the first of them, told one by one.
    """

    first: tuple[Imported, ...] = ()
    put_aside: int = 0
    left: int = 0
    why: str = ""

    def sentences(self) -> Iterator[str]:
        """Say it for people, as far as ``first`` doesn't."""
        if self.put_aside > len(self.first):
            yield (
                f"{self.put_aside} batches that nobody vouches for were put aside;"
                " `exchange quarantine strangers` shows them by day and cause"
            )
        if self.left and not (self.first and self.first[0].message.endswith(self.why)):
            yield f"{self.left} batches that nobody vouches for stay in incoming: {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {"put_aside": self.put_aside, "left": self.left, "why": self.why or None}


@dataclass(frozen=True)
class LeftAloneFiles(AsDict):
    """Files in ``incoming/`` that can't be taken as they are, all for one reason: how many, and ``samples`` of them.

    ``needs_a_person`` says that they are surely missed.
    """

    files: int
    samples: tuple[str, ...]
    message: str
    remedy: str
    needs_a_person: bool = True

    @property
    def problem(self) -> Problem:
        """Say it for people."""
        return Problem(self.message, self.remedy)


@dataclass(frozen=True)
class ImportRun(AsDict):
    """All that one import did. ``trouble`` ended it early; ``ignored`` entries of ``incoming/`` are no batches.

    Of those and of others ``left_alone`` says what a carrier made of a batch's files, and what to do about it.
    ``untold`` says why the other side could not be told of it yet.

    ``handed`` names the channels that were handed over, to be imported beside this run. ``reunited`` are parked
    records that were retried because what they refer to may have come. Of ``strangers`` those that are told of are
    among ``batches``. Of what is ``paused`` the files stay in ``incoming/``.
    """

    batches: tuple[Imported, ...]
    ignored: int = 0
    unpaired: int = 0
    trouble: str | None = None
    handed: tuple[str, ...] = ()
    reunited: tuple[Retried, ...] = ()
    strangers: Strangers = field(default_factory=Strangers)
    left_alone: tuple[LeftAloneFiles, ...] = ()
    untold: str | None = None
    paused: tuple[Pause, ...] = ()

    @property
    def busy(self) -> tuple[Busy, ...]:
        """Who was at work on what was therefore left alone."""
        return tuple(one.busy for one in self.batches if one.busy)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return super().as_dict() | {"reunited": len(self.reunited)}


@dataclass(frozen=True)
class Exported(AsDict):
    """One batch sealed and published."""

    batch: str
    channel: str
    epoch: str
    sequence: int
    records: int
    bytes: int
    trace: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Resent(AsDict):
    """One batch that was to be sent again. ``attempt`` is None if it is lost."""

    batch: str
    channel: str
    epoch: str
    sequence: int
    attempt: int | None
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return super().as_dict() | {"state": "published" if self.attempt else Reason.LOST.value}


@dataclass(frozen=True)
class FirstLoad(AsDict):
    """A stream whose rows were there before capture and are sent now, about so many."""

    channel: str
    stream: str
    rows: int

    def __str__(self) -> str:
        """Say it for people."""
        return f"first load of {self.stream}: {self.rows:,} rows"


@dataclass(frozen=True)
class ExportRun:
    """All that one export did. ``parked`` records could not be written; ``busy`` says who holds which channel.

    ``handed`` names the channels that were handed over, to be exported beside this run. ``resent`` are batches that
    were published again, because the other side misses them or because nobody answers. ``faults`` say of which streams
    changes are not seen or not sent, ``cautions`` what else was not captured, or was called off. ``untold`` says why
    the other side could not be told of it yet. ``first_loads`` begin with this run; of what is ``paused`` nothing went.
    """

    batches: tuple[Exported, ...]
    parked: int = 0
    busy: tuple[Busy, ...] = ()
    trouble: str | None = None
    handed: tuple[str, ...] = ()
    resent: tuple[Resent, ...] = ()
    faults: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    untold: str | None = None
    first_loads: tuple[FirstLoad, ...] = ()
    left: tuple[Exported, ...] = ()
    """What lay sealed since a run before this one, and was published first."""
    paused: tuple[Pause, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "batches": [one.as_dict() for one in self.batches],
            "parked": self.parked,
            "busy": [one.as_dict() for one in self.busy],
            "handed": list(self.handed),
            "resent": [one.as_dict() for one in self.resent],
            "trouble": self.trouble,
            "faults": list(self.faults),
            "cautions": list(self.cautions),
            "untold": self.untold,
            "first_loads": [one.as_dict() for one in self.first_loads],
            "paused": [one.as_dict() for one in self.paused],
        }


@dataclass(frozen=True)
class Resynced:
    """Whole tables that were asked for, and what was sent of them at once.

    ``asked`` is False if the same was asked for already; ``left`` snapshots and checkpoints are not complete.
    """

    run: ExportRun
    asked: bool
    left: int

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self.run.as_dict(), "asked": self.asked, "left": self.left}
