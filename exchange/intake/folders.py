"""Folders that people drop files into: looked at, what is ready claimed, and put away once it is dealt with.

A declared folder has three of ours in it: ``taken/`` for what is being loaded, ``done/``, and ``refused/`` with the
reason beside each file. A claim is a rename within the folder's file system, so that a file is either still its
dropper's to change or ours. Nothing that lies there is followed, overwritten or trusted: whoever dropped a file may
still write to it, so what is read is looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from exchange.channels.intake import Intake
from exchange.database import clock
from exchange.files import carrier_group
from exchange.files.batch_files import LeftAlone
from exchange.files.folder import OUR_MODE, PRIVATE_MODE, Folder, NotPlain, held, named
from exchange.files.left_alone import KINDS, may_read, not_readable, owner, unseen
from exchange.files.pid_lock import holding_name
from exchange.format.as_dict import AsDict
from exchange.format.errors import Problem, TransientError, printable
from exchange.site import Site

TAKEN, DONE, REFUSED = "taken", "done", "refused"
POSTED = "posted"
"""Below the home, for what programs send."""
OURS = frozenset({TAKEN, DONE, REFUSED})
REASON_ENDING = ".txt"

MOST_CLAIMED = 100
"""So many files of a folder are claimed and not dealt with, at most: the others wait where they are."""
MOST_ENTRIES = 100_000
"""So many entries of a folder one look takes."""

MOST_SEEN = 2_000
"""So many where it is only said how the folder is."""
MOST_TOLD = 20
"""So many that are left alone are told one by one."""

_SHARED_MODE = 0o3770
"""The group's members may drop files, not take away each other's; what they drop is the group's."""
_UNDER_WAY = re.compile(r".*\.(tmp|temp|part|partial|filepart|crdownload|!sync)|.*~")
_MOST_NAME_BYTES = 255 - len(b"-9999.txt")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_TOUCHED = ".looked"


@dataclass(frozen=True)
class Drop:
    """A folder, and the intakes whose files lie in it: which of them a file is for, its name says."""

    path: Path
    intakes: tuple[Intake, ...]

    def intake_of(self, name: str) -> Intake | None:
        """Find the intake that a file is for: the first one that means such names."""
        return next((one for one in self.intakes if fnmatch.fnmatchcase(name, one.pattern)), None)

    @property
    def priority(self) -> int:
        """The greatest of its intakes."""
        return max(one.priority for one in self.intakes)


class Seen(NamedTuple):
    """What tells a file from any other, and from itself before it was written to."""

    device: int
    inode: int
    size: int
    changed_ns: int
    """Of its contents (mtime): a rename leaves it as it is."""

    @classmethod
    def of(cls, found: os.stat_result) -> Seen:
        """Take it from a look at the file."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Dropped(NamedTuple):
    """A file that lies in a folder and is complete, as far as can be seen."""

    name: str
    intake: Intake
    seen: Seen
    who: str
    """Whose it is: who dropped it."""
    since: float
    """When it last changed, in Unix time by the clock of its disk."""


class Claimed(NamedTuple):
    """A file that is ours to load. ``place`` is where it lies now, ``file`` what it was called."""

    intake: Intake
    place: Path
    file: str
    who: str
    bytes: int
    claimed_at: float


@dataclass(frozen=True)
class Looked:
    """One look at a folder: files that are ready, oldest first, how many still change, and what is left alone."""

    ready: tuple[Dropped, ...]
    arriving: int
    left_alone: tuple[LeftAlone, ...]


def declared(site: Site) -> tuple[Intake, ...]:
    """Give the intakes whose streams this side writes: the same declaration is on both."""
    ours = {stream for channel in site.channels if channel.source == site.network for stream in channel.streams}
    return tuple(one for one in site.intakes if one.stream_of(site.channels) in ours)


def misplaced(site: Site) -> list[str]:
    """Say which declared folders are, or lie in, one that batches or keys lie in."""
    taken = {site.spool.folders.outgoing, site.spool.folders.incoming, *site.spool.folders.private}
    return [
        f"intake {one.name}: its folder {path} is one of this side's own ({above}); declare another one"
        for one in declared(site)
        if one.folder is not None
        for path in [site.spool.folders.home / one.folder]
        for above in [path, *path.parents]
        if above in taken or path == site.spool.folders.home
    ]


def drops(site: Site) -> tuple[Drop, ...]:
    """Give the folders that are declared, and those of rows that programs sent; of the greatest priority first."""
    posted = [drop for one in declared(site) if one.http and (drop := posted_drop(site, one)).path.is_dir()]
    return tuple(sorted([*declared_drops(site), *posted], key=lambda one: -one.priority))


def declared_drops(site: Site) -> list[Drop]:
    """Give the folders that people drop files into."""
    found: dict[Path, list[Intake]] = {}
    for one in declared(site):
        if one.folder is not None:
            found.setdefault(site.spool.folders.home / one.folder, []).append(one)
    return [Drop(path, tuple(some)) for path, some in found.items()]


def posted_drop(site: Site, intake: Intake) -> Drop:
    """Give the folder in which lie the rows of an intake that programs sent: this side's own, made by the first one."""
    path = site.spool.folders.home / POSTED / intake.name
    meant = replace(intake, folder=str(path), format="jsonl", pattern="post-*.jsonl", marker=None)
    return Drop(path, (meant,))


