"""The loader: rows of one batch into the receiving tables, in the caller's transaction.

``add`` collects rows into a ``chunk``, which goes straight into its table if it can (``bulk_path``, which asks
``precheck`` where rows are suspect). What can't is staged (``staging``), and ``load`` compares it (``checks``) and
writes or refuses it by sets (``upsert``). One algorithm for both databases; only how rows reach it differs (``copy``).
Never commits, reads no file.
"""

from __future__ import annotations

import heapq
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Self

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.channels.channel import Channel
from exchange.channels.hooks import MOST_KEYS, HookRows
from exchange.database.dialects import dialect_of
from exchange.database.engine import AT_ONCE, among, in_parts
from exchange.database.errors import Blame, blame, first_line, refuses_a_record
from exchange.database.ledger import Counts
from exchange.database.locks import cancel
from exchange.database.tables import importing
from exchange.format.record import Op, RecordRun
from exchange.tables.counters import advance
from exchange.tables.loader import checks, upsert
from exchange.tables.loader.background import BackgroundWorker
from exchange.tables.loader.bulk_path import BulkPath, Note
from exchange.tables.loader.checks import Orphan, Refusal
from exchange.tables.loader.chunk import Chunk
from exchange.tables.loader.constraints import Constraints, reflect
from exchange.tables.loader.hooks import HookFailed, call_hook, hooks_before, written_keys
from exchange.tables.loader.staging import (
    DUPLICATE,
    KEY,
    LINE,
    OP,
    ORPHAN,
    OUTCOME,
    PARKED,
    STALE,
    Rows,
    Stage,
    applying,
    row_maker,
    target_of,
)
from exchange.tables.loader.traits import TableFault
from exchange.tables.loader.writing import Writing

__all__ = ["HookFailed", "Loaded", "Loader", "Orphan", "Refusal", "Rows", "TableFault", "TooManyRefusals", "Writing"]


