"""Agreement: how the rows of both sides compared, and having them compared again."""

from __future__ import annotations

from starlette.responses import Response

from exchange.database.tables import Direction
from exchange.serve.console.visit import Visit, act, look


def agreement(visit: Visit) -> Response:
    """Show each stream as it was found the last time, what differs first."""
    found = sorted(visit.exchange.agreement.list(), key=lambda one: (one.state == "equal", one.channel, one.stream))
    channels = sorted({one.channel for one in found})
    sent = sorted({one.channel for one in found if one.direction is Direction.OUT})
    return visit.render("agreement.html", found=found, channels=channels, sent=sent)


def compare(visit: Visit) -> Response:
    """Have rows compared."""
    asked = visit.exchange.agreement.reconcile(visit.form.get("channel") or None, reason=visit.reason)
    return visit.back("\n".join(f"{one.channel}: {one.message}" for one in asked) or "there is nothing to compare")


def repair(visit: Visit) -> Response:
    """Have whole tables sent anew."""
    done = visit.exchange.resync(
        visit.form.get("channel", ""), prune="prune" in visit.form, reason=visit.required_reason
    )
    left = f"; {done.left} are not complete, and the next export goes on with them" if done.left else ""
    sent = len(done.run.batches)
    return visit.back(
        f"{sent} batches of {visit.form.get('channel')} are sent{left}" if done.asked else "asked already"
    )


ROUTES = (
    look("/agreement", agreement),
    act("/agreement/compare", compare, "reconcile"),
    act("/agreement/resync", repair, "resync"),
)
