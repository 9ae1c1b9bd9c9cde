"""The folders of this side and who can read what lies in them; room on the disk; files with passwords."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from shlex import quote

from exchange.files import carrier_group, mounts, read_access
from exchange.files.folder import HOME_MODE, PRIVATE_MODE, held
from exchange.files.layout import Folders
from exchange.files.shared_folders import Shared
from exchange.files.spool import Spool
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, fault, of_problem, ok, warning
from exchange.settings import Settings, settings_file

LOW_SHARE = 0.1
LOW_BYTES = 1024**3
LOW_FILES = 10_000
"""Room is low below this share of a file system, and this many bytes beside what is needed, or this many files."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_ALL = stat.S_IWOTH


def check_password_files(settings: Settings) -> Findings:
    """Find files with passwords that every user of this machine may read."""
    files = (
        settings_file(),
        settings.database_password_file,
        settings.broker_password_file,
        settings.handler_database_password_file,
        settings.handler_http_credentials_file,
        settings.notify_file,
        settings.notify_secret_file,
    )
    for file in filter(None, files):
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & stat.S_IROTH and read_access.reachable(file):
                yield warning(
                    "settings",
                    f"{file} is {mode:04o}: every user of this machine can read the passwords in it",
                    command=f"chmod o-r {quote(str(file))}",
                )


def check_folders(places: Folders, batch_bytes: int) -> Findings:
    """Look at this side's folders and at those that it shares, who can read what is exported, and the room there is."""
    yield from check_private_folders(places)
    if not places.home.is_dir():
        return
    for shared in Spool(places).shared:
        yield from check_shared_folder(places, shared)
    yield from _readers(places)
    yield from check_room(places, batch_bytes)


def check_private_folders(places: Folders) -> Findings:
    """Look whether the home and what is in it is there, and ours alone."""
    if not places.home.is_dir():
        said, remedy = f"{places.home} does not exist", "run `exchange init` or `exchange migrate`"
        yield fault("folders", said, remedy, alarm=Alarm.FOLDER, subject="home")
        return
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
            yield fault(
                "folders",
                f"{folder} is {stat.S_IMODE(mode):04o}, but it is ours alone",
                command=f"chmod {allowed:o} {quote(str(folder))}",
                alarm=Alarm.FOLDER,
                subject=_name(places, folder),
            )
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            open_ones.append(folder)
            said, remedy = f"{folder} can't be written by this user", "give it to the user that runs this"
            yield fault("folders", said, remedy, alarm=Alarm.FOLDER, subject=_name(places, folder))
    if missing:
        said, remedy = f"{places.home} lacks {', '.join(missing)}", "run `exchange init` or `exchange migrate`"
        yield fault("folders", said, remedy, alarm=Alarm.FOLDER, subject="home")
    if not open_ones and not missing:
        yield ok("folders", f"{places.home} is ours alone")


def check_shared_folder(places: Folders, shared: Shared) -> Findings:
    """Look whether a shared folder is there, the one that was marked, and can be used."""
    role, folder = shared.role, shared.path
    try:
        seen = folder.lstat()
    except OSError as error:
        said, remedy = f"{folder}: {error.strerror}", "mount it, or run `exchange init` to make it"
        yield fault(role, said, remedy, alarm=Alarm.FOLDER, subject=role)
        return
    if not stat.S_ISDIR(seen.st_mode):
        what = "a link" if stat.S_ISLNK(seen.st_mode) else "no folder"
        remedy = f"name a folder, and no link to one, in EXCHANGE_{role.upper()}"
        yield fault(role, f"{folder} is {what}", remedy, alarm=Alarm.FOLDER, subject=role)
        return
    faults = list(_shared_folder_faults(places, shared, seen))
    yield from faults
    if not any(one.level is Level.FAULT for one in faults):
        yield ok(role, f"{folder} is there, {stat.S_IMODE(seen.st_mode):04o}, with its marker", subject=role)


