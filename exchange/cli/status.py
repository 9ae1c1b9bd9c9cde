"""``exchange status``: how far each channel has come, and what waits for somebody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.audited import open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, moment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from exchange.api import Exchange
    from exchange.operating.crossed import Crossed
    from exchange.operating.status import Status

WATCH_SECONDS = 2.0
MOST_FILES = 5
"""So many files that people dropped are told of one by one."""

_ONE_WAY = ("channel", "pending", "unconfirmable", "sequence")
_COLUMNS = {
    "out": ("channel", "pending", "published", "acknowledged", "sequence"),
    "in": ("channel", "applied", "waiting", "held", "quarantined", "sequence"),
}


def status(
    every: Annotated[
        float | None,
        typer.Argument(metavar="[SECONDS]", min=0.1, help="With --watch: so often (default: 2).", show_default=False),
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until q or Ctrl-C; in a pipe anew.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT",
            help="Also what crossed since then: 24h ago, or 2026-11-22T06:15 (UTC).",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far each channel is, and what waits for somebody."""
    if every is not None and not watch:
        raise Refused(f"expected --watch beside {every:g} seconds, found none")
    moment("since", since)
    with open_exchange() as exchange:

        def draw() -> None:
            _show(exchange, moment("since", since), as_json, live=watch)

        if not watch:
            draw()
            return
        from exchange.cli import live

        live.watch(draw, WATCH_SECONDS if every is None else every, as_json=as_json)


def _show(exchange: Exchange, since: datetime | None, as_json: bool, *, live: bool) -> None:
    """Show it once; of a ``live`` screen what waits stands where it is surely seen, else next to where one types."""
    found = exchange.status()
    absent = [str(one) for one in exchange.absences() if one.since is not None]
    crossed = None if since is None else exchange.crossed(since)
    if as_json:
        counted = {} if crossed is None else {"crossed": crossed.as_dict()}
        output.emit(found.as_dict() | {"work": absent} | _of_the_home(exchange) | counted)
    else:
        _show_channels(found)
        if live:
            _say_what_waits(found, absent)
        if crossed is not None:
            _show_crossed(found.peer, crossed)
        _show_link(found)
        _show_home(exchange)
        if not live:
            _say_what_waits(found, absent)
    if found.trouble:
        output.warn(found.trouble)


def _show_crossed(peer: str, crossed: Crossed) -> None:
    """Draw what crossed by channel, a bar for each part of the time."""
    for direction, way in (("out", "to"), ("in", "from")):
        rows = [one for one in crossed.channels if one.direction == direction]
        if not rows:
            continue
        output.tell("")
        output.tell(f"crossed {way} {peer} since {crossed.counted_since:%Y-%m-%d %H:%M}Z, {crossed.hours} h a bar")
        output.table(
            ["channel", "records", "batches", "by time"],
            [(one.channel, one.records, one.batches, f"|{output.bars(one.by_part)}|") for one in rows],
            steady=True,
        )


def _show_channels(found: Status) -> None:
    output.tell(f"{found.network}, epoch {found.epoch or 'none yet'}")
    shown = _COLUMNS | ({"out": _ONE_WAY} if found.of_peer.one_way else {})
    for direction, columns in shown.items():
        rows = [one.as_dict() for one in found.channels if one.direction == direction]
        if not rows:
            continue
        output.tell("")
        output.tell(f"{'to' if direction == 'out' else 'from'} {found.peer}")
        output.table(
            [*columns, "last success"],
            [[*(row[name] for name in columns), _moment(row["last_success_at"])] for row in rows],
            steady=True,
        )


def _show_link(found: Status) -> None:
    """Say when the other side was last heard of, and how long things have been under way."""
    from exchange.format.moments import lasting

    life = found.of_peer.life
    output.tell("")
    if life is None and found.of_peer.one_way:
        output.tell(f"nothing comes back from {found.peer}: what is published is unconfirmable")
    elif life is None:
        output.tell(f"{found.peer} was never heard of")
    else:
        due = f"expected again by {_moment(life.expected_by.isoformat())}"
        output.tell(f"{found.peer} was heard of {lasting(found.at - life.heard_at)} ago, {due}")
    for one in found.channels:
        if one.load:
            what = "sent" if one.direction == "out" else "received"
            said = f"{one.load.pace}; its last part {lasting(found.at - one.load.at)} ago"
            if one.direction == "in" and found.arrivals:
                said += f", {found.arrivals.batches} batches in incoming"
            output.tell(f"{one.channel}: a snapshot is {what}: {said}")
        if one.pending and one.pending_since:
            output.tell(f"{one.channel}: the oldest change waits for at most {lasting(found.at - one.pending_since)}")
        if one.unacknowledged_since:
            age = lasting(found.at - one.unacknowledged_since)
            output.tell(f"{one.channel}: the oldest unacknowledged batch was sealed {age} ago")
    for said in dict.fromkeys(said for one in found.channels for said in one.rollouts):
        output.tell(said)


