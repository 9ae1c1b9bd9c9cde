"""Getting back: a backup becomes this side's database, in a new epoch, and both sides agree again by files alone.

Everything is done to a copy that nobody works with; in its last step it takes the database's place, and what was there
is kept aside. So whatever ends a restore, the same command ends it well.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from exchange.database import clock
from exchange.database.engine import make_engine, sqlite_url
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import epoch, network
from exchange.database.whoami import whoami
from exchange.files import durable, key_archive, pid_lock
from exchange.files.folder import make_private
from exchange.format.as_dict import AsDict
from exchange.format.backup_file import MANIFEST, SIGNATURE, BackupManifest
from exchange.format.control import SNAPSHOT
from exchange.format.errors import TransientError, Untrusted, printable
from exchange.format.manifest import Signature
from exchange.format.signed_file import FileFault
from exchange.format.signing import TrustedKeys, fingerprint, read_public_key
from exchange.link.asked_requests import ask_peer
from exchange.link.epochs import begin_epoch
from exchange.operating.assemble import assemble
from exchange.operating.backup import contents_of, databases, folder, postgresql, shown_settings, sqlite
from exchange.operating.backup.contents import differences
from exchange.operating.prepare import make_ready
from exchange.people.sessions import end_sessions
from exchange.settings import Settings, variable_name
from exchange.site import Site

_MARK = "exchange restore"
"""What a database is called by while it is being restored: only such a one is dropped."""
_OF_PLACES = frozenset({"home", "outgoing", "incoming", "database_url", "broker_url", "backup_to", "pg_bin"})
"""Settings that say where things are: elsewhere they differ."""


class Act(Protocol):
    """What a restore tells the audit."""

    def came_to(self, result: dict[str, Any]) -> None:
        """Say what came of it."""
        ...


Acting = Callable[[Site, dict[str, Any]], AbstractContextManager[Act]]


@dataclass(frozen=True)
class Restored(AsDict):
    """What a restore came to. ``kept`` is where the database is that was there before; None if there was none.

    ``asked`` are channels of which the other side is asked for snapshots, ``sends`` those of which it gets some.
    ``unlike`` are settings that differ from those at the time of the backup.
    """

    backup: str
    created_at: datetime
    epoch: str
    before: str | None
    rows: int
    asked: tuple[str, ...]
    sends: tuple[str, ...]
    kept: str | None
    keys: tuple[str, ...]
    keys_aside: tuple[str, ...]
    unlike: tuple[str, ...]
    went_on: bool
    seconds: float


@dataclass(frozen=True)
class _Wanted:
    """A backup that was checked, and where it goes."""

    settings: Settings
    site: Site
    backup: Path
    manifest: BackupManifest
    digest: str
    replace: bool
    plain: bool
    acting: Acting

    @property
    def dump(self) -> Path:
        return self.backup / str(self.manifest.database["file"])

    @property
    def server(self) -> str:
        return str(self.manifest.database["server"])

    @property
    def reason(self) -> str:
        """Why its epoch is begun: by this a database is known that was restored from this very backup."""
        return f"restored from the backup {self.backup.name} ({self.digest[:16]})"

    def at(self, url: str) -> Site:
        """This side with another database."""
        return assemble(self.settings.model_copy(update={"database_url": url}))


def trusted_keys(site: Site, backup: Path, said: str | None) -> TrustedKeys:
    """Give the keys that may have signed a backup: our own, and the one whose fingerprint a person says.

    Raises FileFault and OSError.
    """
    if said is None:
        return site.own
    try:
        key = read_public_key("signer", (backup / folder.SIGNER).read_bytes())
        name = Signature.parse((backup / SIGNATURE).read_bytes().removesuffix(b"\n")).key
    except (ValueError, Untrusted, FileNotFoundError) as error:
        raise FileFault(f"{printable(str(backup))}: it does not say who signed it: {printable(str(error))}") from None
    if fingerprint(key) != said:
        raise FileFault(f"it is signed by the key {fingerprint(key)}, and not by {printable(said, 80)}")
    return TrustedKeys({**site.own.keys, name: key})


def restore_backup(
    settings: Settings,
    backup: Path,
    *,
    acting: Acting,
    said: str | None = None,
    identity: Path | None = None,
    replace: bool = False,
    plain: bool = False,
) -> Restored:
    """Make a backup this side's database again, begin a new epoch, and have both sides send what the other one lacks.

    ``said`` is the fingerprint of the key that signed, where this home has not got it; ``identity`` the file that
    opens the keys in it; ``plain`` leaves out who owns what. A database that has anything is replaced only if
    ``replace`` says so, and kept aside. Nothing of this side may run meanwhile, and nothing starts. ``acting`` writes
    the act down, in the restored database. Raises FileFault, Untrusted, KeyFault and TransientError: then nothing
    changed.
    """
    begun = clock.now()
    with transient_errors(), _nobody_at_work(settings):
        make_private(settings.home)
        site = assemble(settings)
        manifest = folder.read_manifest(backup, trusted_keys(site, backup, said))
        digest = hashlib.sha256((backup / MANIFEST).read_bytes()).hexdigest()
        wanted = _Wanted(settings, site, backup, manifest, digest, replace, plain, acting)
        _refuse_another(wanted)
        folder.check_files(backup, manifest)
        packed = _unpacked(wanted, identity)
        keys, aside = _give_keys(settings, packed, site) if packed is not None else ((), ())
        done = _to_sqlite(wanted) if manifest.database["kind"] == "sqlite" else _to_postgresql(wanted)
        site.engine.dispose()
    seconds = (clock.now() - begun).total_seconds()
    return _told(wanted, done, seconds, keys, aside)


def _told(wanted: _Wanted, done: _Done, seconds: float, keys: tuple[str, ...], aside: tuple[str, ...]) -> Restored:
    return Restored(
        backup=wanted.backup.name,
        created_at=wanted.manifest.created_at,
        epoch=done.epoch,
        before=wanted.manifest.contents.epoch,
        rows=wanted.manifest.rows,
        asked=() if wanted.site.one_way else tuple(one.name for one in wanted.site.incoming()),
        sends=tuple(one.name for one in wanted.site.outgoing()),
        kept=done.kept,
        keys=keys,
        keys_aside=aside,
        unlike=tuple(_unlike(wanted)),
        went_on=done.went_on,
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Done:
    epoch: str
    kept: str | None = None
    went_on: bool = False


@contextmanager
def _nobody_at_work(settings: Settings) -> Iterator[None]:
    """Hold the places of beat, workers and others: what starts meanwhile waits. Raises TransientError."""
    names = {"beat": settings.beat_lock, "a worker": settings.worker_lock, "nudge": settings.nudge_lock}
    names |= {"serve": settings.serve_lock}
    with ExitStack() as held:
        for what, path in names.items():

            def refuse(who: str, what: str = what) -> None:
                by = f" ({printable(who, 80)})" if who else ""
                raise TransientError(
                    f"{what}{by} runs here; nothing was done: stop this side first (`exchange up`, or its services)"
                )

            held.enter_context(closing(pid_lock.hold(path, refuse)))
        yield


def _refuse_another(wanted: _Wanted) -> None:
    said, settings = wanted.manifest, wanted.settings
    if said.network != settings.network:
        raise TransientError(
            f"the backup is of network {said.network}, and EXCHANGE_NETWORK says {settings.network}; nothing was done"
        )
    kind = make_url(settings.database_url).get_backend_name()
    if kind != said.database["kind"]:
        raise TransientError(
            f"the backup is of {said.database['kind']}, and EXCHANGE_DATABASE_URL is of {kind}; nothing was done"
        )
    if kind == "postgresql":
        postgresql.find("pg_restore", settings.pg_bin, wanted.server)


def _unlike(wanted: _Wanted) -> Iterator[str]:
    """Name settings that are not as they were: of secrets nothing is known."""
    was = json.loads((wanted.backup / "settings.json").read_bytes())
    for name, value in shown_settings(wanted.settings).items():
        if name in was and name not in _OF_PLACES and was[name] != value:
            yield f"{variable_name(name)} is {value}, and was {was[name]}"


# Keys


def _unpacked(wanted: _Wanted, identity: Path | None) -> dict[str, tuple[bytes, float]] | None:
    if identity is None:
        return None
    if wanted.manifest.keys is None:
        raise TransientError("the backup has no keys in it; nothing was done: run it without --keys-identity")
    return key_archive.unpack((wanted.backup / str(wanted.manifest.keys["file"])).read_bytes(), identity)


def _give_keys(
    settings: Settings, packed: dict[str, tuple[bytes, float]], site: Site
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put keys where they were. Others of the same name go aside, and in a home that sealed nothing all other own ones.

    Such a home was made just now: its key, the newest, would sign, and nobody trusts it. May be repeated.
    """
    place = settings.keys_folder
    make_private(place / "trusted")
    aside = place / f"before-{clock.now():%Y%m%dT%H%M%SZ}"
    given, moved = [], []
    own = [*place.glob("*.key"), *place.glob("*.pem")] if not any(site.spool.folders.sealed.glob("*")) else []
    for path in [*own, *(place / name for name in packed)]:
        name = str(path.relative_to(place))
        if path.exists() and (name not in packed or path.read_bytes() != packed[name][0]):
            make_private((aside / name).parent)
            path.rename(aside / name)
            moved.append(name)
    for name, (content, changed) in packed.items():
        path = place / name
        if not path.exists():
            public = name.endswith(".pem") and "/" not in name
            durable.write(path, content, mode=0o644 if public else 0o600, replace=False)
            os.utime(path, (changed, changed))
            given.append(name)
    return tuple(given), tuple(moved)


