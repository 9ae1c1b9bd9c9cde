"""``exchange audit``: what people did by hand, newest first."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.batches import Limit
from exchange.cli.output import Json
from exchange.cli.running import moment, open_site


def audit(
    action: Annotated[str | None, typer.Option(help="Only this, such as replay_batch.", show_default=False)] = None,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Only what they did.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only since then: 2026-11-22T06:15 (UTC), or 90m, 3h, 2d ago.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before then.", show_default=False)] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List what was done by hand: who, when, from where, what, why, and what came of it."""
    from exchange import audit as auditing
    from exchange.database import reading, world_errors

    begin, end = moment("since", since), moment("until", until)
    with open_site() as site, world_errors(), reading(site.engine) as connection:
        found = auditing.entries(connection, action=action, who=who, since=begin, until=end, limit=limit)
    if as_json:
        for entry in found:
            output.emit(entry.as_dict())
        return
    if not found:
        output.say("nothing of this kind was done by hand")
        return
    output.table(
        ["at", "who", "action", "arguments", "why", "result", "from"],
        [
            (
                f"{entry.at:%Y-%m-%d %H:%M:%S}Z",
                entry.who,
                entry.action,
                _words(entry.arguments),
                entry.why,
                "at work, or killed" if entry.result is None else _came_to(entry.result),
                entry.origin,
            )
            for entry in found
        ],
    )


def _words(fields: dict[str, object]) -> str:
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()
    )


def _came_to(result: dict[str, Any]) -> str:
    """Word a result: its sentence if it has one, else what it counted, and how many of what it lists."""
    if result.get("failed") or result.get("message"):
        return str(result.get("failed") or result["message"])
    if "verdict" in result:
        return ", ".join([str(result["verdict"]), *_counted(result.get("records") or {})])
    return "; ".join(_counted({name: _number(value) for name, value in result.items()})) or "nothing to do"


def _counted(fields: dict[str, Any]) -> list[str]:
    return [
        f"{value} {name}" if isinstance(value, int) else f"{name}: {value}" for name, value in fields.items() if value
    ]


def _number(value: Any) -> Any:
    """Give how many a list has: what they came to, if they say so."""
    if not isinstance(value, list):
        return value
    came_to = Counter(one.get("verdict") or one.get("state") for one in value if isinstance(one, dict))
    return ", ".join(f"{number} {what}" for what, number in came_to.items() if what) or str(len(value) or "")
