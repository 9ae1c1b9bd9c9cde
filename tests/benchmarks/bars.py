"""What a contest gives: bars with their goals, and every contender's own results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.measuring import Measured, Series


@dataclass(frozen=True)
class Goal:
    """What a bar is to reach: ``at least`` or ``at most`` so much, of a unit unless it is a ratio."""

    words: str
    number: float
    unit: str = ""

    def met(self, value: float) -> bool:
        """Say whether a value reaches it."""
        return value >= self.number if self.words == "at least" else value <= self.number


@dataclass(frozen=True)
class Bar:
    """One line of the table. ``values`` has one value a round; none, and ``absent`` says why it was not measured."""

    what: str
    goal: Goal | None
    values: tuple[float, ...]
    ours: str = ""
    beside: str = ""
    absent: str = ""

    @property
    def reached(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a value."""
        return self.goal.met(self.reached) if self.goal and self.values else None


@dataclass(frozen=True)
class Outcome:
    """A contest's bars, and what each contender did."""

    bars: tuple[Bar, ...]
    series: Mapping[str, Series] = field(default_factory=dict)
    failed: bool = False


def at_least(number: float, unit: str = "") -> Goal:
    """Make a goal that greater values meet."""
    return Goal("at least", number, unit)


def at_most(number: float, unit: str = "") -> Goal:
    """Make a goal that smaller values meet."""
    return Goal("at most", number, unit)


def rates(what: str, goal: Goal | None, ours: Series, beside: Series) -> Bar:
    """Compare rates, round by round."""
    return Bar(what, goal, _ratios(ours, beside, lambda one: one.rate), show_rate(ours), show_rate(beside))


def times(what: str, goal: Goal | None, ours: Series, beside: Series) -> Bar:
    """Compare times, round by round."""
    return Bar(what, goal, _ratios(ours, beside, lambda one: one.seconds), show_time(ours), show_time(beside))


def work(what: str, goal: Goal | None, ours: Series, beside: Series) -> Bar:
    """Compare the processor's time a record, ours and the server's together, round by round."""
    return Bar(what, goal, _ratios(ours, beside, lambda one: one.work), show_work(ours), show_work(beside))


def peaks(what: str, goal: Goal | None, ours: Series, beside: Series) -> Bar:
    """Compare peak memory, round by round."""
    return Bar(what, goal, _ratios(ours, beside, lambda one: one.peak_bytes), show_peak(ours), show_peak(beside))


def not_measured(what: str, goal: Goal | None, why: str) -> Bar:
    """Say why there is no value."""
    return Bar(what, goal, (), absent=why)


def show_rate(series: Series) -> str:
    """Write a median rate, with how many records it was measured."""
    return f"{median(one.rate for one in series):,.0f} rows/s of {series[0].records:,}"


def show_time(series: Series) -> str:
    """Write a median time."""
    return f"{median(one.seconds for one in series) * 1000:,.1f} ms"


def show_work(series: Series) -> str:
    """Write the median processor's time a record, that of the process and that of the server."""
    own, server = (
        1e6 * median(seconds / one.records for seconds, one in zip(column, series, strict=True))
        for column in zip(*((one.cpu_seconds, one.server_seconds) for one in series), strict=True)
    )
    return f"{own + server:.1f} us a row ({own:.1f} and the server {server:.1f})"


def show_peak(series: Series) -> str:
    """Write a median peak, with the records it was measured with."""
    return f"{_megabytes(series):,.0f} MB with {series[0].records:,}"


def megabytes(series: Series) -> tuple[float, ...]:
    """Give every round's peak in MB of 10^6 bytes."""
    return tuple(one.peak_bytes / 1e6 for one in series)


def _megabytes(series: Series) -> float:
    return median(megabytes(series))


def _ratios(ours: Iterable[Measured], beside: Iterable[Measured], of: Callable[[Measured], float]) -> tuple[float, ...]:
    return tuple(of(one) / of(other) for one, other in zip(ours, beside, strict=True))
