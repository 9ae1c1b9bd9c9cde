"""Bring a database's tables up to this version, or down again, by Alembic's own means.

The migrations lie in branches: ``core`` is the exchange's own tables, ``reference`` those of the reference
application. They keep to a version table of their own and so live beside an application's migrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from exchange.alembic import NETWORK_ATTRIBUTE, OWN_ATTRIBUTE
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine
from exchange.database.locks import busy_for_others, reading
from exchange.format.errors import printable

CORE = "core"
REFERENCE = "reference"
VERSION_TABLE = "exchange_alembic_version"

Target = str | Engine | Connection
"""A database: its URL, an engine, or a connection, whose transaction is then the caller's to commit."""

_LOCK = 0x65786368_6D696772
"""The advisory lock ("exchmigr") under which a PostgreSQL database is migrated by one process at a time."""


def upgrade(target: Target, branches: Sequence[str] = (CORE,), *, network: str | None = None) -> None:
    """Bring the branches up to their newest revision, in one transaction; may be repeated.

    A database of a later version stays as it is. ``network`` is this side's name (default: EXCHANGE_NETWORK); the
    reference branch needs it. Raises alembic's CommandError for what can't be done.
    """
    with _config(target, network) as config:
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


def downgrade(target: Target, branches: Sequence[str] = (CORE,), *, network: str | None = None) -> None:
    """Take the branches away, with the data in their tables.

    Taking away ``core`` takes away ``reference``; it is refused while triggers still write to it.
    """
    with _config(target, network) as config:
        for branch in branches:
            command.downgrade(config, f"{branch}@base")


def applied_revisions(target: Target) -> tuple[str, ...]:
    """Give the revisions that the database is at; none for one that was never migrated."""
    with _connected(target, reads=True) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_heads()


def is_behind(target: Target, branches: Sequence[str] = (CORE,)) -> bool:
    """Say whether ``upgrade`` of these branches has anything to do; a database of a later version needs nothing."""
    script = ScriptDirectory.from_config(_new_config())
    with _connected(target, reads=True) as connection:
        at = applied_revisions(connection)
    later = later_revisions(at)
    ours = tuple(one for one in at if one not in later)
    have = {revision.revision for revision in script.iterate_revisions(ours, "base", implicit_base=True)}
    needed = {script.as_revision_number(f"{one}@head") for one in branches if one not in _branches_of(later)}
    return not needed <= have


def later_revisions(revisions: Sequence[str]) -> tuple[str, ...]:
    """Give those of a database's revisions that a later version of this program made, whose tables this one works on.

    A revision is known by its branch and number; between neighbours one only adds (ARCHITECTURE.md, "Migrations").
    Raises CommandError for one that is neither ours nor later.
    """
    script = ScriptDirectory.from_config(_new_config())
    known = {one.revision for one in script.walk_revisions()}
    later = tuple(one for one in revisions if one not in known)
    for one in later:
        branch, _, number = one.rpartition("_")
        newest = script.as_revision_number(f"{branch}@head") if branch in (CORE, REFERENCE) else None
        if newest is None or not number.isdecimal() or int(number) <= int(str(newest).rpartition("_")[2]):
            raise CommandError(
                f"the database is at revision {printable(one, 80)}, which no version of this program made; nothing was"
                " done"
            )
    return later


def _branches_of(revisions: Sequence[str]) -> set[str]:
    return {one.rpartition("_")[0] for one in revisions}


def location() -> Path:
    """Where the migrations lie: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    installed = package / "_data" / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _new_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    return config


@contextmanager
def _config(target: Target, network: str | None) -> Iterator[Config]:
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
