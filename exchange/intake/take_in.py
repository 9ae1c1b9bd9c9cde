"""One file taken in: its bytes hashed, the same ones looked for, a row in the ledger, its parts loaded."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from exchange.channels.intake import Intake
from exchange.database.errors import transient_errors
from exchange.database.locks import writing
from exchange.database.tables import IntakeState
from exchange.format.moments import in_words
from exchange.intake import ledger
from exchange.intake.ledger import Entry, NewFile, Terms
from exchange.intake.target import Target
from exchange.reading import FileFormat, FileRefused, Place
from exchange.site import Site

_PIECE = 1024 * 1024

PartPlaces = Sequence[tuple[Place, int | None]]
"""Where each part of a file begins, and the byte where it ends; None: the file's end."""


@dataclass(frozen=True)
class Bytes:
    """The bytes of a file as they were when it was taken in."""

    sha256: str
    length: int
    changed_ns: int


def hashed(file: BinaryIO) -> Bytes:
    """Read a file once. Raises FileRefused for what is no file or is written to meanwhile, and OSError."""
    before = os.fstat(file.fileno())
    if not stat.S_ISREG(before.st_mode):
        raise FileRefused("it is no regular file; bring the file itself")
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or file.tell() != after.st_size:
        raise FileRefused("it is still being written to; bring it again once it is complete")
    return Bytes(digest.hexdigest(), after.st_size, after.st_mtime_ns)


def terms_of(site: Site, intake: Intake, stream: str, written: FileFormat, found: Bytes) -> Terms:
    """Say on which terms a file of an intake is loaded. Raises FileRefused where its columns don't suffice.

    It is loaded in one transaction where what was loaded of it could not be taken back: where rows that are there are
    changed or replaced, unless any number of bad rows is taken, and where the database gives the keys.
    """
    target = Target(site, stream, written.names, intake.key, intake.mode)
    missing = target.stream.lacking
    if missing and written.columns and intake.mode != "upsert":  # which may change rows that are there
        raise FileRefused(
            f"it has no column for {', '.join(missing)}, without which no row can be; add it, or say by defaults= what"
            " it is"
        )
    if intake.mode != "insert" and not target.stream.key:
        names = ", ".join(intake.key or target.whole.key_names)
        raise FileRefused(f"it has no column for {names}, by which rows are told apart for {intake.mode}; add it")
    no_limit = intake.bad_share is not None and intake.bad_share >= 1 and intake.bad_rows is None
    bad_rows = site.limits.intake_bad_rows if intake.bad_rows is None else intake.bad_rows
    bad_share = site.limits.intake_bad_share if intake.bad_share is None else intake.bad_share
    made_here = not {*(intake.key or target.whole.key_names)}.isdisjoint(written.given)  # read again they are others
    by_key = intake.mode == "insert" and bool(target.stream.key) and not made_here
    return Terms(
        mode=intake.mode,
        key=tuple(intake.key),
        on_invalid=intake.on_invalid,
        bad_rows=None if no_limit else bad_rows,
        bad_share=bad_share,
        whole=intake.whole or not (by_key or (intake.mode == "upsert" and no_limit)),
        changed_ns=found.changed_ns,
    )


def write_down(site: Site, new: NewFile, parts: PartPlaces, *, again: bool = False) -> tuple[int, Entry | None]:
    """Write a file into the ledger, to be loaded by parts; or as a duplicate of one that was taken in before.

    Gives its id, and the one that it is a duplicate of. With ``again`` it is loaded all the same. Commits one
    transaction. Raises Busy and TransientError.
    """
    with transient_errors(), writing(site.engine) as connection:
        ledger.decide_alone(connection)
        original = None if again else ledger.original_of(connection, new.sha256, new.stream)
        if original is None:
            parts = parts[:1] if new.terms.whole or new.terms.mode != "insert" else parts
            whole = [(parts[0][0], None)] if len(parts) == 1 else parts
            return ledger.record(connection, new, IntakeState.WAITING, whole), None
        said = duplicate_of(original)
        duplicate = NewFile(**{**new.__dict__, "message": said})
        return ledger.record(connection, duplicate, IntakeState.DUPLICATE), original


def duplicate_of(original: Entry) -> str:
    """Say whose duplicate a file is."""
    return (
        f"the same bytes were taken in on {in_words(original.created_at)} as file {original.id}"
        f" ({original.file}, from {original.who}), which is {original.state}"
    )
