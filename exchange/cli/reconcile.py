"""``exchange reconcile``: have both sides compare their rows, and see how they agree."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.channels import say_pauses
from exchange.cli.output import Json
from exchange.cli.runtime import known_channel
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from exchange.link.reconcile import Asked, StreamAgreement

FEW_KEYS = 10
"""So many rows that differ are named of each stream; ``--json`` has all that are known."""


@output.listing
def reconcile(
    channel: Annotated[
        str | None, typer.Argument(metavar="[CHANNEL]", help="Only this channel.", show_default=False)
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Only show how each stream agreed the last time.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Have both sides compare their rows.

    They do at one point of each channel, without a pause in writing.
    """
    with open_exchange() as exchange:
        site = exchange.site
        known_channel(channel, [*site.outgoing(), *site.incoming()], "sent or received")
        if report:
            _show(exchange.agreement.list(channel), as_json)
            if not as_json:
                say_pauses(site, channel)
            return
        _show_asked(exchange.agreement.reconcile(channel, who=who, reason=reason), as_json)


def _show_asked(found: Iterable[Asked], as_json: bool) -> None:
    asked = [one.as_dict() for one in found]
    if as_json:
        for one in asked:
            output.emit(one)
        return
    output.table(["channel", "direction", "what happens next"], [tuple(one.values()) for one in asked])


def _show(found: Iterable[StreamAgreement], as_json: bool) -> None:
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    found = list(found)
    headings = ["channel", "direction", "stream", "state", "rows", "equal", "missing", "extra", "different"]
    output.table(
        [*headings, "since", "compared"],
        [
            (
                *(getattr(one, name) for name in headings),
                _moment(one.since),
                _moment(one.compared_at),
            )
            for one in found
        ],
    )
    for one in found:
        for row in one.left[:FEW_KEYS]:
            values = "; ".join(
                f"{two['column']} is {two['there']} there and {two['here']} here" for two in row["difference"]
            )
            row_said = f"{row['what']} {json.dumps(row['key'])}{': ' if values else ''}{values}"
            output.say(
                f"{one.stream}: left after {row['repairs']} repairs that did not hold: {row_said};"
                f" once its cause is mended `exchange reconcile {one.channel}` repairs it again"
            )
        if one.keys and one.looked_at:
            named = [f"{row['what']} {json.dumps(row['key'])}" for row in one.keys[:FEW_KEYS]]
            more = "" if len(one.keys) <= FEW_KEYS else f" and more; `exchange reconcile {one.channel} --report --json`"
            output.say(f"{one.stream}: found on {_moment(one.looked_at)}: {', '.join(named)}{more}")
        elif one.buckets:
            output.say(
                f"{one.stream}: {one.buckets} of its buckets differ; which rows these are is known"
                " when they have been sent again"
            )


def _moment(moment: datetime | None) -> str | None:
    return in_table(moment) if moment else None
