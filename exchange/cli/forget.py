"""``exchange forget``: every place where a row's record stands, and its erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, by_hand
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, open_site

if TYPE_CHECKING:
    from exchange.operating.erasure import Forgotten


def forget(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The row's stream.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its key: a JSON object, or the only value of a key.")],
    erase: Annotated[bool, typer.Option("--erase", help="Remove or rewrite what can go.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Find every record of a row, and erase it with --erase.

    It looks at every place beside the application's tables. Each side does so for itself. The audit has who erased,
    when and why, but not the key.
    """
    from exchange.operating import erasure

    if erase and reason is None:
        raise Refused("--erase: expected a --reason for the audit, found none; nothing was done")
    with open_site() as site:
        sought = erasure.seek(site, stream, key)
        if not erase:
            found = erasure.find_traces(site, sought)
        else:
            with by_hand(site, "forget", {"stream": sought.stream.name, "erase": True}, who=who, why=reason) as act:
                found = erasure.erase_record(site, sought)
                act.came_to(found.counts())
    if as_json:
        output.emit(found.as_dict())
    else:
        _show(found)


def _show(found: Forgotten) -> None:
    if found.places:
        gone = "erased" if found.erased else "--erase removes it"
        output.table(
            ["place", "name", "found", "outcome" if found.erased else "what can be done"],
            [(one.place, one.name, one.what, f"stays: {one.kept}" if one.kept else gone) for one in found.places],
        )
    else:
        output.say(f"no place has anything of this row of {found.stream}")
    if found.row:
        output.warn(
            f"the row itself is in the table of {found.stream}: its application deletes it, and the next batch of it"
            " would bring its record back to these places"
        )
    if any(one.kept for one in found.places):
        output.say("what stays says until when; the same command finds and erases it then")
