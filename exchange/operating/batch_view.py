"""All there is to know about one batch on this side, as a person may see it, and its files verified again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.ledger import Event
from exchange.database.locks import reading
from exchange.database.tables import Direction, batch
from exchange.dead_letters import pages
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.store import Brief
from exchange.files.batch_files import BatchFiles
from exchange.format.as_dict import AsDict
from exchange.format.batch import BatchReader
from exchange.format.errors import BatchError, RecordError, TransientError
from exchange.format.manifest import Manifest, Signature, split_manifest
from exchange.format.names import BatchName, data_name, manifest_name
from exchange.format.record import decode
from exchange.format.verify import FileCheck, judge
from exchange.incoming.release import count_letters, refuse_unknown
from exchange.link.peer_state import SaidOfBatch, said_of
from exchange.operating.batch_pages import BatchRow, of_stem
from exchange.site import Site

LONGEST_LINE = 2_000
"""Bytes of a record, as it is shown."""


@dataclass(frozen=True)
class RecordLine(AsDict):
    """A record of a batch.

    ``text`` is its line, without what is sensitive; None if it can't be shown without that. ``problem`` says why it is
    no record.
    """

    line: int
    stream: str | None
    text: str | None
    problem: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class BatchView(AsDict):
    """One batch. ``rows`` are all that the ledger has of its name, newest first; the first is ``batch``.

    ``manifest`` is what it says of itself, None if nobody believes or has it, and ``raw`` that to the byte, with the
    line that signs it of one that came; ``history`` goes from the oldest event;
    ``there`` is what the peer said of it, None of one that came from there. ``letters`` counts its dead letters by
    state, ``bad`` are the first of them. ``lies_in`` names the folder with its files; ``unread`` says why none of its
    ``records`` can be shown.
    """

    batch: BatchRow
    rows: tuple[BatchRow, ...]
    manifest: dict[str, Any] | None
    signed_by: str | None
    history: tuple[Event, ...]
    there: SaidOfBatch | None
    letters: dict[str, int]
    bad: tuple[Brief, ...]
    lies_in: str | None
    records: tuple[RecordLine, ...]
    unread: str | None = None
    raw: str | None = None


@dataclass(frozen=True)
class VerifiedBatch(AsDict):
    """What every check says of a batch's files now. ``reason`` is None if all is well."""

    batch: str
    lies_in: str
    reason: str | None
    records: int
    invalid: int
    checks: tuple[FileCheck, ...]


def batch_view(site: Site, stem: str, *, records: int, bad: int, reveal: bool = False) -> BatchView:
    """Look at a batch: at most so many of its first records and of its dead letters; unless ``reveal`` without secrets.

    Only reads, in a transaction of its own, and no more of its file than is shown. Raises TransientError if the ledger
    has no such batch.
    """
    mask = Mask(site.channels)
    with transient_errors(), reading(site.engine) as connection:
        rows = of_stem(site, connection, stem)
        if not rows:
            refuse_unknown(connection, stem)
        newest = rows[0]
        history = ledger.history(connection, [one.id for one in rows])
        claim, signer, raw = _claim(connection, newest.id)
        sent = newest.direction is Direction.OUT
        there = said_of(connection, newest.channel, newest.epoch, newest.sequence) if sent else None
        letters = count_letters(connection, stem)
        first = pages.page(connection, Filters(batch=stem), limit=bad, oldest_first=True).letters if letters else ()
    files = _files(site, stem, newest.direction)
    shown, unread = _records(site, files, records, None if reveal else mask)
    return BatchView(
        batch=newest,
        rows=tuple(rows),
        manifest=claim.as_dict() if claim else None,
        signed_by=signer,
        history=tuple(history),
        there=there,
        letters=letters,
        bad=tuple(first if reveal else map(mask.brief, first)),
        lies_in=files.folder.name if files else None,
        records=shown,
        unread=unread,
        raw=raw,
    )


