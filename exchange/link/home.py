"""Whose home works with this database: one alone, for of two each would miss what the other one took.

What one exports lies in its folders alone, and each repairs what the other one fed.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import network
from exchange.files import home_id
from exchange.format.errors import Problem, TransientError, printable
from exchange.site import Site


def check_home(site: Site) -> None:
    """See that no other home works with this database, and have it be this one's if it is nobody's yet.

    Raises TransientError. Commits a transaction of its own where it writes.
    """
    with transient_errors():
        with reading(site.engine) as connection:
            refuse_other_home(site, connection)
            is_free = connection.scalar(_IS_FREE)
        if is_free:
            with suppress(Busy), writing(site.engine) as connection:
                connection.execute(_taking(site).where(network.c.home.is_(None)))


def refuse_other_home(site: Site, connection: Connection) -> None:
    """See that no other home works with this database. Raises TransientError. Reads in the caller's transaction."""
    problem = other_home(site, connection)
    if problem is not None:
        raise TransientError(f"{problem.message}; nothing was done; {problem.remedy}")


def take_over(site: Site) -> None:
    """Have the database be this home's, at a person's word that no other one works with it any more.

    Raises TransientError. Commits a transaction of its own.
    """
    with transient_errors(), writing(site.engine) as connection:
        connection.execute(_taking(site))


def _taking(site: Site) -> sa.Update:
    home = site.spool.folders.home
    return sa.update(network).values(home=home_id.write(home), home_place=_place(home))


def other_home(site: Site, connection: Connection) -> Problem | None:
    """Say which other home works with this database; None if there is none. Reads in the caller's transaction.

    A home that moved, or is mounted elsewhere, is known by its number, and one that was restored without it by its
    place; a copy is not it while what it was copied from is still there. Raises OSError.
    """
    row = connection.execute(_HOME).one_or_none()
    if row is None or row.home is None:
        return None
    home = site.spool.folders.home
    mine, place = site.spool.home_id, _place(home)
    if mine is None and row.home_place == place:
        mine = home_id.write(home, row.home)
    if mine == row.home and not (row.home_place != place and _is_copied(home, row.home_place, row.home)):
        return None
    return Problem(
        f"this database is that of the home {printable(row.home_place)}, and EXCHANGE_HOME is {printable(str(home))}:"
        " of two homes over one database each would miss what the other one took",
        "give this one a database of its own; if that home is gone for good, `exchange migrate --take-over` goes on"
        " with this one",
    )


_HOME = sa.select(network.c.home, network.c.home_place)
_IS_FREE = sa.select(network.c.home.is_(None))


def _place(home: Path) -> str:
    return f"{socket.gethostname()}:{home.resolve()}"


def _is_copied(home: Path, place: str, number: str) -> bool:
    """Say whether the home of that number is still where it was, beside this one of the same number."""
    host, _, path = place.partition(":")
    other = Path(path)
    try:
        return host == socket.gethostname() and home_id.read(other) == number and not other.samefile(home)
    except OSError:  # what is there now is not ours to see
        return False
