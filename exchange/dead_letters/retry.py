"""Retry: dead letters again, with every check that a batch's record meets.

Letters of one channel are tried together, some thousand in one transaction under the channel's lock, and each gets
its own outcome: what is refused holds nobody up. Letters of one key follow each other, in the order in which they
were parked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange import tracing
from exchange.channels.channel import Channel
from exchange.database.engine import among, in_parts
from exchange.database.errors import refuses_a_record, transient_errors
from exchange.database.locks import export_lock, import_lock, join, locked, reading
from exchange.database.redact import words as said
from exchange.database.tables import DeadLetterState, Direction, change, dead_letter
from exchange.database.tally import RETRIED
from exchange.dead_letters import file_rows, store, transitions
from exchange.dead_letters.file_rows import FileRows
from exchange.dead_letters.store import Letter
from exchange.dead_letters.transitions import Outcome, Taken, missing, standing
from exchange.format.errors import RecordError, printable, rule_of
from exchange.format.names import CONTROL
from exchange.limits import Limits
from exchange.results import Retried
from exchange.site import Site
from exchange.tables import version_limit
from exchange.tables.gc_pause import gc_paused
from exchange.tables.loader import Loader
from exchange.tables.loader.decode import BadLine, Decoder
from exchange.tables.loader.hooks import Applied, HookFailed, calling_hooks
from exchange.tables.loader.staging import DUPLICATE

GONE = "its row goes with the next export as it is then"


class Header(NamedTuple):
    """As much of a letter as it takes to say with which others it is tried."""

    id: int
    direction: Direction
    channel: str
    stream: str | None
    key: str | None
    bytes: int
    state: DeadLetterState


class RetryGroup(NamedTuple):
    """Letters of one channel that are tried together, no two of them of one key."""

    direction: Direction
    channel: Channel
    ids: Sequence[int]

    def parts(self, count: int) -> list[RetryGroup]:
        """Cut it into about so many groups."""
        return [self._replace(ids=ids) for ids in in_parts(self.ids, math.ceil(len(self.ids) / count))]


class TooManyFailed(Exception):  # noqa: N818 - an answer: nothing of the group was changed
    """As many letters of a group fail as the caller allows, and others come after them."""


@dataclass(frozen=True)
class RetryOptions:
    """How groups are tried. ``rehearse`` says what would become of them and changes nothing.

    A group in which others come after ``failures`` that failed raises TooManyFailed. Letters refused for an error in
    ``spared`` are left as they are. ``how`` begins what is noted in their history, ``then`` is done in each group's
    transaction, and ``left`` is told there which letters were left as they are.
    """

    rehearse: bool = False
    failures: int | None = None
    spared: Collection[str] = ()
    how: str = "retried"
    then: Callable[[Connection, Sequence[Retried]], None] | None = None
    left: Callable[[Connection, Sequence[int]], None] | None = None


def retry_letters(site: Site, ids: Iterable[int], *, rehearse: bool = False) -> list[Retried]:
    """Retry letters by their ids; give what became of each, in that order.

    ``rehearse`` says what would become of them and changes nothing. Raises Busy if their channel is being worked
    on, TransientError.
    """
    wanted = list(dict.fromkeys(ids))
    options = RetryOptions(rehearse=rehearse)
    done: dict[int, Retried] = {}
    with transient_errors():
        for some in in_parts(wanted, site.limits.group_letters):
            with reading(site.engine) as connection:
                headers = _headers(connection, some)
                done |= {one: _unknown(one) for one in some if one not in headers}
            for group in group_letters(site, headers.values(), done):
                done |= {one.id: one for one in retry_group(site, group, options)}
    return [done[one] for one in wanted]


def _unknown(letter_id: int) -> Retried:
    return Retried(letter_id, None, str(missing(letter_id)), changed=False)


def _headers(connection: Connection, ids: Sequence[int]) -> dict[int, Header]:
    asking = sa.select(*HEADER).where(among(connection, dead_letter.c.id, ids))
    return {row.id: header_of(row) for row in connection.execute(asking.order_by(*HEADER[1:3], dead_letter.c.id))}


HEADER = (
    dead_letter.c.id,
    dead_letter.c.direction,
    dead_letter.c.channel,
    dead_letter.c.stream,
    dead_letter.c.key,
    dead_letter.c.record_bytes.label("bytes"),
    dead_letter.c.state,
)
"""The columns of a ``Header``."""


def header_of(row: Any) -> Header:
    """Make a header of its columns."""
    header = Header(*row)
    return header._replace(direction=Direction(header.direction), state=DeadLetterState(header.state))


def group_letters(site: Site, headers: Iterable[Header], done: dict[int, Retried]) -> Iterator[RetryGroup]:
    """Sort letters into groups; those whose channel is no longer declared are ``done`` at once."""
    for (direction, name), some in groupby(headers, key=lambda header: (header.direction, header.channel)):
        channel = site.channel(name)
        if channel is None:
            why = f"channel {printable(name)} is no longer declared"
            if name == CONTROL:
                why = "the next control batch says it anew, and settles this letter by that; discard it if none comes"
            for header in some:
                message = f"{why}; nothing was changed"
                done[header.id] = Retried(header.id, header.state, message, changed=False)
            continue
        for page in _pages(some, site.limits):
            yield from (RetryGroup(direction, channel, ids) for ids in _turns(page))


def _pages(headers: Iterable[Header], limits: Limits) -> Iterator[list[Header]]:
    page: list[Header] = []
    size = 0
    for header in headers:
        if page and (len(page) >= limits.group_letters or size + header.bytes > limits.group_bytes):
            yield page
            page, size = [], 0
        page.append(header)
        size += header.bytes
    yield page


def _turns(headers: Iterable[Header]) -> list[list[int]]:
    """Let letters of one key take turns: a load takes each key once."""
    turns: list[list[int]] = []
    seen: Counter[tuple[object, object]] = Counter()
    for header in headers:
        whose = (header.stream, header.key) if header.key else (None, header.id)
        if seen[whose] == len(turns):
            turns.append([])
        turns[seen[whose]].append(header.id)
        seen[whose] += 1
    return turns


def retry_group(site: Site, group: RetryGroup, options: RetryOptions) -> list[Retried]:
    """Try the letters of a group in one transaction, and in smaller ones if the database refuses it as a whole.

    Raises TooManyFailed, with nothing changed, and Busy.
    """
    try:
        with nullcontext(Applied()) if options.rehearse else calling_hooks() as applied:
            with (
                tracing.on_lines(channel=group.channel.name),
                tracing.span("retry", channel=group.channel.name, records=len(group.ids)) as retrying,
            ):
                done = _try_group(site, group, options)
                retrying.note(parked=sum(one.failed for one in done))
            failed = applied.call_after_commit()
        _count(site, group, done, options)
        return [replace(one, message=f"{one.message}; {failed}") for one in done] if failed else done
    except (DBAPIError, HookFailed) as error:
        if isinstance(error, DBAPIError) and not refuses_a_record(error):
            raise
        if len(group.ids) > 1 and options.failures is not None:
            raise TooManyFailed from error
        if len(group.ids) > 1:
            return [one for part in group.parts(2) for one in retry_group(site, part, options)]
        fault = _of_the_whole(error, group)
    with _locked(site, group) as connection:
        taken = transitions.take(connection, group.ids)
        done = _finish(connection, group, taken, [_refused(one, fault) for one in taken], options)
    _count(site, group, done, options)
    return done


def _count(site: Site, group: RetryGroup, done: Iterable[Retried], options: RetryOptions) -> None:
    """Count what came of the letters that were tried. Commits a transaction of its own."""
    if not options.rehearse:
        for state, number in Counter(one.state for one in done if one.changed and one.state).items():
            site.tally.count(RETRIED, group.direction, group.channel.name, state, number)
        site.tally.write(site.engine)


def _try_group(site: Site, group: RetryGroup, options: RetryOptions) -> list[Retried]:
    with _locked(site, group) as connection:
        taken = transitions.take(connection, group.ids, lock=not options.rehearse)
        work = _receive if group.direction is Direction.IN else _send
        outcomes = work(site, connection, group.channel, taken)
        return _finish(connection, group, taken, outcomes, options)


def _of_the_whole(error: DBAPIError | HookFailed, group: RetryGroup) -> RecordError:
    """Word why a letter was refused only when all was done: by a constraint that is checked late, or a hook."""
    if isinstance(error, HookFailed):
        return RecordError("hook", "", f"{error.sentence}; it stays parked")
    hidden = any(stream.sensitive for stream in group.channel.streams)
    words = printable((str(error.orig) if hidden else said(error.orig)).strip().splitlines()[0])
    return RecordError("constraint", "", f"the database refused it at the end: {words}; it stays parked")


@contextmanager
def _locked(site: Site, group: RetryGroup) -> Iterator[Connection]:
    """Keep others off the channel, and off its shards: parents and children may be in several."""
    lock_of = import_lock if group.direction is Direction.IN else export_lock
    with locked(site.engine, lock_of(group.channel.name)) as connection:
        join(connection, lock_of(group.channel.declared), alone=True)
        yield connection


def _finish(
    connection: Connection,
    group: RetryGroup,
    taken: Sequence[Taken],
    outcomes: Sequence[Outcome],
    options: RetryOptions,
) -> list[Retried]:
    spared = [one.letter.id for one in outcomes if one.refused and one.refused.error in options.spared]
    outcomes = [one for one in outcomes if not (one.refused and one.refused.error in options.spared)]
    if spared and options.left is not None:
        options.left(connection, spared)
    if not options.rehearse:
        transitions.settle(connection, outcomes, options.how)
    done = {one.letter.id: _retried(one) for one in outcomes}
    for letter_id in set(group.ids).difference(one.letter.id for one in taken):
        letter = store.find(connection, letter_id)
        message = f"{standing(connection, letter_id)}; nothing was changed"
        done[letter_id] = Retried(letter_id, letter.state if letter else None, message, changed=False)
    retried = [done[letter_id] for letter_id in group.ids if letter_id in done]
    if options.failures is not None and _goes_past(retried, options.failures):
        raise TooManyFailed
    if options.then is not None:
        options.then(connection, retried)
    if options.rehearse:
        connection.rollback()
    return retried


def _goes_past(retried: Sequence[Retried], failures: int) -> bool:
    """Tell whether any letter was tried after the one that failed as the last of so many."""
    tried = [one for one in retried if one.changed]
    failed = [at for at, one in enumerate(tried) if one.failed]
    return len(failed) >= failures and failed[failures - 1] < len(tried) - 1


def _retried(outcome: Outcome) -> Retried:
    now = outcome.refused
    rule = "" if now is None else rule_of(now.error, now.pointer, now.cause)
    return Retried(outcome.letter.id, outcome.state, outcome.sentence, changed=True, rule=rule)


# Incoming: applied if it now can be


def _receive(site: Site, connection: Connection, channel: Channel, taken: Sequence[Taken]) -> list[Outcome]:
    outcomes = [_refused(one, _cut_off(one), one.letter.cause) for one in taken if not one.is_whole]
    rows = [one for one in taken if one.is_whole and one.letter.intake is not None]
    outcomes += _load_rows(site, connection, channel, rows)
    whole = sorted((one for one in taken if one.is_whole and one.letter.intake is None), key=_kind)
    return [*outcomes, *_apply(site, connection, channel, whole)] if whole else outcomes


def _apply(site: Site, connection: Connection, channel: Channel, whole: Sequence[Taken]) -> list[Outcome]:
    by_line = dict(enumerate(whole, 1))
    refused: dict[int, Outcome] = {}
    channel = site.with_moved(channel, {one.letter.stream for one in whole if one.letter.stream is not None})
    with gc_paused(), Loader(connection, channel, len(whole)) as loader:
        for decoded in _decoded(site, connection, channel, loader, whole):
            if isinstance(decoded, BadLine):
                refused[decoded.number] = _refused(by_line[decoded.number], decoded.error)
            else:
                loader.add(decoded.stream, decoded.rows)
        loaded = loader.load()
        for refusal in (*loaded.refusals, *(orphan.refusal for orphan in loader.orphans())):
            fault = RecordError(refusal.error, refusal.pointer, refusal.sentence)
            refused[refusal.line] = _refused(by_line[refusal.line], fault, refusal.cause)
        unchanged = loader.unchanged()
    return [refused.get(line) or _effective(one, unchanged.get(line)) for line, one in by_line.items()]


def _load_rows(site: Site, connection: Connection, channel: Channel, rows: Sequence[Taken]) -> list[Outcome]:
    """Load rows of people's files as their files were loaded, those of each file together."""
    files = file_rows.files_of(connection, file_rows.ids_of([one.letter for one in rows]))
    outcomes: list[Outcome] = []
    by_file = groupby(sorted(rows, key=_file_number), key=_file_number)
    for number, some in by_file:
        together = list(some)
        try:
            loading = FileRows.of(files.get(number), channel)
        except RecordError as error:
            outcomes += [_refused(one, error) for one in together]
        else:
            outcomes += _load_rows_of(site, connection, loading, together)
    return outcomes


