"""Health: what ``exchange health`` and ``/health/ready`` say, for people, and doctor's whole examination."""

from __future__ import annotations

from starlette.responses import Response

from exchange.database.clock import now
from exchange.operating.doctor.verdict import judge
from exchange.serve.console.visit import Visit, look
from exchange.watching.health import Health


def health(visit: Visit) -> Response:
    """Show how each part is, the worst first."""
    return _shown(visit, visit.side.health, every=5)


def doctor(visit: Visit) -> Response:
    """Look at everything, which takes longer."""
    found = Health(visit.side.settings.network, now(), tuple(visit.exchange.findings()))
    return _shown(visit, found)


def _shown(visit: Visit, found: Health, every: int = 0) -> Response:
    return visit.render("health.html", found=found, verdict=judge(found.parts), whole=not every, every=every)


ROUTES = (look("/health", health), look("/health/doctor", doctor))
