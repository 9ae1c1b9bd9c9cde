"""``exchange api-keys``: what programs show that ask, or write rows, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import length

if TYPE_CHECKING:
    from exchange.people.api_keys import ApiKey

app = typer.Typer(help="What programs show that ask, or write rows, over HTTP.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the audit calls it.", show_default=False)]


@app.command()
def add(
    name: Name,
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="What it may do: requests:read, requests:write, streams:NAME. Repeat it.",
            show_default=False,
        ),
    ],
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="How long it is good: 90d, 12h.")],
    user: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="NAME", help="Whom of the directory it asks for, by name or e-mail.", show_default=False
        ),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once: the database keeps a digest of it alone."""
    lasts = length("--expires", expires)
    with open_exchange() as exchange:
        made, secret = exchange.requesters.add_api_key(name, scope, lasts, user=user, who=who, reason=reason)
    _show(made, secret, as_json, "")


@app.command("list")
@output.listing
def list_(as_json: Json = False) -> None:
    """List keys: scopes, end, and when each was used last from where."""
    from exchange.format.moments import in_table

    with open_exchange() as exchange:
        found = exchange.requesters.api_keys()
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there are no API keys")
        return
    output.table(
        ["name", "scopes", "made by", "good until", "last used", "from"],
        [
            (
                one.name,
                " ".join(one.scopes),
                one.made_by,
                f"revoked {in_table(one.revoked_at)}" if one.revoked_at else in_table(one.expires_at),
                in_table(one.used_at) if one.used_at else "never",
                one.used_from or "",
            )
            for one in found
        ],
    )


@app.command()
def rotate(
    name: Name,
    *,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long the one before is good, too: 7d, 1h, 0s.")
    ] = "7d",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="How long the key is good from now on.", show_default=False),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Make another secret of a key and show it, this once; that before is good for a while, too."""
    from exchange.format.moments import in_table

    kept, lasts = length("--overlap", overlap), None if expires is None else length("--expires", expires)
    with open_exchange() as exchange:
        made, secret = exchange.requesters.rotate_api_key(name, kept, lasts, who=who, reason=reason)
    old = f"; the one before until {in_table(made.old_until)}" if made.old_until else ""
    _show(made, secret, as_json, old)


@app.command()
def revoke(name: Name, reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """End a key at once."""
    with open_exchange() as exchange:
        ended = exchange.requesters.revoke_api_key(name, who=who, reason=reason)
    if as_json:
        output.emit(ended.as_dict())
    else:
        output.tell(f"API key {ended.name} is good for nothing any more")


def _show(made: ApiKey, secret: str, as_json: bool, more: str) -> None:
    from exchange.format.moments import in_table

    if as_json:
        output.emit({**made.as_dict(), "key": secret})
        return
    said = f"API key {made.name} is good for {', '.join(made.scopes)} until {in_table(made.expires_at)}{more}"
    output.tell(f"{said}; it is shown this once:")
    output.tell(secret)
