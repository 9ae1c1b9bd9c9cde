"""What a run says it did: values that the command line, the tasks and the logs show alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exchange.format.errors import Reason, Verdict
from exchange.ledger import Counts


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

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "batch": self.batch,
            "channel": self.channel,
            "verdict": self.verdict.value,
            "reason": self.reason.value if self.reason else None,
            "records": self.records.as_dict(),
            "message": self.message,
        }


@dataclass(frozen=True)
class ImportRun:
    """All that one import did. ``trouble`` ended it early; ``ignored`` entries of ``incoming/`` are no batches.

    ``handed`` names the channels that were handed over, to be imported beside this run.
    """

    batches: tuple[Imported, ...]
    ignored: int = 0
    unpaired: int = 0
    trouble: str | None = None
    handed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """One batch sealed and published."""

    batch: str
    channel: str
    epoch: str
    sequence: int
    records: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "batch": self.batch,
            "channel": self.channel,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "records": self.records,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class ExportRun:
    """All that one export did. ``parked`` records could not be written; ``busy`` says who holds which channel.

    ``handed`` names the channels that were handed over, to be exported beside this run.
    """

    batches: tuple[Exported, ...]
    parked: int = 0
    busy: tuple[str, ...] = ()
    trouble: str | None = None
    handed: tuple[str, ...] = ()
