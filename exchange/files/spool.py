"""The folders: how files come in, go out, and never half exist.

Only this module moves, opens or syncs a batch's files. Whatever lies in ``incoming/`` belongs to the other
side until it is claimed; nothing there is followed, trusted or changed. In the two folders that a carrier serves
every step is taken in the open folder that was marked. Moves may be repeated: each step finds what a crashed one left.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fcntl import LOCK_EX
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from exchange.database import clock
from exchange.files import carrier_group, home_id
from exchange.files.batch_files import (
    DRAFT_ENDING,
    ENDINGS,
    REASON_ENDING,
    AloneData,
    BatchFiles,
    DataFile,
    FileIdentity,
    Kept,
    LeftAlone,
    Listing,
    batch_of_file,
    data_file,
    files_of,
    free_label,
    parse_label,
    plain_entry,
    take_all,
)
from exchange.files.carry import MEMORY
from exchange.files.folder import COPY_BYTES, HOME_MODE, OUR_MODE, Folder, NotPlain, held, hold, make_private
from exchange.files.layout import Folders
from exchange.files.left_alone import (
    READ_REMEDY,
    may_read,
    not_readable,
    unseen,
    why_left_alone,
    without_manifest,
)
from exchange.files.manifest_cache import ManifestCache
from exchange.files.shared_folders import MARKER, MarkerMissing, Shared
from exchange.format.errors import Incomplete, Problem, TransientError, printable
from exchange.format.manifest import MAX_MANIFEST_BYTES
from exchange.format.names import (
    DATA_ENDINGS,
    MANIFEST_ENDING,
    BatchName,
    FileKind,
    data_name,
    manifest_name,
    parse_file_name,
)


class Spool:
    """The folders of one network and every move of a file between them."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.manifest_cache: ManifestCache[Any] = ManifestCache()
        """What was made of the manifests of the last listing."""
        self.shared = tuple(
            Shared(role, path, folders.home, folders.private, folders.folder_mode, folders.file_mode, folders.group)
            for role, path in (("outgoing", folders.outgoing), ("incoming", folders.incoming))
        )
        """The two that a carrier serves."""

    @functools.cached_property
    def home_id(self) -> str | None:
        """The number of this home, read once; None if it had none then. Raises OSError."""
        return home_id.read(self.folders.home)

    def prepare(self, *, make: bool = False) -> None:
        """Make private folders that are missing, and see that the shared ones are those that were marked.

        With ``make``, a person's first step, shared folders that this side never had are made and marked too.
        Raises TransientError if a folder can't be made, is not there, or has lost its marker.
        """
        try:
            make_private(self.folders.home, HOME_MODE)
            for folder in self.folders.private:
                make_private(folder)
            for shared in self.shared:
                try:
                    shared.see()
                except MarkerMissing:
                    if not make:
                        raise
                    shared.mark()
        except OSError as error:
            msg = f"{error.filename}: {error.strerror}; nothing was read or written; mend the folder and run again"
            raise TransientError(msg) from error

    @contextlib.contextmanager
    def _held(self, path: Path) -> Iterator[Folder]:
        """Hold one of the folders open; one that a carrier serves only if it is the one that was marked."""
        shared = next((one for one in self.shared if one.path == path), None)
        with shared.held() if shared else held(path, follow=True) as folder:
            yield folder

    @contextlib.contextmanager
    def _listed(self, path: Path) -> Iterator[tuple[Folder, Iterator[os.DirEntry[str]]]]:
        try:
            with self._held(path) as folder, folder.entries() as entries:
                yield folder, entries
        except OSError as error:
            raise _world(error, "nothing was read; mend the folder and run again") from error

    # Out

    @contextlib.contextmanager
    def drafting(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a new private data file below ``tmp/``; it is gone afterwards unless it was sealed.

        Drafts of processes that were killed go first: they would fill the disk, one after the other.
        """
        with contextlib.suppress(OSError), self._held(self.folders.tmp) as tmp:
            tmp.sweep(any_name=True)
        path = self.folders.tmp / f"{os.getpid()}-{os.urandom(6).hex()}{DRAFT_ENDING}"
        try:
            with _in_trouble(self.folders.tmp, _STAYS_PENDING):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OUR_MODE)
            with os.fdopen(descriptor, "w+b") as file:
                hold(file.fileno(), LOCK_EX)
                yield file, path
        except OSError as error:
            if error.filename is not None:
                raise
            raise FolderTrouble.of(self.folders.tmp, error, _STAYS_PENDING) from error
        finally:
            with contextlib.suppress(OSError):  # pruned, once nobody writes it
                path.unlink(missing_ok=True)

    def seal(self, name: BatchName, encoding: tuple[str, ...], draft: Path, data_bytes: int, manifest: bytes) -> None:
        """Make a batch durable in ``sealed/``: data, then manifest, each synced before its rename.

        ``draft`` is complete and flushed. Raises TransientError if the disk did not take all of it.
        """
        data, moved = data_name(name, encoding), False
        self._finish(draft, data_bytes)
        with self._held(self.folders.tmp) as tmp, self._held(self.folders.sealed) as sealed:
            try:
                with _in_trouble(self.folders.sealed, _STAYS_PENDING):
                    tmp.move(draft.name, sealed, data, mode=OUR_MODE)
                    moved = True
                    with sealed.write(manifest_name(name), mode=OUR_MODE) as file:
                        file.write(manifest)
                    sealed.sync()
            except FolderTrouble:
                # No row will speak of it: it would take the room that the next try needs.
                for left in (manifest_name(name), data) if moved else ():
                    with contextlib.suppress(OSError):
                        sealed.remove(left)
                raise

    def _finish(self, draft: Path, data_bytes: int) -> None:
        """See that the disk has all of a draft, and for good."""
        with _in_trouble(self.folders.tmp, _STAYS_PENDING):
            found = draft.stat().st_size
            _sync_file(draft)
        if found != data_bytes:
            msg = f"{draft.name}: the disk holds {found} bytes of {data_bytes}; {_STAYS_PENDING}; run again"
            raise TransientError(msg)

    def publish(self, name: BatchName, encoding: tuple[str, ...], attempt: int = 1) -> None:
        """Put a sealed batch into ``outgoing/``: data first, the manifest last as the commit mark.

        May be repeated. ``attempt`` > 1 publishes the same bytes under the next name.
        Raises SealedGone, and FolderTrouble if the folder can't take it.
        """
        public = name.again(attempt)
        with (
            _in_trouble(self.folders.outgoing, _STAYS_SEALED),
            self._held(self.folders.sealed) as sealed,
            self._held(self.folders.outgoing) as outgoing,
        ):
            moves = (
                (data_name(name, encoding), data_name(public, encoding)),
                (manifest_name(name), manifest_name(public)),
            )
            for source, _ in moves:
                if not sealed.has(source):
                    raise SealedGone(
                        f"{sealed.path / source} is gone; a snapshot of the channel goes in the batch's place"
                    )
            for source, target in moves:
                self._copy_out(sealed, source, outgoing, target)
            outgoing.sync()

    def _copy_out(self, sealed: Folder, source: str, outgoing: Folder, target: str) -> None:
        # A copy, not a link: what the carrier can reach must not be the bytes that we would send again.
        with sealed.read(source) as read, outgoing.write(target, mode=self.folders.file_mode) as write:
            shutil.copyfileobj(read, write, COPY_BYTES)
            carrier_group.give(
                write.fileno(),
                self.folders.group,
                outgoing.path / target,
                _STAYS_SEALED,
            )
            if write.tell() != os.fstat(read.fileno()).st_size:
                raise OSError(errno.EIO, "short copy", str(outgoing.path / target))

    def has_sealed(self, name: BatchName, encoding: tuple[str, ...], manifest_digest: str | None, sha256: str) -> bool:
        """Say whether our copy of a sealed batch is here and is what it was: both digests are those of its files."""
        try:
            with self._held(self.folders.sealed) as sealed:
                with sealed.read(manifest_name(name)) as file:
                    line = file.read(MAX_MANIFEST_BYTES + 1).partition(b"\n")[0]
                if hashlib.sha256(line).hexdigest() != manifest_digest:
                    return False
                with sealed.read(data_name(name, encoding)) as file:
                    digest = hashlib.sha256()
                    while piece := file.read(COPY_BYTES):
                        digest.update(piece)
                    return digest.hexdigest() == sha256
        except FileNotFoundError:
            return False

    def look_outgoing(self, names: Iterable[BatchName], most: int) -> tuple[int, bool, frozenset[BatchName]]:
        """Count the batches in ``outgoing/``, and say which of some lie there, by the names of their publications.

        At most so many files are listed: the second is whether there are more. Raises TransientError.
        """
        with self._listed(self.folders.outgoing) as (folder, entries):
            listed = [entry.name for entry in islice(entries, most + 1)]
            parsed = (parse_file_name(name) for name in listed[:most])
            number = sum(1 for one in parsed if one is not None and one[1] is FileKind.MANIFEST)
            return number, len(listed) > most, frozenset(one for one in names if folder.has(manifest_name(one)))

    def sealed_epochs(self) -> frozenset[str]:
        """Name the epochs of which our copy of a batch is kept: a database that was restored may know fewer."""
        with self._listed(self.folders.sealed) as (_, entries):
            names = (parse_file_name(entry.name) for entry in entries)
            return frozenset(name[0].epoch for name in names if name is not None)

    def forget_sealed(self, name: BatchName, encoding: tuple[str, ...], attempts: int = 1) -> None:
        """Remove our copy of a sealed batch whose retention has ended, and what the carrier left of each attempt."""
        left = [(self.folders.outgoing, name.again(attempt)) for attempt in range(1, attempts + 1)]
        for path, public in ((self.folders.sealed, name), *left):
            with self._held(path) as folder:
                folder.remove(manifest_name(public))
                folder.remove(data_name(public, encoding))

    # In

    def list_arrivals(self) -> Listing:
        """List ``incoming/`` and ``work/`` once each. Nothing is opened, and no link is followed."""
        found: dict[BatchName, BatchFiles] = {}
        data: dict[BatchName, AloneData] = {}
        left_alone: list[LeftAlone] = []
        ignored = 0
        for path in (self.folders.work, self.folders.incoming):
            with self._listed(path) as (folder, entries):
                for entry in entries:
                    if entry.name == MARKER or entry.name.startswith(MEMORY):
                        continue
                    parsed = parse_file_name(entry.name)
                    try:
                        plain = plain_entry(entry) if parsed else None
                    except OSError as error:
                        if path == self.folders.work:
                            raise
                        left_alone.append(unseen(entry.name, error))
                        continue
                    odd = why_left_alone(folder, entry, parsed, plain) if path == self.folders.incoming else None
                    if odd is not None:
                        left_alone.append(odd)
                    if parsed is None or plain is None:
                        ignored += 1
                    elif parsed[1] is FileKind.DATA:
                        data[parsed[0]] = AloneData(BatchFiles(parsed[0], path), entry.name, plain.st_ctime)
                    elif odd is None:
                        found.setdefault(parsed[0], BatchFiles(parsed[0], path, FileIdentity.of(plain)))
        in_order = sorted(found.values(), key=attrgetter("name.channel", "name.epoch", "name.sequence", "name.attempt"))
        unpaired = data.keys() - found.keys()
        told = {one.file for one in left_alone}
        alone = [data[name] for name in sorted(unpaired) if told.isdisjoint({data[name].file, manifest_name(name)})]
        left_alone += (without_manifest(one.file, one.changed_at) for one in alone)
        arrived = tuple(one for one in alone if one.batch.folder == self.folders.incoming)
        return Listing(tuple(in_order), ignored, len(unpaired), tuple(left_alone), arrived)

    def read_manifest(self, batch: BatchFiles) -> bytes:
        """Read a manifest, at most one byte more than a manifest may have.

        Raises NotPlain if it is no plain file any more, FileNotFoundError if it went.
        """
        with (
            self._held(batch.folder) as folder,
            folder.read(batch.file(manifest_name(batch.name))) as file,
        ):
            return file.read(MAX_MANIFEST_BYTES + 1)

    def _arrived(self, file: str) -> os.stat_result | None:
        """Look at a file that lies claimed or in ``incoming/``; None if it is no plain file there."""
        for path in (self.folders.work, self.folders.incoming):
            with self._held(path) as folder:
                found = folder.look(file)
                if found is not None:
                    return found
        return None

    def data_arrived(self, batch: BatchFiles, encoding: tuple[str, ...]) -> tuple[int, Problem | None] | None:
        """Give the size in bytes of the data file, and if this user may not read it that; None if it is not there.

        It is looked for in both folders, and not there if it is no plain file.
        """
        name = data_name(batch.name, encoding)
        for path in (self.folders.work, self.folders.incoming):
            with self._held(path) as folder:
                found = folder.look(name)
                if found is not None:
                    readable = may_read(folder, name, found)
                    return found.st_size, None if readable else Problem(not_readable(found), READ_REMEDY)
        return None

    def other_data(self, batch: BatchFiles, encoding: tuple[str, ...]) -> str | None:
        """Name a data file that came for a batch in another encoding than it was sealed in; None if there is none."""
        others = (data_name(batch.name, one) for one in DATA_ENDINGS if one != encoding)
        return next((name for name in others if self._arrived(name) is not None), None)

    def seconds_since_written(self, batch: BatchFiles, encoding: tuple[str, ...] | None) -> float:
        """Say how long nobody has written to the data file, or with None to the manifest.

        Only ever a guess whether a carrier still writes: copies keep old times, and clocks differ.
        """
        found = self._arrived(manifest_name(batch.name) if encoding is None else data_name(batch.name, encoding))
        # The change time is this machine's own, so a time in the future can't keep a file young for ever.
        # One that is far in the future was set by a machine's clock that was ahead, which nobody waits for.
        seconds = clock.seconds() - min(found.st_mtime, found.st_ctime) if found else 0.0
        return seconds if seconds > -clock.SKEW.total_seconds() else -seconds

    def claim(self, batch: BatchFiles, encoding: tuple[str, ...]) -> BatchFiles:
        """Take both files out of the other side's reach, into ``work/``. May be repeated after a crash.

        Raises FileNotFoundError if one went, Incomplete if one is no plain file any more.
        """
        with (
            self._held(self.folders.work) as work,
            self._held(self.folders.incoming) as incoming,
            _of_the_batch(),
            _in_trouble(
                self.folders.work, "nothing of it was applied; the next run takes it", FileNotFoundError, NotPlain
            ),
        ):
            # The manifest last: it alone makes a batch, so a crash in between is found by its name in incoming/.
            for name in (data_name(batch.name, encoding), manifest_name(batch.name)):
                if work.look(name) is None:
                    incoming.take(name, work, name, mode=OUR_MODE)
                elif _same(incoming, work, name):  # moved to another file system already, but for its removal here
                    incoming.remove(name)
        return BatchFiles(batch.name, self.folders.work)

    def give_back(self, batch: BatchFiles, encoding: tuple[str, ...]) -> None:
        """Undo a claim: the carrier is still writing this batch. What has its name there meanwhile is left alone."""
        with (
            self._held(self.folders.work) as work,
            self._held(self.folders.incoming) as incoming,
            _in_trouble(self.folders.incoming, "the batch stays in work, and the next run takes it"),
        ):
            for name in (data_name(batch.name, encoding), manifest_name(batch.name)):
                if work.look(name) is not None and not incoming.has(name):
                    work.move(name, incoming, name, mode=self.folders.file_mode)

    def open_data(self, batch: BatchFiles, encoding: tuple[str, ...]) -> BinaryIO:
        """Open a claimed batch's data file for reading. Raises Incomplete if it is no plain file with one name."""
        with self._held(batch.folder) as folder, _of_the_batch():
            return folder.read(batch.file(data_name(batch.name, encoding)))

    def open_arrived(self, batch: BatchFiles, encoding: tuple[str, ...]) -> BinaryIO:
        """Open a batch's data file for reading, claimed or not. Raises FileNotFoundError, NotPlain."""
        name = data_name(batch.name, encoding)
        for path in (self.folders.work, self.folders.incoming):
            with self._held(path) as folder:
                if folder.look(name) is not None:
                    return folder.read(name)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def archive(self, batch: BatchFiles) -> None:
        """Move a settled batch to ``archive/``, beside an earlier copy if there is one."""
        self._settle(batch, self.folders.archive)

    def quarantine(self, batch: BatchFiles, sentence: str) -> None:
        """Move a refused batch to ``quarantine/`` and write the sentence beside it."""
        self._settle(batch, self.folders.quarantine, sentence)

    def put_aside(self, batches: Iterable[BatchFiles]) -> None:
        """Move what nobody vouches for to ``strangers/``; the folder is synced once for all of them."""
        with (
            self._held(self.folders.work) as work,
            self._held(self.folders.incoming) as incoming,
            self._held(self.folders.quarantine) as quarantine,
            self._held(self.folders.strangers) as strangers,
            _in_trouble(self.folders.strangers, _STAY),
        ):
            for batch in batches:
                stem = free_label((quarantine, strangers), batch.stem)  # a person names one of either by it
                take_all(files_of(batch.stem, (work, incoming)), batch.stem, strangers, stem)
            strangers.sync()

    def _settle(self, batch: BatchFiles, path: Path, sentence: str | None = None) -> None:
        """Move a batch's plain files, the manifest last; what is claimed comes first, and anything else stays."""
        with (
            _in_trouble(path, _STAY),
            self._held(self.folders.work) as work,
            self._held(self.folders.incoming) as incoming,
            self._held(self.folders.strangers) as strangers,
            self._held(path) as folder,
        ):
            stem = free_label((folder, strangers) if sentence else (folder,), batch.stem)
            sources = files_of(batch.stem, (work, incoming))
            if stem != batch.stem and sources.keys() == {MANIFEST_ENDING}:
                # Moved to another file system already, but for its removal here.
                manifest = manifest_name(batch.name)
                stem = batch.stem if _same(sources[MANIFEST_ENDING], folder, manifest) else stem
            if sources and sentence is not None:  # first: a crash after the move would leave it out for ever
                with folder.write(f"{stem}{REASON_ENDING}", mode=OUR_MODE) as file:
                    file.write(f"{printable(sentence, 2000)}\n".encode())
            take_all(sources, batch.stem, folder, stem)
            folder.sync()

    def _where_kept(self) -> tuple[Path, ...]:
        """Give the folders in which an incoming batch may be, in the order in which they are looked through."""
        return (
            self.folders.work,
            self.folders.incoming,
            self.folders.quarantine,
            self.folders.archive,
            self.folders.strangers,
        )

    def find(self, stem: str) -> BatchFiles | None:
        """Find an incoming batch by its stem in work, incoming, quarantine, archive or strangers, in this order."""
        with contextlib.suppress(ValueError):
            name = BatchName.parse(stem)
            for path in self._where_kept():
                with self._held(path) as folder:
                    if folder.look(manifest_name(name)) is not None:
                        return BatchFiles(name, path)
        return None

    def find_range(self, first: BatchName, last: int) -> dict[int, BatchFiles]:
        """Find incoming batches of a channel's epoch by their sequences, the newest publication of each."""
        found: dict[int, BatchFiles] = {}
        for folder in reversed(self._where_kept()):
            for one in sorted(self._batches_in(folder), key=attrgetter("name")):
                same = (one.name.channel, one.name.epoch, one.copy) == (first.channel, first.epoch, 1)
                if same and first.sequence <= one.name.sequence <= last:
                    found[one.name.sequence] = one
        return found

    def list_quarantined(self) -> list[BatchFiles]:
        """List what lies in quarantine, in the order of names, and behind it what nobody vouches for."""
        folders = (self.folders.quarantine, self.folders.strangers)
        return [one for path in folders for one in sorted(self._batches_in(path), key=attrgetter("name", "copy"))]

    def find_quarantined(self, label: str) -> BatchFiles:
        """Say where a batch in quarantine lies, or would, by the label of its files. Raises ValueError."""
        name, copy = parse_label(label)
        with self._held(self.folders.strangers) as strangers:
            there = strangers.look(f"{label}{MANIFEST_ENDING}") is not None
        return BatchFiles(name, self.folders.strangers if there else self.folders.quarantine, copy=copy)

    def used_by_strangers(self) -> tuple[int, int]:
        """Say how many files ``strangers/`` holds, and how many bytes they have."""
        with self._listed(self.folders.strangers) as (_, entries):
            sizes = [plain.st_size for entry in entries if (plain := plain_entry(entry)) is not None]
        return len(sizes), sum(sizes)

    def sizes(self, batch: BatchFiles) -> tuple[int, int]:
        """Say how many files a batch has that arrived, and how many bytes they have."""
        with self._held(self.folders.work) as work, self._held(self.folders.incoming) as incoming:
            files = files_of(batch.stem, (work, incoming))
            looks = [folder.look(f"{batch.stem}{ending}") for ending, folder in files.items()]
        found = [one.st_size for one in looks if one is not None]
        return len(found), sum(found)

    def _batches_in(self, path: Path) -> Iterator[BatchFiles]:
        """Give the batches of a folder, by their manifests."""
        with self._listed(path) as (_, entries):
            for entry in entries:
                if entry.name.endswith(MANIFEST_ENDING) and plain_entry(entry) is not None:
                    with contextlib.suppress(ValueError):
                        name, copy = parse_label(entry.name.removesuffix(MANIFEST_ENDING))
                        yield BatchFiles(name, path, copy=copy)

    def size_and_time(self, batch: BatchFiles) -> tuple[int, datetime | None]:
        """Say how many bytes a batch's files have, and since when they lie there: a rename sets ``ctime``."""
        with self._held(batch.folder) as folder:
            found = [one for ending in ENDINGS if (one := folder.look(f"{batch.label}{ending}")) is not None]
        since = max((one.st_ctime for one in found), default=None)
        return sum(one.st_size for one in found), None if since is None else datetime.fromtimestamp(since, UTC)

    def reason(self, batch: BatchFiles) -> str:
        """Read the sentence beside a quarantined batch; empty if there is none."""
        with (
            contextlib.suppress(OSError),
            self._held(batch.folder) as folder,
            folder.read(f"{batch.label}{REASON_ENDING}") as file,
        ):
            return file.read(MAX_MANIFEST_BYTES).decode(errors="replace").strip()
        return ""

    def has(self, stem: str) -> bool:
        """Say whether a batch's manifest still lies where arrivals and claimed batches lie.

        ``incoming/`` is looked at once more in the end: what was claimed may be given back between two looks.
        """
        name = manifest_name(BatchName.parse(stem))
        for path in (self.folders.incoming, self.folders.work, self.folders.incoming):
            with self._held(path) as folder:
                if folder.has(name):
                    return True
        return False

    def bring_back(self, batch: BatchFiles) -> BatchFiles:
        """Move a kept batch back to ``work/`` so that the next import judges it anew."""
        if batch.folder in (self.folders.work, self.folders.incoming):
            return batch
        self._move_all(batch, self.folders.work, batch.stem)
        return BatchFiles(batch.name, self.folders.work)

    def retire(self, batch: BatchFiles) -> None:
        """Move a batch that a person gave up to ``archive/``, wherever it lies."""
        if batch.folder in (self.folders.quarantine, self.folders.strangers):
            with self._held(self.folders.archive) as archive:
                free = free_label((archive,), batch.stem)
            self._move_all(batch, self.folders.archive, free)
        else:
            self.archive(batch)

    def _move_all(self, batch: BatchFiles, path: Path, stem: str) -> None:
        """Move a batch's files, the manifest last: it alone makes a batch, so a crash in between is found."""
        with self._held(batch.folder) as source, self._held(path) as target:
            for ending in ENDINGS:
                if source.look(f"{batch.label}{ending}") is not None:
                    source.move(f"{batch.label}{ending}", target, f"{stem}{ending}", mode=OUR_MODE)
            source.remove(f"{batch.label}{REASON_ENDING}")
            target.sync()

    def prune(self, path: Path, older_than: float) -> int:
        """Remove files of a folder of ours last changed before ``older_than`` (Unix time); say how many."""
        removed = 0
        with self._held(path) as folder, folder.entries() as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                    found = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(found.st_mode) and found.st_ctime < older_than:
                        folder.remove(entry.name)
                        removed += 1
        return removed

    def see_room(self, path: Path, size: int) -> None:
        """See that files of so many bytes can be moved from ``incoming/`` into a folder of ours.

        Raises FolderTrouble.
        """
        with self._held(path) as folder, self._held(self.folders.incoming) as incoming, _in_trouble(path, _STAY):
            incoming.see_removable()
            folder.probe()
            if path.stat().st_dev != self.folders.incoming.stat().st_dev and shutil.disk_usage(path).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def sweep(self, older_than: float = 0.0) -> int:
        """Remove drafts that a crash left half written in any folder; say how many. ``older_than`` as there."""
        removed = 0
        for path, any_name in self._with_drafts():
            with contextlib.suppress(OSError), self._held(path) as folder:
                removed += folder.sweep(any_name=any_name, older_than=older_than)
        return removed

    def drafts_left(self) -> list[str]:
        """Name the drafts that a crash left half written, in any folder."""
        found: list[str] = []
        for path, any_name in self._with_drafts():
            with contextlib.suppress(OSError), self._held(path) as folder:
                found += (f"{path.name}/{name}" for name in folder.drafts(any_name=any_name))
        return found

    def _with_drafts(self) -> Iterator[tuple[Path, bool]]:
        """Give the folders in which we write, and whether nothing but drafts lies there."""
        folders = self.folders
        yield folders.tmp, True
        for path in (folders.sealed, folders.work, folders.archive, folders.quarantine, folders.strangers):
            yield path, False
        yield from ((one.path, False) for one in self.shared)

    # Strays

    def list_kept(self, path: Path, most: int | None = None) -> list[Kept]:
        """List the files of batches in a folder of ours, or ``most`` of them."""
        found = []
        with self._listed(path) as (folder, entries):
            for entry in islice(entries, most):
                parsed = parse_file_name(entry.name)
                plain = plain_entry(entry) if parsed else None
                if parsed is not None and plain is not None:
                    readable = plain.st_uid == os.geteuid() or may_read(folder, entry.name, plain)
                    found.append(Kept(entry.name, parsed[0], parsed[1], plain.st_ctime, readable))
        return found

    def labels(self, path: Path) -> Iterator[tuple[str, BatchName | None]]:
        """List the plain files of a folder one by one, each with the batch whose it is; None if it is no batch's."""
        with self._listed(path) as (_, entries):
            for entry in entries:
                if entry.name != MARKER and not entry.name.startswith(".") and plain_entry(entry) is not None:
                    yield entry.name, batch_of_file(entry.name)

    def lie_there(self, path: Path, names: Iterable[str]) -> set[str]:
        """Give those of some names that are plain files in a folder."""
        with self._held(path) as folder:
            return {name for name in names if folder.look(name) is not None}

    def open_kept(self, path: Path, name: str) -> BinaryIO:
        """Open a file of a folder of ours for reading. Raises FileNotFoundError, NotPlain."""
        with self._held(path) as folder:
            return folder.read(name)

    def work_alone(self) -> list[Kept]:
        """List data files that were claimed and whose manifest is neither claimed nor in ``incoming/``."""
        with self._held(self.folders.incoming) as incoming:
            claimed = self.list_kept(self.folders.work)
            paired = {one.name for one in claimed if one.kind is FileKind.MANIFEST}
            alone = (one for one in claimed if one.kind is FileKind.DATA and one.name not in paired)
            return [one for one in alone if not incoming.has(manifest_name(one.name))]

    def remove(self, path: Path, names: Iterable[str]) -> int:
        """Remove files of a folder of ours; say how many."""
        removed = 0
        with self._held(path) as folder:
            for name in names:
                folder.remove(name)
                removed += 1
        return removed

    # Wherever they are, for whoever looks for a record in them

    def data_files(self) -> list[DataFile]:
        """List every data file in every folder, and every draft that a crash may have left, but for the carrier's."""
        folders = self.folders
        found: list[DataFile] = []
        for folder in (folders.sealed, folders.outgoing, *self._where_kept(), folders.tmp):
            with self._listed(folder) as (_, entries):
                files = [one for entry in entries if (one := data_file(folder, entry)) is not None]
            # A draft in incoming/ is the carrier's.
            found += [one for one in files if one.name is not None or folder != folders.incoming]
        return sorted(found, key=attrgetter("folder", "label", "ending"))

    def open_data_file(self, file: DataFile) -> BinaryIO:
        """Open one for reading. Raises OSError unless it is a plain file with one name."""
        with self._held(file.folder) as folder:
            return folder.read(f"{file.label}{file.ending}")

    def erase(self, file: DataFile) -> None:
        """Remove a data file and all that is beside it: the manifest first, so that nothing half is seen.

        May be repeated. Raises TransientError.
        """
        try:
            with self._held(file.folder) as folder:
                for ending in (MANIFEST_ENDING, *DATA_ENDINGS.values(), REASON_ENDING, file.ending):
                    folder.remove(f"{file.label}{ending}")
                folder.sync()
        except OSError as error:
            raise _world(error, "not all was erased; mend the folder and run again") from error

    def check_room(self, batch_bytes: int) -> None:
        """See that there is room for a batch of so many bytes on its way out: two copies of it at once, on one disk.

        Raises FolderTrouble.
        """
        on: Counter[int] = Counter()
        for folder in (self.folders.tmp, self.folders.sealed):
            on[folder.stat().st_dev] += batch_bytes
            free, needed = shutil.disk_usage(folder).free, on[folder.stat().st_dev]
            if free < needed:
                raise FolderTrouble(
                    f"{folder}: {free} bytes are free, a batch may need {needed}; nothing is exported, and changes stay"
                    " pending"
                )


class SealedGone(TransientError):  # noqa: N818 - reads as what it is
    """Our copy of a batch is gone: it can't be published any more."""


class FolderTrouble(TransientError):  # noqa: N818 - reads as what it is
    """One of the folders is full or can't be written: whatever needs it waits, and nothing else."""

    @classmethod
    def of(cls, folder: Path, error: OSError, consequence: str) -> FolderTrouble:
        """Name the folder if it is in its nature or its disk's, else the file."""
        found = Path(os.fsdecode(error.filename)) if error.filename else folder
        if not found.is_dir() and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            found = found.parent
        return cls(f"{found}: {error.strerror or error}; {consequence}")


_STAYS_PENDING = "the batch is not sealed and its changes stay pending"
_STAYS_SEALED = "the batch stays sealed and is published at the next run"
_STAY = "files of batches that are dealt with stay where they lie until the next run moves them"


@contextlib.contextmanager
def _in_trouble(folder: Path, consequence: str, *but: type[OSError]) -> Iterator[None]:
    """Turn what the disk says of a folder into FolderTrouble, ``but`` for what is none."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        raise FolderTrouble.of(folder, error, consequence) from error


def _world(error: OSError, consequence: str) -> TransientError:
    return TransientError(f"{error.filename or 'the disk'}: {error.strerror or error}; {consequence}")


@contextlib.contextmanager
def _of_the_batch() -> Iterator[None]:
    """Let a file that somebody put something else in the place of be its batch's own trouble, and nobody else's."""
    try:
        yield
    except NotPlain as error:
        raise Incomplete(f"{Path(error.filename).name}: {error.strerror}") from error


def _same(one: Folder, other: Folder, name: str) -> bool:
    """Say whether a file of this name has the same bytes in both folders. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, NotPlain), one.read(name) as here, other.read(name) as there:
        while (piece := here.read(COPY_BYTES)) == there.read(COPY_BYTES):
            if not piece:
                return True
    return False


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
