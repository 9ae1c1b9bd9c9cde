"""Bring a database's tables up to this version, or down again, by Alembic's own means.

The migrations lie in branches: ``core`` is the exchange's own tables, ``reference`` those of the reference
application. They keep to a version table of their own and so live beside an application's migrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from exchange.alembic import NETWORK_ATTRIBUTE, OWN_ATTRIBUTE
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine
from exchange.database.locks import busy_for_others, reading
from exchange.operating import revisions as known_revisions
from exchange.operating.revisions import CORE, REFERENCE, VERSION_TABLE, UnknownRevision, location

__all__ = [
    "CORE",
    "REFERENCE",
    "VERSION_TABLE",
    "applied_revisions",
    "configured",
    "downgrade",
    "is_behind",
    "later_revisions",
    "location",
    "upgrade",
]

Target = str | Engine | Connection
"""A database: its URL, an engine, or a connection, whose transaction is then the caller's to commit."""

_LOCK = 0x65786368_6D696772
"""The advisory lock ("exchmigr") under which a PostgreSQL database is migrated by one process at a time."""


def upgrade(target: Target, branches: Sequence[str] = (CORE,), *, network: str | None = None) -> None:
    """Bring the branches up to their newest revision, in one transaction; may be repeated.

    A database of a later version stays as it is. ``network`` is this side's name (default: EXCHANGE_NETWORK); the
    reference branch needs it. Raises alembic's CommandError for what can't be done.
    """
    with configured(target, network) as config:
        connection = config.attributes["connection"]
        if later := later_revisions(applied_revisions(connection)):
            if is_behind(connection, branches):
                raise CommandError(
                    f"a later version brought it to {', '.join(later)}, and tables of {' or '.join(branches)} are"
                    " missing: let that version's `exchange migrate` make them"
                )
            return
        for branch in branches:
            command.upgrade(config, f"{branch}@head")


def downgrade(
    target: Target, branches: Sequence[str] = (CORE,), *, network: str | None = None, revision: str | None = None
) -> None:
    """Take the branches away, with the data in their tables, or back to a ``revision``, with what came behind it.

    Taking away ``core`` takes away ``reference``; it is refused while triggers still write to it.
    """
    with configured(target, network) as config:
        for one in [revision] if revision else [f"{branch}@base" for branch in branches]:
            command.downgrade(config, one)


def applied_revisions(target: Target) -> tuple[str, ...]:
    """Give the revisions that the database is at; none for one that was never migrated."""
    with _connected(target, reads=True) as connection:
        return known_revisions.read_revisions(connection)


def is_behind(target: Target, branches: Sequence[str] = (CORE,)) -> bool:
    """Say whether ``upgrade`` of these branches has anything to do; a database of a later version needs nothing."""
    at = applied_revisions(target)
    try:
        return known_revisions.is_behind(at, branches)
    except UnknownRevision as error:
        raise CommandError(str(error)) from error


def later_revisions(revisions: Sequence[str]) -> tuple[str, ...]:
    """Give those that a later version made. Raises CommandError for one that is neither ours nor later."""
    try:
        return known_revisions.later_revisions(revisions)
    except UnknownRevision as error:
        raise CommandError(str(error)) from error


def _new_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    return config


@contextmanager
def configured(target: Target, network: str | None) -> Iterator[Config]:
    """Give Alembic's configuration, with a connection to run migrations on, one process at a time.

    Raises Busy for a lock of somebody else's that lasts longer than the engine's patience, with who holds it.
    """
    config = _new_config()
    config.attributes[OWN_ATTRIBUTE] = True
    if network:
        config.attributes[NETWORK_ATTRIBUTE] = network
    with _connected(target) as connection:
        if dialect_of(connection).many_writers:  # on SQLite the transaction itself excludes others
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        yield config


@contextmanager
def _connected(target: Target, *, reads: bool = False) -> Iterator[Connection]:
    if isinstance(target, Connection):
        yield target
        return
    engine = make_engine(target) if isinstance(target, str) else target
    try:
        with busy_for_others(engine, "the database"), reading(engine) if reads else engine.begin() as connection:
            yield connection
    finally:
        if isinstance(target, str):
            engine.dispose()
