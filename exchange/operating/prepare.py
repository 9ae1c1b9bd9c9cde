"""A side made ready to run: folders, tables and the network's name in its database.

Apart from ``assemble`` because it loads Alembic, which most commands never need.
"""

from __future__ import annotations

import os

from alembic.util import CommandError

from exchange.database.dialects import dialect_of
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.database.network import known_epoch, open_network, refuse_hidden_tables
from exchange.files import call_secret
from exchange.format.errors import TransientError, printable
from exchange.intake import folders as drop_folders
from exchange.link import home
from exchange.operating import migrate
from exchange.operating.assemble import assemble, branches
from exchange.settings import Settings
from exchange.site import Site
from exchange.tables import capture


def prepare(settings: Settings, *, take_over: bool = False) -> Site:
    """Make all that ``make_ready`` makes, and give the site."""
    site = assemble(settings)
    try:
        make_ready(site, settings, take_over=take_over)
    except Exception:
        site.engine.dispose()
        raise
    return site


def make_ready(site: Site, settings: Settings, *, take_over: bool = False) -> None:
    """Make folders, tables and triggers as this version needs them; may be repeated.

    ``take_over`` is a person's word that no other home works with the database any more. Raises SettingsFaults, and
    TransientError if a folder or the database can't be made ready.
    """
    with transient_errors():
        site.spool.prepare(make=True)
        drop_folders.make_all(site, settings.intake_group_number, beyond=False)  # doctor says what was in the way
        call_secret.make(settings.home)
        _make_database_private(site)
        known = migrate.applied_revisions(site.engine)
        # Before anything changes: triggers for the wrong network would capture the wrong tables.
        with reading(site.engine) as connection:
            if known:
                known_epoch(connection, settings.network)
            else:
                refuse_hidden_tables(connection, settings.network)
        try:
            migrate.upgrade(site.engine, branches(settings), network=settings.network)
        except CommandError as error:
            raise TransientError(f"the database can't be migrated: {printable(str(error))}") from error
        if take_over:
            home.take_over(site)
        with site.engine.begin() as connection:
            open_network(connection, settings.network)
        home.check_home(site)
        with site.engine.begin() as connection:
            for channel in site.channels:
                for stream in channel.streams if channel.source == site.network else ():
                    capture.renew(connection, stream)


def _make_database_private(site: Site) -> None:
    """Make a SQLite file before SQLite does, who would let everybody read it."""
    if dialect_of(site.engine).is_sqlite and site.engine.url.database:
        os.close(os.open(site.engine.url.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def is_database_behind(settings: Settings) -> bool:
    """Tell whether the database lacks tables; no connection stays open, so that a fork may follow.

    False if the database is away: it comes back, and until then each task says so. Raises SettingsFaults.
    """
    engine = assemble(settings).engine
    try:
        with transient_errors():
            return migrate.is_behind(engine, branches(settings))
    except (TransientError, Busy):
        return False
    finally:
        engine.dispose()
