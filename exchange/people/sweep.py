"""What is kept of people ends: sessions, tokens, keys, attempts to sign in and proposals whose time is over go."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

from exchange.database.locks import writing
from exchange.limits import Limits
from exchange.people import api_keys, attempts, proposals, sessions, tokens
from exchange.people.sessions import Lifetime


def sweep(engine: Engine, limits: Limits, before: datetime) -> int:
    """Remove what is over; tokens, keys and proposals stay until they ended ``before`` a moment. Give how many went.

    Raises Busy. Commits a transaction of its own.
    """
    lifetime = Lifetime(timedelta(minutes=limits.session_idle_minutes), timedelta(hours=limits.session_hours))
    with writing(engine) as connection:
        return (
            sessions.sweep_sessions(connection, lifetime)
            + attempts.sweep_attempts(connection)
            + tokens.sweep_tokens(connection, before)
            + api_keys.sweep_api_keys(connection, before)
            + proposals.sweep_proposals(connection, before)
        )
