"""The ledger as it stands: what is quarantined, held, waiting, missing or different, since when, and what next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import engine, failed_runs, ledger, locks, pauses
from exchange.database.tables import BatchState, Direction, RepairState, batch, gap, is_missing, position, repair
from exchange.format.errors import Reason, printable
from exchange.format.names import CONTROL
from exchange.incoming.failure_list import list_tried
from exchange.link import peer_state, reconcile
from exchange.link.reconcile import StreamAgreement
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, Whose, of_problem, ok, warning
from exchange.operating.status import names_that_run
from exchange.outgoing import answers
from exchange.settings import Settings
from exchange.site import Site

LONG = timedelta(days=1)
"""What is to mend itself and did not for so long needs a person."""

SOON = timedelta(minutes=5)
"""What a crash left sealed is published by the next export, which is sooner."""

_LATELY = timedelta(hours=1)
"""Of what came later than so long ago there is a number of its own: it says whether it grows."""

_SEEN_TO = (BatchState.SEALED, BatchState.WAITING, BatchState.HELD, BatchState.QUARANTINED)


class _Stuck(NamedTuple):
    """Batches of a channel in one state for one reason: the first one by its name, and since when the first came to it.

    ``ahead`` says that the first one is beyond what was applied, so that others may wait for it.
    """

    state: BatchState
    channel: str
    reason: str | None
    batches: int
    lately: int
    since: datetime
    stem: str
    ahead: bool

    @property
    def counted(self) -> str:
        """Name them: how many, and how many more than an hour ago."""
        if self.batches == 1:
            return f"batch {self.stem} of channel {self.channel}"
        more = f" ({self.lately} more than an hour ago)" if self.lately else ""
        return f"{self.batches} batches of channel {self.channel}{more}"


def check_batches(settings: Settings, site: Site) -> Findings:
    """Look for batches that go no further, and for what is missing between them."""
    with locks.reading(site.engine) as connection:
        findings = [of_problem("batches", one) for one in list_tried(site, connection)]
        still = {name for _, name in pauses.paused(connection, site.off)}
        for stuck in _stuck(connection):
            if stuck.state in _MAY_WAIT and _declared(site, stuck.channel) in still:
                continue  # said of the pause
            findings += _told(settings, site, connection, stuck)
        findings += _missing(settings, site, connection)
        for needs_a_person, problem in answers.refusals(site, connection, engine.now()):
            level = Level.FAULT if needs_a_person else Level.WARNING
            alarm = Alarm.QUARANTINED if needs_a_person else None
            findings.append(of_problem("batches", problem, level, alarm=alarm, subject=settings.peer))
    yield from findings
    if not findings:
        yield ok("batches", "none is quarantined, held or missing, and none waits")


def check_runs(_settings: Settings, site: Site) -> Findings:
    """Look whether exports or imports failed since a channel was last done."""
    with locks.reading(site.engine) as connection:
        failed = failed_runs.list_failed_runs(connection, names_that_run(site, connection))
    for one in failed:
        level = Level.FAULT if one.runs > 1 else Level.WARNING
        command = "exchange export" if one.direction is Direction.OUT else "exchange import"
        remedy = f"mend what it says; the next run tries again, and `{command}` does at once"
        alarm = Alarm.RUN_FAILED if one.runs > 1 else None  # one that failed is tried again
        yield Finding("runs", level, str(one), remedy, command, one.since, alarm, one.channel)
    if not failed:
        yield ok("runs", "no export or import failed since its channel was last done")


def check_agreement(_settings: Settings, site: Site) -> Findings:
    """Look for streams whose rows were found different and not repaired since, and for what was asked for in vain."""
    moment = engine.now()
    findings = [_differing(one, moment) for one in reconcile.report_agreement(site) if one.state == reconcile.DIFFERENT]
    asked = sa.select(repair).where(repair.c.state == RepairState.OPEN, repair.c.asked_at < moment - LONG)
    with locks.reading(site.engine) as connection:
        rows = connection.execute(asked.order_by(repair.c.asked_at).limit(10)).all()
        there = peer_state.read_peer_state(site, connection) if rows else None
        still = pauses.paused(connection, site.off) if rows else {}
        for row in rows:
            declared = _declared(site, row.channel)
            if (there and there.sends_nothing(declared)) or (Direction.IN, declared) in still:
                continue  # said of the pause
            said = f"a {row.want} of channel {row.channel} was asked for and has not come"
            remedy = f"see that {site.peer} runs and that files go both ways"
            if site.one_way:
                said += ", and nothing goes back on a one-way link"
                command = f"exchange resync {row.channel} --prune-missing"
                remedy = f"the next snapshot of all of it answers it; `{command}` on {site.peer} sends one at once"
            whole = {"alarm": Alarm.DISAGREEMENT, "subject": row.channel}
            findings += [warning("agreement", said, remedy, command="exchange status", since=row.asked_at, **whole)]
    yield from findings
    if not findings:
        yield ok("agreement", "no stream was found different that was not repaired")


_BY_REASON: Mapping[str, Whose] = {
    **dict.fromkeys((Reason.CORRUPT, Reason.INCOMPLETE), Whose.CARRIER),
    **dict.fromkeys((Reason.UNTRUSTED, Reason.LIMITS, Reason.LOOK_AHEAD), Whose.EITHER),
    **dict.fromkeys((Reason.CRASHED, Reason.TABLE), Whose.OURS),
}
"""Whose fault it is that a batch was quarantined; its sender's, for any other reason."""

