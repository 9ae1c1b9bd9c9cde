"""The work as it stands: dead letters, files that nobody vouches for or that were changed, and the other side."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from exchange.database import engine, locks, pauses
from exchange.database.tables import DeadLetterState
from exchange.dead_letters import background, counts
from exchange.format.moments import lasting
from exchange.link import peer_state
from exchange.link.peer_state import PeerState
from exchange.operating import status
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, Whose, of_problem, ok, warning
from exchange.settings import Settings
from exchange.site import Site

SILENT = timedelta(days=1)
"""Files may be on their way for long; what nobody acknowledged for so long needs a person."""


def check_letters(_settings: Settings, site: Site) -> Findings:
    """Look whether dead letters are parked, too many of them or one for too long, and whether they grow."""
    moment = engine.now()
    with locks.reading(site.engine) as connection:
        backlog = counts.backlog(connection)
        lately = sum(map(sum, counts.trends(connection, DeadLetterState.PARKED, moment).values()))
        stalled = background.stalled(connection)
        whose = _WHOSE.get(frozenset(counts.faults_there(connection))) if backlog.parked else None
    alarms = counts.backlog_alarms(backlog, site.limits, moment)
    if backlog.parked:
        before = f"{counts.TREND_HOURS} hours ago there were {backlog.parked - lately}"
        seen = f" (their records came {backlog.seen} times)" if backlog.seen > backlog.parked else ""
        some = "1 dead letter is" if backlog.parked == 1 else f"{backlog.parked} dead letters are"
        said = f"{some} parked{seen}; {before}"
        remedy = "`exchange dead-letters` shows them by cause"
        found = warning("letters", said, remedy, command="exchange dead-letters", since=backlog.oldest_at)
        yield replace(found, whose=whose or found.whose)
    else:
        yield ok("letters", "no dead letter is parked")
    for problem in stalled:
        yield of_problem("letters", problem)
    for alarm in alarms:
        found = of_problem("letters", alarm, Level.FAULT, alarm=Alarm.DEAD_LETTERS)
        yield replace(found, whose=whose or found.whose)


_WHOSE = {frozenset({"sender"}): Whose.THEIRS, frozenset({"here"}): Whose.OURS}
"""Whose fault dead letters are that have one in common; of others each cause says it."""


def check_paused(_settings: Settings, site: Site) -> Findings:
    """Look for channels that stand still, by a person's word or a setting's."""
    with locks.reading(site.engine) as connection:
        still = pauses.paused(connection, site.off)
    for _, one in sorted(still.items()):
        yield warning("paused", one.fact, one.remedy, command=one.command, since=one.since)
    if not still:
        yield ok("paused", "every channel runs")


def check_link(settings: Settings, site: Site) -> Findings:
    """Look whether the other side lives, what it could not take, and whether it says that it has what is published."""
    moment = engine.now()
    with locks.reading(site.engine) as connection:
        there = peer_state.read_peer_state(site, connection)
        unacknowledged = [
            status.unacknowledged_since(connection, one.name)
            for one in site.outgoing()
            if not there.takes_nothing_in(one.declared)
        ]
    clocks, findings = there.clocks(), []
    findings += [of_problem("link", one.told(settings.peer)) for one in there.paused]
    for sentence in there.troubles():
        remedy = f"see `exchange batches` here, and ask {settings.peer}"
        findings.append(warning("link", sentence, remedy, command="exchange batches"))
    since = min(filter(None, unacknowledged), default=None)
    if not there.one_way:
        findings += _unheard(settings, there, since, moment)
    silence = there.silence(moment)
    for problem in there.alarms(moment):
        level, alarm = Level.FAULT, Alarm.HALTED
        if problem == clocks:
            level, alarm = Level.WARNING, Alarm.CLOCK
        elif problem == silence:
            alarm = Alarm.LINK_SILENT if silence.since else Alarm.CLOCK
        elif problem in there.decisions:
            alarm = Alarm.HELD
        ours = there.halted is not None and problem.command == "exchange epoch list"
        subject = settings.network if ours else settings.peer
        findings.append(of_problem("link", problem, level, alarm=alarm, subject=subject))
    yield from findings
    if findings:
        return
    if there.life is None:
        yield ok("link", f"nothing comes back from {settings.peer}: what is published is unconfirmable")
        return
    heard = there.life.heard_at
    said = f"{settings.peer} was heard of {lasting(moment - heard)} ago"
    if since is not None:
        said += f"; the oldest unacknowledged batch is {lasting(moment - since)} old"
    yield ok("link", said, since=heard, subject=settings.peer)


def _unheard(settings: Settings, there: PeerState, since: datetime | None, moment: datetime) -> Findings:
    """Say that the other side never gave a sign of life, or that it leaves unsaid for too long what it has."""
    if there.life is None:
        level = Level.FAULT if since is not None and moment - since > SILENT else Level.WARNING
        remedy = f"see that {settings.peer} runs, that keys were exchanged, and that the carrier goes both ways"
        waits = ", and nothing that was published is acknowledged" if since else ""
        said = f"{settings.peer} was never heard of{waits}"
        alarm = Alarm.LINK_SILENT if level is Level.FAULT else None
        yield Finding("link", level, said, remedy, "exchange status", since, alarm, settings.peer)
    elif since is not None and since < there.life.heard_at - SILENT:
        remedy = f"see the carrier, and `exchange status` on {settings.peer}"
        said = f"a published batch is not acknowledged, though {settings.peer} was heard of since"
        command = "exchange batches --state published"
        yield Finding("link", Level.WARNING, said, remedy, command, since, Alarm.UNACKNOWLEDGED, settings.peer)