@contextlib.contextmanager
def open_taken(drop: Drop) -> Iterator[Folder]:
    """Hold the folder open that has what is claimed of another one. Raises TransientError."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(held(drop.path))
            taken = stack.enter_context(_ours(folder, TAKEN))
        except OSError as error:
            raise _trouble(drop, error, "mend it; nothing can be taken there") from error
        yield taken


def make_all(site: Site, group: int | None, *, beyond: bool) -> list[str]:
    """Make what is declared within the home and, with ``beyond``, elsewhere; give what was in the way, in sentences."""
    troubles = misplaced(site)
    home = site.spool.folders.home
    for one in declared_drops(site) if not troubles else ():
        if beyond or home in one.path.parents:
            try:
                make(one, home, group)
            except TransientError as error:
                troubles.append(error.sentence)
    return troubles


def make(drop: Drop, home: Path, group: int | None = None) -> None:
    """Make a folder and those of ours in it, for a group's members to drop into if there is one. May be repeated.

    Raises TransientError.
    """
    try:
        with named(home):
            _make(drop.path, home, group)
    except OSError as error:
        raise _trouble(drop, error, "make it, or declare another one") from error


def _make(path: Path, home: Path, group: int | None) -> None:
    """Make what is missing of a path; a folder within the home lets people pass, as the home itself does."""
    above = [one for one in path.parents if home in one.parents]
    for one in reversed(above):
        with named(one.parent) as parent:
            parent.make(one.name, 0o711)
    if not above:
        path.parent.mkdir(parents=True, exist_ok=True)
    mode = _SHARED_MODE if group is not None else 0o755
    with named(path.parent) as parent:
        parent.make(path.name, mode)
        with parent.inner(path.name) as folder:
            if group is not None:
                _share(folder.descriptor, group, mode, path)
            for name in OURS:
                folder.make(name, PRIVATE_MODE if name == TAKEN else 0o755)
                with folder.inner(name) as inner:
                    if group is not None and name != TAKEN:
                        _share(inner.descriptor, group, 0o750, path / name)


def _share(descriptor: int, group: int, mode: int, path: Path) -> None:
    """Give a folder of ours to the group that drops files; what belongs to another user stays as it is."""
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or (found.st_gid, stat.S_IMODE(found.st_mode)) == (group, mode):
        return
    try:
        os.fchown(descriptor, -1, group)
    except PermissionError:
        raise TransientError(
            f"{path} can't be given to the group {carrier_group.name_of(group)} that EXCHANGE_INTAKE_GROUP names, as"
            " this user is not in it; add the user to it (usermod --append --groups), then run `exchange init` again"
        ) from None
    os.fchmod(descriptor, mode)


class Watcher:
    """Looks at folders again and again, and remembers what still changed. Its memory may be lost at any time."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Path, str], tuple[Seen, float]] = {}

    def look(self, drop: Drop, settle_seconds: float, *, touching: bool = True, most: int = MOST_ENTRIES) -> Looked:
        """List a folder once, ``most`` entries of it; no file is opened or moved. Raises TransientError.

        A file is complete once its marker is there, or it has not changed for ``settle_seconds``: by the clock of the
        disk that it lies on, which is asked by ``touching`` it, or by how long we have seen it so.
        """
        ready, left_alone, arriving = [], [], 0
        kept: dict[tuple[Path, str], tuple[Seen, float]] = {}
        with _open(drop) as folder:
            present = _disk_seconds(folder) if touching else clock.seconds()
            found = dict(_entries(folder, most))
            markers = {name + one.marker: name for name in found for one in drop.intakes if one.marker}
            for name, entry in found.items():
                if name in OURS or (name in markers and markers[name] in found):
                    continue
                one = _judged(drop, folder, name, entry)
                if one is None:
                    continue
                if isinstance(one, LeftAlone):
                    left_alone.append(one)
                    continue
                marker = one.intake.marker
                if marker is not None:
                    complete = name + marker in found
                else:
                    before = self._seen.get((drop.path, name))
                    first = before[1] if before and before[0] == one.seen else time.monotonic()
                    kept[drop.path, name] = one.seen, first
                    age = present - max(one.since, one.seen.changed_ns / 1e9)
                    complete = age >= settle_seconds or time.monotonic() - first >= settle_seconds
                if complete:
                    ready.append(one)
                else:
                    arriving += 1
        self._seen = {key: value for key, value in self._seen.items() if key[0] != drop.path} | kept
        ready.sort(key=lambda one: (-one.intake.priority, one.since, one.name))
        return Looked(tuple(ready), arriving, tuple(left_alone))