def _shared_folder_faults(places: Folders, shared: Shared, seen: os.stat_result) -> Findings:
    role, folder = shared.role, shared.path
    if (sentence := shared.fault()) is not None:
        remedy = "mount it; if it is the right folder, `exchange init` marks it"
        yield fault(role, sentence, remedy, alarm=Alarm.FOLDER, subject=role)
    # Importing moves files out of incoming/, which takes the right to write there.
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        said, remedy = f"{folder} can't be written by this user", "give this user the right to write there"
        yield fault(role, said, remedy, alarm=Alarm.FOLDER, subject=role)
    mode = stat.S_IMODE(seen.st_mode)
    if mode & _WRITABLE_BY_ALL and not mode & stat.S_ISVTX:
        said, command = f"{folder} is {mode:04o}: everybody can write there", f"chmod o-w {quote(str(folder))}"
        yield fault(role, said, command=command, alarm=Alarm.FOLDER, subject=role)
    if role == "incoming" and mode & stat.S_ISVTX and os.geteuid() not in {0, seen.st_uid}:
        yield fault(
            role,
            f"{folder} is {mode:04o} (sticky) and belongs to another user: others' files can't be taken out of it",
            f"give it to this user (chown), or chmod -t {quote(str(folder))}",
            alarm=Alarm.FOLDER,
            subject=role,
        )
    if role == "outgoing" and mode & places.folder_mode != places.folder_mode:
        yield warning(
            role,
            f"{folder} is {mode:04o}, less than EXCHANGE_FOLDER_MODE says ({places.folder_mode:04o})",
            f"chmod {places.folder_mode:o} {folder}, if the carrier can't read it",
        )
    if role == "incoming" and seen.st_dev != places.home.stat().st_dev:
        yield warning(
            role,
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
    yield of_problem("readers", seen.said_of("what is exported"), Level.WARNING if seen.everybody else Level.OK)
    if places.group is None:
        return
    name = carrier_group.name_of(places.group)
    if not carrier_group.may_give(places.group):
        problem = carrier_group.not_ours(places.group, "nothing can be published")
        yield of_problem("readers", problem, Level.FAULT, alarm=Alarm.FOLDER, subject="outgoing")
    if group != places.group:
        yield warning("readers", f"{places.outgoing} is not the group {name}'s", command="exchange init")
    elif seen.barrier is not None:
        yield warning(
            "readers",
            f"the group {name} can't get to {places.outgoing}: {seen.barrier} lets it not through",
            f"chmod o+x {seen.barrier}, or name a folder elsewhere in EXCHANGE_OUTGOING",
        )


def check_room(places: Folders, batch_bytes: int) -> Findings:
    """Write, name and remove a file in each folder, and say how much room there is on each file system under them."""
    on: dict[int, list[Path]] = {}
    for folder in (*places.private, places.outgoing, places.incoming):
        try:
            with held(folder, follow=True) as there:
                on.setdefault(os.fstat(there.descriptor).st_dev, []).append(folder)
                there.probe()
        except FileNotFoundError:
            continue  # said above
        except OSError as error:
            role = _name(places, folder)
            needs = _NEEDED_BY.get(role, "nothing that needs it goes on")
            said = f"{folder} can't be written: {error.strerror}: {needs}"
            alarm = Alarm.DISK if error.errno in _FULL else Alarm.FOLDER
            yield fault("space", said, _MEND, alarm=alarm, subject=role)
    for folders in on.values():
        yield from _file_system(places, folders, batch_bytes)


def _name(places: Folders, folder: Path) -> str:
    """Name a folder by what it is for."""
    return {places.outgoing: "outgoing", places.incoming: "incoming", places.home: "home"}.get(folder, folder.name)


_FULL = {errno.ENOSPC, errno.EDQUOT}

_MEND = "make room there, or give this user the right to write; what waits goes on by itself"
_NEEDED_BY = {
    "tmp": "nothing is exported",
    "sealed": "nothing is exported",
    "outgoing": "nothing is published",
    "incoming": "nothing is imported",
    "work": "nothing is imported",
    "archive": "what is applied stays in work",
    "quarantine": "what is refused stays where it lies",
    "strangers": "what nobody vouches for stays in incoming",
}


def _file_system(places: Folders, folders: list[Path], batch_bytes: int) -> Findings:
    """Say how much room a file system has, under the folders that lie on it."""
    try:
        disk = os.statvfs(folders[0])
    except OSError:
        return  # said above
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    outgoing = {places.tmp, places.sealed, places.outgoing}.intersection(folders)
    needed = batch_bytes * len(outgoing)
    names = ", ".join(one.name if one.parent == places.home else str(one) for one in folders)
    where = f"{mounts.described(folders[0])} with {names}"
    room = f"{free // 1024**2} of {total // 1024**2} MiB free"
    # By the first of the folders on it: a device's name may change while the trouble stays.
    subject = _name(places, folders[0])

    def low(level: Level, said: str, remedy: str) -> Finding:
        return Finding("space", level, f"{where}: {said}", remedy, "exchange prune", alarm=Alarm.DISK, subject=subject)

    if free < needed:
        said = f"{free} bytes are free, and a batch on its way out may need {needed}"
        yield low(Level.FAULT, said, "make room, or lower EXCHANGE_BATCH_BYTES")
    elif disk.f_files and not disk.f_favail:
        yield low(Level.FAULT, "it has no room for one more file (no inode is free)", "remove files there")
    elif free < total * LOW_SHARE and free < needed + LOW_BYTES:
        yield low(Level.WARNING, room, "make room before it is full")
    elif disk.f_files and disk.f_favail < min(disk.f_files * LOW_SHARE, LOW_FILES):
        said = f"{disk.f_favail} of {disk.f_files} inodes are free: it has room for so many more files"
        yield low(Level.WARNING, said, "remove files before it is full")
    else:
        yield ok("space", f"{where}: {room}", subject=subject)
