"""``exchange tokens``: what programs show to the console's interface."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import length
from exchange.cli.users import ROLES, read_role

app = typer.Typer(help="What programs show in order to be let in.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the audit calls it.", show_default=False)]


@app.command()
def add(
    name: Name,
    *,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help=f"What it may do: {ROLES}.")],
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="How long it is good: 90d, 12h.")],
    sees_sensitive: Annotated[bool, typer.Option("--sees-sensitive", help="Show it sensitive columns, too.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Make a token and show it, this once: the database keeps a digest of it alone."""
    from exchange.format.moments import in_table

    wanted, lasts = read_role(role), length("--expires", expires)
    with open_exchange() as exchange:
        made, secret = exchange.people.add_token(
            name, wanted, lasts, sees_sensitive=sees_sensitive, who=who, reason=reason
        )
    if as_json:
        output.emit({**made.as_dict(), "token": secret})
        return
    output.tell(f"token {made.name} is good as {made.role} until {in_table(made.expires_at)}; it is shown this once:")
    output.tell(secret)


@app.command("list")
@output.listing
def list_(as_json: Json = False) -> None:
    """List tokens: role, end, and when each was used last from where."""
    from exchange.format.moments import in_table

    with open_exchange() as exchange:
        found = exchange.people.tokens()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there are no tokens")
        return
    output.table(
        ["name", "role", "made by", "good until", "last used", "from"],
        [
            (
                one.name,
                one.role,
                one.made_by,
                f"revoked {in_table(one.revoked_at)}" if one.revoked_at else in_table(one.expires_at),
                in_table(one.used_at) if one.used_at else "never",
                one.used_from or "",
            )
            for one in found
        ],
    )


@app.command()
def revoke(name: Name, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """End a token at once."""
    with open_exchange() as exchange:
        ended = exchange.people.revoke_token(name, who=who, reason=reason)
    if as_json:
        output.emit(ended.as_dict())
    else:
        output.tell(f"token {ended.name} is good for nothing any more")
