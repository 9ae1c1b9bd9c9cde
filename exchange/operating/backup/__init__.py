"""Backups: one folder each, of one moment, signed; made by hand or by beat, tried, listed, and in time let go of.

What is in one: the database (all of it that PostgreSQL's ``pg_dump`` takes, or SQLite's file), this side's keys if
there is a recipient to encrypt them to, the settings without secrets, and which batches' files this side keeps. Roles,
and what belongs to the server and not to the database, are not in it; nor are batches' files, of which the other side
or a snapshot has what is missing.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from exchange import __version__
from exchange.database import clock
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine, sqlite_url
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.files import key_archive
from exchange.files.keys import KeyFault
from exchange.files.pid_lock import holding_name
from exchange.format.as_dict import AsDict
from exchange.format.backup_file import BackupFile, BackupManifest, Contents
from exchange.format.errors import TransientError, Untrusted, printable
from exchange.format.signed_file import FileFault
from exchange.format.signing import TrustedKeys
from exchange.operating import backup_state
from exchange.operating.backup import databases, folder, kept_files, postgresql, sqlite
from exchange.operating.backup.contents import differences, read_contents
from exchange.operating.retention_clock import RetentionClock
from exchange.settings import Settings
from exchange.site import Site

BACKUP_LOCK = "backup"

DUMPS = {"postgresql": "database.dump", "sqlite": "database.sqlite"}
SETTINGS_FILE, KEPT_FILE, KEYS_FILE = "settings.json", "archive.jsonl", "keys.tar.age"


@dataclass(frozen=True)
class BackedUp(AsDict):
    """A backup that was made, and how many old ones went."""

    folder: Path
    created_at: datetime
    rows: int
    bytes: int
    keys: bool
    seconds: float
    removed: int
    manifest: BackupManifest = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        said = super().as_dict() | {"folder": str(self.folder), "epoch": self.manifest.contents.epoch}
        said.pop("manifest")
        return said


@dataclass(frozen=True)
class Verified(AsDict):
    """A backup that was restored into a scratch database and compared."""

    name: str
    created_at: datetime
    signed_by: str
    rows: int
    tables: int
    streams: int
    differences: tuple[str, ...]
    seconds: float


def back_up(site: Site, settings: Settings, to: Path | None = None, recipient: str | None = None) -> BackedUp:
    """Make a backup below a folder, that of the settings if none is named, and let go of old ones there.

    Whatever ends it leaves nothing that looks like one. Others go on working. Raises TransientError, KeyFault, and Busy
    while another one is made.
    """
    where = to or settings.backup_to
    if where is None:
        raise TransientError("no folder is named: give --to, or set EXCHANGE_BACKUP_TO; nothing was done")
    try:
        with transient_errors(), _alone(settings):
            done = _back_up(site, settings, where, recipient or settings.backup_recipient)
            backup_state.note_made(settings.home, done.folder)
            before = RetentionClock(site.spool.folders).before(settings.backup_days)
            return replace(done, removed=folder.remove_old(where, site.own, site.network, before))
    except (TransientError, KeyFault, sqlite3.Error) as error:
        backup_state.note_failed(settings.home, str(error))
        if isinstance(error, sqlite3.Error):
            raise TransientError(f"SQLite can't be copied: {printable(str(error))}; nothing was done") from error
        raise


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Make one at a time. Raises Busy."""
    with holding_name(settings.run_folder / "backup.lock", BACKUP_LOCK) as alone:
        if not alone:
            raise Busy("the backup", "another process makes one", None)
        yield


def _back_up(site: Site, settings: Settings, where: Path, recipient: str | None) -> BackedUp:
    begun = clock.now()
    folder.refuse_folder(where, (settings.outgoing, settings.incoming))
    key = site.signing_key
    if key is None:
        raise TransientError("there is no key to sign the backup with; nothing was done: `exchange keys new` makes one")
    if recipient is not None:
        key_archive.check_recipient(recipient)
    with folder.drafting(where) as draft:
        with reading(site.engine, one_moment=True) as connection:
            database, contents = _dump(site, settings, connection, draft)
            kept_files.write_list(connection, site.spool.folders, draft / KEPT_FILE)
        (draft / SETTINGS_FILE).write_text(json.dumps(shown_settings(settings), indent=1) + "\n")
        keys = None
        if recipient is not None:
            (draft / KEYS_FILE).write_bytes(key_archive.pack(settings.keys_folder, recipient))
            keys = {"file": KEYS_FILE, "recipient": recipient}

        def manifest(files: tuple[BackupFile, ...]) -> BackupManifest:
            """Say what all of it is."""
            return BackupManifest(
                network=site.network,
                peer=site.peer,
                created_at=begun,
                producer=f"exchange {__version__}",
                signing=key.fingerprint,
                database=database,
                contents=contents,
                keys=keys,
                files=files,
            )

        name = f"{site.network}-{begun:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        final = folder.finish(draft, name, key, manifest)
    said = folder.read_manifest(final, site.own)
    seconds = (clock.now() - begun).total_seconds()
    return BackedUp(final, begun, said.rows, said.bytes, keys is not None, seconds, 0, said)