def _entries(folder: Folder, most: int = MOST_ENTRIES) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with folder.entries() as entries:
        for entry in islice(entries, most):
            yield entry.name, entry


@dataclass(frozen=True)
class LeftOut(AsDict):
    """What lies in a folder and is left alone: why, and what to do about it."""

    name: str
    found: str
    remedy: str


@dataclass(frozen=True)
class SeenFolder(AsDict):
    """A declared folder as it is: files that are ``ready``, the oldest since when, and that still arrive.

    ``taken`` are claimed and not put away. ``trouble`` says why it can't be read.
    """

    folder: str
    intakes: tuple[str, ...]
    ready: int = 0
    oldest_at: datetime | None = None
    arriving: int = 0
    taken: int = 0
    left_alone: tuple[LeftOut, ...] = ()
    trouble: str | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is left alone in it, with what to do about each."""
        return tuple(
            Problem(f"{one.name} in {self.folder} {one.found}; it is left alone", one.remedy) for one in self.left_alone
        )


def see(site: Site) -> list[SeenFolder]:
    """Look at each declared folder, at the first entries of one with many; changes nothing."""
    found = []
    for drop in drops(site):
        said = SeenFolder(str(drop.path), tuple(one.name for one in drop.intakes))
        try:
            looked = Watcher().look(drop, site.limits.settle_seconds, touching=False, most=MOST_SEEN)
            with _open(drop) as folder, folder.inner(TAKEN) as taken:
                claimed = sum(name != _TOUCHED for name, _ in _entries(taken, MOST_SEEN))
        except TransientError as error:
            found.append(replace(said, trouble=error.sentence))
            continue
        oldest = min((one.since for one in looked.ready), default=None)
        found.append(
            replace(
                said,
                ready=len(looked.ready),
                oldest_at=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
                arriving=looked.arriving,
                taken=claimed,
                left_alone=told(looked.left_alone),
            )
        )
    return found


def told(left_alone: Sequence[LeftAlone]) -> tuple[LeftOut, ...]:
    """Give the first of what is left alone, as people are told of it; a copy under way is no news."""
    some = [one for one in left_alone if not one.passing][:MOST_TOLD]
    return tuple(LeftOut(printable(one.file, 120), one.found, one.remedy) for one in some)


def _judged(drop: Drop, folder: Folder, name: str, entry: os.DirEntry[str]) -> Dropped | LeftAlone | None:
    """Say what an entry is: a file to load, or why it is left alone. None: it is gone, or a copy under way."""
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        return unseen(name, error)
    fact, remedy = _odd(drop, folder, name, found)
    if fact:
        passing = _UNDER_WAY.fullmatch(name) is not None
        return LeftAlone(name, fact, remedy, found.st_ctime, passing=passing)
    intake = drop.intake_of(name)
    assert intake is not None
    return Dropped(name, intake, Seen.of(found), owner(found), found.st_ctime)


def _odd(drop: Drop, folder: Folder, name: str, found: os.stat_result) -> tuple[str, str]:
    """Say why an entry is left alone and what to do about it; nothing if it is not."""
    odd = _odd_kind(found) or _odd_name(drop, name)
    if odd is None and not may_read(folder, name, found):
        return not_readable(found), "give this user the right to read it (chmod a+r), or drop it with umask 022"
    return odd or ("", "")


def _odd_kind(found: os.stat_result) -> tuple[str, str] | None:
    if stat.S_ISDIR(found.st_mode):
        return "is a folder", "put its files here: folders within this one are not looked into"
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        return f"is {kind} and no file", "put the file itself in its place"
    if found.st_nlink > 1:
        return f"has {found.st_nlink} names (hard links), so that others may change it", "put a copy in its place"
    return None


def _odd_name(drop: Drop, name: str) -> tuple[str, str] | None:
    if not name.isprintable():  # what is no UTF-8 is not, either
        return "has a name with bytes that are no characters of UTF-8, or none to be shown", "rename it"
    if name.startswith("."):
        return "has a hidden name", "give it a name without the dot if it is to be loaded"
    if _UNDER_WAY.fullmatch(name):
        return "has the name of a copy that is not ended", "rename it if it is complete"
    marker = next((one.marker for one in drop.intakes if one.marker and name.endswith(one.marker)), None)
    if marker is not None and name != marker:
        return f"says that {printable(name[: -len(marker)], 80)} is complete, which is not here", "drop that file, too"
    if drop.intake_of(name) is None:
        meant = " or ".join(sorted({one.pattern for one in drop.intakes}))
        return "has a name that no intake means", f"give it a name like {printable(meant, 120)}"
    return None


# Claim


def claim(site: Site, drop: Drop, one: Dropped) -> Claimed | None:
    """Take a file that is ready: rename it into ``taken/``. None if it is not there any more as it was seen.

    May be repeated. Raises TransientError.
    """
    with _moving(site, drop) as alone:
        if not alone:
            return None
        with _open(drop) as folder, _ours(folder, TAKEN) as taken:
            found = folder.look(one.name)
            if found is None or Seen.of(found) != one.seen:
                return None
            if taken.has(one.name):
                return None  # one of its name is being loaded: it waits for that
            try:
                folder.take(one.name, taken, one.name, mode=OUR_MODE)
            except (FileNotFoundError, NotPlain):
                return None
            moved = taken.look(one.name)
            if moved is None or Seen.of(moved) != one.seen:  # another one was put in its place at this moment
                _give_back(taken, one.name, folder, one.name)
                return None
            taken.sync()
            if one.intake.marker is not None:
                folder.remove(one.name + one.intake.marker)
            folder.sync()
            place = drop.path / TAKEN / one.name
            return Claimed(one.intake, place, one.name, one.who, moved.st_size, moved.st_ctime)


def finish_claims(site: Site, drop: Drop) -> None:
    """Remove the markers of files that were claimed, where a process ended in between. Raises TransientError.

    Such a marker would have a later file of that name taken before it is complete.
    """
    markers = {one.marker for one in drop.intakes if one.marker}
    if not markers:
        return
    with _moving(site, drop) as alone, _open(drop) as folder, _ours(folder, TAKEN) as taken:
        for name, _ in _entries(taken) if alone else ():
            for marker in markers:
                if folder.look(name + marker) is not None and not folder.has(name):
                    folder.remove(name + marker)


def claimed(drop: Drop) -> list[Claimed]:
    """Give what was claimed and not put away, the oldest first, as a process that was killed may have left it.

    Raises TransientError.
    """
    found = []
    with _open(drop) as folder, _ours(folder, TAKEN) as taken:
        for name, _ in _entries(taken):
            there = taken.look(name)
            intake = drop.intake_of(name)
            if there is not None and intake is not None and name != _TOUCHED:
                where = drop.path / TAKEN / name
                found.append(Claimed(intake, where, name, owner(there), there.st_size, there.st_ctime))
    return sorted(found, key=lambda one: (-one.intake.priority, one.claimed_at, one.file))


@contextlib.contextmanager
def preparing(site: Site, place: Path) -> Iterator[bool]:
    """Hold a claimed file for the block, or give False if another process has it."""
    with holding_name(site.spool.folders.home / "run" / "intake-files.lock", str(place)) as alone:
        yield alone


def open_place(place: Path) -> BinaryIO:
    """Open a claimed file for reading, never by a link. Raises OSError, NotPlain."""
    with held(place.parent) as folder:
        return folder.read(place.name)


def unchanged(file: BinaryIO, seen: Seen) -> bool:
    """Say whether an open file still is as it was seen: its dropper may hold it open, and write."""
    return Seen.of(os.fstat(file.fileno())) == seen


# Put away


def put_away(site: Site, place: Path, ending: str, name: str, reason: str | None) -> Path | None:
    """Move a claimed file into ``done/`` or ``refused/`` beside its ``taken/``, and put a reason beside it.

    Gives where it lies then; None if it is not there any more. May be repeated. Raises TransientError.
    """
    drop = Drop(place.parent.parent, ())
    with (
        _moving(site, drop, wait=True),
        _open(drop) as folder,
        _ours(folder, TAKEN) as taken,
        _ours(folder, ending, private=False) as target,
    ):
        new = _free(target, name)
        if taken.look(place.name) is None:
            return None
        if reason is not None:
            with target.write(new + REASON_ENDING, mode=0o644) as file:
                file.write(f"{reason}\n".encode())
        taken.move(place.name, target, new, mode=OUR_MODE)
        target.sync()
        taken.sync()
        return drop.path / ending / new


def give_back(site: Site, place: Path, name: str) -> bool:
    """Move a claimed file back to where it was dropped, under a name that is free. Raises TransientError."""
    drop = Drop(place.parent.parent, ())
    with _moving(site, drop, wait=True), _open(drop) as folder, _ours(folder, TAKEN) as taken:
        return _give_back(taken, place.name, folder, name)


def prune(drop: Drop, older_than: float) -> int:
    """Remove what was put away before ``older_than`` (Unix time); say how many files. Raises TransientError."""
    removed = 0
    with _open(drop) as folder:
        for ending in (DONE, REFUSED):
            with contextlib.suppress(FileNotFoundError), _ours(folder, ending, private=False) as away:
                for name, entry in _entries(away):
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if not stat.S_ISDIR(found.st_mode) and found.st_ctime < older_than:
                            away.remove(name)
                            removed += 1
    return removed


def remove_done(drop: Drop, name: str) -> None:
    """Remove a file that was loaded, and what is said beside it. May be repeated. Raises TransientError."""
    with _open(drop) as folder, _ours(folder, DONE, private=False) as away:
        away.remove(name)
        away.remove(name + REASON_ENDING)
        away.sync()


# What all of it stands on


def _give_back(taken: Folder, name: str, folder: Folder, wanted: str) -> bool:
    back = _free(folder, wanted)
    try:
        taken.move(name, folder, back, mode=OUR_MODE)
    except FileNotFoundError:
        return False
    folder.sync()
    return True


@contextlib.contextmanager
def _moving(site: Site, drop: Drop, *, wait: bool = False) -> Iterator[bool]:
    """Be alone among our processes in moving files of a folder: a rename can't promise that it overwrites nothing."""
    lock = site.spool.folders.home / "run" / "intake-folders.lock"
    for again in range(_TRIES if wait else 1):
        with holding_name(lock, str(drop.path)) as alone:
            if alone or not wait:
                yield alone
                return
        time.sleep(_TRY_SECONDS * (again + 1))
    raise TransientError(f"{drop.path}: another process of ours moves files there; the next run goes on")


