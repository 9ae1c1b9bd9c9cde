"""Settings: what this process goes by, where each is from, and a new look at them."""

from __future__ import annotations

from starlette.responses import Response

from exchange.serve.console.visit import Visit, look


def settings(visit: Visit) -> Response:
    """Show those that a word is in, or all; what is not the default first."""
    word = visit.asked("word").lower()
    found = [one for one in visit.exchange.shown_settings() if word in f"{one.name} {one.description}".lower()]
    found.sort(key=lambda one: one.source == "default")
    return visit.render("settings.html", found=found, word=word)


ROUTES = (look("/settings", settings),)
