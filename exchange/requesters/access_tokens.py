"""Access tokens: JSON web tokens of a quarter of an hour, signed by a key of this side that never leaves it.

One algorithm is taken, whatever a token says of itself. Whether its session goes on is asked of the database each time.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt

from exchange.database import clock
from exchange.files.token_keys import TokenKeys

LASTS = timedelta(minutes=15)
SKEW_SECONDS = 5
"""By so much the clocks of machines that serve one side may differ."""
LONGEST = 4096
"""Characters of a token that are looked at."""
_LONGEST_CLAIM = 64
_ALGORITHM = "HS256"
_NEEDED = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "sid")


@dataclass(frozen=True)
class Claims:
    """What a token says that is believed: whose it is, and of which session."""

    user_id: int
    session: str


def issue(keys: TokenKeys, network: str, user_id: int, session: str) -> str:
    """Give a token of a session. Raises TokenKeyFault."""
    key, began = keys.signing(), int(clock.seconds())
    said: dict[str, Any] = {
        "iss": issuer(network),
        "aud": audience(network),
        "sub": str(user_id),
        "iat": began,
        "nbf": began,
        "exp": began + int(LASTS.total_seconds()),
        "jti": secrets.token_hex(16),
        "sid": session,
    }
    return jwt.encode(said, key.secret, algorithm=_ALGORITHM, headers={"kid": key.id})


def read(keys: TokenKeys, network: str, token: str) -> Claims | None:
    """Give what a token says, or None if it is not to be believed, whatever the reason. Raises TokenKeyFault."""
    if len(token) > LONGEST or not token.isascii():
        return None
    try:
        header = jwt.get_unverified_header(token)
        key = keys.named(str(header.get("kid")))
        if key is None:
            return None
        said = jwt.decode(
            token,
            key.secret,
            algorithms=[_ALGORITHM],
            audience=audience(network),
            issuer=issuer(network),
            # Moments are compared below, by the clock of this side.
            options={"require": list(_NEEDED), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return _believed(said)


def _believed(said: dict[str, Any]) -> Claims | None:
    moment, begins, ends, user = clock.seconds(), said["nbf"], said["exp"], said["sub"]
    if type(begins) is not int or type(ends) is not int or ends - begins > LASTS.total_seconds():
        return None
    if not begins - SKEW_SECONDS <= moment < ends:
        return None
    texts = (said["jti"], said["sid"], user)
    if not all(isinstance(one, str) and one.isascii() and 0 < len(one) <= _LONGEST_CLAIM for one in texts):
        return None
    if not user.isdecimal():
        return None
    return Claims(int(user), said["sid"])


def issuer(network: str) -> str:
    """Name who signs."""
    return f"exchange {network}"


def audience(network: str) -> str:
    """Name what a token is good for."""
    return f"exchange {network} requests"