def verify_batch(site: Site, stem: str) -> VerifiedBatch:
    """Verify a batch's files again, from their first byte to the last, against the keys that are trusted now.

    Only reads. Raises TransientError if its files are gone.
    """
    with transient_errors(), reading(site.engine) as connection:
        rows = of_stem(site, connection, stem)
    sent = bool(rows) and rows[0].direction is Direction.OUT
    files = _files(site, stem, Direction.OUT if sent else Direction.IN)
    if files is None:
        raise TransientError(f"the files of batch {stem} are gone, so there is nothing to verify")
    content = _content(site, files)
    known = site.own if sent else site.with_present_trust().trusted
    keys = known if known.keys or site.require_signature else None
    with ExitStack() as opened:
        data = _data(site, files, content)
        if data is not None:
            opened.enter_context(data)
        report = judge(content, data, keys, site.limits.read, files.name, now())
    return VerifiedBatch(stem, files.folder.name, report.reason, report.records, report.invalid, tuple(report.checks))


def _claim(connection: Connection, batch_id: int) -> tuple[Manifest | None, str | None, str | None]:
    """Read the manifest that the ledger has of a batch, who signed it, of one that came, and both lines as they are."""
    line, signature = connection.execute(
        sa.select(batch.c.manifest, batch.c.signature).where(batch.c.id == batch_id)
    ).one()
    claim = signer = None
    with suppress(BatchError):
        claim = Manifest.parse(line.encode()) if line else None
        signer = Signature.parse(signature.encode()).key if signature else None
    return claim, signer, "\n".join(filter(None, (line, signature))) or None


def _files(site: Site, stem: str, direction: Direction) -> BatchFiles | None:
    """Find where a batch's files lie: those of one that was sent under the name of its first publication."""
    if direction is Direction.IN:
        return site.spool.find(stem)
    with suppress(ValueError):
        name, folders = BatchName.parse(stem), site.spool.folders
        for path, called in ((folders.sealed, name.again(1)), (folders.outgoing, name)):
            if site.spool.lie_there(path, [manifest_name(called)]):
                return BatchFiles(called, path)
    return None


def _content(site: Site, files: BatchFiles) -> bytes:
    try:
        return site.spool.read_manifest(files)
    except OSError as error:
        raise TransientError(f"the manifest of batch {files.stem} can't be read: {error.strerror or error}") from error


def _data(site: Site, files: BatchFiles, content: bytes) -> BinaryIO | None:
    """Open the data file that a manifest means; None if it is not there, or nobody can tell which it would be."""
    try:
        claim = Manifest.parse(split_manifest(content)[0])
        return site.spool.open_kept(files.folder, files.file(data_name(files.name, claim.encoding)))
    except (BatchError, OSError):
        return None


def _records(
    site: Site, files: BatchFiles | None, number: int, mask: Mask | None
) -> tuple[tuple[RecordLine, ...], str | None]:
    """Give the first records of a batch's file, as far as it can be read, and why not more."""
    if files is None:
        return (), "its files are no longer kept here"
    found: list[RecordLine] = []
    try:
        content = _content(site, files)
        claim = Manifest.parse(split_manifest(content)[0])
        data = _data(site, files, content)
        if data is None:
            return (), "its data file is not there"
        with data:
            found += islice(_lines(BatchReader(data, claim, site.limits.read), mask), number)
    except (BatchError, TransientError) as fault:
        return tuple(found), f"its file can't be read any further: {fault.sentence}"
    return tuple(found), None


def _lines(reader: BatchReader, mask: Mask | None) -> Iterator[RecordLine]:
    for lines in reader:
        for number, line in enumerate(lines, reader.first_line):
            stream, problem = None, None
            try:
                stream = decode(line).stream
            except RecordError as error:
                problem = error.sentence
            text = mask.line(stream, line) if mask else line.decode("utf-8", "backslashreplace")
            cut = text is not None and len(text) > LONGEST_LINE
            yield RecordLine(number, stream, text[:LONGEST_LINE] if text and cut else text, problem, cut=cut)
