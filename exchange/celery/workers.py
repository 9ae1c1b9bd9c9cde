"""What the workers say of themselves: whether somebody takes a call at once, or what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from exchange.format.errors import printable

ANSWER_SECONDS = 2.0
"""How long a worker may take to answer; one that is well does so in milliseconds, however much it has to do."""


def why_it_waits(app: Any) -> str | None:
    """Say what a call that is sent now will wait for; None if a worker has a process free for it."""
    active = app.control.inspect(timeout=ANSWER_SECONDS, limit=1).active()
    if not active:
        return f"no worker answered within {ANSWER_SECONDS:.0f} seconds; the call waits in the queue until one takes it"
    for worker, tasks in active.items():
        if not tasks:
            return None
        stats = app.control.inspect(destination=[worker], timeout=ANSWER_SECONDS).stats() or {}
        processes = stats.get(worker, {}).get("pool", {}).get("max-concurrency", len(tasks))
        if len(tasks) < processes:
            return None
    said = ", ".join(_at_work(worker, task) for worker, tasks in active.items() for task in tasks)
    return f"busy: {said}; the call waits in the queue behind that"


def _at_work(worker: str, task: dict[str, Any]) -> str:
    since = task.get("time_start")
    begun = f" since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M:%S} UTC" if since else ""
    return f"{printable(worker, 80)} runs {printable(str(task.get('name')), 80)}{begun}"
