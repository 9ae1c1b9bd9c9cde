"""Check: what one side can prove of itself, beside whatever works there, and with both at hand whether they agree.

It changes nothing and locks nothing. Folders and database are not seen at one moment: what is found to be wrong is
looked at again, and said only if it is still so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import islice

import sqlalchemy as sa

from exchange.database import clock
from exchange.database.locks import reading
from exchange.database.tables import Direction, network, success
from exchange.link import reconcile
from exchange.operating.check.files import check_files
from exchange.operating.check.ledger import check_ledger
from exchange.operating.check.rows import check_rows
from exchange.operating.check.wrong import Found, Kind, Pace, Wrong
from exchange.operating.doctor.batches import check_agreement
from exchange.operating.doctor.finding import Finding, Findings, fault, looked, ok, warning
from exchange.operating.doctor.leavings import check_pending
from exchange.operating.doctor.quick import check_tables
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture

LOOK_AGAIN_SECONDS = 2.0
"""After so long what was found is looked at once more."""

LOOKS = 3
"""What is found in so many looks is so."""

MOST_FOUND = 10_000
"""So many things are remembered from one look to the next; of more the first ones are said."""

_SHOWN = 3
_MOST_COUNTED = 1_000
_IDLE_PERIODS = 3
_IDLE_AT_LEAST = timedelta(minutes=15)


def examine_side(settings: Settings, site: Site, *, deep: bool = False, pause: float = LOOK_AGAIN_SECONDS) -> Findings:
    """Look at all that this side can prove of itself; with ``deep`` also at every file's bytes and at every row.

    It rests as long as it works, and holds no transaction for longer than it takes to read some hundred rows.
    """
    pace = Pace(resting=True)
    steps: list[tuple[str, Callable[[], Findings]]] = [
        ("tables", partial(check_tables, settings, site)),
        ("pending", partial(check_pending, settings, site)),
        ("pending", partial(_untaken, site)),
        (
            "ledger",
            partial(_said, "ledger", _LEDGER_IS_WELL, partial(check_ledger, site, pace), pause),
        ),
        ("files", partial(_said, "files", _FILES_ARE_WELL, partial(check_files, site, pace, deep=deep), pause)),
    ]
    if deep:
        steps.append(("rows", partial(_said, "rows", _ROWS_ARE_WELL, partial(check_rows, site, pace), pause)))
    steps += [("agreement", partial(check_agreement, settings, site)), ("agreement", partial(_compared, site))]
    for check, step in steps:
        yield from looked(check, step, "see that this user may look there, and that the database runs")


_LEDGER_IS_WELL = "no place is left out or applied twice, and positions and counts agree"
_FILES_ARE_WELL = "every row of the ledger has its files where its state says, and every file its row"
_ROWS_ARE_WELL = "every row can be sent as it is, and every version can be"


def _said(check: str, well: str, look: Callable[[], Found], pause: float) -> Findings:
    """Say what is wrong, each kind a finding."""
    kinds: dict[Kind, list[str]] = defaultdict(list)
    for one in _confirmed(look, pause):
        kinds[one.kind].append(one.name)
    for kind, names in kinds.items():
        many = f"{len(names)} or more" if len(names) >= MOST_FOUND else str(len(names))
        said = f"{many} {kind.what}; such as {', '.join(names[:_SHOWN])}"
        yield Finding(kind.check, kind.level, said, kind.remedy, kind.command)
    if not kinds:
        yield ok(check, well)


def _confirmed(look: Callable[[], Found], pause: float) -> list[Wrong]:
    """Give what is wrong in every one of several looks."""
    found = list(islice(look(), MOST_FOUND))
    for _ in range(LOOKS - 1):
        if found:
            time.sleep(pause)
            again = set(islice(look(), MOST_FOUND))
            found = [one for one in found if one in again]
    return found


def _untaken(site: Site) -> Findings:
    """Look for changes that wait although no export of their channel was done for long."""
    longest = max(_IDLE_PERIODS * timedelta(seconds=site.limits.period_seconds), _IDLE_AT_LEAST)
    done_at = sa.select(success.c.channel, success.c.at).where(success.c.direction == Direction.OUT)
    findings = []
    with reading(site.engine) as connection:
        begun = connection.scalar(sa.select(network.c.created_at)) or clock.now()
        done = {row.channel: row.at for row in connection.execute(done_at)}
        for channel in site.outgoing():
            at = done.get(channel.name, begun)
            if clock.since(at) < longest:
                continue
            if number := capture.pending(connection, channel.streams, _MOST_COUNTED, channel.shard):
                counted = f"{number}{' or more' if number == _MOST_COUNTED else ''} changes of channel {channel.name}"
                said = f"{counted} wait, and no export of it was done for long"
                findings.append(
                    fault("pending", said, "see that worker and beat run", command="exchange export", since=at)
                )
    yield from findings or [ok("pending", "no change waits for longer than exports take")]


def _compared(site: Site) -> Findings:
    """Say which streams were never compared with the other side: that alone shows that every row is over there."""
    never = [one for one in reconcile.report_agreement(site) if one.state == reconcile.NOT_YET]
    for direction in Direction:
        names = sorted({one.channel for one in never if one.direction is direction})
        if not names:
            continue
        way = f"sent to {site.peer}" if direction is Direction.OUT else f"received from {site.peer}"
        said = f"channels {way} were not compared in whole yet: {', '.join(names)}"
        if site.one_way:
            yield ok("agreement", f"{said}; nothing comes back from there, so the receiving side alone can say")
        else:
            yield warning(
                "agreement", said, "have them compared; the answer comes with the files", command="exchange reconcile"
            )
    if not never:
        yield ok("agreement", f"every stream was compared with {site.peer}'s")