def _file_number(taken: Taken) -> int:
    return taken.letter.intake or 0


def _load_rows_of(site: Site, connection: Connection, file: FileRows, rows: Sequence[Taken]) -> list[Outcome]:
    by_line = dict(enumerate(rows, 1))
    refused: dict[int, Outcome] = {}
    with gc_paused(), Loader(connection, file.channel, len(rows), writing=file.writing) as loader:
        for line, one in by_line.items():
            try:
                loader.add(file.stream.name, file.rows(loader, line, one.record, site.limits.read))
            except RecordError as error:
                refused[line] = _refused(one, error)
        loaded = loader.load()
        for refusal in (*loaded.refusals, *(orphan.refusal for orphan in loader.orphans())):
            refused[refusal.line] = _refused(by_line[refusal.line], refusal.as_error(), refusal.cause)
    loaded_now = "loaded as its file's rows are; the next export sends it"
    return [
        refused.get(line) or Outcome(one.letter, DeadLetterState.APPLIED, loaded_now) for line, one in by_line.items()
    ]


def _kind(taken: Taken) -> tuple[int, str, str]:
    letter = taken.letter
    return (letter.schema_version or 0, letter.stream or "", letter.op or "")


def _decoded(
    site: Site, connection: Connection, channel: Channel, loader: Loader, whole: Sequence[Taken]
) -> Iterator[Any]:
    """Read the records; those of one kind follow each other, so that they are decoded together."""
    first, newest = 1, version_limit.most(site, connection, channel)
    for (version, stream, _), some in groupby(whole, key=_kind):
        lines = [one.record for one in some]
        schemas = dict.fromkeys([*(one.name for one in channel.streams), *([stream] if stream else [])], version)
        yield from Decoder(site, schemas if version else {}, loader, newest).decode(lines, first)
        first += len(lines)


