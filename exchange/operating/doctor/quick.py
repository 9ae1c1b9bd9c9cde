"""What is seen of the database at a glance, however much is in it: whatever somebody is told of is found here.

``exchange doctor`` looks at this and more (``database.py``); what watches a side looks at this alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from exchange.database import audit_chain, engine, locks, network
from exchange.database.dialects import dialect_of
from exchange.database.tables import event
from exchange.format.moments import in_words
from exchange.link import home
from exchange.operating import revisions
from exchange.operating.assemble import branches
from exchange.operating.doctor.batches import check_agreement, check_batches, check_runs
from exchange.operating.doctor.finding import (
    Alarm,
    DatabaseCheck,
    Findings,
    Level,
    fault,
    looked,
    of_problem,
    ok,
    warning,
)
from exchange.operating.doctor.handlers import check_answers
from exchange.operating.doctor.intake import check_intake, check_misplaced
from exchange.operating.doctor.presence import check_presence
from exchange.operating.doctor.requesters import check_api_keys
from exchange.operating.doctor.work import check_letters, check_link, check_paused
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture

MAX_DRIFT = timedelta(seconds=60)
"""How far this machine's clock and the database's may be apart, and how far the ledger may be ahead of ours."""


Checks = Sequence[tuple[str, DatabaseCheck]]


def look(settings: Settings, site: Site, checks: Checks, first: Checks | None = None) -> Findings:
    """Look at the database, then at all that ``checks`` look at in it, one finding after the other.

    One that can't be reached ends it, one that is not migrated ends it before its tables; any other fault ends nothing.
    ``first`` is ``FIRST``, or what asks the same less often.
    """
    missing = engine.missing_file(site.engine)
    if missing is not None:
        said, remedy = f"{missing} does not exist", "run `exchange migrate`, which makes it"
        yield fault("database", said, remedy, command="exchange migrate", alarm=Alarm.DATABASE)
        return
    where = f"see that {settings.shown_database_url} is right and runs"
    for check, step in FIRST if first is None else first:
        findings = looked(check, partial(step, settings, site), where, Alarm.DATABASE)
        yield from findings
        if any(finding.level is Level.FAULT for finding in findings):
            return
    for check, step in checks:
        yield from looked(check, partial(step, settings, site), "see the database's own log")


def check_reached(settings: Settings, site: Site) -> Findings:
    """Ask the database something."""
    with locks.reading(site.engine) as connection:
        connection.execute(sa.select(1))
    yield ok("database", f"{settings.shown_database_url} answers")


def check_migrations(settings: Settings, site: Site) -> Findings:
    """Look whether the database has the tables of this version, and is this network's."""
    with locks.reading(site.engine) as connection:
        at = revisions.read_revisions(connection)
    try:
        later, behind = revisions.later_revisions(at), revisions.is_behind(at, branches(settings))
    except revisions.UnknownRevision as error:
        yield fault("migrations", str(error), "name this side's own database", alarm=Alarm.MIGRATIONS)
        return
    if behind:
        said = "the database is not as this version needs it"
        yield fault("migrations", said, command="exchange migrate", alarm=Alarm.MIGRATIONS)
        return
    with locks.reading(site.engine) as connection:
        epoch = network.known_epoch(connection, settings.network)
    if epoch is None:
        said = "the database has no epoch yet"
        yield fault("migrations", said, command="exchange migrate", alarm=Alarm.MIGRATIONS)
    elif later:
        yield ok(
            "migrations", f"at {', '.join(later)} of a later version, whose tables this one works on; epoch {epoch}"
        )
    else:
        yield ok("migrations", f"up to date; epoch {epoch}")


def check_home(_settings: Settings, site: Site) -> Findings:
    """Look whether another home works with the database."""
    with locks.reading(site.engine) as connection:
        other = home.other_home(site, connection)
    if other is not None:
        yield of_problem("database", other, Level.FAULT, alarm=Alarm.DATABASE)


def check_audit(_settings: Settings, site: Site) -> Findings:
    """Look whether the audit's triggers are there."""
    with locks.reading(site.engine) as connection:
        missing = audit_chain.missing_triggers(connection)
    if missing:
        remedy, command = "run `exchange audit verify`, and ask who took them away", "exchange audit verify"
        yield warning("audit", missing, remedy, command=command, alarm=Alarm.TRIGGERS, subject="audit")
    else:
        yield ok("audit", "rows are only ever added to it")


def check_tables(_settings: Settings, site: Site) -> Findings:
    """Look whether the table of each stream is there, and as it should be."""
    sent = {stream: channel.source == site.network for channel in site.channels for stream in channel.streams}
    well = True
    with locks.reading(site.engine) as connection:
        shared = capture.shared_tables(connection, sent)
        found = {
            name: problems
            for captured in (True, False)
            for name, problems in capture.check_all(
                connection, [stream for stream, here in sent.items() if here is captured], captured=captured
            ).items()
        }
    for stream in sent:
        for problem in [*found[stream.name], *([shared[stream.name]] if stream.name in shared else ())]:
            well = well and problem.minor
            level, alarm = (Level.WARNING, None) if problem.minor else (Level.FAULT, Alarm.TRIGGERS)
            yield of_problem("tables", problem, level, alarm=alarm, subject=stream.name)
    if well:
        yield ok("tables", "every stream has its table, and there its triggers or, if it is received, exchange_version")


def check_database_clock(_settings: Settings, site: Site) -> Findings:
    """Compare this machine's clock with the database's and with the ledger."""
    with locks.reading(site.engine) as connection:
        ours = engine.now()
        newest = connection.scalar(sa.select(event.c.at).order_by(event.c.id.desc()).limit(1))
        theirs = connection.scalar(sa.select(sa.func.now())) if dialect_of(connection).is_postgresql else None
    if newest is not None and newest - ours > MAX_DRIFT:
        yield fault(
            "clock",
            f"it says {in_words(ours)}, but the ledger has an entry of {newest:%Y-%m-%d %H:%M:%S}",
            "set the clock, and have NTP keep it",
            alarm=Alarm.CLOCK,
            subject="ledger",
        )
    if theirs is not None and abs(theirs - ours) > MAX_DRIFT:
        yield fault(
            "clock",
            f"this machine and the database's are {abs(theirs - ours).total_seconds():.0f} seconds apart",
            "set both clocks, and have NTP keep them",
            alarm=Alarm.CLOCK,
            subject="database",
        )


FIRST: Checks = (("database", check_reached), ("database", check_migrations))
"""What everything behind it depends on."""

TABLES: Checks = (
    ("database", check_home),
    ("audit", check_audit),
    ("tables", check_tables),
    ("clock", check_database_clock),
)
"""What is looked at in tables that are as this version needs them, one independent of the other."""

SELDOM: tuple[DatabaseCheck, ...] = (check_migrations, check_home, check_audit, check_tables)
"""What looks at what only a person changes."""

WORK: Checks = (
    ("work", check_presence),
    ("letters", check_letters),
    ("files", check_misplaced),
    ("files", check_intake),
    ("requests", check_api_keys),
    ("batches", check_batches),
    ("runs", check_runs),
    ("agreement", check_agreement),
    ("paused", check_paused),
    ("link", check_link),
    ("answers", check_answers),
)
"""The same of what people have to do, which is no fault of the installation's."""