def _dump(site: Site, settings: Settings, connection: Connection, draft: Path) -> tuple[dict[str, Any], Contents]:
    """Write the database into a file, and read what it has, in one transaction that sees one moment."""
    if dialect_of(connection).is_sqlite:
        contents = read_contents(site, connection)  # first: by it the transaction begins to see
        sqlite.dump(connection, draft / DUMPS["sqlite"])
        return {"kind": "sqlite", "file": DUMPS["sqlite"], "by": sqlite.version(), "what": "the whole file"}, contents
    file, programs = draft / DUMPS["postgresql"], settings.pg_bin
    shape = databases.shape(connection)
    version = str(connection.exec_driver_sql("SHOW server_version").scalar()).split()[0]
    with postgresql.dumping(settings.database_url, connection, file, programs, settings.lock_seconds) as by:
        contents = read_contents(site, connection)
    what = "the whole database, in all its schemas; neither roles nor rights to the database itself"
    database = {"kind": "postgresql", "file": file.name, "by": by, "server": version, "what": what, "shape": shape}
    return database, contents


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Give the settings without what may be secret: of URLs what people see of them, or nothing."""
    said = settings.model_dump(mode="json")
    for name, one in type(settings).model_fields.items():
        if not one.repr:
            said[name] = None
    return said | {"database_url": settings.shown_database_url}


def verify_backup(
    site: Site, settings: Settings, backup: Path, trusted: TrustedKeys, scratch: str | None = None
) -> Verified:
    """Check a backup's signature and every byte, restore it into a scratch database, compare that, and remove it.

    Raises FileFault, Untrusted, and TransientError where there is no database to try it in.
    """
    begun = clock.now()
    with transient_errors():
        said = folder.read_manifest(backup, trusted)
        folder.check_files(backup, said)
        with _scratch(settings, said, backup, scratch) as url:
            found = contents_of(site, url)
    wrong = tuple(differences(said.contents, found))
    seconds = (clock.now() - begun).total_seconds()
    tables, streams = len(said.contents.tables), len(said.contents.streams)
    return Verified(backup.name, said.created_at, said.signing, said.rows, tables, streams, wrong, seconds)


@contextmanager
def _scratch(settings: Settings, said: BackupManifest, backup: Path, scratch: str | None) -> Iterator[str]:
    """Give the URL of a database that a backup was restored into, which is gone behind the block."""
    dump = backup / said.database["file"]
    if said.database["kind"] == "sqlite":
        with tempfile.TemporaryDirectory(prefix="exchange-", dir=settings.home) as place:
            file = Path(place) / "scratch.db"
            sqlite.restore(dump, file)
            yield sqlite_url(file)
        return
    lent = databases.lent_trial(scratch) if scratch else databases.trial(settings.database_url, said.database["shape"])
    with lent as url:
        server = said.database["server"]
        postgresql.restore(url, dump, settings.pg_bin, server, plain=True, whole=scratch is not None)
        yield url


def contents_of(site: Site, url: str) -> Contents:
    """Read what a restored database has."""
    engine = make_engine(url)
    try:
        with reading(engine, one_moment=True) as connection:
            return read_contents(site, connection)
    finally:
        engine.dispose()


def list_backups(site: Site, settings: Settings, where: Path | None = None) -> list[folder.Found]:
    """List the backups below a folder, the newest first. Raises TransientError."""
    place = where or settings.backup_to
    if place is None:
        raise TransientError("no folder is named: give --to, or set EXCHANGE_BACKUP_TO")
    with transient_errors():
        return folder.listed(place, site.own, site.network)


__all__ = [
    "BackedUp",
    "FileFault",
    "Untrusted",
    "Verified",
    "back_up",
    "contents_of",
    "list_backups",
    "shown_settings",
    "verify_backup",
]