_MAY_WAIT = frozenset({BatchState.SEALED, BatchState.WAITING})
"""Where a batch of a channel that is paused may well be."""


def _declared(site: Site, name: str) -> str:
    channel = site.channel(name)
    return name if channel is None else channel.declared


def _differing(one: StreamAgreement, moment: datetime) -> Finding:
    level = Level.FAULT if one.since is not None and moment - one.since > LONG else Level.WARNING
    command = f"exchange reconcile {one.channel} --report"
    said = f"stream {one.stream} of channel {one.channel} differs from its source"
    left = [row for row in one.left if not row.get("letter")]
    if not left and not one.unexplained:
        return ok("agreement", f"{said}; dead letters here or there explain all of it (`exchange dead-letters`)")
    if not left:
        remedy = f"`{command}` names the rows"
        return Finding("agreement", level, said, remedy, command, one.since, Alarm.DISAGREEMENT, one.stream)
    first = json.dumps(left[0]["key"])
    said += f"; {len(left)} of its rows were repaired in vain and are left, {printable(first, 200)} first"
    remedy = (
        f"see what changes or refuses them here (`{command}` says what differs), mend that, and"
        f" `exchange reconcile {one.channel}` repairs them again"
    )
    return Finding("agreement", Level.FAULT, said, remedy, command, one.since, Alarm.DISAGREEMENT, one.stream)


def _stuck(connection: Connection) -> Iterator[_Stuck]:
    at = position.alias("at")
    reached = (at.c.direction == batch.c.direction, at.c.channel == batch.c.channel, at.c.epoch == batch.c.epoch)
    ahead = sa.func.max(sa.case((batch.c.sequence > sa.func.coalesce(at.c.sequence, 0), 1), else_=0))
    lately = sa.func.sum(sa.case((batch.c.created_at >= engine.now() - _LATELY, 1), else_=0))
    which = (batch.c.state, batch.c.channel, batch.c.reason)
    query = (
        sa.select(
            *which,
            sa.func.count().label("batches"),
            lately.label("lately"),
            sa.func.min(batch.c.updated_at, type_=batch.c.updated_at.type).label("since"),
            sa.func.min(batch.c.stem).label("stem"),
            ahead.label("ahead"),
        )
        .select_from(batch.outerjoin(at, sa.and_(*reached)))
        .where(batch.c.state.in_(_SEEN_TO), sa.or_(batch.c.state != BatchState.QUARANTINED, ~ledger.was_applied_since))
        .group_by(*which)
        .order_by(*which)
    )
    for row in connection.execute(query):
        state = BatchState(row.state)
        yield _Stuck(state, row.channel, row.reason, row.batches, row.lately, row.since, row.stem, bool(row.ahead))