_TRIES, _TRY_SECONDS = 20, 0.02


@contextlib.contextmanager
def _open(drop: Drop) -> Iterator[Folder]:
    """Hold a declared folder open, which is no link; what the disk says inside becomes a sentence."""
    try:
        with held(drop.path) as folder:
            yield folder
    except OSError as error:
        raise _trouble(drop, error, "mend it; files that lie there wait") from error


@contextlib.contextmanager
def _ours(folder: Folder, name: str, *, private: bool = True) -> Iterator[Folder]:
    """Hold one of our folders open within a declared one: made if it is missing, and nobody else's."""
    folder.make(name, PRIVATE_MODE if private else 0o755)
    with folder.inner(name) as inner:
        found, above = os.fstat(inner.descriptor), os.fstat(folder.descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise OSError(errno.EPERM, "it is to be this user's, and nobody else may write there", str(inner.path))
        if found.st_dev != above.st_dev:
            raise OSError(errno.EXDEV, "it lies on another file system than the folder", str(inner.path))
        yield inner


def _trouble(drop: Drop, error: OSError, remedy: str) -> TransientError:
    where = printable(str(error.filename or drop.path))
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and drop.path.is_symlink()):
        return TransientError(f"{drop.path}: expected a folder, found a link; declare where it leads")
    if isinstance(error, FileNotFoundError):
        remedy = "`exchange init` makes it, or see that it is mounted"
    return TransientError(f"{where}: {error.strerror or error}; {remedy}")


def _free(folder: Folder, name: str) -> str:
    """Give a name that nothing has, nor the reason beside it, as near to the wanted one as can be."""
    stem, dot, rest = name.encode()[-_MOST_NAME_BYTES:].decode(errors="ignore").partition(".")
    for number in range(10_000):
        tried = f"{stem}-{number}{dot}{rest}" if number else f"{stem}{dot}{rest}"
        if not folder.has(tried) and not folder.has(tried + REASON_ENDING):
            return tried
    raise OSError(errno.EEXIST, "too many files of one name lie there", str(folder.path / name))


def _disk_seconds(folder: Folder) -> float:
    """Give the time by the clock that dates this folder's files; this machine's where nothing can be written."""
    try:
        with _ours(folder, TAKEN) as taken:
            how = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(_TOUCHED, how, OUR_MODE, dir_fd=taken.descriptor)
            try:
                os.utime(descriptor)
                return os.fstat(descriptor).st_ctime
            finally:
                os.close(descriptor)
    except OSError:
        return clock.seconds()
