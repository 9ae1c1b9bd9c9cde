"""One part of a file: read, checked and loaded, segment by segment.

A segment is one transaction: its rows, its letters, what came of them, and the place where the next one begins. What
decides all the rest is that place: a process that dies loses the segment at hand, and whoever goes on begins there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.errors import first_line, refuses_a_record, transient_errors
from exchange.database.locks import Busy, locked, reading, writing
from exchange.database.tables import Direction, IntakeState
from exchange.dead_letters import store
from exchange.dead_letters.store import Letter
from exchange.format.errors import RecordError, TransientError, printable
from exchange.format.record import ByColumns
from exchange.intake import ledger, undo
from exchange.intake.ledger import Came, Ended, Entry, Part, Terms
from exchange.intake.target import NO_LIMIT, Read, Refused, Target, opened
from exchange.reading import FileRefused, Piece, Place
from exchange.site import Site
from exchange.tables.gc_pause import gc_paused
from exchange.tables.loader import Loader, TooManyRefusals
from exchange.tables.loader.checks import FOREIGN_KEY, Refusal
from exchange.tables.loader.decode import BadLine, decode_own

FIRST_SEGMENT_ROWS, LEAST_SEGMENT_ROWS = 20_000, 1_000
MOST_SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_SECONDS, ALONE_SEGMENT_SECONDS = 3.0, 1.5
"""About so long a segment takes; the second where nobody else can write meanwhile."""
MOST_GROWTH = 4.0
"""A segment is at most so many times as large as the one before."""

SHARE_COUNTS_FROM = 10
"""The share of bad rows refuses a file only beyond so many: one bad row of three is no bad file."""
SHARE_COUNTS_FROM_ROWS = 10_000
"""Before its end a file is refused for its share only when so many rows were read."""
LETTER_BYTES = 1024 * 1024
"""How many bytes of bad rows wait in memory for being written down together."""


def load_part(site: Site, number: int, at: int, read: Read, *, stopping: Callable[[], bool] = lambda: False) -> Entry:
    """Load a part of a file to its end, or until ``stopping`` says so between two segments; give the file as it is.

    It may be refused by then, and all of it taken back. Commits each segment. Raises Busy if somebody else is at it,
    and TransientError for what the world did: then the file waits for its next try.
    """
    loading = _Loading(site, number, at, read, stopping)
    try:
        with transient_errors(), loading.taking_back_attempts():
            return loading.run()
    except Ended:
        return _as_it_is(site, number)
    except (Refused, FileRefused) as refusal:
        return refuse(site, number, str(refusal), read)
    except TransientError as error:
        _put_off(site, number, str(error))
        raise
    except DBAPIError as error:  # what is checked late
        if not refuses_a_record(error):
            raise
        return refuse(site, number, _at_the_end(error), read)
    except Exception as error:
        if not is_batch_fault(error):  # Busy is none, nor is the wish to stop
            raise
        return refuse(site, number, f"loading it failed as nobody foresaw ({Crashed.of(error).sentence})", read)


def refuse(site: Site, number: int, sentence: str, read: Read) -> Entry:
    """Refuse a file, and take back what was loaded of it. Raises Busy and TransientError: then the next run does."""
    with transient_errors(), writing(site.engine) as connection:
        entry = ledger.find(connection, number)
        if entry is None or entry.state not in ledger.TO_LOAD:
            return _found(entry, number)
        moved = any(part.place != part.start for part in ledger.parts(connection, number))
        state = IntakeState.REFUSING if moved else IntakeState.REFUSED
        ledger.move(connection, entry, state, sentence, next_try_at=None, **NOTHING)
    return undo.undo(site, number, read) if moved else _as_it_is(site, number)


NOTHING = {"rows_loaded": 0, "rows_parked": 0, "rows_waiting": 0}


def _as_it_is(site: Site, number: int) -> Entry:
    with transient_errors(), reading(site.engine) as connection:
        return _found(ledger.find(connection, number), number)


def _found(entry: Entry | None, number: int) -> Entry:
    if entry is None:
        raise TransientError(f"there is no file {number}; it was never taken in here, or is pruned")
    return entry


def _put_off(site: Site, number: int, why: str) -> None:
    """Have a file wait for its next try; where the database is away everything waits anyhow."""
    with suppress(TransientError, Busy), transient_errors(), writing(site.engine) as connection:
        ledger.put_off(connection, number, why)


def _at_the_end(error: DBAPIError) -> str:
    return f"the database refused its rows as a whole at their end: {first_line(error)}"


class _Loading:
    """One process at one part."""

    def __init__(self, site: Site, number: int, at: int, read: Read, stopping: Callable[[], bool]) -> None:
        self._site, self._number, self._at = site, number, at
        self._read, self._stopping = read, stopping
        self._lock = ledger.part_lock(site.engine, number, at)
        self._rows = FIRST_SEGMENT_ROWS
        self._target_seconds = SEGMENT_SECONDS if site.many_writers else ALONE_SEGMENT_SECONDS
        self._begun = False

    @contextmanager
    def taking_back_attempts(self) -> Iterator[None]:
        """Take the attempt back whatever is raised: only a process that dies of it leaves it counted."""
        try:
            yield
        except BaseException:
            if self._begun:
                with suppress(Exception), writing(self._site.engine) as connection:
                    ledger.attempt_ended(connection, self._number, self._at)
            raise

    def run(self) -> Entry:
        """Load segment after segment."""
        entry = _as_it_is(self._site, self._number)
        if entry.state not in ledger.TO_LOAD:
            return entry
        with opened(entry) as file:
            return self._run(entry, file)

    def _run(self, entry: Entry, file: BinaryIO) -> Entry:
        target = Target.of(self._site, entry)
        pieces: Iterator[Piece] = iter(())
        read_to: Place | None = None
        begin: Callable[[], None] | None = self._begin
        while True:
            began = time.monotonic()
            with locked(self._site.engine, self._lock, prepare=begin) as connection:
                part = ledger.part(connection, self._number, self._at)
                if part.is_done:
                    break
                if part.place != read_to:  # the first one, or others went on with it meanwhile
                    pieces = self._read(
                        file, entry.format, target.stream, part.place, part.stop, self._site.limits.read
                    )
                entry = _found(ledger.find(connection, self._number), self._number)
                segment = Segment(self._site, connection, entry, target, self._again(entry, target, part))
                rows = NO_LIMIT if entry.terms.whole else self._rows
                read_to, done = segment.load(part.place, pieces, rows, self._still_wanted)
                entry = ledger.advance(connection, self._number, self._at, segment.came, read_to, done=done)
                ended = done and ledger.are_all_done(connection, self._number)
                check_limits(entry, ended=ended)
                if ended:
                    ledger.move(connection, entry, IntakeState.LOADED, _told(entry))
            self._adapt(segment.came.read, time.monotonic() - began)
            begin = None
            if done or self._stopping():
                break
        return _as_it_is(self._site, self._number)

    def _begin(self) -> None:
        """Count the attempt, committed with the lock held and before the work."""
        with writing(self._site.engine) as connection:
            _, part = ledger.begin(connection, self._number, self._at)
        self._begun = True
        if part.attempts > self._site.limits.crashes:
            raise Refused(f"loading it ended the process {part.attempts - 1} times; see the log of those times")

    def _again(self, entry: Entry, target: Target, part: Part) -> Callable[[], Iterable[tuple[int, bytes]]]:
        def lines() -> Iterator[tuple[int, bytes]]:
            with opened(entry) as again:
                for piece in self._read(
                    again, entry.format, target.stream, part.place, part.stop, self._site.limits.read
                ):
                    yield from zip(piece.numbers, piece.records, strict=True)

        return lines

    def _still_wanted(self) -> None:
        """End a long transaction that nobody wants any more. Raises Ended, and TransientError to stop."""
        if self._stopping():
            raise TransientError("it is stopped in the middle of its one transaction; the next run begins it anew")
        if self._site.many_writers and (state := _as_it_is(self._site, self._number).state) not in ledger.TO_LOAD:
            raise Ended(state)

    def _adapt(self, rows: int, seconds: float) -> None:
        wanted = rows * self._target_seconds / max(seconds, 0.001)
        self._rows = round(max(min(wanted, self._rows * MOST_GROWTH), LEAST_SEGMENT_ROWS))


def check_limits(entry: Entry, *, ended: bool) -> None:
    """Raise Refused if more rows of a file are bad than its terms allow; those that only wait for a row are not."""
    bad, terms = entry.rows_parked - entry.rows_waiting, entry.terms
    share_counts = (ended or entry.rows_read >= SHARE_COUNTS_FROM_ROWS) and bad > SHARE_COUNTS_FROM
    beyond_share = share_counts and bad > terms.bad_share * entry.rows_read
    if beyond_share or (terms.bad_rows is not None and bad > terms.bad_rows):
        raise too_many(entry, None)


def too_many(entry: Entry, refusal: Refusal | None) -> Refused:
    """Word that a file is refused for its bad rows, of which ``refusal`` is the last one that was seen."""
    terms = entry.terms
    example = "" if refusal is None else f"line {refusal.line}: {refusal.sentence.removesuffix('; it is parked')}"
    if not allowed(terms):
        why = "a replacement takes no bad row" if terms.mode == "replace" else "no bad row of it is taken"
        return Refused(f"{example or 'a row refers to one that is not here'}; {why}, and nothing of it stays")
    limits = [] if terms.bad_rows is None else [f"{terms.bad_rows:,}"]
    limits += [f"{terms.bad_share:.0%} of them"] if terms.bad_share < 1 else []
    last = f", the last one on {example}" if example else ""
    return Refused(
        f"more of its rows are bad than are allowed ({', and '.join(limits)}){last}; nothing of it stays: mend it and"
        " bring it again, or allow more"
    )


def allowed(terms: Terms) -> int:
    """Say how many bad rows are parked."""
    if not parks(terms):
        return 0
    return NO_LIMIT if terms.bad_rows is None else terms.bad_rows


def parks(terms: Terms) -> bool:
    """Say whether bad rows are parked: not where a replacement would be without them."""
    return terms.on_invalid == "park" and terms.mode != "replace"


def _told(entry: Entry) -> str:
    return f"{ledger.rows_are(entry.rows_loaded)} loaded, {entry.rows_parked:,} parked"


class Segment:
    """Rows that are loaded in one transaction of the caller's, past those that are bad."""

    def __init__(
        self,
        site: Site,
        connection: Connection,
        entry: Entry,
        target: Target,
        again: Callable[[], Iterable[tuple[int, bytes]]],
    ) -> None:
        """Prepare; ``again`` reads its lines once more."""
        self._site, self._connection, self._entry, self._target, self._again = site, connection, entry, target, again
        self._allowed = allowed(entry.terms)
        self._parks = parks(entry.terms)
        self._bad_before = entry.rows_parked - entry.rows_waiting
        self._letters: list[Letter] = []
        self._bytes = 0
        self.came = Came()

    def load(
        self, start: Place, pieces: Iterator[Piece], rows: int, still_wanted: Callable[[], None]
    ) -> tuple[Place, bool]:
        """Load about so many rows from ``start`` on; give where the next one begins, and whether there is none.

        Raises Refused beyond the terms' limits, and whatever the loader and the file raise.
        """
        place, done, asked = start, True, 0
        with (
            gc_paused(),
            Loader(
                self._connection,
                self._target.channel,
                max(self._allowed - self._bad_before, 0),
                orphans=self._parks,
                writing=self._target.writing,
            ) as loader,
        ):
            try:
                for piece in pieces:
                    self._add(loader, piece)
                    place = piece.end
                    if self.came.read >= rows or (
                        rows < NO_LIMIT and place.position - start.position >= MOST_SEGMENT_BYTES
                    ):
                        done = False
                        break
                    if self.came.read - asked >= FIRST_SEGMENT_ROWS:
                        asked = self.came.read
                        if rows == NO_LIMIT:
                            still_wanted()
                loaded = loader.load()
                if loaded.refusals or loaded.counts.parked:
                    for refusal, line in loader.refused_lines(loaded.refusals, self._again):
                        self._park(loader, refusal.line, line, refusal.as_error(), refusal.cause)
            except TooManyRefusals as error:
                raise too_many(self._entry, error.refusal) from error
            except DBAPIError as error:
                if not refuses_a_record(error):
                    raise
                raise Refused(_at_the_end(error)) from error
            self._write()
        self.came = self.came._replace(loaded=self.came.read - self.came.parked)
        return place, done

    def _add(self, loader: Loader, piece: Piece) -> None:
        for bad in piece.bad:
            self._park(loader, bad.number, bad.record, bad.error)
        name = self._target.stream.name
        bodies = piece.bodies if isinstance(piece.bodies, (list, ByColumns)) else list(piece.bodies)
        for decoded in decode_own(self._target.checker, loader, piece.records, piece.numbers, bodies):
            if isinstance(decoded, BadLine):
                self._park(loader, decoded.number, decoded.line, decoded.error)
            else:
                loader.add(name, decoded.rows)
        count = len(piece.numbers) + len(piece.bad)
        self.came = self.came._replace(read=self.came.read + count)
        self._site.progress.add(count)

    def _park(self, loader: Loader, number: int, record: bytes, error: RecordError, cause: str = "") -> None:
        """Park one row, or refuse the file if that is one too many."""
        waits = error.error == FOREIGN_KEY
        self.came = self.came._replace(parked=self.came.parked + 1, waiting=self.came.waiting + waits)
        bad = self._bad_before + self.came.parked - self.came.waiting
        if not self._parks or bad > self._allowed:
            raise too_many(self._entry, Refusal(number, error.error, error.pointer, error.sentence))
        self._letters.append(letter_of(self._entry, self._target, number, record, error, cause))
        self._bytes += len(record)
        if self._bytes > LETTER_BYTES or len(self._letters) > MOST_LETTERS:
            loader.flush()
            self._write()

    def _write(self) -> None:
        store.park(self._connection, self._letters, f"refused on loading {printable(self._entry.file, 200)}")
        self._letters.clear()
        self._bytes = 0


MOST_LETTERS = 5_000


def letter_of(entry: Entry, target: Target, number: int, record: bytes, error: RecordError, cause: str = "") -> Letter:
    """Describe a bad row of a file."""
    return Letter(
        Direction.IN,
        target.channel.declared,
        record,
        error.error,
        error.sentence,
        pointer=error.pointer,
        cause=cause,
        line=number,
        stream=entry.stream,
        op="upsert",
        schema_version=target.whole.schema_version,
        producer=printable(entry.file, 200),
        intake=entry.id,
    )