# What is done to the copy


def _finish(wanted: _Wanted, url: str) -> str:
    """Have a copy be this home's, in a new epoch; give that. Each step is a transaction, and may be repeated."""
    site = wanted.at(url)
    try:
        make_ready(site, wanted.settings, take_over=True)
        asked = {"from": wanted.backup.name, "manifest": wanted.digest}
        with wanted.acting(site, asked) as act:
            end_sessions(site.engine, None)  # who was signed in at that moment is not any more
            begun = begin_epoch(site, wanted.reason)
            with writing(site.engine) as connection:
                for channel in site.incoming():
                    ask_peer(
                        site,
                        connection,
                        channel=channel.name,
                        want=SNAPSHOT,
                        prune=True,
                        reason=wanted.reason,
                        who=whoami(),
                    )
            act.came_to(begun.as_dict())
        return begun.epoch
    finally:
        site.engine.dispose()


def _compare(wanted: _Wanted, url: str) -> None:
    wrong = differences(wanted.manifest.contents, contents_of(wanted.at(url), url))
    if wrong:
        raise TransientError(f"what was restored is not what was backed up: {'; '.join(wrong[:3])}; nothing was done")


def _restored_before(wanted: _Wanted, url: str) -> str | None:
    """Give the epoch of a database that was restored from this very backup, and is in its epoch still; None if not."""
    engine = make_engine(url)
    try:
        with reading(engine) as connection:
            if not sa.inspect(connection).has_table(network.name):
                return None
            asked = sa.select(epoch.c.epoch).join(network, network.c.epoch == epoch.c.epoch)
            return connection.scalar(asked.where(epoch.c.reason == wanted.reason))
    finally:
        engine.dispose()


