"""The work as it stands: dead letters, batches that failed, files that nobody vouches for, and the other side."""

from __future__ import annotations

from exchange.database import engine, locks
from exchange.dead_letters import counts
from exchange.format.errors import TransientError
from exchange.incoming import stranger_counts
from exchange.incoming.arrivals import left_alone
from exchange.incoming.failure_list import list_failures
from exchange.link import peer_state
from exchange.operating import status
from exchange.operating.doctor.finding import Findings, Level, found, ok, warning
from exchange.outgoing.leftover import read_leftovers
from exchange.settings import Settings
from exchange.site import Site


def check_letters(_settings: Settings, site: Site) -> Findings:
    """Look whether too many dead letters are parked, or one for too long."""
    alarms = counts.alarms(site)
    for alarm in alarms:
        yield found("letters", alarm)
    if not alarms:
        yield ok("letters", "of the dead letters none is too old, nor are too many parked")


def check_batches(_settings: Settings, site: Site) -> Findings:
    """Look for batches that could not be taken in, whatever it was about them."""
    with locks.reading(site.engine) as connection:
        failures = list_failures(site, connection)
    for failure in failures:
        yield found("batches", failure)
    if not failures:
        yield ok("batches", "none failed as it was taken in")


def check_pending(_settings: Settings, site: Site) -> Findings:
    """Look for changes that no export takes."""
    leftovers = read_leftovers(site)
    for one in leftovers:
        yield found("pending", one.problem)
    if not leftovers:
        yield ok("pending", "every change that waits is of a stream that is sent from here")


def check_strangers(_settings: Settings, site: Site) -> Findings:
    """Look whether files come that nobody vouches for, and whether more of them are kept than may be."""
    with locks.reading(site.engine) as connection:
        news = stranger_counts.recent_strangers(connection)
    for group in news:
        yield found("strangers", group.problem)
    full = stranger_counts.lack_of_room(site)
    if full is not None:
        yield found("strangers", full)
    if not news:
        yield ok("strangers", "of late nothing came that nobody vouches for")


def check_arrivals(_settings: Settings, site: Site) -> Findings:
    """Look for what carriers made of batches' files, so that they can't be taken."""
    try:
        groups = left_alone(site.spool.list_arrivals(), site.limits)
    except TransientError:
        return  # what is wrong with the folder is said of the folder
    for group in groups:
        yield found("arrivals", group.problem)
    if not groups:
        yield ok("arrivals", "nothing lies in incoming that its carrier changed")


def check_link(settings: Settings, site: Site) -> Findings:
    """Look whether the other side lives, and what it could not take."""
    moment = engine.now()
    with locks.reading(site.engine) as connection:
        there = peer_state.read_peer_state(site, connection)
        oldest = [status.unacknowledged_since(connection, one.name) for one in site.outgoing()]
    alarms = list(there.alarms(moment))
    for alarm in alarms:
        yield found("link", alarm, Level.FAULT if str(alarm) == there.halted else Level.WARNING)
    troubles = list(there.troubles())
    for sentence in troubles:
        yield warning("link", sentence, f"see `exchange batches` here, and ask {settings.peer}")
    if alarms or troubles:
        return
    if there.life is None and there.one_way and site.outgoing():
        said = f"nothing comes back from {settings.peer}: what is published is unconfirmable"
    elif there.life is None:
        said = f"{settings.peer} was never heard of"
    else:
        said = f"{settings.peer} was heard of {peer_state.lasting(moment - there.life.heard_at)} ago"
    since = min(filter(None, oldest), default=None)
    if since is not None and not there.one_way:
        said += f"; the oldest unacknowledged batch is {peer_state.lasting(moment - since)} old"
    yield ok("link", said)
