"""Who may do what, and what waits for a second person, each a row of the API's table. No password is taken here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from exchange.api import Exchange
from exchange.format.as_dict import as_json
from exchange.people.proposals import Proposal
from exchange.people.roles import Role
from exchange.serve.json_api.table import LIMIT, REASON, Endpoint, Field, Kind

NAME = Field("name", "a name", needed=True)
ROLE = Field("role", "what may be done", needed=True, among=Role)
SEES = Field("sees_sensitive", "may see what is sensitive", Kind.TRUTH)
PROPOSAL = Field("proposal", "the number of a proposal", Kind.NUMBER, needed=True)


def _shown(proposal: Proposal) -> dict[str, Any]:
    said = proposal.as_dict()
    del said["frozen"]
    return said


def _proposals(exchange: Exchange, **asked: Any) -> dict[str, Any]:
    return {"proposals": [_shown(one) for one in exchange.proposals.list(**asked)]}


def _add_token(exchange: Exchange, *, name: str, role: Role, days: int, **asked: Any) -> dict[str, Any]:
    made, secret = exchange.people.add_token(name, role, timedelta(days=days), **asked)
    return made.as_dict() | {"token": secret}


def _remove(exchange: Exchange, *, name: str) -> dict[str, Any]:
    exchange.people.remove_user(name)
    return {"removed": name}


PEOPLE: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/proposals",
        "What one person proposed and another one is to confirm.",
        _proposals,
        (Field("ended", "what waits no more, too", Kind.TRUTH), LIMIT),
    ),
    Endpoint(
        "GET",
        "/proposals/{proposal}",
        "One of them.",
        lambda x, proposal: _shown(x.proposals.find(proposal)),
        (PROPOSAL,),
    ),
    Endpoint(
        "POST",
        "/proposals/{proposal}/confirm",
        "Have what somebody else proposed be done; a token is no person.",
        lambda x, proposal, reason=None: _shown(x.proposals.confirm(proposal, reason=reason)),
        (PROPOSAL, REASON),
        "confirm_proposal",
    ),
    Endpoint(
        "POST",
        "/proposals/{proposal}/withdraw",
        "Take back what waits.",
        lambda x, proposal, reason=None: _shown(x.proposals.withdraw(proposal, reason=reason)),
        (PROPOSAL, REASON),
        "withdraw_proposal",
    ),
    Endpoint(
        "GET",
        "/users",
        "Who may sign in, with the sessions that go on.",
        lambda x: {"users": as_json(x.people.users()), "sessions": as_json(x.people.sessions())},
        action="change_user",
    ),
    Endpoint(
        "POST",
        "/users",
        "Let somebody in whom a proxy vouches for; a password is given by command or on a page.",
        lambda x, name, role, **asked: x.people.add_user(name, role, None, **asked),
        (NAME, ROLE, SEES, REASON),
        "add_user",
    ),
    Endpoint(
        "POST",
        "/users/{name}/change",
        "Change what is given of a user, who then signs in anew.",
        lambda x, name, **asked: x.people.change_user(name, **asked),
        (NAME, Field("role", "what may be done", among=Role), SEES, REASON),
        "change_user",
    ),
    Endpoint(
        "POST",
        "/users/{name}/disable",
        "Keep a user out.",
        lambda x, name, reason=None: x.people.disable_user(name, reason=reason),
        (NAME, REASON),
        "disable_user",
    ),
    Endpoint(
        "POST",
        "/users/{name}/enable",
        "Let a user in again.",
        lambda x, name, reason=None: x.people.enable_user(name, reason=reason),
        (NAME, REASON),
        "enable_user",
    ),
    Endpoint("DELETE", "/users/{name}", "Remove a user.", _remove, (NAME,), "remove_user"),
    Endpoint(
        "POST",
        "/sessions/end",
        "Have a user sign in anew, or all.",
        lambda x, name=None, reason=None: {"ended": x.people.end_sessions(name, reason=reason)},
        (Field("name", "only this user"), REASON),
        "end_sessions",
    ),
    Endpoint(
        "GET",
        "/tokens",
        "Tokens of programs; none says what is shown by it.",
        lambda x: {"tokens": as_json(x.people.tokens())},
        action="add_token",
    ),
    Endpoint(
        "POST",
        "/tokens",
        "Make a token for a program; what is to be shown by it is in this answer alone.",
        _add_token,
        (NAME, ROLE, Field("days", "how long it lasts", Kind.NUMBER, needed=True, most=3660), SEES, REASON),
        "add_token",
    ),
    Endpoint(
        "POST",
        "/tokens/{name}/revoke",
        "End a token at once.",
        lambda x, name, reason=None: x.people.revoke_token(name, reason=reason),
        (NAME, REASON),
        "revoke_token",
    ),
)
