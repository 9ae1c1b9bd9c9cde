"""A request as pages see it: who asks, what was sent, this side in that person's name, and the ways to answer."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from exchange.api import Exchange, RefusedArgument, asked
from exchange.api.acts import ByPerson, NeedsSecondPerson
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.files.keys import KeyFault
from exchange.format.errors import BatchError, RecordError, TransientError
from exchange.operating.doctor.finding import Finding
from exchange.people.roles import Forbidden, Person, Role, least_role, refuse
from exchange.serve.console.frame import rendered
from exchange.serve.identity import Identity
from exchange.serve.side import Side, page_of
from exchange.settings import SettingsFaults

SAID = "exchange_said"
"""The cookie in which the outcome of an act waits for the next page."""
MOST_SAID = 2_000
MOST_FIELDS = 5_000
MOST_DIGITS = 18

Choice = TypeVar("Choice", bound=StrEnum)

REFUSALS = (RefusedArgument, Busy, TransientError, RecordError, BatchError, SettingsFaults, Forbidden, KeyFault)
"""What keeps an act from being done, each a sentence for whoever asked."""


@dataclass(frozen=True)
class Visit:
    """One request. ``exchange`` does things in the person's name; ``form`` is what was posted, each name's last value.

    Pages run in a thread of their own and may wait for the database.
    """

    request: Request
    identity: Identity
    exchange: Exchange
    form: Mapping[str, str] = field(default_factory=dict)
    chosen: Mapping[str, list[str]] = field(default_factory=dict)
    """The same with all values of each name."""

    @property
    def person(self) -> Person:
        """Give whoever asks."""
        return self.identity.person

    @property
    def reason(self) -> str | None:
        """Give the reason that was typed in; None for none."""
        return self.form.get("reason", "").strip() or None

    @property
    def required_reason(self) -> str:
        """Give the reason. Raises RefusedArgument for none."""
        if self.reason is None:
            raise RefusedArgument("a reason is needed, for the audit; nothing was done")
        return self.reason

    @property
    def side(self) -> Side:
        """Give the side that is served."""
        return self.request.app.state.side  # type: ignore[no-any-return]

    def page_of(self, finding: Finding) -> str:
        """Say which page tells of a finding, with what can be done about it."""
        page = page_of(finding)
        return page if page in self.request.app.state.pages else "/health"

    @property
    def here(self) -> str:
        """Give the address of this page, or of the one that an act was asked from, for what leads back to it."""
        if self.request.method == "POST":
            return local(self.form.get("back") or "/")
        url = self.request.url
        return f"{url.path}?{url.query}" if url.query else url.path

    @property
    def filters(self) -> list[tuple[str, str]]:
        """Give what the address asks for."""
        return list(self.request.query_params.multi_items())

    def asked(self, name: str, usual: str = "") -> str:
        """Give a filter of the address."""
        return self.request.query_params.get(name, usual).strip()

    def number(self, name: str) -> int | None:
        """Give a number of the address. Raises RefusedArgument for anything else."""
        said = self.asked(name)
        if not said:
            return None
        if not (said.isascii() and said.isdecimal() and len(said) <= MOST_DIGITS):
            raise RefusedArgument(f"{name}: expected a number, found {said[:80]!r}")
        return int(said)

    def moment(self, name: str) -> datetime | None:
        """Give a moment of the address, as the command line takes it. Raises RefusedArgument for what is none."""
        return moment_of(self.asked(name), name)

    def one_of(self, name: str, choices: type[Choice]) -> Choice | None:
        """Give a choice of the address. Raises RefusedArgument for what is none."""
        return asked.one_of(name, self.asked(name) or None, choices)

    def may(self, action: str) -> bool:
        """Say whether this person may do what an act of the audit is named as."""
        return self.person.role.may(least_role(action))

    def render(self, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Answer with a page."""
        said = _read_said(self.request.cookies.get(SAID))
        shown = {"visit": self, "said_now": said, "side": self.side, **context}
        answer = HTMLResponse(rendered(template, shown), status)
        if said is not None:
            answer.delete_cookie(SAID, path="/")
        return answer

    def back(self, said: str, level: str = "ok", *, to: str | None = None) -> Response:
        """Answer an act: its outcome is shown on the page that it was asked from, or on another one."""
        target = to or self.form.get("back") or "/"
        answer = RedirectResponse(local(target), 303)
        words = json.dumps([level, said[:MOST_SAID]]).encode()
        answer.set_cookie(
            SAID,
            base64.urlsafe_b64encode(words).decode(),
            max_age=60,
            httponly=True,
            samesite="strict",
            secure=self.request.url.scheme == "https",
        )
        return answer


