"""The work as it stands: dead letters, files that nobody vouches for or that were changed, and the other side."""

from __future__ import annotations

from datetime import datetime, timedelta

from exchange.database import engine, locks, pauses
from exchange.database.tables import DeadLetterState
from exchange.dead_letters import counts
from exchange.format.errors import TransientError
from exchange.format.moments import lasting
from exchange.incoming import stranger_counts
from exchange.incoming.arrivals import left_alone
from exchange.link import peer_state
from exchange.link.peer_state import PeerState
from exchange.operating import status
from exchange.operating.channels import waiting_files
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, of_problem, ok, warning
from exchange.operating.retention_clock import MOST_STEP, RetentionClock
from exchange.operating.strays import find_strays
from exchange.outgoing.leftover import read_leftovers
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
    alarms = counts.backlog_alarms(backlog, site.limits, moment)
    if backlog.parked:
        before = f"{counts.TREND_HOURS} hours ago there were {backlog.parked - lately}"
        seen = f" (their records came {backlog.seen} times)" if backlog.seen > backlog.parked else ""
        said = f"{backlog.parked} dead letters are parked{seen}; {before}"
        remedy = "`exchange dead-letters` shows them by cause"
        yield warning("letters", said, remedy, command="exchange dead-letters", since=backlog.oldest_at)
    else:
        yield ok("letters", "no dead letter is parked")
    for alarm in alarms:
        yield of_problem("letters", alarm, Level.FAULT, alarm=Alarm.DEAD_LETTERS)


def check_pending(_settings: Settings, site: Site) -> Findings:
    """Look for changes that no export takes."""
    leftovers = read_leftovers(site)
    for one in leftovers:
        yield of_problem("pending", one.problem)
    if not leftovers:
        yield ok("pending", "every change that waits is of a stream that is sent from here")


def check_paused(_settings: Settings, site: Site) -> Findings:
    """Look for channels that stand still, by a person's word or a setting's, and how much room their files have."""
    with locks.reading(site.engine) as connection:
        still = pauses.paused(connection, site.off)
    for _, one in sorted(still.items()):
        yield warning("paused", one.fact, one.remedy, command=one.command, since=one.since)
    if still and (waiting := waiting_files(site)) is not None:
        yield of_problem("paused", waiting)
    if not still:
        yield ok("paused", "every channel runs")


def check_strangers(_settings: Settings, site: Site) -> Findings:
    """Look whether files come that nobody vouches for, and whether more of them are kept than may be."""
    with locks.reading(site.engine) as connection:
        news = stranger_counts.recent_strangers(connection)
    for group in news:
        yield of_problem("strangers", group.problem)
    full = stranger_counts.lack_of_room(site)
    if full is not None:
        yield of_problem("strangers", full, alarm=Alarm.DISK, subject="strangers")
    if not news:
        yield ok("strangers", "of late nothing came that nobody vouches for")


def check_arrivals(_settings: Settings, site: Site) -> Findings:
    """Look for what carriers made of batches' files, so that they can't be taken."""
    try:
        groups = left_alone(site.spool.list_arrivals(), site.limits)
    except TransientError:
        return  # what is wrong with the folder is said of the folder
    for group in groups:
        level, alarm = (Level.FAULT, Alarm.FOLDER) if group.needs_a_person else (Level.WARNING, None)
        yield of_problem("arrivals", group.problem, level, alarm=alarm, subject="incoming")
    if not groups:
        yield ok("arrivals", "nothing lies in incoming that its carrier changed")


def check_strays(_settings: Settings, site: Site) -> Findings:
    """Look for files that nothing speaks of, and rows whose files are gone."""
    retained = RetentionClock(site.spool.folders)
    try:
        problems = find_strays(site, retained.before(site.limits.retention_days))
    except TransientError:
        return  # what is wrong with the folder is said of the folder
    for problem in problems:
        yield of_problem("strays", problem)
    if retained.leap > MOST_STEP or retained.leap < 0:
        yield warning(
            "strays",
            f"by the clock the last prune was {retained.leap / 86_400:.1f} days ago: none ran, or the clock was"
            " changed; that time makes nothing older",
            "see that beat runs and the clock is right",
            command="exchange prune",
        )
    elif not problems:
        yield ok("strays", "every file has its row and every row its files")


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
