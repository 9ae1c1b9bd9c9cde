"""People for a Python program: who may sign in to the console, who is, and the tokens of programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from exchange.api.acts import RefusedArgument
from exchange.people import sessions, tokens, users
from exchange.people.roles import Role
from exchange.people.sessions import Lifetime, Session
from exchange.people.tokens import Token
from exchange.people.users import User

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.api.acts import Done

__all__ = ["People", "Role", "Session", "Token", "User"]


class People:
    """Users of this side. Every change ends the sessions of whom it is about, and is in the audit."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # To look at

    def users(self) -> list[User]:
        """Give all users by their names."""
        return users.list_users(self._exchange.engine)

    def sessions(self, name: str | None = None) -> list[Session]:
        """Give the sessions that go on, of one user or all, last used first."""
        return sessions.list_sessions(self._exchange.engine, self._lifetime, name)

    def tokens(self) -> list[Token]:
        """Give all tokens by their names; none says what is shown by it."""
        return tokens.list_tokens(self._exchange.engine)

    # To do something about

    def add_user(
        self,
        name: str,
        role: Role,
        password: str | None,
        *,
        sees_sensitive: bool = False,
        who: str | None = None,
        reason: str | None = None,
    ) -> User:
        """Let somebody in; without a password only one whom a proxy vouches for. Raises RefusedArgument, Busy."""
        asked = {"name": name, "role": role.value, "sees_sensitive": sees_sensitive, "password": password is not None}
        with self._act("add_user", asked, who, reason) as act:
            made = users.add_user(self._exchange.engine, name, role, password, sees_sensitive=sees_sensitive)
            act.came_to(made.as_dict())
        return made

    def change_user(
        self,
        name: str,
        *,
        role: Role | None = None,
        password: str | None = None,
        sees_sensitive: bool | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> User:
        """Change what is given, and have that user sign in anew. Raises RefusedArgument, Busy, TransientError."""
        asked: dict[str, Any] = {"name": name, "role": role and role.value, "password": password is not None}
        if sees_sensitive is not None:
            asked["sees_sensitive"] = "yes" if sees_sensitive else "no"
        with self._act("change_user", asked, who, reason) as act:
            changed = users.change_user(
                self._exchange.engine, name, role=role, password=password, sees_sensitive=sees_sensitive
            )
            act.came_to(changed.as_dict())
        return changed

    def disable_user(self, name: str, *, who: str | None = None, reason: str | None = None) -> User:
        """Keep a user out, whatever the password is, and a proxy's word too. Raises as ``change_user`` does."""
        return self._switch("disable_user", name, who, reason, disabled=True)

    def enable_user(self, name: str, *, who: str | None = None, reason: str | None = None) -> User:
        """Let a user in again. Raises as ``change_user`` does."""
        return self._switch("enable_user", name, who, reason, disabled=False)

    def _switch(self, action: str, name: str, who: str | None, reason: str | None, *, disabled: bool) -> User:
        with self._act(action, {"name": name}, who, reason) as act:
            changed = users.change_user(self._exchange.engine, name, disabled=disabled)
            act.came_to(changed.as_dict())
        return changed

    def remove_user(self, name: str, *, who: str | None = None, reason: str | None = None) -> None:
        """Remove a user; what the audit has of that name stays. Raises RefusedArgument, Busy, TransientError."""
        with self._act("remove_user", {"name": name}, who, reason) as act:
            users.remove_user(self._exchange.engine, name)
            act.came_to({"removed": name})

    def end_sessions(self, name: str | None = None, *, who: str | None = None, reason: str | None = None) -> int:
        """Have a user sign in anew, or all; give how many sessions ended. Raises Busy, TransientError."""
        with self._act("end_sessions", {"name": name}, who, reason) as act:
            ended = sessions.end_sessions(self._exchange.engine, name)
            act.came_to({"ended": ended})
        return ended

    def add_token(
        self,
        name: str,
        role: Role,
        lasts: timedelta,
        *,
        sees_sensitive: bool = False,
        who: str | None = None,
        reason: str | None = None,
    ) -> tuple[Token, str]:
        """Make a token for a program; what is to be shown by it is given here alone. Raises RefusedArgument, Busy."""
        asked = {"name": name, "role": role.value, "days": lasts / timedelta(days=1), "sees_sensitive": sees_sensitive}
        maker = self._exchange.asker(who).names[0]
        with self._act("add_token", asked, who, reason) as act:
            made, secret = tokens.add_token(
                self._exchange.engine, name, role, lasts, maker, sees_sensitive=sees_sensitive
            )
            act.came_to(made.as_dict())
        return made, secret

    def revoke_token(self, name: str, *, who: str | None = None, reason: str | None = None) -> Token:
        """End a token at once. Raises Busy, TransientError."""
        with self._act("revoke_token", {"name": name}, who, reason) as act:
            ended = tokens.revoke_token(self._exchange.engine, name)
            act.came_to(ended.as_dict())
        return ended

    @property
    def _lifetime(self) -> Lifetime:
        limits = self._exchange.settings.limits
        return Lifetime(timedelta(minutes=limits.session_idle_minutes), timedelta(hours=limits.session_hours))

    @contextmanager
    def _act(self, action: str, asked: dict[str, Any], who: str | None, reason: str | None) -> Iterator[Done]:
        with self._exchange.act(self._exchange.site, action, asked, who, reason) as act:
            try:
                yield act
            except ValueError as error:
                raise RefusedArgument(f"{error}; nothing was done") from error
