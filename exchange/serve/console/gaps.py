"""Gaps: what is missing of what comes in and what is done about it, and what the other side misses of ours."""

from __future__ import annotations

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.channels.channel import known_names
from exchange.database.tables import GapState
from exchange.format.control import MAX_RANGES, shown
from exchange.format.names import MAX_SEQUENCE, BatchName
from exchange.serve.console.batches import resent
from exchange.serve.console.visit import MOST_DIGITS, Visit, act, look

MOST_SEQUENCES = 1_000
"""So many batches are sent again at once at most."""


def gaps(visit: Visit) -> Response:
    """List what is missing, or what became of it."""
    state = visit.one_of("state", GapState) or GapState.MISSING
    channel, after = visit.asked("channel") or None, visit.asked("after") or None
    page = visit.exchange.gaps.list(channel, state, after=after)
    missing = state is GapState.MISSING
    answers = visit.exchange.gaps.answers(page.found) if missing else [None] * len(page.found)
    site = visit.exchange.site
    theirs = {} if after or not missing else visit.exchange.gaps.theirs()
    return visit.render(
        "gaps.html",
        page=page,
        state=state,
        states=list(GapState),
        after=after,
        channels=known_names(site.incoming()),
        found=list(zip(page.found, answers, strict=True)),
        theirs={name: shown(some[:MAX_RANGES]) for name, some in theirs.items()},
        sent=known_names(site.outgoing()),
        peer=site.peer,
        one_way=site.one_way,
        stem=_stem,
        every=0 if after else 5,
    )


def accept(visit: Visit) -> Response:
    """Go on without what is missing."""
    first, last = _sequence(visit, "first"), _sequence(visit, "last")
    done = visit.exchange.gaps.accept(
        visit.form.get("channel", ""),
        first,
        visit.required_reason,
        through=last if last != first else None,
        snapshot="snapshot" in visit.form,
    )
    return visit.back(f"{done.channel} goes on without {done.shown}; {done.message}")


def resend(visit: Visit) -> Response:
    """Publish batches of ours again, those of a channel or those of a code that the other side read out."""
    code = visit.form.get("code", "").strip()
    if code:
        return resent(visit, visit.exchange.batches.resend(code=code, reason=visit.reason))
    channel, wanted = visit.form.get("channel", "").strip(), _sequences(visit.form.get("sequences", ""))
    return resent(visit, visit.exchange.batches.resend(channel, wanted, reason=visit.reason))


def _stem(channel: str, epoch: str, sequence: int) -> str:
    return str(BatchName(channel, epoch, sequence))


def _sequence(visit: Visit, name: str) -> int:
    said = visit.form.get(name, "").strip()
    if not (said.isascii() and said.isdecimal() and len(said) <= MOST_DIGITS and 0 < int(said) <= MAX_SEQUENCE):
        raise RefusedArgument(f"{name}: expected the number of a batch; nothing was done")
    return int(said)


def _sequences(said: str) -> list[int]:
    """Read numbers and ranges of them, as ``3, 7-9``. Raises RefusedArgument."""
    found: list[int] = []
    for part in filter(None, said.replace(",", " ").split()):
        first, _, last = part.partition("-")
        ends = [first, last or first]
        if not all(one.isascii() and one.isdecimal() and len(one) <= MOST_DIGITS for one in ends):
            raise RefusedArgument("expected the numbers of batches, as 3, 7-9; nothing was done")
        here = range(int(ends[0]), int(ends[1]) + 1)
        if len(found) + len(here) > MOST_SEQUENCES:
            raise RefusedArgument(f"expected at most {MOST_SEQUENCES} batches; nothing was done")
        found += here
    return found


ROUTES = (
    look("/gaps", gaps),
    act("/gaps/accept", accept, "accept_gap"),
    act("/gaps/resend", resend, "resend"),
)
