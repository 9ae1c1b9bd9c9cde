"""``exchange users``: who may sign in to the console, with which role."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail
from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.people.roles import Role
    from exchange.people.users import User

app = typer.Typer(help="Who may sign in to the console, and with which role.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
ROLES = "viewer, operator or administrator"
Password = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="A file whose one line is the password, - for standard input; else it is asked for at the terminal.",
        show_default=False,
        allow_dash=True,
    ),
]


@app.command()
def add(
    name: Name,
    *,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help=f"What they may do: {ROLES}.")],
    sees_sensitive: Annotated[bool, typer.Option("--sees-sensitive", help="Show them sensitive columns, too.")] = False,
    password_file: Password = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Let them in by EXCHANGE_SERVE_PROXY_HEADER alone.")
    ] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Let somebody sign in to the console."""
    wanted = read_role(role)
    if no_password and password_file is not None:
        raise Refused("--no-password: expected no --password-file beside it; nothing was done")
    password = None if no_password else read_password(password_file, name)
    with open_exchange() as exchange:
        made = exchange.people.add_user(name, wanted, password, sees_sensitive=sees_sensitive, who=who, reason=reason)
    _tell(made, as_json, f"{made.name} may sign in as {made.role}")


@app.command("list")
@output.listing
def list_(as_json: Json = False) -> None:
    """List users: role, whether they see what is sensitive, when they signed in last."""
    from exchange.format.moments import in_table

    with open_exchange() as exchange:
        found = exchange.people.users()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there are no users yet; `exchange users add NAME --role administrator` makes one")
        return
    output.table(
        ["name", "role", "sees sensitive", "password", "signed in", "sessions", "state"],
        [
            (
                one.name,
                one.role,
                "yes" if one.sees_sensitive else "no",
                "yes" if one.has_password else "none",
                in_table(one.signed_in_at) if one.signed_in_at else "never",
                one.sessions,
                f"disabled {in_table(one.disabled_at)}" if one.disabled_at else "",
            )
            for one in found
        ],
    )


@app.command()
def change(
    name: Name,
    *,
    role: Annotated[str | None, typer.Option("--role", metavar="ROLE", help=ROLES, show_default=False)] = None,
    sees_sensitive: Annotated[
        bool | None,
        typer.Option("--sees-sensitive/--hides-sensitive", help="Show sensitive columns or not.", show_default=False),
    ] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password at the terminal.")] = False,
    password_file: Password = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Change a role, what is shown, or the password; that user signs in anew then."""
    wanted = None if role is None else read_role(role)
    if wanted is None and sees_sensitive is None and not password and password_file is None:
        raise Refused("expected --role, --sees-sensitive, --password or --password-file; nothing was done")
    new = read_password(password_file, name) if password or password_file is not None else None
    with open_exchange() as exchange:
        changed = exchange.people.change_user(
            name, role=wanted, password=new, sees_sensitive=sees_sensitive, who=who, reason=reason
        )
    _tell(changed, as_json, f"{changed.name} is {changed.role}, and signs in anew")


@app.command()
def disable(name: Name, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Keep a user out, and end their sessions."""
    with open_exchange() as exchange:
        changed = exchange.people.disable_user(name, who=who, reason=reason)
    _tell(changed, as_json, f"{changed.name} can't sign in any more")


@app.command()
def enable(name: Name, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Let a user in again."""
    with open_exchange() as exchange:
        changed = exchange.people.enable_user(name, who=who, reason=reason)
    _tell(changed, as_json, f"{changed.name} may sign in as {changed.role}")


@app.command()
def remove(name: Name, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Remove a user; what the audit has of them stays."""
    with open_exchange() as exchange:
        exchange.people.remove_user(name, who=who, reason=reason)
    if as_json:
        output.emit({"name": name, "removed": True})
    else:
        output.tell(f"{printable(name, 63)} is no user any more")


@app.command()
@output.listing
def sessions(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of one user.", show_default=False)] = None,
    *,
    end: Annotated[bool, typer.Option("--end", help="End them: of NAME, or without one of everybody.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """List who is signed in, since when and from where; or end that."""
    from exchange.format.moments import in_table

    with open_exchange() as exchange:
        if end:
            ended = exchange.people.end_sessions(name, who=who, reason=reason)
            if as_json:
                output.emit({"name": name, "ended": ended})
            else:
                output.tell(f"{ended} session{'' if ended == 1 else 's'} ended")
            return
        found = exchange.people.sessions(name)
    if as_json:
        for one in found:
            output.emit(one.as_dict())
    elif not found:
        output.say("nobody is signed in")
    else:
        output.table(
            ["name", "since", "last used", "from"],
            [(one.name, in_table(one.begun_at), in_table(one.seen_at), one.address) for one in found],
        )


def read_role(text: str) -> Role:
    """Read a role. Raises Refused."""
    from exchange.people.users import role_named

    try:
        return role_named(text)
    except ValueError as error:
        raise Refused(f"--{error}; nothing was done") from error


def read_password(file: Path | None, name: str) -> str:
    """Read a password from a file, or ask for it twice at a terminal. Raises Refused."""
    if file is not None:
        try:
            line = sys.stdin.readline() if str(file) == "-" else file.read_text()
        except (OSError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or "it is not UTF-8"
            raise Refused(f"--password-file: {printable(str(file))}: {said}; nothing was done") from None
        return line.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise Refused(
            "--password-file: expected a file, or - for standard input, as nobody is at a terminal to type the"
            " password; nothing was done"
        )
    typed = typer.prompt(f"password of {printable(name, 63)} (12 characters or more)", hide_input=True, err=True)
    again = typer.prompt("the same again", hide_input=True, err=True)
    if typed != again:
        output.print_error("the two are not the same; nothing was done")
        fail()
    return str(typed)


def _tell(user: User, as_json: bool, sentence: str) -> None:
    if as_json:
        output.emit(user.as_dict())
    else:
        output.tell(sentence)
