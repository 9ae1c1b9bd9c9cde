"""Commands of the reference application: a user asks on one network; the other owns the users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, open_site, settings
from exchange.format.errors import RecordError

if TYPE_CHECKING:
    from exchange.settings import Settings

PASSWORD_VARIABLE = "EXCHANGE_ADMINISTRATOR_PASSWORD"  # noqa: S105 - the name of a variable


def submit(
    user: Annotated[str, typer.Argument(help="The user's name or e-mail.", show_default=False)],
    query: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    kind: Annotated[str, typer.Option(help="What kind of request it is.")] = "question",
    parameters: Annotated[str, typer.Option(metavar="JSON", help="A JSON object.")] = "{}",
    priority: Annotated[
        int | None, typer.Option(help="0 to 9 (default: that of the user's profile).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit a request."""
    from sqlalchemy.orm import Session

    from exchange.database.errors import transient_errors
    from exchange.reference import submit as submitting

    _check_network(settings(), "requests", "requests are submitted")
    asked = _parameters(parameters)
    with open_site() as site, transient_errors():
        try:
            with Session(site.engine) as session, session.begin():
                request = submitting.submit(session, user, kind, query, asked, priority=priority)
        except submitting.SubmitRefused as refused:
            raise _failed(str(refused)) from refused
    if as_json:
        output.emit({"id": str(request), "user": user, "kind": kind})
    else:
        output.tell(f"request {request} is submitted; it goes with the next export")


def seed(as_json: Json = False) -> None:
    """Add the first users.

    The administrator's password is that of EXCHANGE_ADMINISTRATOR_PASSWORD, else one is made and shown once.
    """
    from exchange.database.errors import transient_errors
    from exchange.reference import seeds

    _check_network(settings(), "directory", "users are kept")
    try:
        with open_site() as site, transient_errors():
            done = seeds.seed(site.engine, site.network, password=os.environ.get(PASSWORD_VARIABLE))
    except ValueError as error:
        raise Refused(f"{PASSWORD_VARIABLE}: {error}") from error
    if as_json:
        output.emit(
            {"profile_types": list(done.profile_types), "administrator": done.administrator, "password": done.password}
        )
        return
    if done.profile_types:
        output.tell(f"added the profile types {', '.join(done.profile_types)}")
    if done.administrator:
        output.tell(f"added the user {done.administrator}")
    if done.password:
        output.tell(f"its password, shown this once: {done.password}")
    if not (done.profile_types or done.administrator):
        output.say("everything is there already")


def _check_network(current: Settings, channel: str, what: str) -> None:
    from exchange.reference import channels
    from exchange.settings import REFERENCE_APP

    source = next(one.source for one in channels if one.name == channel)
    if current.app != REFERENCE_APP:
        raise Refused(f"this is a command of {REFERENCE_APP}, but EXCHANGE_APP is {current.app}")
    if current.network != source:
        raise Refused(f"{what} on network {source}, but this is network {current.network}")


def _parameters(text: str) -> dict[str, Any]:
    from exchange.format import strict_json

    try:
        read = strict_json.loads(text.encode("utf-8", "surrogatepass"))
    except RecordError as error:
        raise Refused(f"--parameters: expected a JSON object, but {error.sentence}") from error
    if not isinstance(read, dict):
        raise Refused("--parameters: expected a JSON object, found another JSON value")
    return read


def _failed(sentence: str) -> Exception:
    output.print_error(sentence)
    return typer.Exit(1)
