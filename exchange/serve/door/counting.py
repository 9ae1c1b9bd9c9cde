"""What was asked at the door, counted by this process since it began: by what, with which status, how long it took."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counting:
    """For any number of threads. Labels are those of the API's table: nobody can make up others."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Take what says how many wait for an answer."""
        self._registry = CollectorRegistry()
        self._asked = Counter(
            "exchange_door_requests",
            "What requesters asked over HTTP, by what it was and the status that it was answered by.",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self._took = Histogram(
            "exchange_door_seconds",
            "How long such an answer took, without the time that whoever asked wanted to wait.",
            ("endpoint",),
            buckets=SECONDS,
            registry=self._registry,
        )
        gauge = Gauge("exchange_door_waiting", "How many wait for an answer to a request.", registry=self._registry)
        gauge.set_function(waiting)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Note an answer."""
        self._asked.labels(endpoint, str(status)).inc()
        self._took.labels(endpoint).observe(seconds)

    def render(self) -> bytes:
        """Give all of it in Prometheus' text format."""
        return generate_latest(self._registry)
