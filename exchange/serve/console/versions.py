"""Versions: those far ahead of this side's clock that a person believes, and what frees a row that one has frozen."""

from __future__ import annotations

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.channels.channel import known_names
from exchange.serve.console.visit import MOST_DIGITS, Visit, act, look


def versions(visit: Visit) -> Response:
    """Show what was let in."""
    site = visit.exchange.site
    return visit.render(
        "versions.html",
        found=visit.exchange.versions.list(),
        channels=known_names(site.incoming()),
        streams=sorted({stream.name for channel in site.incoming() for stream in channel.streams}),
    )


def let_in(visit: Visit) -> Response:
    """Believe a version."""
    said = visit.form.get("version", "").strip()
    if not (said.isascii() and said.isdecimal() and len(said) <= MOST_DIGITS + 1):
        raise RefusedArgument("version: expected a number; nothing was done")
    done = visit.exchange.versions.let_in(visit.form.get("channel", ""), int(said), visit.required_reason)
    return visit.back(
        f"versions of channel {done.channel} may be as far ahead as {done.version} is; the next import applies what is"
        " held for it, and what is parked is retried by hand"
    )


def free(visit: Visit) -> Response:
    """Let a row take the next record again."""
    done = visit.exchange.versions.free(
        visit.form.get("stream", ""), visit.form.get("key", "").strip(), visit.required_reason
    )
    what = "its delete" if done.deleted else "its row"
    return visit.back(
        f"{what} of {done.stream} {done.key} had version {done.version} and has none now:"
        " the next record of it is taken"
    )


ROUTES = (
    look("/versions", versions),
    act("/versions/let-in", let_in, "let_in_versions"),
    act("/versions/free", free, "free_row"),
)