def _cut_off(taken: Taken) -> RecordError:
    """Word why a letter of which not all bytes are kept can't be tried."""
    letter = taken.letter
    again = "have the row sent again" if letter.intake is None else "bring the row again in a file"
    kept = f"only {len(letter.record)} of its {letter.record_bytes} bytes are kept; {again}"
    return RecordError(letter.error, letter.pointer or "", kept)


def _refused(taken: Taken, fault: RecordError, cause: str = "") -> Outcome:
    """Say that a letter stays parked, for what it is refused for now; ``cause`` names the rule that refused it."""
    letter = taken.letter
    now_wrong = Letter(
        letter.direction,
        letter.channel,
        letter.record,
        fault.error,
        fault.sentence,
        pointer=fault.pointer,
        cause=cause,
        stream=letter.stream,
    )
    return Outcome(letter, DeadLetterState.PARKED, fault.sentence, now_wrong)


def _effective(taken: Taken, unchanged: str | None) -> Outcome:
    if unchanged is None:
        return Outcome(taken.letter, DeadLetterState.APPLIED, "applied")
    if unchanged == DUPLICATE:
        return Outcome(taken.letter, DeadLetterState.APPLIED, "its row has this very version already")
    sentence = "its row is newer; an older record never overwrites it"
    return Outcome(taken.letter, DeadLetterState.SUPERSEDED, sentence)


# Outgoing: its row is noted as changed, so that the next export reads it as it is then


def _send(_site: Site, connection: Connection, _channel: Channel, taken: Sequence[Taken]) -> list[Outcome]:
    by_stream = groupby(sorted(taken, key=lambda one: one.letter.stream or ""), key=lambda one: one.letter.stream)
    for stream, some in by_stream:
        keys = {one.letter.key for one in some if one.letter.key is not None}
        pending = sa.select(change.c.key).where(change.c.stream == stream, among(connection, change.c.key, keys))
        missed = keys.difference(connection.scalars(pending))
        if missed:
            connection.execute(sa.insert(change), [{"stream": stream, "op": "U", "key": key} for key in missed])
    return [Outcome(one.letter, DeadLetterState.APPLIED, GONE) for one in taken]
