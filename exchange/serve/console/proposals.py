"""What waits for a second person: looked at, confirmed, withdrawn."""

from __future__ import annotations

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.people.roles import Via
from exchange.serve.console.visit import MOST_DIGITS, Visit, act, look

MOST_LISTED = 200


def proposals(visit: Visit) -> Response:
    """Show what waits, and what became of others."""
    ended = visit.asked("ended") == "yes"
    found = visit.exchange.proposals.list(ended=ended, limit=MOST_LISTED)
    held = sorted(visit.side.settings.limits.four_eyes)
    return visit.render("proposals.html", found=found, ended=ended, held=held, every=10)


def proposal(visit: Visit) -> Response:
    """Show one: what is done, how what it is about was, who may confirm it."""
    found = visit.exchange.proposals.find(_number(visit))
    mine = {one.lower() for one in (visit.person.name, visit.person.behind) if one}
    own = bool(mine & {one.lower() for one in (found.who, *found.also)})
    may = visit.may(found.action) and visit.person.via is not Via.TOKEN
    return visit.render("proposal.html", one=found, own=own, may_act=may)


def confirm(visit: Visit) -> Response:
    """Have it done."""
    done = visit.exchange.proposals.confirm(_number(visit), reason=visit.reason)
    return visit.back(f"proposal {done.id} is {done.state}", to=f"/proposals/{done.id}")


def withdraw(visit: Visit) -> Response:
    """Take it back."""
    done = visit.exchange.proposals.withdraw(_number(visit), reason=visit.reason)
    return visit.back(f"proposal {done.id} is withdrawn", to=f"/proposals/{done.id}")


def _number(visit: Visit) -> int:
    said = visit.request.path_params["number"]
    if not (said.isascii() and said.isdecimal() and len(said) <= MOST_DIGITS):
        raise RefusedArgument("there is no such proposal")
    return int(said)


ROUTES = (
    look("/proposals", proposals),
    look("/proposals/{number}", proposal),
    act("/proposals/{number}/confirm", confirm, "confirm_proposal"),
    act("/proposals/{number}/withdraw", withdraw, "withdraw_proposal"),
)