def _refuse_full(wanted: _Wanted, what: str) -> None:
    if not wanted.replace:
        raise TransientError(
            f"{printable(what, 200)} has tables already; nothing was done: with --replace it is kept aside, and the"
            " backup takes its place"
        )


# SQLite


def _to_sqlite(wanted: _Wanted) -> _Done:
    target = Path(str(make_url(wanted.settings.database_url).database))
    copy = target.with_name(f"{target.name}.restoring")
    if target.exists() and _has_tables(target):
        before = _restored_before(wanted, sqlite_url(target))
        if before is not None and not wanted.replace:
            _remove(copy)
            return _Done(before, went_on=True)
        _refuse_full(wanted, str(target))
    _refuse_open(target)
    make_private(target.parent)
    _remove(copy)
    sqlite.restore(wanted.dump, copy)
    _compare(wanted, sqlite_url(copy))
    begun = _finish(wanted, sqlite_url(copy))
    with closing(sqlite3.connect(copy, isolation_level=None)) as last:  # all of it in one file
        last.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for beside in ("-wal", "-shm"):
        copy.with_name(copy.name + beside).unlink(missing_ok=True)
    kept = _put_aside(target)
    copy.rename(target)
    _sync(target)
    _sync(target.parent)
    for lock in target.parent.glob(f"{copy.name}-*.lock"):
        lock.unlink(missing_ok=True)
    return _Done(begun, str(kept) if kept else None)


