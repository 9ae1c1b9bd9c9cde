"""Dead letters by cause, and listed: what did not take effect, whose fault it is, and what comes next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.api.letter_filters import NAMES
from exchange.channels.channel import known_names
from exchange.database import clock
from exchange.database.tables import DeadLetterState, Direction
from exchange.dead_letters.advice import CLASSES
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.schedule import MOST_TRIES
from exchange.serve.console.visit import Visit, look

PAGE_LETTERS = 50
MOST_CAUSES = 40
"""So many causes are shown, those with the most letters."""
OF_CAUSES = ("state", "channel", "stream", "direction", "error", "fingerprint")
"""What letters of one cause have in common."""
SELDOM = ("direction", "batch", "intake", "key", "fingerprint", "since", "until", "selection")
"""What is asked for so seldom that it folds away."""
ANY = "any"
"""The word of the address for every state: none means those that are parked."""

_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


def by_cause(visit: Visit) -> Response:
    """Show what is wrong, by cause: how many, since when, whose fault, and what to do."""
    asked = said(visit, *OF_CAUSES) | {"state": visit.asked("state") or DeadLetterState.PARKED.value}
    letters = visit.exchange.dead_letters
    try:
        found = letters.groups(letters.read_filters(asked))
        fault = None
        if not found:
            letters.refuse_unknown_names(asked)
    except RefusedArgument as error:
        found, fault = [], str(error)
    return visit.render(
        "dead_letters.html",
        found=found[:MOST_CAUSES],
        letters=sum(one.letters for one in found),
        causes=len(found),
        since=min((one.first_at for one in found), default=None),
        state=asked["state"],
        fault=fault,
        choices=choices(visit),
        every=0 if fault else 10,
    )


def listed(visit: Visit) -> Response:
    """List letters, newest first, a page at a time."""
    letters = visit.exchange.dead_letters
    asked = said(visit, *NAMES)
    after = visit.number("after")
    oldest = visit.asked("order") == "oldest"
    page = fault = None
    try:
        page = letters.list(wanted(visit, asked), limit=PAGE_LETTERS, after=after, oldest_first=oldest)
        if not page.letters and not page.cut:
            letters.refuse_unknown_names(asked)
    except RefusedArgument as error:
        page, fault = None, str(error)
    return visit.render(
        "dead_letters_list.html",
        page=page,
        fault=fault,
        asked={name: visit.asked(name) for name in NAMES} | {"state": state_asked(visit)},
        more=oldest or any(asked[name] for name in SELDOM),
        oldest=oldest,
        first=after is not None,
        choices=choices(visit),
        proposed=_name_for(asked),
        most_tries=MOST_TRIES,
        every=0,
    )


def said(visit: Visit, *names: str) -> dict[str, str | None]:
    """Give what the address says of letters; what it does not is None."""
    return {name: visit.asked(name) or None for name in names}


def state_asked(visit: Visit) -> str:
    """Give the state that is asked for: those that are parked unless the address says another, or any."""
    return visit.asked("state") or (ANY if visit.asked("selection") else DeadLetterState.PARKED.value)


def wanted(visit: Visit, asked: Mapping[str, str | None]) -> Filters:
    """Read which letters a list means. Raises RefusedArgument for what makes no sense."""
    state = state_asked(visit)
    return visit.exchange.dead_letters.read_filters({**asked, "state": None if state == ANY else state})


def choices(visit: Visit) -> dict[str, Any]:
    """Give what the filters offer."""
    site = visit.exchange.site
    return {
        "states": [*DeadLetterState, ANY],
        "directions": list(Direction),
        "channels": known_names(site.channels),
        "streams": sorted({stream.name for channel in site.channels for stream in channel.streams}),
        "errors": CLASSES,
    }


def _name_for(asked: Mapping[str, str | None]) -> str:
    """Propose a name for a selection: what is meant, and the minute."""
    parts = [asked["stream"] or asked["channel"] or "letters", asked["error"], f"{clock.now():%m%d-%H%M}"]
    return _NOT_IN_NAMES.sub("-", "-".join(filter(None, parts)).lower()).strip("-")[:63]


ROUTES = (look("/dead-letters", by_cause), look("/dead-letters/list", listed))
