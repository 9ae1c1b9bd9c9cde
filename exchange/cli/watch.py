"""``exchange watch`` and ``exchange report``: people are told how this side is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, fail, open_site, settings

if TYPE_CHECKING:
    from exchange.watching.watcher import Look


def watch(
    once: Annotated[
        bool, typer.Option("--once", help="Look once, tell, and end: for cron or a timer of systemd.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look every minute, and tell those of EXCHANGE_NOTIFY.

    EXCHANGE_WATCH_EVERY says how often, EXCHANGE_NOTIFY who is told what is not well.

    It needs neither broker, worker nor beat, and runs until it is stopped. `exchange serve` watches, too, and `exchange
    up` starts it where EXCHANGE_NOTIFY is set. With --once the exit code is 1 if somebody was not reached.
    """
    from exchange.watching.watcher import Watcher, run_watcher

    current = settings()
    if not once:
        run_watcher(current)
        return
    watcher = Watcher(current)
    try:
        done = watcher.look_once()
    finally:
        watcher.close()
    if as_json:
        output.emit(done.as_dict())
    else:
        _tell(done)
        if not current.notify_targets:
            output.warn("nobody is told: EXCHANGE_NOTIFY is not set")
    if done.unsent:
        fail()


def _tell(done: Look) -> None:
    for one in done.standing:
        output.paragraph(one.level, f"{one.name}: {one.message}")
    if not done.standing and not done.busy:
        output.tell("no alarm stands")
    for line in done.sent:
        output.tell(f"told {line}")
    for line in done.unsent:
        output.print_error(f"not told {line}; it is tried again")
    for sentence in filter(None, (done.alone, done.busy)):
        output.warn(sentence)


def report(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="Of how long: 24h, 7d.")] = "24h",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page, too.", show_default=False)
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send it to those of EXCHANGE_NOTIFY.")] = False,
    as_json: Json = False,
) -> None:
    """Say what crossed, what is parked, and when disks are full.

    Also how fast, why, and how both sides agree.
    """
    from exchange.database import clock
    from exchange.watching.health import read_health
    from exchange.watching.report import read_report
    from exchange.watching.report_pages import as_html, as_message, as_text
    from exchange.watching.silencing import length_of
    from exchange.watching.watcher import send_now

    current = settings()
    try:
        length = length_of(since)
    except ValueError as error:
        raise Refused(str(error).replace("for:", "--since:", 1)) from error
    with open_site() as site:
        found = read_report(current, site, clock.now() - length, "report", read_health(current).parts)
    if html is not None:
        html.write_text(as_html(found), encoding="utf-8")
        output.say(f"{html}: the report as a page")
    if as_json:
        output.emit(found.as_dict())
    elif html is None and not send:
        output.tell_text(as_text(found))
    if send:
        answers = send_now(current, as_message(found))
        for one in answers:
            output.paragraph("ok" if one.taken else "fault", f"{one.target}: {one.said}")
        if not all(one.taken for one in answers):
            fail()
