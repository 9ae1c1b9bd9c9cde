"""Users of the directory sign in, renew what they show, and sign out: rows of the API's table."""

from __future__ import annotations

from typing import Any

from exchange.people.api_keys import READ
from exchange.requesters import sign_in
from exchange.requesters.sign_in import Access
from exchange.serve.door.frame import Asked, Reply
from exchange.serve.json_api.table import Endpoint, Field

_NO_STORE = {"Cache-Control": "no-store"}


def _sign_in(asked: Asked, *, name: str, password: str) -> Reply:
    door = asked.door
    access = sign_in.sign_in(door.engine, door.keys, door.settings.network, name, password, asked.address)
    return _shown(access)


def _renew(asked: Asked, *, refresh_token: str) -> Reply:
    door = asked.door
    with door.writing() as engine:
        return _shown(sign_in.renew(engine, door.keys, door.settings.network, refresh_token, asked.address))


def _sign_out(asked: Asked) -> dict[str, Any]:
    session = asked.known.session
    return {"signed_out": session is not None and sign_in.sign_out(asked.door.engine, session)}


def _who(asked: Asked) -> dict[str, Any]:
    caller = asked.known
    return {"name": caller.name, "by": caller.means, "scopes": sorted(caller.scopes)}


def _shown(access: Access) -> Reply:
    said = {
        "user": access.user,
        "token_type": "Bearer",
        "access_token": access.access_token,
        "expires_in": int(access.lasts.total_seconds()),
        "refresh_token": access.refresh_token,
        "refresh_expires_in": int(access.refresh_lasts.total_seconds()),
    }
    return Reply(said, headers=_NO_STORE)


SIGN_IN: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/sign-in",
        "Sign in as a user of the directory, for an access token of 15 minutes and what renews it.",
        _sign_in,
        (
            Field("name", "the user's name or e-mail", needed=True),
            Field("password", "the password that was set on this side", needed=True),
        ),
        by_anybody=True,
        takes_password=True,
    ),
    Endpoint(
        "POST",
        "/refresh",
        "Get new tokens for a refresh token, which is good once: to show it again ends the session.",
        _renew,
        (Field("refresh_token", "as the answer before has it", needed=True),),
        by_anybody=True,
    ),
    Endpoint("POST", "/sign-out", "End the session of the access token at once.", _sign_out, scope=READ),
    Endpoint("GET", "/who", "Say who asks, and what they may.", _who, scope=READ),
)
