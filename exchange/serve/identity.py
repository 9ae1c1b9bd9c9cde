"""Who a request comes from, by a session's cookie, a token or a trusted proxy's header; whether others read along."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from exchange.people.roles import Person, Role
from exchange.people.sessions import Lifetime, csrf_token, new_secret
from exchange.people.sign_in import person_by_proxy, person_of_session
from exchange.people.tokens import person_of_token
from exchange.settings import Settings

COOKIE = "exchange_session"


@dataclass(frozen=True)
class Identity:
    """A person, and the token that each form of theirs carries: None where no browser sends what it is known by."""

    person: Person
    csrf: str | None


Identify = Callable[[Request], Identity | None]
"""Says who asks; None for whoever has not signed in. It may wait for the database."""


@dataclass(frozen=True)
class Connection:
    """What a request says of its way here: from where, and whether a password may be typed over it."""

    address: str
    is_private: bool
    """Whether nobody on the way can read along: https, this machine itself, or a trusted proxy's word for that."""
    by_proxy: bool


class Recogniser:
    """Says who a request comes from, as the settings have it. Any number of threads may use one."""

    def __init__(self, settings: Settings, engine: Callable[[], Engine]) -> None:
        """Take the settings of the process, and what gives the database once it is asked for."""
        self._settings = settings
        self._engine = engine
        self._proxies = settings.proxies
        self.lifetime = lifetime_of(settings)
        url = settings.serve_url or ""
        self.is_secure = url.startswith("https://") or (not url and settings.serve_certificate_file is not None)
        self._proxied = new_secret()
        """What the forms of those whom a proxy names are known by, as long as this process lives."""
        self.cookie = f"__Host-{COOKIE}" if self.is_secure else COOKIE

    def __call__(self, request: Request) -> Identity | None:
        """Say who asks: a token goes before a cookie, a cookie before a proxy's word.

        Raises TransientError if the database is away.
        """
        headers, way = request.headers, self.connection(request.scope)
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            person = person_of_token(self._engine(), said.strip(), way.address)
            return Identity(person, None) if person is not None else None
        secret = self.secret_of(headers)
        if secret is not None:
            person = person_of_session(self._engine(), secret, way.address, self.lifetime)
            if person is not None:
                return Identity(person, csrf_token(secret))
        person = self._by_proxy(headers, way)
        return Identity(person, csrf_token(f"{self._proxied} {person.name}")) if person is not None else None

    def connection(self, scope: Scope) -> Connection:
        """Say from where a request comes, and whether others can read it."""
        headers, peer = Headers(scope=scope), peer_of(scope)
        by_proxy = self._is_proxy(peer)
        address = self._address(peer, headers) if by_proxy else peer
        return Connection(address, self._is_private(scope, headers, peer, trusted=by_proxy), by_proxy)

    def secret_of(self, headers: Headers) -> str | None:
        """Give what the session's cookie holds."""
        found = [cookie_parser(one).get(self.cookie) for one in headers.getlist("cookie")]
        return next((one for one in found if one), None)

    def _by_proxy(self, headers: Headers, way: Connection) -> Person | None:
        header = self._settings.serve_proxy_header
        if header is None or not way.by_proxy:
            return None
        named = headers.getlist(header)
        default = self._settings.serve_proxy_role
        if len(named) != 1:  # nobody knows which of them the proxy wrote
            return None
        return person_by_proxy(self._engine(), named[0], way.address, default and Role(default))

    def remember(self, response: Response, secret: str) -> None:
        """Have the browser show a session's secret from now on, until it is closed."""
        response.set_cookie(self.cookie, secret, path="/", secure=self.is_secure, httponly=True, samesite="strict")

    def forget(self, response: Response) -> None:
        """Have the browser show it no longer."""
        response.delete_cookie(self.cookie, path="/", secure=self.is_secure, httponly=True, samesite="strict")

    def _is_proxy(self, peer: str) -> bool:
        try:
            found = ipaddress.ip_address(peer)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in one for one in self._proxies)

    def _address(self, peer: str, headers: Headers) -> str:
        """Give from where a proxy was asked: the last of its line that is no proxy; others write what they like."""
        line = [one.strip() for said in headers.getlist("x-forwarded-for") for one in said.split(",")]
        for one in reversed(line):
            try:
                ipaddress.ip_address(one)
            except ValueError:
                break
            if not self._is_proxy(one):
                return one
        return peer

    def _is_private(self, scope: Scope, headers: Headers, peer: str, *, trusted: bool) -> bool:
        if scope.get("scheme") == "https":
            return True
        if trusted:
            said = headers.get("x-forwarded-proto", "").split(",")[-1].strip().lower()
            return said == "https" if said else self.is_secure
        try:
            return ipaddress.ip_address(peer).is_loopback
        except ValueError:
            return False


def lifetime_of(settings: Settings) -> Lifetime:
    """Say how long sessions last."""
    return Lifetime(timedelta(minutes=settings.session_idle_minutes), timedelta(hours=settings.session_hours))


def peer_of(scope: Scope) -> str:
    """Give the address at the other end of a connection; of what has none, such as a socket in a folder, nothing."""
    client = scope.get("client")
    return str(client[0]) if client else ""
