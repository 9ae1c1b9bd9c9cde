"""Channels: how each stands, and a person's word that one stands still or goes on."""

from __future__ import annotations

from starlette.responses import Response

from exchange.serve.console.visit import Visit, act, look


def channels(visit: Visit) -> Response:
    """Show the declared channels, and how much room there is for what waits."""
    found, waiting = visit.exchange.channels(), visit.exchange.waiting_files()
    return visit.render("channels.html", found=found, waiting=waiting, every=5)


def pause(visit: Visit) -> Response:
    """Have one stand still."""
    done = visit.exchange.pause(visit.request.path_params["channel"], visit.required_reason)
    return visit.back(done.message if not done.busy else f"{done.message}; {done.busy} ends the batch at hand")


def resume(visit: Visit) -> Response:
    """Let one go on."""
    done = visit.exchange.resume(visit.request.path_params["channel"], visit.required_reason)
    return visit.back(done.message)


ROUTES = (
    look("/channels", channels),
    act("/channels/{channel}/pause", pause, "pause_channel"),
    act("/channels/{channel}/resume", resume, "resume_channel"),
)
