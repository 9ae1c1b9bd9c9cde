"""The records of one verified batch, each to its place: staged for the loader, or parked with a reason.

Runs inside the importer's transaction and leaves it to the importer to commit or undo all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.database.errors import first_line, refuses_a_record
from exchange.database.ledger import Counts
from exchange.database.tables import dead_letter
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter, letter_of
from exchange.dead_letters.supersede import SupersededLetters
from exchange.format.batch import BatchReader
from exchange.format.errors import Ahead, RecordError, Rejected, printable, rule_of
from exchange.format.manifest import BatchKind
from exchange.format.strict_json import MAX_INTEGER
from exchange.incoming import delete_limit
from exchange.incoming.manifests import Arrival
from exchange.limits import Limits
from exchange.site import Site
from exchange.tables import version_limit
from exchange.tables.gc_pause import gc_paused
from exchange.tables.loader import Loaded, Loader, TooManyRefusals
from exchange.tables.loader.checks import FOREIGN_KEY
from exchange.tables.loader.decode import UNDECLARED, BadLine, Decoder

SHARE_COUNTS_FROM = 10
"""The share of invalid records refuses a batch only beyond so many: one bad record of three is no bad batch."""


MOST_PARKED = 100_000
"""So many bad records of a batch are parked at a person's word, or of a part of a snapshot."""

LETTER_BYTES = 1024 * 1024
"""How many bytes of refused records wait in memory for being written down together."""


def apply_records(site: Site, connection: Connection, arrival: Arrival, data: BinaryIO) -> Counts:
    """Load a batch's records and park those that are bad; give what became of them.

    ``data`` is at its start and stays open. Raises Corrupt, Rejected or Ahead: then nothing of it may be committed.
    """
    newest = version_limit.most(site, connection, arrival.channel)
    limits = site.limits
    if arrival.manifest.kind is BatchKind.SNAPSHOT:  # to refuse what is to mend all else would mend nothing
        limits = replace(limits, invalid_records=max(limits.invalid_records, MOST_PARKED), invalid_share=1.0)
    allowed, parks = _allowed(arrival, limits), arrival.channel.on_invalid == "park"
    with gc_paused(), Loader(connection, arrival.channel, allowed, orphans=parks) as loader:
        bad = _BadRecords(connection, loader, arrival, limits)
        reader = BatchReader(data, arrival.manifest, site.limits.read)
        taken = MAX_INTEGER if arrival.released else newest
        decoder = Decoder(site, arrival.manifest.schemas, loader, taken)
        older = _superseding(connection, arrival)
        came = 0
        try:
            for lines in reader:
                for decoded in decoder.decode(lines, reader.first_line):
                    if isinstance(decoded, BadLine):
                        bad.park(decoded.number, decoded.line, decoded.error)
                        continue
                    loader.add(decoded.stream, decoded.rows)
                    site.progress.add(len(decoded.rows.lines))
                    came = max(came, *decoded.rows.versions)
                    if older.note(decoded.stream, decoded.rows):
                        loader.flush()
                        older.look_up()
            reader.check_counts(decoder.counts())
            loaded = _load(loader)
        except TooManyRefusals as error:
            raise bad.too_many() from error
        older.look_up()
        not_applied = {refusal.line for refusal in loaded.refusals} | loader.orphans_among(older.lines)
        older.settle(not_applied, f"superseded: a later record of its key came with batch {arrival.sighting.stem}")
        if loaded.refusals or loaded.counts.parked:
            again = partial(_lines, arrival, data, site.limits)
            for refusal, line in loader.refused_lines(loaded.refusals, again):
                bad.park(refusal.line, line, refusal.as_error(), refusal.cause)
        bad.write()
    upserts = {name: counts.upsert for name, counts in arrival.manifest.records.items()}
    delete_limit.count_deletes(site, connection, arrival, loaded.deleted, upserts)
    if came > newest:
        version_limit.allow_ahead(connection, arrival.channel, came, f"batch {arrival.sighting.stem} was let in")
    counts = loaded.counts
    return replace(counts, parked=bad.count, told="; ".join(loaded.changed), newest=came or None)