def moment_of(said: str, name: str) -> datetime | None:
    """Read a moment that somebody typed; None for nothing. Raises RefusedArgument for what is none."""
    return asked.moment(name, said.strip() or None)


View = Callable[[Visit], Response]


def look(path: str, view: View, *, least: Role = Role.VIEWER) -> Route:
    """Give the route of a page, for whoever has at least this role."""

    def shown(visit: Visit) -> Response:
        """Show it, or say why not."""
        if not visit.person.role.may(least):
            return visit.render("refused.html", status=403, title="Not for you", message=f"this page is for {least}s")
        try:
            with transient_errors():
                return view(visit)
        except RefusedArgument as error:
            return visit.render("refused.html", status=404, title="Not found", message=str(error))
        except REFUSALS as error:
            return visit.render("refused.html", status=503, title="Not to be seen now", message=str(error))

    return Route(path, _answering(shown), methods=["GET"], name=view.__name__)


def act(path: str, work: View, action: str) -> Route:
    """Give the route of an act, posted by a form; ``action`` is its name in the audit, and says who may do it.

    What refuses it is said on the page that it was asked from, and nothing was done.
    """

    def done(visit: Visit) -> Response:
        """Do it, or say what keeps it from being done."""
        try:
            _refuse_foreign(visit)
            refuse(visit.person, action)
            with transient_errors():
                return work(visit)
        except NeedsSecondPerson as held:
            return visit.back(str(held), "warning", to=f"/proposals/{held.proposal.id}")
        except REFUSALS as error:
            return visit.back(str(error), "warning" if isinstance(error, Busy) else "fault")

    route = Route(path, _answering(done), methods=["POST"], name=work.__name__)
    route.action = action  # type: ignore[attr-defined]
    return route


def _answering(answer: View) -> Callable[[Request], Any]:
    """Have a request answered in a thread, once it is known who asks."""

    async def endpoint(request: Request) -> Response:
        body = await request.body() if request.method == "POST" else b""
        return await run_sync(_answered, request, body, answer)

    return endpoint


def _answered(request: Request, body: bytes, answer: View) -> Response:
    try:
        with transient_errors():
            identity = request.app.state.identify(request)
    except (TransientError, SettingsFaults, SQLAlchemyError) as error:
        return HTMLResponse(rendered("away.html", {"message": str(error)}), 503)
    if identity is None:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        wanted = f"?next={quote(here)}" if request.method == "GET" and here != "/" else ""
        return RedirectResponse(f"/sign-in{wanted}", 303)
    fields = posted(body)
    visit = Visit(
        request,
        identity,
        in_the_name_of(request.app.state.side.exchange, identity.person),
        {name: values[-1] for name, values in fields.items()},
        fields,
    )
    return answer(visit)


def posted(body: bytes) -> dict[str, list[str]]:
    """Read a form as browsers post it; lines end as they do here. What says too much is read as nothing."""
    fields: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return fields


def in_the_name_of(exchange: Exchange, person: Person) -> Exchange:
    """Give this side as a person acts on it: each act is in the audit under their name, with where they are."""
    return exchange.on_behalf(ByPerson(person, "console"))


def _refuse_foreign(visit: Visit) -> None:
    """See that a form of ours was posted by a page of ours. Raises Forbidden."""
    if not is_form_of(visit.request, visit.identity, visit.chosen):
        raise Forbidden("this was not asked from a page of this console, or you signed in anew; load the page again")


def is_form_of(request: Request, identity: Identity, fields: Mapping[str, list[str]]) -> bool:
    """Tell whether a page of ours posted it that was made for whoever asks."""
    token, wanted = fields.get("csrf", [""])[-1], identity.csrf
    return is_ours(request) and (wanted is None or hmac.compare_digest(token.encode(), wanted.encode()))


def is_ours(request: Request) -> bool:
    """Tell whether a page of this console posted it, as far as the browser says; behind a proxy by its name there."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    known = {request.headers.get("host"), urlsplit(request.app.state.side.settings.serve_url or "").netloc} - {"", None}
    ours = urlsplit(origin).netloc in known if origin else site in {None, "same-origin"}
    return ours and site in {None, "same-origin"}


def local(target: str) -> str:
    """Give a page of ours to go on to, whatever is asked for."""
    asked = urlsplit(target)
    ours = target.startswith("/") and not target.startswith(("//", "/\\")) and not asked.netloc and not asked.scheme
    return quote(target, safe="/?=&%:,+-_.~!*'()@") if ours and target.isprintable() else "/"


def _read_said(cookie: str | None) -> tuple[str, str] | None:
    try:
        level, said = json.loads(base64.urlsafe_b64decode(cookie or ""))
    except ValueError:
        return None
    return (level, said) if level in {"ok", "warning", "fault"} and isinstance(said, str) else None
