"""Quarantine: files that were refused, why, whose fault it is, and what to do with each."""

from __future__ import annotations

from starlette.responses import Response

from exchange.channels.channel import known_names
from exchange.incoming.judge import in_two, whose_fault
from exchange.serve.console.batches import imported
from exchange.serve.console.visit import Visit, act, look


def quarantine(visit: Visit) -> Response:
    """List what lies there, and what came lately that nobody vouches for."""
    after = visit.asked("after") or None
    page = visit.exchange.quarantine.list(visit.asked("channel") or None, after=after)
    return visit.render(
        "quarantine.html",
        page=page,
        after=after,
        strangers=() if after else visit.exchange.quarantine.strangers(limit=10),
        channels=known_names(visit.exchange.site.incoming()),
        in_two=in_two,
        whose_fault=whose_fault,
        every=0 if after else 10,
    )


def item(visit: Visit) -> Response:
    """Show one: every check is made again of its files as they are now."""
    found = visit.exchange.quarantine.show(_label(visit))
    told = in_two(found.found.message)
    return visit.render("quarantined.html", one=found.found, found=found, told=told, whose_fault=whose_fault)


def release(visit: Visit) -> Response:
    """Judge one anew, as if it had just arrived."""
    done = visit.exchange.quarantine.release(_label(visit), reason=visit.reason)
    return imported(visit, done.outcome, done.untold, to="/quarantine")


def discard(visit: Visit) -> Response:
    """Give one up; nobody is told."""
    done = visit.exchange.quarantine.discard(_label(visit), visit.required_reason)
    said = f"batch {done.batch} is {done.state}; its files are in the archive until their retention ends"
    return visit.back(said, to="/quarantine")


def clear(visit: Visit) -> Response:
    """Remove all files that nobody vouches for."""
    done = visit.exchange.quarantine.clear(visit.required_reason)
    return visit.back(f"{done.removed} files that nobody vouches for are removed")


def _label(visit: Visit) -> str:
    return str(visit.request.path_params["label"])


ROUTES = (
    look("/quarantine", quarantine),
    act("/quarantine/clear-strangers", clear, "clear_strangers"),
    look("/quarantine/{label}", item),
    act("/quarantine/{label}/release", release, "release_quarantined"),
    act("/quarantine/{label}/discard", discard, "discard_quarantined"),
)
