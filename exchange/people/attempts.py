"""Attempts to sign in: those that failed within a while make the next one wait, by name and by address.

What is counted is written before a password is looked at: who asks many times at once is counted as often.
"""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import wait_for, writing
from exchange.database.tables import sign_in

WINDOW = timedelta(minutes=15)
FREE_OF_A_NAME = 5
FREE_OF_AN_ADDRESS = 20
"""So many failures within the window cost nothing; each further one doubles the pause, from a second on."""
LONGEST_OF_A_NAME = timedelta(minutes=1)
"""A short one: else whoever knows a name keeps its owner out."""
LONGEST_OF_AN_ADDRESS = timedelta(minutes=5)
MOST_KEPT = 10_000
_LOCK = "sign-in"


class TooOften(Exception):  # noqa: N818 - an answer to a person
    """Too many attempts failed lately: the next one is looked at after ``wait``."""

    def __init__(self, wait: timedelta) -> None:
        self.seconds = max(int(wait.total_seconds()), 1)
        super().__init__(f"too many attempts failed; try again in {self.seconds} seconds")


def begin_attempt(engine: Engine, name: str, address: str) -> int:
    """Count an attempt as failed until it is not, and give its number. Raises TooOften, Busy, TransientError.

    Commits a transaction of its own.
    """
    moment = now()
    row = {"name": _digest(name), "address": network_of(address)}
    with transient_errors(), writing(engine) as connection:
        wait_for(connection, _LOCK)
        connection.execute(sa.delete(sign_in).where(_is_over(moment)))
        bounds = (
            (sign_in.c.name, row["name"], FREE_OF_A_NAME, LONGEST_OF_A_NAME),
            (sign_in.c.address, row["address"], FREE_OF_AN_ADDRESS, LONGEST_OF_AN_ADDRESS),
        )
        waits = [_wait(connection, column == value, free, longest) for column, value, free, longest in bounds]
        number = None
        if max(waits) <= timedelta(0):
            inserting = sa.insert(sign_in).values(**row, at=moment).returning(sign_in.c.id)
            number = connection.execute(inserting).scalar_one()
            _keep_few(connection)
    if number is None:
        raise TooOften(max(waits))
    return int(number)


def forget_attempts(connection: Connection, number: int, name: str) -> None:
    """Take an attempt for what it was, none that failed, and with it those of its name. Writes in the caller's."""
    connection.execute(sa.delete(sign_in).where(sa.or_(sign_in.c.id == number, sign_in.c.name == _digest(name))))


def sweep_attempts(connection: Connection) -> int:
    """Remove attempts of a while ago; give how many. Writes in the caller's transaction."""
    return len(connection.execute(sa.delete(sign_in).where(_is_over(now())).returning(sign_in.c.id)).all())


def network_of(address: str) -> str:
    """Give what counts as one address: of IPv6 the network, as whoever has one has all of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:63]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _wait(connection: Connection, which: sa.ColumnElement[bool], free: int, longest: timedelta) -> timedelta:
    """Say how long the next attempt has to wait from now on."""
    count, latest = connection.execute(sa.select(sa.func.count(), sa.func.max(sign_in.c.at)).where(which)).one()
    if count < free or latest is None:
        return timedelta(0)
    pause = min(timedelta(seconds=2 ** min(count - free, 20)), longest)
    return pause - clock.since(latest)


def _is_over(moment: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(sign_in.c.at < moment - WINDOW, sign_in.c.at > moment + clock.SKEW)


def _keep_few(connection: Connection) -> None:
    edge = connection.scalar(sa.select(sign_in.c.id).order_by(sign_in.c.id.desc()).offset(MOST_KEPT).limit(1))
    if edge is not None:
        connection.execute(sa.delete(sign_in).where(sign_in.c.id <= edge))


def _digest(name: str) -> str:
    return hashlib.sha256(name.strip().lower().encode("utf-8", "surrogateescape")).hexdigest()
