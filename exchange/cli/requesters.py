"""``exchange requesters``: which users of the directory may ask over HTTP, and who of them is signed in."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused
from exchange.cli.users import Password, read_password
from exchange.format.errors import printable

app = typer.Typer(help="Users of the directory who ask over HTTP.", no_args_is_help=True)

User = Annotated[str, typer.Argument(metavar="NAME", help="The user's name or e-mail.", show_default=False)]
OneUser = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Of one user: a name or e-mail.", show_default=False)
]


@app.command()
def password(
    name: User,
    *,
    password_file: Password = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Set the password with which a user signs in here; it never crosses. Who was signed in signs in anew."""
    new = read_password(password_file, name)
    with open_exchange() as exchange:
        ended = exchange.requesters.set_password(name, new, who=who, reason=reason)
    if as_json:
        output.emit({"user": name, "sessions_ended": ended})
    else:
        output.tell(f"{printable(name, 80)} may sign in with this password")


@app.command()
@output.listing
def sessions(name: OneUser = None, as_json: Json = False) -> None:
    """List who is signed in, since when and from where."""
    from exchange.format.moments import in_table

    with open_exchange() as exchange:
        found = exchange.requesters.sessions(name)
    if as_json:
        for one in found:
            output.emit(one.as_dict())
    elif not found:
        output.say("nobody is signed in")
    else:
        output.table(
            ["user", "since", "last renewed", "from"],
            [(one.user, in_table(one.begun_at), in_table(one.renewed_at), one.address) for one in found],
        )


@app.command()
def revoke(
    name: OneUser = None,
    *,
    everybody: Annotated[bool, typer.Option("--all", help="Of everybody.")] = False,
    drop_password: Annotated[
        bool, typer.Option("--drop-password", help="Let them sign in again once a password is set, not before.")
    ] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """End the sessions of a user, or of all, at once."""
    if (name is None) is not everybody or (everybody and drop_password):
        raise Refused("expected a user's name, or --all alone; nothing was done")
    with open_exchange() as exchange:
        ended = exchange.requesters.revoke(name, password=drop_password, who=who, reason=reason)
    if as_json:
        output.emit({"user": name, "sessions_ended": ended})
    else:
        output.tell(f"{ended} session{'' if ended == 1 else 's'} ended")


@app.command("rotate-key")
def rotate_key(
    *,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Have tokens of the key before count for nothing from now on.")
    ] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Have another key sign access tokens; those of the one before count until they end."""
    with open_exchange() as exchange:
        made = exchange.requesters.rotate_token_keys(at_once=at_once, who=who, reason=reason)
    if as_json:
        output.emit({"signs": made.id, "at_once": at_once})
    else:
        said = "what others signed counts for nothing" if at_once else "what was signed before counts until it ends"
        output.tell(f"key {made.id} signs access tokens from now on; {said}")
