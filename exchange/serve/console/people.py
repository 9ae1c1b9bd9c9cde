"""Users, their sessions and the tokens of programs, for administrators."""

from __future__ import annotations

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.format.moments import length_typed
from exchange.people.roles import Role
from exchange.people.users import role_named
from exchange.serve.console.visit import Visit, act, look


def people(visit: Visit, secret: str = "", made: str = "") -> Response:
    """Show who may sign in, who is, and the tokens."""
    there = visit.exchange.people
    return visit.render(
        "people.html",
        users=there.users(),
        sessions=there.sessions(),
        tokens=there.tokens(),
        roles=list(Role),
        secret=secret,
        made=made,
    )


def shown(visit: Visit) -> Response:
    """Show them."""
    return people(visit)


def add(visit: Visit) -> Response:
    """Let somebody in."""
    password = visit.form.get("password", "")
    made = visit.exchange.people.add_user(
        visit.form.get("name", ""),
        _role(visit),
        password or None,
        sees_sensitive=visit.form.get("sees_sensitive") == "yes",
        reason=visit.reason,
    )
    without = "" if password else ", without a password: by a proxy's word alone"
    return visit.back(f"{made.name} may sign in as {made.role}{without}", to="/people")


def change(visit: Visit) -> Response:
    """Change a role, what is shown, or a password."""
    sees = visit.form.get("sees_sensitive", "")
    changed = visit.exchange.people.change_user(
        _name(visit),
        role=_role(visit) if visit.form.get("role") else None,
        password=visit.form.get("password") or None,
        sees_sensitive=None if sees not in {"yes", "no"} else sees == "yes",
        reason=visit.reason,
    )
    return visit.back(f"{changed.name} is {changed.role}, and signs in anew", to="/people")


def disable(visit: Visit) -> Response:
    """Keep somebody out."""
    changed = visit.exchange.people.disable_user(_name(visit), reason=visit.reason)
    return visit.back(f"{changed.name} can't sign in any more", to="/people")


def enable(visit: Visit) -> Response:
    """Let somebody in again."""
    changed = visit.exchange.people.enable_user(_name(visit), reason=visit.reason)
    return visit.back(f"{changed.name} may sign in as {changed.role}", to="/people")


def remove(visit: Visit) -> Response:
    """Remove a user."""
    visit.exchange.people.remove_user(_name(visit), reason=visit.reason)
    return visit.back(f"{_name(visit)} is no user any more", to="/people")


def end_sessions(visit: Visit) -> Response:
    """Have somebody sign in anew."""
    ended = visit.exchange.people.end_sessions(_name(visit), reason=visit.reason)
    return visit.back(f"{ended} session{'' if ended == 1 else 's'} of {_name(visit)} ended", to="/people")


def add_token(visit: Visit) -> Response:
    """Make a token, and show it this once."""
    try:
        lasts = length_typed(visit.form.get("expires", "").strip())
    except ValueError as error:
        raise RefusedArgument(f"expires: expected {error}; nothing was done") from None
    made, secret = visit.exchange.people.add_token(
        visit.form.get("name", ""),
        _role(visit),
        lasts,
        sees_sensitive=visit.form.get("sees_sensitive") == "yes",
        reason=visit.reason,
    )
    return people(visit, secret, made.name)


def revoke_token(visit: Visit) -> Response:
    """End a token."""
    ended = visit.exchange.people.revoke_token(_name(visit), reason=visit.reason)
    return visit.back(f"token {ended.name} is good for nothing any more", to="/people")


def _name(visit: Visit) -> str:
    return str(visit.request.path_params["name"])


def _role(visit: Visit) -> Role:
    try:
        return role_named(visit.form.get("role", ""))
    except ValueError as error:
        raise RefusedArgument(f"{error}; nothing was done") from None


ROUTES = (
    look("/people", shown, least=Role.ADMINISTRATOR),
    act("/people/add", add, "add_user"),
    act("/people/tokens/add", add_token, "add_token"),
    act("/people/tokens/{name}/revoke", revoke_token, "revoke_token"),
    act("/people/{name}/change", change, "change_user"),
    act("/people/{name}/disable", disable, "disable_user"),
    act("/people/{name}/enable", enable, "enable_user"),
    act("/people/{name}/remove", remove, "remove_user"),
    act("/people/{name}/end-sessions", end_sessions, "end_sessions"),
)