class TooManyRefusals(Exception):  # noqa: N818 - it ends the batch, nothing is broken
    """The database refuses more records of one batch than a setting allows; ``refusal`` is one of them."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        super().__init__()
        self.refusal = refusal


@dataclass(frozen=True)
class Loaded:
    """What the load did, the lines it refused, and how many rows it deleted, by stream.

    ``counts`` has orphans among the parked, ``refusals`` has none of them.
    """

    counts: Counts
    refusals: tuple[Refusal, ...]
    deleted: Mapping[str, int]
    changed: tuple[str, ...] = ()
    """In sentences what triggers made of rows, which are not as they were sent, and which counters stay behind."""


class Loader:
    """Loads the records of one batch. Use once, within one transaction, as a context manager.

    Where the database is another process it works on some rows while the caller makes the next.
    """

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        limit: int,
        *,
        orphans: bool = True,
        writing: Writing = Writing.RECEIVED,
    ) -> None:
        """Prepare for ``channel``; more than ``limit`` refusals raise TooManyRefusals.

        Records that only wait for another row are not counted; without ``orphans`` one of them raises it. ``writing``
        own rows calls no hooks, which are for what comes from the peer, and hides nothing from capture.
        """
        self._connection = connection
        self._streams = {stream.name: stream for stream in channel.streams}
        self._order = [stream.name for stream in channel.streams]
        self._paths: dict[str, BulkPath] = {}
        self._writing = writing
        self._row_makers = {stream.name: row_maker(stream, connection.dialect, writing) for stream in channel.streams}
        self._limit = limit
        self._takes_orphans = orphans
        self._refusals: list[Refusal] = []
        self._changed: tuple[str, ...] = ()
        self._late: set[str] = set()
        self._gave_up_and_stay: set[int] = set()
        """Lines that gave up a unique value and turned out to be orphans: the next try leaves them out at once."""
        self._constraints: Constraints | None = None
        self._hidden = False
        self._chunk = Chunk()
        hooked = () if writing.is_own else channel.streams
        self._before = hooks_before(hooked)
        self._written = written_keys(hooked)
        self._worker = BackgroundWorker(threaded=dialect_of(connection).is_postgresql)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Let go of the connection, on an error at once; what was added and not loaded the caller rolls back."""
        self._worker.close(None if error is None else lambda: cancel(self._connection))

    def takes(self, stream: str) -> bool:
        """Say whether a stream is one of the channel's."""
        return stream in self._streams

    def rows(self, numbers: Sequence[int], lines: Sequence[bytes], run: RecordRun) -> Rows:
        """Make the rows of checked records of the current schema version, whose ``lines`` have these ``numbers``.

        Raises RecordError for a value that its column's type can't keep, whichever record's it is.
        """
        return self._row_makers[run.stream](numbers, run)._replace(records=lines)

    def add(self, stream: str, rows: Rows) -> None:
        """Add rows. Raises what came of earlier ones: DBAPIError, TableFault, TooManyRefusals.

        The database works on them now or with a later call. Of a stream with such a hook it is called first, and may
        raise HookFailed.
        """
        if stream in self._before:
            self._call_before(stream, rows)
        if not self._chunk.takes(stream, rows.op):
            self._write_chunk()
        self._chunk.add(stream, rows)
        if self._chunk.is_full():
            self._write_chunk()

    def _call_before(self, stream: str, rows: Rows) -> None:
        hook, read = self._before[stream]
        self.flush()
        for keys in in_parts(rows.keys, MOST_KEYS):
            told = HookRows("delete" if rows.op is Op.DELETE else "upsert", list(map(read, keys)), self._connection)
            call_hook(hook, "before_apply", stream, told)

    def flush(self) -> None:
        """Hand all that was added to the database, and wait until the connection is free for something else.

        Raises as ``add`` does.
        """
        self._write_chunk()
        self._worker.wait()

    def load(self) -> Loaded:
        """Apply what was added: parents' upserts before children's, then children's deletes before parents'.

        Then the hooks of what was written are called. Raises TooManyRefusals, TableFault, HookFailed, and DBAPIError
        for what is not a row's fault: then the caller rolls back.
        """
        self.flush()
        paths = [self._paths[name] for name in self._order if name in self._paths]
        staged = [path.stage for path in paths if path.stage.rows]
        with _table_faults():
            if staged:
                self._apply(staged)
            if self._writing is Writing.REPLACE:
                for path in paths:
                    path.delete_others()
            if self._hidden:
                self._show_to_capture()
            behind = [self._advance_counter(path) for path in paths]
        if self._written is not None:
            for stage in staged:
                self._note_staged(stage)
            self._written.call(self._connection)
        deleted = {path.stream.name: path.stage.deleted for path in paths}
        return Loaded(self._count(paths), tuple(self._refusals), deleted, (*self._changed, *filter(None, behind)))

    def _advance_counter(self, path: BulkPath) -> str | None:
        """Keep the counter of a table ahead of the keys that came, if that is wanted; say why it can't be, if so."""
        counter, newest = path.traits.counter, path.newest_key
        return None if counter is None or newest is None else advance(self._connection, counter, newest)

    def _note_staged(self, stage: Stage) -> None:
        """Note which of the staged rows were applied, in the order of their lines."""
        written, name, staged = self._written, stage.stream.name, stage.table
        if written is None or name not in written:
            return
        names = stage.stream.key_names
        asking = sa.select(staged.c[OP], staged.c[KEY], staged.c[LINE]).where(applying(staged)).order_by(staged.c[LINE])
        last = 0
        while some := self._connection.execute(asking.where(staged.c[LINE] > last).limit(AT_ONCE)).all():
            last = some[-1][2]
            for op, rows in groupby(some, key=itemgetter(0)):
                bodies = [orjson.loads(row[1]) for row in rows]
                written.add(name, op, [tuple(body[one] for one in names) for body in bodies])

    def unchanged(self) -> dict[int, str]:
        """Give the lines that changed nothing, each with its outcome, ``DUPLICATE`` or ``STALE``; after ``load``."""
        found: dict[int, str] = {}
        for stage in (path.stage for path in self._paths.values() if path.stage.rows):
            line, outcome = stage.table.c[LINE], stage.table.c[OUTCOME]
            old = sa.select(line, outcome).where(outcome.in_([DUPLICATE, STALE]))
            found |= {row[0]: row[1] for row in self._connection.execute(old)}
        return found

    def keys_of(self, lines: Collection[int]) -> dict[int, tuple[str, str]]:
        """Give the stream and the key's text of refused lines; after ``load``."""
        found: dict[int, tuple[str, str]] = {}
        for name, stage in ((name, path.stage) for name, path in self._paths.items() if path.stage.rows):
            line, key = stage.table.c[LINE], stage.table.c[KEY]
            refused = sa.select(line, key).where(stage.table.c[OUTCOME] == PARKED)
            found |= {row[0]: (name, row[1]) for row in self._connection.execute(refused) if row[0] in lines}
        return found

    def orphans(self) -> Iterator[Orphan]:
        """Name what only waits for another row, in the order of lines; after ``load``. Few of them are in memory.

        The connection is free between two of them.
        """
        stages = {path.stage.target.key: path.stage for path in self._paths.values() if path.stage.rows}
        found = (
            checks.orphans(stage, self._reflected().of(table), self._reflected().referring_to(table), stages)
            for table, stage in stages.items()
        )
        return heapq.merge(*found, key=lambda one: one.refusal.line)

    def orphans_among(self, lines: Collection[int]) -> set[int]:
        """Give those of some lines that only wait for another row; after ``load``."""
        found: set[int] = set()
        for stage in (path.stage for path in self._paths.values() if path.stage.rows):
            line, outcome = stage.table.c[LINE], stage.table.c[OUTCOME]
            for some in in_parts(sorted(lines), 10_000):
                asking = sa.select(line).where(outcome == ORPHAN, among(self._connection, line, some))
                found.update(self._connection.scalars(asking))
        return found

    def records(self) -> Mapping[int, bytes] | None:
        """Give the lines of staged rows, as they came, by number; None if they are more than memory allows."""
        paths = self._paths.values()
        whole = all(len(path.records) == path.stage.rows for path in paths)
        return ChainMap(*(path.records for path in paths)) if whole else None

    def refused_lines(
        self, refusals: Sequence[Refusal], read_again: Callable[[], Iterable[tuple[int, bytes]]]
    ) -> Iterator[tuple[Refusal, bytes]]:
        """Give what the database refused and what waits for another row, each with its line, in the order of lines.

        All lines are read once more, with their numbers, only where memory does not hold those of all that was staged.
        After ``load``; the connection is free between two of them.
        """
        known = self.records()
        lines = iter(read_again()) if known is None else iter(())
        waiting = (orphan.refusal for orphan in self.orphans())
        for refusal in heapq.merge(sorted(refusals, key=_line_of), waiting, key=_line_of):
            if known is None:
                yield refusal, next(line for number, line in lines if number == refusal.line)
            else:
                yield refusal, known[refusal.line]

    def _write_chunk(self) -> None:
        chunk, self._chunk = self._chunk, self._chunk.next()
        if chunk.rows:
            self._worker.submit(lambda: self._write_rows(chunk))

    def _write_rows(self, chunk: Chunk) -> None:
        """Write a chunk, in the background worker: nobody else uses the connection meanwhile."""
        path = self._paths.get(chunk.stream)
        with _table_faults():
            if path is None:
                if not self._hidden and not self._writing.is_own:
                    self._hide_from_capture()
                stream, number = self._streams[chunk.stream], len(self._paths)
                note = self._noting(stream.name)
                path = BulkPath(self._connection, stream, number, self._reflected, self._refuse, note, self._writing)
                self._paths[chunk.stream] = path
            rows = chunk.joined()
            path.note_newest_key(rows)
            path.write(rows)
            if self._writing is Writing.REPLACE:
                path.keep(rows)

    def _noting(self, stream: str) -> Note | None:
        written = self._written
        if written is None or stream not in written:
            return None
        return lambda rows: written.add(stream, rows.op[0], rows.keys)

    def _reflected(self) -> Constraints:
        if self._constraints is None:
            targets = (target_of(stream, self._writing) for stream in self._streams.values())
            self._constraints = reflect(self._connection, targets)
        return self._constraints

    def _apply(self, stages: Sequence[Stage]) -> None:
        """Compare what is staged with what is there, and write it."""
        self._defer_constraints()
        constraints = self._reflected()
        for stage in stages:
            stage.complete()
            if not self._writing.is_own:
                self._refuse(checks.park_repeated_keys(stage))
                checks.settle_old_versions(stage)
            elif self._writing.takes_last:
                checks.settle_earlier_lines(stage)
            for check in constraints.checks[stage.target.key]:
                self._refuse(checks.park_check_violations(stage, check, self._limit + 1))
        while not self._write(stages, constraints):
            for stage in stages:
                stage.settle(sorted(self._gave_up_and_stay), ORPHAN)
                stage.settle([refusal.line for refusal in self._refusals], PARKED)
        for stage in stages:
            upsert.keep_tombstones(stage)

    def _write(self, stages: Sequence[Stage], constraints: Constraints) -> bool:
        """Write what is staged. False, and nothing written, if it is to be done anew without what was refused.

        That is so if a row that gave up a unique value stays after all, if a column kept less than was sent, or if what
        is checked late refuses something.
        """
        before = len(self._refusals)
        with self._connection.begin_nested() as savepoint:
            gave_up: set[int] = set()
            self._park_until_stable(stages, constraints)
            for stage in stages:
                if stage.deletes == stage.rows:
                    continue
                if stage.alike and stage.deletes:
                    upsert.respell_keys(stage)
                for unique in constraints.uniques[stage.target.key]:
                    lines, refusals = upsert.free_unique_values(stage, unique)
                    gave_up |= lines
                    if self._refuse(refusals):
                        self._park_until_stable(stages, constraints)
                if self._refuse(upsert.upsert(stage, self._limit, self._late & {*stage.traits.deferrable})):
                    # What the database refused may be a parent of what is still staged.
                    self._park_until_stable(stages, constraints)
            self._park_held_deletes(stages, constraints)
            for stage in reversed(stages):
                if stage.deletes:
                    self._refuse(upsert.delete(stage, self._limit, self._late & {*stage.traits.deferrable}))
            cut = self._refuse([one for stage in stages for one in upsert.park_cut_values(stage)])
            orphans = self.orphans_among(gave_up)
            self._gave_up_and_stay |= orphans
            stays = cut or orphans or not gave_up.isdisjoint(refusal.line for refusal in self._refusals)
            if not stays and self._holds_at_the_end(stages, anew=len(self._refusals) > before):
                self._changed = tuple(filter(None, map(_changes, stages)))
                return True
            savepoint.rollback()
            return False

    def _holds_at_the_end(self, stages: Sequence[Stage], *, anew: bool) -> bool:
        """Say whether what would be checked at the end of the transaction holds; if not, which constraints don't.

        ``anew``: some were refused just now, which may be all that is missing. Raises DBAPIError if no constraint of
        these tables is to blame.
        """
        if not any(stage.traits.deferrable for stage in stages):
            return True
        try:
            with self._connection.begin_nested():
                self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        except DBAPIError as error:
            if not refuses_a_record(error):
                raise
            if not anew:
                self._blame_late_constraints(stages, error)
            return False
        return True

    def _blame_late_constraints(self, stages: Sequence[Stage], fault: DBAPIError) -> None:
        """Note which constraints can't be left to the end. Raises ``fault`` if they were not, or if it is none of ours.

        Foreign keys are not among them: what they refer to may come with a later stream.
        """
        names = {name for stage in stages for name in stage.traits.deferrable} - self._late
        found: set[str] = set()
        for name in names:
            try:
                with self._connection.begin_nested():
                    upsert.check_now(self._connection, [name])
            except DBAPIError as error:
                if not refuses_a_record(error):
                    raise
                found.add(name)
        if not found:
            raise fault
        self._late |= found

    def _park_held_deletes(self, stages: Sequence[Stage], constraints: Constraints) -> None:
        """Park deletes of rows that others will still refer to: one that stays may hold another one."""
        by_table = {stage.target.key: stage for stage in stages}
        more = True
        while more:
            more = False
            for stage in stages:
                for key in constraints.referring_to(stage.target.key) if stage.deletes else ():
                    more |= self._park(checks.park_still_referred(stage, key, by_table))

    def _park_until_stable(self, stages: Sequence[Stage], constraints: Constraints) -> None:
        """Repeat the checks until they park nothing more: a parked record may be what another one relied on."""
        by_table = {stage.target.key: stage for stage in stages}
        more = True
        while more:
            more = False
            for stage in stages:
                for key in constraints.of(stage.target.key):
                    more |= self._park(checks.park_orphans(stage, key, by_table))
                for unique in stage.uniques(constraints):
                    more |= self._refuse(checks.park_unique_conflicts(stage, unique, self._limit + 1))

    def _park(self, orphans: int) -> bool:
        """Say whether there are orphans, and raise if there must be none."""
        if orphans and not self._takes_orphans:
            raise TooManyRefusals
        return orphans > 0

    def _refuse(self, refusals: list[Refusal]) -> bool:
        self._refusals.extend(refusals)
        if len(self._refusals) > self._limit:
            raise TooManyRefusals(self._refusals[-1])
        return bool(refusals)

    def _hide_from_capture(self) -> None:
        """Tell our triggers which streams this transaction writes."""
        if dialect_of(self._connection).is_postgresql:
            names = ",".join(self._order)
            self._connection.execute(sa.select(sa.func.set_config("exchange.importing", names, sa.true())))
        else:
            self._connection.execute(sa.insert(importing), [{"stream": name} for name in self._order])
        self._hidden = True

    def _defer_constraints(self) -> None:
        """Let deferrable constraints wait for the end of the load: rows of a cycle can't all come first."""
        if dialect_of(self._connection).is_postgresql:
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")
        elif any(key.deferrable for one in self._streams.values() for key in one.table.foreign_key_constraints):
            self._connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def _show_to_capture(self) -> None:
        if dialect_of(self._connection).is_postgresql:
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        else:
            self._connection.execute(sa.delete(importing))

    def _count(self, paths: Sequence[BulkPath]) -> Counts:
        totals: dict[str | None, int] = {
            None: sum(path.written for path in paths),
            STALE: sum(path.superseded for path in paths),
        }
        for stage in (path.stage for path in paths):
            if not stage.rows:
                continue
            outcome = stage.table.c[OUTCOME]
            for name, number in self._connection.execute(sa.select(outcome, sa.func.count()).group_by(outcome)):
                totals[name] = totals.get(name, 0) + number
        return Counts(
            applied=totals[None],
            duplicate=totals.get(DUPLICATE, 0),
            stale=totals.get(STALE, 0),
            parked=totals.get(PARKED, 0) + totals.get(ORPHAN, 0),
        )


_line_of = attrgetter("line")


@contextmanager
def _table_faults() -> Iterator[None]:
    """Say what is wrong with a receiving table as a whole, as its own channel waits for that alone."""
    try:
        yield
    except DBAPIError as error:
        if blame(error) is not Blame.TABLE:
            raise
        raise TableFault(
            f"the receiving table is not as its stream needs it: {first_line(error)}; nothing of the batch was applied:"
            " `exchange doctor` compares tables and models; mend the table or our rights to it, and the next import"
            " goes on"
        ) from error


def _changes(stage: Stage) -> str:
    """Say how many rows triggers changed; nothing if they left all as they were sent."""
    changed = upsert.count_changed(stage)
    if not changed:
        return ""
    rows = "1 row is" if changed == 1 else f"{changed} rows are"
    return f"{rows} not as sent: {upsert.triggers_of(stage)} of {stage.target.name} changed what was written"
