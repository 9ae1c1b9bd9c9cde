"""The audit: who did what by hand, when, from where, why, and what came of it."""

from __future__ import annotations

from starlette.responses import Response

from exchange.people.roles import LEAST_ROLE
from exchange.serve.console.visit import Visit, look


def audit(visit: Visit) -> Response:
    """Show it, newest first."""
    page = visit.exchange.audit.list(
        action=visit.asked("action") or None,
        who=visit.asked("who") or None,
        since=visit.moment("since"),
        until=visit.moment("until"),
        after=visit.number("after"),
    )
    return visit.render("audit.html", page=page, actions=sorted(LEAST_ROLE))


def check(visit: Visit) -> Response:
    """See that nothing in it was changed or taken out."""
    return visit.render("audit_check.html", found=visit.exchange.audit.check())


ROUTES = (look("/audit", audit), look("/audit/check", check))