def _has_tables(file: Path) -> bool:
    """Say whether a file is a database with tables, or something else that is not ours to overwrite."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.DatabaseError:
        return True


def _put_aside(target: Path) -> Path | None:
    """Give a database file another name, and its log with it: beside another file that would be taken for its own."""
    suffix = f".before-{clock.now():%Y%m%dT%H%M%SZ}"
    kept = target.with_name(target.name + suffix)
    # The log first would be lost to the file, the file first leaves a log that is moved by the next run.
    for beside in ("", "-wal", "-shm"):
        path = target.with_name(target.name + beside)
        with suppress(FileNotFoundError):
            path.rename(target.with_name(target.name + suffix + beside))
    _sync(target.parent)
    return kept if kept.exists() else None


def _refuse_open(target: Path) -> None:
    """See that no process works with a database file, as far as Linux tells. Raises TransientError."""
    if not target.exists():
        return
    there = target.stat()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.path.samestat(descriptor.stat(), there):
                        name = printable((process / "comm").read_text().strip(), 40)
                        raise TransientError(
                            f"process {process.name} ({name}) has {target} open; nothing was done: stop the application"
                            " first"
                        )


def _remove(copy: Path) -> None:
    for beside in ("", "-wal", "-shm", "-journal"):
        copy.with_name(copy.name + beside).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# PostgreSQL


def _to_postgresql(wanted: _Wanted) -> _Done:
    url = wanted.settings.database_url
    found = _what_is_there(wanted, url)
    if found is _EMPTY:
        postgresql.restore(url, wanted.dump, wanted.settings.pg_bin, wanted.server, plain=wanted.plain, whole=True)
        _compare(wanted, url)
        return _Done(_finish(wanted, url))
    if found is _SAME:  # filled by an earlier run, which ended there
        return _Done(_finish(wanted, url), went_on=True)
    if isinstance(found, _Done):
        return found
    name = databases.name_of(url)
    copy = databases.new_name(name, "restoring")
    copy_url = databases.renamed(url, copy)
    with databases.beside(url) as server:
        _make_copy(wanted, server, name, copy)
        databases.give_settings(copy_url, wanted.manifest.database["shape"]["settings"])
        postgresql.restore(
            copy_url, wanted.dump, wanted.settings.pg_bin, wanted.server, plain=wanted.plain, whole=False
        )
        _compare(wanted, copy_url)
        begun = _finish(wanted, copy_url)
        kept = None
        if databases.exists(server, name):
            _refuse_connected(server, name)
            kept = databases.new_name(name, f"before_{clock.now():%Y%m%d%H%M%S}")
            databases.rename(server, name, kept)
        databases.rename(server, copy, name)
        databases.ask(server, f"COMMENT ON DATABASE {databases.quoted(name)} IS NULL")
    return _Done(begun, kept)


_EMPTY, _SAME, _FULL, _MISSING = object(), object(), object(), object()


def _what_is_there(wanted: _Wanted, url: str) -> object:
    """Look at the database that a backup is to become. Raises TransientError for one that is not to be replaced."""
    name = databases.name_of(url)
    try:
        with databases.beside(url) as server:
            if not databases.exists(server, name):
                return _MISSING
    except TransientError:
        pass  # this role may connect to its own database alone
    if _is_empty(url):
        return _EMPTY
    if not wanted.replace:
        before = _restored_before(wanted, url)
        if before is not None:
            return _Done(before, went_on=True)
        if not differences(wanted.manifest.contents, contents_of(wanted.at(url), url)):
            return _SAME
    _refuse_full(wanted, f"the database {name}")
    return _FULL


def _is_empty(url: str) -> bool:
    engine = make_engine(url)
    try:
        with transient_errors(), reading(engine) as connection:
            return databases.has_anything(connection) is None
    finally:
        engine.dispose()


def _make_copy(wanted: _Wanted, server: sa.Connection, name: str, copy: str) -> None:
    """Make the database that a backup is restored into, beside that whose place it takes. Raises TransientError."""
    if not databases.may_create(server):
        role, owner = databases.user(server), databases.quoted(databases.user(server))
        kept = databases.quoted(databases.new_name(name, "before"))
        raise TransientError(
            f"the role {printable(role, 80)} may not make databases, so the one that is there can't be kept aside;"
            f" nothing was done: have an administrator say ALTER ROLE {owner} CREATEDB, or ALTER DATABASE"
            f" {databases.quoted(name)} RENAME TO {kept} and CREATE DATABASE {databases.quoted(name)} OWNER {owner},"
            " and run it again"
        )
    _refuse_connected(server, name)
    if databases.exists(server, copy):
        asked = sa.text("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :name")
        if server.scalar(asked, {"name": copy}) != _MARK and not _is_empty(
            databases.renamed(wanted.settings.database_url, copy)
        ):
            raise TransientError(f"there is a database {printable(copy, 80)} that no restore made; nothing was done")
        databases.drop(server, copy)
    databases.create(server, copy, wanted.manifest.database["shape"])
    databases.ask(server, f"COMMENT ON DATABASE {databases.quoted(copy)} IS '{_MARK}'")


def _refuse_connected(server: sa.Connection, name: str) -> None:
    connected = databases.others(server, name)
    if connected:
        raise TransientError(
            f"{len(connected)} sessions are connected to the database {printable(name, 80)}, such as {connected[0]};"
            " stop what works with it, and run this again"
        )
