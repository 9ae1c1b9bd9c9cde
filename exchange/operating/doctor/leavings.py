"""What lies about: changes that no export takes, files that nobody vouches for or speaks of."""

from __future__ import annotations

from exchange.database import locks, pauses
from exchange.format.errors import TransientError
from exchange.incoming import stranger_counts
from exchange.incoming.arrivals import left_alone
from exchange.operating.channels import waiting_files
from exchange.operating.doctor.finding import Findings, Level, of_problem, ok, warning
from exchange.operating.retention_clock import MOST_STEP, RetentionClock
from exchange.operating.strays import find_strays
from exchange.outgoing.leftover import read_leftovers
from exchange.settings import Settings
from exchange.site import Site


def check_pending(_settings: Settings, site: Site) -> Findings:
    """Look for changes that no export takes."""
    leftovers = read_leftovers(site)
    for one in leftovers:
        yield of_problem("pending", one.problem)
    if not leftovers:
        yield ok("pending", "every change that waits is of a stream that is sent from here")


def check_paused_files(_settings: Settings, site: Site) -> Findings:
    """Look how much room the files of channels have that stand still."""
    with locks.reading(site.engine) as connection:
        still = pauses.paused(connection, site.off)
    if still and (waiting := waiting_files(site)) is not None:
        yield of_problem("paused", waiting)


def check_strangers(_settings: Settings, site: Site) -> Findings:
    """Look whether files come that nobody vouches for, and whether more of them are kept than may be."""
    with locks.reading(site.engine) as connection:
        news = stranger_counts.recent_strangers(connection)
    for group in news:
        yield of_problem("strangers", group.problem)
    full = stranger_counts.lack_of_room(site)
    if full is not None:
        yield of_problem("strangers", full)
    if not news:
        yield ok("strangers", "of late nothing came that nobody vouches for")


def check_arrivals(_settings: Settings, site: Site) -> Findings:
    """Look for what carriers made of batches' files, so that they can't be taken."""
    try:
        groups = left_alone(site.spool.list_arrivals(), site.limits)
    except TransientError:
        return  # what is wrong with the folder is said of the folder
    for group in groups:
        yield of_problem("arrivals", group.problem, Level.FAULT if group.needs_a_person else Level.WARNING)
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