def _told(settings: Settings, site: Site, connection: Connection, stuck: _Stuck) -> list[Finding]:
    said = connection.scalar(
        sa.select(batch.c.message).where(batch.c.stem == stuck.stem).order_by(batch.c.id.desc()).limit(1)
    )
    # What its sentence says behind that is what a person may do, which the finding says in fewer words.
    said = (said or "").split("; it is quarantined", 1)[0]
    why = f": {printable(said, 300)}" if said else f" ({stuck.reason})" if stuck.reason else ""
    more = f"; the first is {stuck.stem}" if stuck.batches > 1 else ""
    since = stuck.since

    def found(level: Level, said: str, remedy: str, command: str, alarm: Alarm) -> Finding:
        return Finding("batches", level, f"{stuck.counted}: {said}", remedy, command, since, alarm, stuck.channel)

    match stuck.state:
        case BatchState.QUARANTINED:
            # Of what this side was told since it needs nothing more, nor of what the peer says anew all the time.
            level = Level.FAULT if stuck.ahead and stuck.channel != CONTROL else Level.WARNING
            channel = site.channel(stuck.channel)
            if level is Level.FAULT and channel is not None and channel.ordered:
                why += "; the channel stands still behind it"
            coming = stuck.reason in answers.FOR_RECORDS and channel is not None and channel.on_refused == "snapshot"
            remedy = (
                f"ask {settings.peer} about it; once its cause is mended `exchange replay` tries it again,"
                " `exchange batches reject` gives it up"
            )
            if level is Level.FAULT and coming and not site.one_way and engine.now() - since < LONG:
                level = Level.WARNING
                remedy = f"{settings.peer} is told, and sends a snapshot in its place"
            command = f"exchange quarantine show {stuck.stem}"
            one = found(level, f"quarantined{why}{more}", remedy, command, Alarm.QUARANTINED)
            return [replace(one, whose=_BY_REASON.get(stuck.reason or "", one.whose))]
        case BatchState.HELD if stuck.reason != Reason.UNPROVEN_EPOCH:  # of that the link tells
            command = f"exchange batches show {stuck.stem}"
            return [found(Level.FAULT, f"held for a person{why}{more}", "", command, Alarm.HELD)]
        case BatchState.WAITING if engine.now() - since > SOON:
            level = Level.FAULT if engine.now() - since > LONG else Level.WARNING
            remedy = "`exchange gaps` shows what others wait for"
            return [found(level, f"waiting{why}{more}", remedy, "exchange gaps", Alarm.GAP)]
        case BatchState.SEALED if engine.now() - since > SOON:
            remedy = "the next export publishes what is sealed; see why none did"
            return [found(Level.FAULT, "sealed and not published", remedy, "exchange export", Alarm.EXPORT_LATE)]
    return []


def _missing(settings: Settings, site: Site, connection: Connection) -> Iterator[Finding]:
    query = (
        sa.select(
            gap.c.channel,
            sa.func.count().label("batches"),
            sa.func.min(gap.c.sequence).label("first"),
            sa.func.max(gap.c.sequence).label("last"),
            sa.func.min(gap.c.noticed_at, type_=gap.c.noticed_at.type).label("since"),
        )
        .where(is_missing(gap), gap.c.channel > "")
        .group_by(gap.c.channel, gap.c.epoch)
        .order_by(gap.c.channel)
    )
    rows = connection.execute(query).all()
    if not rows:
        return
    still = pauses.paused(connection, site.off)
    there = peer_state.read_peer_state(site, connection)
    for row in rows:
        declared = _declared(site, row.channel)
        paused = (Direction.IN, declared) in still or there.sends_nothing(declared)
        by_itself = paused or (not site.one_way and engine.now() - row.since <= LONG)
        remedy = (
            "the channel is paused, and what is missing is seen to when it goes on"
            if paused
            else f"{settings.peer} is asked for what is missing by itself"
            if by_itself
            else f"`exchange gaps` says why and what to ask {settings.peer} for; `exchange gaps accept` goes on without"
        )
        some, which = "1 batch is", row.first
        if row.batches > 1:
            some, which = f"{row.batches} batches are", f"{row.first} to {row.last}"
        yield Finding(
            "batches",
            Level.WARNING if by_itself else Level.FAULT,
            f"of channel {row.channel} {some} missing, sequence {which}",
            remedy,
            f"exchange gaps --channel {row.channel}",
            row.since,
            Alarm.GAP,
            row.channel,
        )