def _load(loader: Loader) -> Loaded:
    """Load what was added; what the database refuses at the end without naming a record refuses the batch."""
    try:
        return loader.load()
    except DBAPIError as error:
        if not refuses_a_record(error):
            raise
        msg = f"the database refused the batch as a whole at its end: {first_line(error)}"
        raise Rejected(msg) from error


def _superseding(connection: Connection, arrival: Arrival) -> SupersededLetters:
    """Watch for older letters, but for those that this very batch brings: a key that is twice in it stays parked."""
    manifest = arrival.manifest
    mine = dead_letter.c.batch.is_not_distinct_from(arrival.sighting.stem)
    return SupersededLetters(connection, arrival.channel, manifest.schemas, manifest.total, but=mine)


class _BadRecords:
    """The dead letters of one batch, written a few at a time: memory holds no more than those."""

    def __init__(self, connection: Connection, loader: Loader, arrival: Arrival, limits: Limits) -> None:
        self._connection = connection
        self._loader = loader
        self._arrival = arrival
        self._limits = limits
        self._allowed = _allowed(arrival, limits)
        self._letters: list[Letter] = []
        self._bytes = 0
        self._invalid = 0
        self.count = 0

    def park(self, number: int, line: bytes, error: RecordError, cause: str = "") -> None:
        """Park one line, or refuse the batch if that is one too many; what is not bad in itself does not count."""
        self.count += 1
        self._invalid += error.error not in _NOT_BAD
        if error.error == version_limit.ERROR and (not self._allowed or self._beyond_limits()):
            raise self._ahead(number, error)
        if not self._allowed:
            name = self._arrival.channel.name
            rule = printable(rule_of(error.error, error.pointer, cause), 300)
            msg = f"line {number}: {rule}; channel {name} takes no batch with a bad record"
            raise Rejected(msg)
        if self._beyond_limits():
            raise self.too_many()
        manifest = self._arrival.manifest
        letter = letter_of(self._arrival.channel, manifest.schemas, line, error, cause)
        producer = printable(manifest.producer, 200)
        self._letters.append(replace(letter, batch=self._arrival.sighting.stem, line=number, producer=producer))
        self._bytes += len(line)
        if self._bytes > LETTER_BYTES:
            self._loader.flush()
            self.write()

    def write(self) -> None:
        """Write down the letters that are still in memory."""
        store.park(self._connection, self._letters, "refused on import")
        self._letters.clear()
        self._bytes = 0

    def too_many(self) -> Rejected:
        """Say that the batch is refused as a whole, and by which setting."""
        if not self._allowed:
            name = self._arrival.channel.name
            return Rejected(
                "the database refuses records of it, or they refer to rows that are not here; channel"
                f" {name} takes no batch with a bad record"
            )
        return Rejected(
            f"more of its {self._arrival.manifest.total} records are bad than the settings allow"
            f" ({self._allowed}, and {self._limits.invalid_share:.0%} of them); no record of it was applied"
        )

    def _ahead(self, number: int, error: RecordError) -> Ahead:
        command = (
            f"`exchange import --release {self._arrival.sighting.stem}` applies it, and lets in what is as far ahead"
        )
        return Ahead(f"line {number}: {error.sentence}; the batch is held for a person: {command} from then on")

    def _beyond_limits(self) -> bool:
        share = self._limits.invalid_share * self._arrival.manifest.total
        return self._invalid > self._allowed or self._invalid > max(share, SHARE_COUNTS_FROM)


_NOT_BAD = frozenset({FOREIGN_KEY, UNDECLARED})
"""What only waits for a row, and what this side does not read any more."""


def _allowed(arrival: Arrival, limits: Limits) -> int:
    return limits.invalid_records if arrival.channel.on_invalid == "park" else 0


def _lines(arrival: Arrival, data: BinaryIO, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """Read a batch's lines from the beginning, with their numbers."""
    data.seek(0)
    reader = BatchReader(data, arrival.manifest, limits.read)
    for lines in reader:
        yield from enumerate(lines, reader.first_line)
