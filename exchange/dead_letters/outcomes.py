"""What a rehearsal says would become of letters, by outcome: how many of each, and the first few of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from exchange.format.as_dict import AsDict
from exchange.results import Retried

SAMPLES = 3
"""So many letters of one outcome are kept."""


@dataclass(frozen=True)
class Outcome(AsDict):
    """Letters of which the same would become: ``outcome`` in words, ``rule`` what would refuse them, empty if none."""

    outcome: str
    rule: str
    letters: int
    samples: tuple[Retried, ...]


@dataclass
class Outcomes:
    """Counted as groups of letters come."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _samples: dict[tuple[str, str], list[Retried]] = field(default_factory=dict)

    def add(self, retried: Sequence[Retried]) -> None:
        """Count some more."""
        for one in retried:
            state = one.state or "unknown"
            kind = (f"would be {state}" if one.changed else f"would stay {state}", one.rule)
            self._counts[kind] += 1
            if len(few := self._samples.setdefault(kind, [])) < SAMPLES:
                few.append(one)

    def groups(self) -> tuple[Outcome, ...]:
        """Give them, the largest first."""
        return tuple(
            Outcome(outcome, rule, number, tuple(self._samples[outcome, rule]))
            for (outcome, rule), number in self._counts.most_common()
        )
