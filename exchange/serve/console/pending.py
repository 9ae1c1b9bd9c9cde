"""Pending: changes that no batch carries yet, by stream, and those that no export would ever take."""

from __future__ import annotations

from starlette.responses import Response

from exchange.serve.console.visit import Visit, act, look


def pending(visit: Visit) -> Response:
    """Show how much waits of each stream."""
    waiting = visit.exchange.pending.list()
    leftovers = visit.exchange.pending.leftovers()
    return visit.render("pending.html", waiting=waiting, leftovers=leftovers, peer=visit.exchange.site.peer, every=5)


def discard(visit: Visit) -> Response:
    """Remove what waits under the name of no stream."""
    done = visit.exchange.pending.discard(visit.form.get("stream", ""), visit.required_reason)
    return visit.back(f"{done.changes} changes of {done.stream} are discarded")


def move(visit: Visit) -> Response:
    """Give what waits under the name of no stream to one that there is."""
    done = visit.exchange.pending.move(visit.form.get("stream", ""), visit.form.get("to", ""), visit.required_reason)
    return visit.back(f"{done.changes} changes of {done.stream} are of {done.to} now; the next export takes them")


def export(visit: Visit) -> Response:
    """Export at once, one channel or all."""
    run = visit.exchange.export(visit.form.get("channel") or None, who=visit.person.name, reason=visit.reason)
    sent = ", ".join(one.batch for one in run.batches[:10]) or "nothing was to be sent"
    said = [f"sent: {sent}" if run.batches else sent, *map(str, run.busy), *map(str, run.paused), *run.cautions]
    troubles = list(filter(None, (*run.faults, run.trouble)))
    return visit.back("\n".join([*said, *troubles]), "fault" if troubles else "ok")


ROUTES = (
    look("/pending", pending),
    act("/pending/discard", discard, "discard_pending"),
    act("/pending/move", move, "move_pending"),
    act("/pending/export", export, "export"),
)
