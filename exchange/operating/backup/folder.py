"""A backup as a folder: it appears whole, under its name and on the disk, or not at all; and so it goes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from exchange.files.folder import COPY_BYTES, held
from exchange.format.as_dict import AsDict
from exchange.format.backup_file import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    BackupFile,
    BackupManifest,
)
from exchange.format.errors import TransientError, Untrusted, printable
from exchange.format.manifest import Signature
from exchange.format.signed_file import FileFault
from exchange.format.signing import SigningKey, TrustedKeys

SIGNER = "signer.pem"
"""The public half of the key that signed: for who has not got it, and was told its fingerprint."""

_DRAFT = re.compile(r"\.[0-9a-f]{32}\.(backup|gone)")
_LOCK = ".lock"


@dataclass(frozen=True)
class Found(AsDict):
    """A backup that lies in a folder, or what looks like one; ``fault`` says why it is not to be relied on.

    Its signature was checked, the digests of its files were not.
    """

    folder: Path
    manifest: BackupManifest | None
    fault: str | None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        said = self.manifest
        return {
            "name": self.folder.name,
            "folder": str(self.folder),
            "created_at": said.created_at.isoformat() if said else None,
            "network": said.network if said else None,
            "epoch": said.contents.epoch if said else None,
            "rows": said.rows if said else None,
            "bytes": said.bytes if said else None,
            "keys": bool(said.keys) if said else None,
            "fault": self.fault,
        }


@contextmanager
def drafting(where: Path) -> Iterator[Path]:
    """Give a folder for our eyes only to put a backup's files into; it is gone at the end, if it was not named.

    What earlier runs left that were killed goes first. Raises OSError.
    """
    sweep(where)
    draft = where / f".{secrets.token_hex(16)}.backup"
    draft.mkdir(mode=0o700)
    descriptor = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield draft
    finally:
        os.close(descriptor)
        shutil.rmtree(draft, ignore_errors=True)


def sweep(where: Path) -> None:
    """Remove drafts that nobody is at work on any more."""
    for draft in [one for one in where.iterdir() if _DRAFT.fullmatch(one.name)]:
        with suppress(OSError):
            lock = draft / _LOCK
            if lock.exists():
                with lock.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif draft.name.endswith(".backup") and _is_young(draft):
                continue  # its lock is about to be made
            shutil.rmtree(draft)


def _is_young(draft: Path) -> bool:
    from exchange.database import clock  # noqa: PLC0415 - only where a draft was left

    return abs(clock.seconds() - draft.stat().st_ctime) < 60  # noqa: PLR2004 - a minute


def finish(draft: Path, name: str, key: SigningKey, write: Callable[[tuple[BackupFile, ...]], BackupManifest]) -> Path:
    """Sign a draft's files, have all of it on the disk, and give it its name, last. Raises OSError."""
    (draft / SIGNER).write_bytes(key.public_pem())
    files = []
    for path in sorted(draft.iterdir()):
        if path.name != _LOCK:
            path.chmod(0o600)
            files.append(BackupFile(path.name, *_measured(path)))
    content = write(tuple(files)).encode()
    (draft / MANIFEST).write_bytes(content)
    (draft / SIGNATURE).write_bytes(key.sign(content).encode() + b"\n")
    for path in draft.iterdir():
        path.chmod(0o600)
        _sync(path)
    (draft / _LOCK).unlink()
    _sync(draft)
    final = draft.parent / name
    draft.rename(final)  # no backup lies there: its name has the moment, and something nobody foretells
    _sync(draft.parent)
    return final


def _measured(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(COPY_BYTES):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path, trusted: TrustedKeys) -> BackupManifest:
    """Read what a backup says of itself, once its signature was checked. Raises FileFault, Untrusted and OSError."""
    content, signature = _read(folder, MANIFEST, MAX_MANIFEST_BYTES), _read(folder, SIGNATURE, MAX_SIGNATURE_BYTES)
    trusted.check(content, Signature.parse(signature.removesuffix(b"\n")), f"the backup {printable(folder.name, 80)}")
    return BackupManifest.parse(content)


def _read(folder: Path, name: str, most: int) -> bytes:
    try:
        with held(folder, follow=True) as here, here.read(name, alone=False) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise FileFault(f"{printable(str(folder))} is no backup: it has no {name}") from None
    if len(content) > most:
        raise FileFault(f"{name}: expected at most {most} bytes, found more")
    return content


def check_files(folder: Path, manifest: BackupManifest) -> None:
    """Compare every file with what the manifest says. Raises FileFault at the first that differs, and OSError."""
    for one in manifest.files:
        path = folder / one.name
        if path.is_symlink() or not path.is_file():
            raise FileFault(f"{one.name} is missing")
        size, digest = _measured(path)
        if (size, digest) != (one.bytes, one.sha256):
            raise FileFault(f"{one.name} is not what was written: it was changed or damaged")


def listed(where: Path, trusted: TrustedKeys, network: str) -> list[Found]:
    """List what lies in a folder and looks like a backup, the newest first. Raises OSError."""
    found = []
    for folder in where.iterdir():
        if folder.name.startswith(".") or not (folder / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(folder, trusted)
        except (FileFault, Untrusted, OSError) as error:
            found.append(Found(folder, None, printable(str(error))))
            continue
        missing = [one.name for one in manifest.files if not _has(folder / one.name, one.bytes)]
        fault = f"{missing[0]} is missing or cut short" if missing else None
        if manifest.network != network:
            fault = f"it is of network {manifest.network}"
        found.append(Found(folder, manifest, fault))
    return sorted(found, key=lambda one: one.manifest.created_at.timestamp() if one.manifest else 0, reverse=True)


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def remove_old(where: Path, trusted: TrustedKeys, network: str, before: datetime) -> int:
    """Remove backups of this network that were made before a moment, but never the newest that is good.

    What our key did not sign is not ours to remove. Raises OSError.
    """
    ours = [one for one in listed(where, trusted, network) if one.manifest and one.manifest.network == network]
    newest = next((one for one in ours if one.fault is None), None)
    if newest is None:
        return 0
    old = [one for one in ours if one is not newest and one.manifest and one.manifest.created_at < before]
    for one in old:
        gone = where / f".{secrets.token_hex(16)}.gone"
        one.folder.rename(gone)  # in one step: what is left of it never looks like a backup
        shutil.rmtree(gone)
    return len(old)


def refuse_folder(where: Path, forbidden: tuple[Path, ...]) -> None:
    """See that a folder is there, and that no carrier would take along what is put into it. Raises TransientError."""
    if not where.is_dir():
        raise TransientError(
            f"{printable(str(where))}: expected a folder for backups, found none; nothing was done: make it"
            f" (mkdir -m 700), or see that its disk is mounted"
        )
    place = where.resolve()
    for one in forbidden:
        if place == one.resolve() or one.resolve() in place.parents:
            raise TransientError(
                f"{printable(str(where))}: a carrier takes or brings what lies there; nothing was done: name a folder"
                " outside of it"
            )
