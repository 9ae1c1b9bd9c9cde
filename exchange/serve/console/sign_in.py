"""Signing in and out: the only pages for whoever is not known yet."""

from __future__ import annotations

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.format.errors import TransientError
from exchange.people.roles import Via
from exchange.people.sign_in import NotSignedIn, TooOften, sign_in, sign_out
from exchange.people.users import anybody
from exchange.serve.console.frame import rendered
from exchange.serve.console.visit import is_form_of, is_ours, local, posted
from exchange.serve.identity import Recogniser
from exchange.serve.side import Side
from exchange.settings import SettingsFaults

_IN_CLEAR = (
    "a password is not taken over this connection, as others could read it on its way: open the console by https (a"
    " proxy in front of it, or EXCHANGE_SERVE_CERTIFICATE_FILE), or on the machine itself"
)
_FOREIGN = "this was not asked from a page of this console; load the page again"
_AWAY = (TransientError, SettingsFaults, SQLAlchemyError, Busy)


async def ask(request: Request) -> Response:
    """Ask who somebody is; whoever is known already goes on."""
    return await run_sync(_asked, request)


def _asked(request: Request) -> Response:
    try:
        with transient_errors():
            if request.app.state.identify(request) is not None:
                return RedirectResponse(local(request.query_params.get("next", "/")), 303)
            if not _recogniser(request).connection(request.scope).is_private:
                return _page(request, _IN_CLEAR, 403)
            with reading(_side(request).exchange.engine) as connection:
                known = anybody(connection)
    except _AWAY as error:
        return HTMLResponse(rendered("away.html", {"message": str(error)}), 503)
    return _page(request, "" if known else "there is no user yet: `exchange users add NAME --role administrator`")


async def begin(request: Request) -> Response:
    """Begin a session of whoever gives the right password."""
    body = await request.body()
    return await run_sync(_begun, request, body)


def _begun(request: Request, body: bytes) -> Response:
    recogniser = _recogniser(request)
    way = recogniser.connection(request.scope)
    fields = {name: values[-1] for name, values in posted(body).items()}
    name, password = fields.get("name", ""), fields.get("password", "")
    if not is_ours(request):
        return _page(request, _FOREIGN, 403)
    if not way.is_private:
        return _page(request, _IN_CLEAR, 403)
    try:
        before = recogniser.secret_of(request.headers)
        done = sign_in(_side(request).exchange.engine, name, password, way.address, before=before)
    except NotSignedIn as error:
        return _page(request, f"{error}", 401, fields.get("next"))
    except TooOften as error:
        answer = _page(request, f"{error}", 429, fields.get("next"))
        answer.headers["Retry-After"] = str(error.seconds)
        return answer
    except _AWAY as error:
        return HTMLResponse(rendered("away.html", {"message": str(error)}), 503)
    on = RedirectResponse(local(fields.get("next", "/")), 303)
    recogniser.remember(on, done.secret)
    return on


async def end(request: Request) -> Response:
    """End the session of whoever asks."""
    body = await request.body()
    return await run_sync(_ended, request, body)


def _ended(request: Request, body: bytes) -> Response:
    recogniser = _recogniser(request)
    answer = RedirectResponse("/sign-in", 303)
    try:
        with transient_errors():
            identity = request.app.state.identify(request)
            if identity is not None and not is_form_of(request, identity, posted(body)):
                return _page(request, _FOREIGN, 403)
            secret = recogniser.secret_of(request.headers)
            if identity is not None and identity.person.via is Via.PASSWORD and secret:
                sign_out(_side(request).exchange.engine, identity.person, secret)
    except _AWAY as error:
        return HTMLResponse(rendered("away.html", {"message": str(error)}), 503)
    recogniser.forget(answer)
    return answer


def _page(request: Request, message: str, status: int = 200, wanted: str | None = None) -> HTMLResponse:
    wanted = wanted or request.query_params.get("next", "/")
    shown = {"message": message, "next": local(wanted), "network": _side(request).settings.network}
    return HTMLResponse(rendered("sign_in.html", shown), status)


def _recogniser(request: Request) -> Recogniser:
    return request.app.state.recogniser  # type: ignore[no-any-return]


def _side(request: Request) -> Side:
    return request.app.state.side  # type: ignore[no-any-return]


ROUTES = (
    Route("/sign-in", ask, methods=["GET"]),
    Route("/sign-in", begin, methods=["POST"]),
    Route("/sign-out", end, methods=["POST"]),
)