def _of_the_home(exchange: Exchange) -> dict[str, Any]:
    """Give when the last backup was made, where some are to be, and how often fallen processes were started again."""
    from exchange.format.moments import to_rfc3339
    from exchange.operating.last_runs import restarts

    made_at = None
    if exchange.settings.backup_to is not None:
        from exchange.operating.backup_state import read_last

        made_at = read_last(exchange.settings.home).at
    counts = {name: one.count for name, one in restarts(exchange.settings).items()}
    return {"last_backup_at": to_rfc3339(made_at) if made_at else None, "restarts": counts}


def _show_home(exchange: Exchange) -> None:
    from exchange.database import clock
    from exchange.format.moments import from_rfc3339, lasting

    home = _of_the_home(exchange)
    made_at = home["last_backup_at"]
    if made_at:
        output.tell(f"the last backup was made {lasting(clock.now() - from_rfc3339(made_at))} ago")
    elif exchange.settings.backup_to is not None:
        output.tell("no backup was made yet")
    if home["restarts"]:
        counted = ", ".join(f"{name} {count}" for name, count in home["restarts"].items())
        output.tell(f"started again after a kill or a fall, since this home was made: {counted}")


def _moment(written: str | None) -> str:
    return f"{written[:19].replace('T', ' ')}Z" if written else "-"


def _say_what_waits(found: Status, absent: Sequence[str]) -> None:
    for sentence in absent:
        output.print_error(sentence)
    _say_what_is_paused(found)
    _say_what_was_not_sent(found)
    for waiting in (*(one.problem for one in found.leftovers), *found.left_rows):
        output.warn(str(waiting))
    for sentence in (*map(str, found.failed_runs), *found.stumbles):
        output.print_error(sentence)
    for sentence in (*map(str, found.of_peer.unread), *found.of_peer.troubles()):
        output.warn(sentence)
    for sentence in map(str, found.of_peer.alarms(found.at)):
        output.print_error(sentence)
    if found.backlog.parked and not found.alarms:
        output.warn(f"{found.backlog.parked} dead letters are parked; `exchange dead-letters` shows them by cause")
    for sentence in found.alarms:
        output.print_error(sentence)
    _print_strangers(found)


def _say_what_was_not_sent(found: Status) -> None:
    for one in found.channels:
        if one.sealed:
            output.warn(f"{one.channel}: {one.sealed} batches are sealed and not published; the next export does it")
        if one.rejected and one.there is None:
            output.warn(f"{one.channel}: {one.rejected} batches were rejected by {found.peer}")


def _say_what_is_paused(found: Status) -> None:
    for proposal in found.proposals:
        output.say(
            f"proposal {proposal.id} waits for a second person: {proposal}; `exchange proposals show {proposal.id}`"
        )
    for file in found.files[:MOST_FILES]:
        output.say(f"file {file.id}: {file}")
    if len(found.files) > MOST_FILES:
        output.say("and more files wait; `exchange files --state waiting` lists them")
    for file in found.files_refused[:MOST_FILES]:
        output.warn(f"file {file.id}: {file.file} ({file.intake}) was refused: {file.message}")
    for retry in found.retries:
        output.say(str(retry))
    for pause in dict.fromkeys(one.paused for one in found.channels if one.paused):
        output.warn(str(pause))
    for there in dict.fromkeys(one.paused_there for one in found.channels if one.paused_there):
        output.warn(str(there.told(found.peer)))


def _print_strangers(found: Status) -> None:
    for group in found.strangers:
        output.warn(str(group.problem))
    for left in found.arrivals.left_alone if found.arrivals else ():
        output.warn(str(left.problem))
    if found.arrivals and (found.arrivals.ignored or found.arrivals.unpaired):
        output.say(
            f"left alone in incoming: {found.arrivals.ignored} files that are no batch,"
            f" {found.arrivals.unpaired} data files whose manifest has not arrived"
        )
