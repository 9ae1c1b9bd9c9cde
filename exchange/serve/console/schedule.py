"""The schedule: what is done when, and who does it."""

from __future__ import annotations

from starlette.responses import Response

from exchange.serve.console.visit import Visit, look


def schedule(visit: Visit) -> Response:
    """Show what beat does, when each channel was last done, and the processes that are there."""
    return visit.render("schedule.html", found=visit.exchange.schedule(), every=5)


ROUTES = (look("/schedule", schedule),)
