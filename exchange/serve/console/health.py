"""Health: what ``exchange health`` and ``/health/ready`` say, for people, and doctor's whole examination."""

from __future__ import annotations

from starlette.responses import Response

from exchange.operating.doctor.finding import Level
from exchange.serve.console.visit import Visit, look


def health(visit: Visit) -> Response:
    """Show how each part is, the worst first."""
    return visit.render("health.html", found=visit.side.health, whole=None, every=5)


def doctor(visit: Visit) -> Response:
    """Look at everything, which takes longer."""
    found = visit.exchange.findings()
    return visit.render(
        "health.html",
        found=visit.side.health,
        whole=sorted(found, key=lambda one: list(Level).index(one.level), reverse=True),
        every=0,
    )


ROUTES = (look("/health", health), look("/health/doctor", doctor))
