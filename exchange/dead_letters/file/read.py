"""Dead letters out of a file: back to the network that they are of, or to the one that sent their records.

The file is checked as a batch is: who signed it, then every byte and value. All of it is taken in one transaction,
letter by letter: what is here already is a duplicate, and what has no place here is refused with a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.database.batch_fault import Crashed
from exchange.database.engine import now
from exchange.database.errors import refuses_a_record, transient_errors
from exchange.database.locks import LETTERS_LOCK, locked
from exchange.dead_letters.file.accept import Acceptance, Unacceptable
from exchange.dead_letters.file.insert import Inserter
from exchange.files.folder import NotPlain, named
from exchange.format.as_dict import AsDict
from exchange.format.dead_letter_file import LetterFileEnding, SavedRevision, read_entries
from exchange.format.errors import Untrusted, printable
from exchange.format.signed_file import FileFault, Trailer, read_tail
from exchange.site import Site

MOST_SENTENCES = 20
"""So many refused letters are named; all are counted."""

CHUNK_LETTERS = 200
CHUNK_BYTES = 8 * 1024 * 1024
"""Letters that are looked up and written together: memory holds no more of them."""


@dataclass
class ImportedLetters(AsDict):
    """What became of a file's letters. ``sentences`` tell of the first that were refused."""

    network: str
    imported: int = 0
    duplicate: int = 0
    refused: int = 0
    sentences: list[str] = field(default_factory=list)

    def refuse(self, number: int, sentence: str) -> None:
        """Count a letter that has no place here."""
        self.refused += 1
        if len(self.sentences) < MOST_SENTENCES:
            self.sentences.append(f"line {number}: {sentence}")


def import_letters(site: Site, file: Path) -> ImportedLetters:
    """Take in a file that ``export_letters`` wrote here or at the peer; may be repeated.

    Raises FileFault, and nothing was changed; Busy, TransientError.
    """
    with transient_errors(), _opened(site, file) as content:
        tail = read_tail(content)
        ending = _believed(site, tail)
        try:
            with locked(site.engine, LETTERS_LOCK) as connection:
                return _insert(site, connection, content, ending)
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            raise FileFault(f"the database refuses what is in it ({Crashed.of(error)})") from error


@contextmanager
def _opened(site: Site, file: Path) -> Iterator[BinaryIO]:
    """Open a plain file of bounded size; what is wrong with it or in it is said with its name."""
    try:
        with _plain(file) as content:
            _check_size(os.fstat(content.fileno()).st_size, site.limits.read.max_content_bytes)
            yield content
    except (FileFault, Untrusted) as fault:
        raise FileFault(f"{printable(str(file))}: {fault}; nothing was imported") from fault


def _plain(file: Path) -> BinaryIO:
    try:
        with named(file.parent) as folder:
            return folder.read(file.name, alone=False)
    except NotPlain:
        raise FileFault("expected a plain file, found something else") from None
    except OSError as error:
        raise FileFault(str(error.strerror)) from error


def _believed(site: Site, tail: Trailer) -> LetterFileEnding:
    """Check who signed the ending, and that it is of this network or of its peer."""
    # Which keys count depends on whose letters these are: nothing else of it is used before the signature.
    claimed = LetterFileEnding.parse(tail.line)
    keys = {site.network: site.own, site.peer: site.trusted}.get(claimed.network)
    if keys is None:
        raise FileFault(f"it has letters of {claimed.network}, expected of {site.network} or {site.peer}")
    if tail.signature is not None or site.require_signature:
        keys.check(tail.line, tail.signature, "it")
    if tail.signature is not None:
        keys.check_terms(tail.signature.key, None, now())
    if claimed.bytes != tail.start:
        raise FileFault(f"{tail.start} bytes lie before its ending, which speaks of {claimed.bytes}")
    if claimed.letters > site.limits.read.max_records:
        raise FileFault(f"it has {claimed.letters} letters, more than EXCHANGE_MAX_RECORDS allows")
    return claimed


def _check_size(found: int, most: int) -> None:
    if found > most:
        raise FileFault(f"it has {found} bytes, more than {most} (EXCHANGE_MAX_CONTENT_BYTES)")


def _insert(site: Site, connection: Connection, content: BinaryIO, ending: LetterFileEnding) -> ImportedLetters:
    done = ImportedLetters(ending.network)
    acceptance = Acceptance(site, connection, ending)
    inserter = Inserter(
        connection, f"brought from a file of {ending.network}'s of {ending.created_at:%Y-%m-%d %H:%M} UTC"
    )
    fit = False
    for number, entry in read_entries(content, ending):
        if isinstance(entry, SavedRevision):
            if fit and acceptance.ours:
                inserter.revise(entry)
            continue
        if inserter.letters >= CHUNK_LETTERS or inserter.bytes >= CHUNK_BYTES:
            inserter.write()
        fit = False
        try:
            inserter.add(acceptance.accept(entry), keeps_id=acceptance.ours)
            fit = True
        except Unacceptable as fault:
            done.refuse(number, str(fault))
    inserter.write()
    return replace(done, imported=inserter.imported, duplicate=inserter.duplicate)
