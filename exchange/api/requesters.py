"""Who asks over HTTP, for a Python program: passwords and sessions of the directory's users, and keys of programs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from exchange.api.acts import RefusedArgument
from exchange.database.locks import locked
from exchange.files.token_keys import TokenKey, TokenKeyFault, TokenKeys
from exchange.format.errors import TransientError
from exchange.people import api_keys
from exchange.people.api_keys import ApiKey
from exchange.requesters import access_tokens, directory, sessions, sign_in
from exchange.requesters.sessions import RequesterSession
from exchange.settings import REFERENCE_APP

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.api.acts import Done

__all__ = ["ApiKey", "RequesterSession", "Requesters"]

OVERLAP = timedelta(days=7)
"""So long what a key was before its rotation is good, unless somebody says otherwise."""
_LOCK = "keys of tokens"


class Requesters:
    """Who may ask this side over HTTP. Every change is in the audit, no password and no key ever."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # To look at

    def sessions(self, user: str | None = None) -> list[RequesterSession]:
        """Give who is signed in, last renewed first. Raises RefusedArgument, TransientError."""
        self._refuse_elsewhere()
        engine = self._exchange.engine
        return sessions.listed(engine, None if user is None else self._user(user))

    def api_keys(self) -> list[ApiKey]:
        """Give all keys of programs by their names; none says what is shown by it."""
        return api_keys.list_api_keys(self._exchange.engine)

    def reveal(self, user: str) -> int:
        """Let whoever asks see what a user asked, which is in the audit; give the user's id.

        For administrators who may see what is sensitive. Raises RefusedArgument, Forbidden, TransientError.
        """
        self._refuse_elsewhere()
        with self._act("reveal_requests", {"user": user}, None, None) as act:
            found = self._user(user)
            act.came_to({"user_id": found})
        return found

    # To do something about

    def set_password(self, user: str, password: str, *, who: str | None = None, reason: str | None = None) -> int:
        """Have a user of the directory sign in by a password; give how many sessions ended.

        Raises RefusedArgument, Busy, TransientError.
        """
        self._refuse_elsewhere()
        with self._act("set_requester_password", {"user": user}, who, reason) as act:
            _, ended = sign_in.set_password(self._exchange.engine, user, password)
            act.came_to({"sessions_ended": ended})
        return ended

    def revoke(
        self, user: str | None, *, password: bool = False, who: str | None = None, reason: str | None = None
    ) -> int:
        """End the sessions of a user or of everybody, at once; give how many.

        With ``password`` that user can't sign in again until one is set. Raises RefusedArgument, Busy, TransientError.
        """
        self._refuse_elsewhere()
        with self._act("revoke_requester", {"user": user, "password": password}, who, reason) as act:
            ended = sign_in.revoke(self._exchange.engine, user, password=password)
            act.came_to({"sessions_ended": ended})
        return ended

    def rotate_token_keys(
        self, *, at_once: bool = False, who: str | None = None, reason: str | None = None
    ) -> TokenKey:
        """Have another key sign tokens; what the one before signed counts until it ends, or ends ``at_once``.

        Raises RefusedArgument, Busy, TransientError.
        """
        self._refuse_elsewhere()
        keys = TokenKeys(self._exchange.settings.keys_folder)
        overlap = timedelta(0) if at_once else access_tokens.LASTS + timedelta(seconds=access_tokens.SKEW_SECONDS)
        engine = self._exchange.engine
        with self._act("rotate_token_key", {"at_once": at_once}, who, reason) as act, locked(engine, _LOCK):
            try:
                made = keys.rotate(overlap)
            except TokenKeyFault as error:
                raise TransientError(str(error)) from error
            act.came_to({"signs": made.id})
        return made

    def add_api_key(
        self,
        name: str,
        scopes: Collection[str],
        lasts: timedelta,
        *,
        user: str | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key for a program; what is to be shown by it is given here alone.

        ``user`` of the directory is whom it asks for; one that only writes streams is nobody's. Raises RefusedArgument,
        Busy, TransientError.
        """
        if user is not None:
            self._refuse_elsewhere()
        asked = {"name": name, "scopes": list(scopes), "days": lasts / timedelta(days=1), "user": user}
        maker = self._exchange.asker(who).names[0]
        with self._act("add_api_key", asked, who, reason) as act:
            self._refuse_unknown_streams(api_keys.read_scopes(scopes))
            user_id = None if user is None else self._user(user)
            made, secret = api_keys.add_api_key(self._exchange.engine, name, scopes, lasts, maker, user_id=user_id)
            act.came_to(made.as_dict())
        return made, secret

    def rotate_api_key(
        self,
        name: str,
        overlap: timedelta = OVERLAP,
        lasts: timedelta | None = None,
        *,
        who: str | None = None,
        reason: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Have another secret be shown by a key; that before is good for the overlap.

        With ``lasts`` the key is good for so long from now on. Raises RefusedArgument, Busy, TransientError.
        """
        asked = {"name": name, "overlap_hours": overlap / timedelta(hours=1)}
        if lasts is not None:
            asked["days"] = lasts / timedelta(days=1)
        with self._act("rotate_api_key", asked, who, reason) as act:
            made, secret = api_keys.rotate_api_key(self._exchange.engine, name, overlap, lasts)
            act.came_to(made.as_dict())
        return made, secret

    def revoke_api_key(self, name: str, *, who: str | None = None, reason: str | None = None) -> ApiKey:
        """End a key at once. Raises Busy, TransientError."""
        with self._act("revoke_api_key", {"name": name}, who, reason) as act:
            ended = api_keys.revoke_api_key(self._exchange.engine, name)
            act.came_to(ended.as_dict())
        return ended

    def _user(self, typed: str) -> int:
        from exchange.database.errors import transient_errors
        from exchange.database.locks import reading

        with transient_errors(), reading(self._exchange.engine) as connection:
            return directory.known(connection, typed).id

    def _refuse_unknown_streams(self, scopes: Collection[str]) -> None:
        known = self._exchange.site.checkers
        for one in scopes:
            stream = one.removeprefix(api_keys.STREAMS)
            if stream != one and stream not in known:
                raise ValueError(f"scope: {one}: expected a stream that is declared: {', '.join(sorted(known))}")

    def _refuse_elsewhere(self) -> None:
        settings = self._exchange.settings
        if not settings.asks_requests:
            raise RefusedArgument(
                f"requests are asked on network request of {REFERENCE_APP}, and this is network {settings.network} of"
                f" {settings.app}; nothing was done"
            )

    @contextmanager
    def _act(self, action: str, asked: dict[str, Any], who: str | None, reason: str | None) -> Iterator[Done]:
        with self._exchange.act(self._exchange.site, action, asked, who, reason) as act:
            try:
                yield act
            except ValueError as error:
                raise RefusedArgument(f"{error}; nothing was done") from error
