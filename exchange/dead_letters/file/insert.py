"""Letters of a file inserted among those that are here, each once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.tables import DeadLetterState, Direction, dead_letter, revision
from exchange.dead_letters import joining, schedule, store
from exchange.format.dead_letter_file import SavedLetter, SavedRevision

Identity = tuple[Any, ...]
"""What tells two letters apart, wherever they are kept."""


@dataclass
class _Waiting:
    letter: SavedLetter
    keeps_id: bool
    revisions: list[SavedRevision] = field(default_factory=list)

    @property
    def identity(self) -> str | None:
        """Say of which row it is, as letters here do."""
        return joining.identity_of(vars(self.letter), self.letter.key)


class Inserter:
    """Letters that wait to be written in the caller's transaction, some at a time."""

    def __init__(self, connection: Connection, cause: str) -> None:
        """Begin; ``cause`` goes into each letter's history."""
        self._connection = connection
        self._cause = cause
        self._waiting: list[_Waiting] = []
        self.bytes = 0
        self.imported = 0
        self.duplicate = 0

    @property
    def letters(self) -> int:
        """How many letters wait."""
        return len(self._waiting)

    def add(self, letter: SavedLetter, *, keeps_id: bool) -> None:
        """Take a letter, which gets its old id back if that is free."""
        self._waiting.append(_Waiting(letter, keeps_id))
        self.bytes += len(letter.record)

    def revise(self, entry: SavedRevision) -> None:
        """Take a revision of the letter that was added last."""
        self._waiting[-1].revisions.append(entry)
        self.bytes += len(entry.record)

    def write(self) -> None:
        """Write down what is not here yet, and count it."""
        fresh: dict[Identity, _Waiting] = {}
        known = self._known([waiting.letter for waiting in self._waiting])
        for waiting in self._waiting:
            identity = _identity(waiting.letter)
            if identity not in known:
                fresh.setdefault(identity, waiting)
        self.imported += len(fresh)
        self.duplicate += len(self._waiting) - len(fresh)
        self._insert(list(fresh.values()))
        self._waiting.clear()
        self.bytes = 0

    def _known(self, letters: list[SavedLetter]) -> set[Identity]:
        """Give the identities of those letters here that may be among some."""
        columns = [
            dead_letter.c[name] for name in ("direction", "channel", "batch", "line", "stream", "key", "version")
        ]
        batches = {(one.batch, one.line) for one in letters if one.batch is not None}
        keys = {(one.stream, one.key) for one in letters if one.batch is None}
        known = set()
        for names, values in (((dead_letter.c.batch, dead_letter.c.line), batches), (_BY_KEY, keys)):
            if values:
                rows = self._connection.execute(sa.select(*columns).where(sa.tuple_(*names).in_(list(values))))
                known |= {_identity(row) for row in rows}
        return known

    def _insert(self, fresh: list[_Waiting]) -> None:
        self._settle_rivals(fresh)
        free = self._free_ids([waiting.letter.id for waiting in fresh if waiting.keeps_id])
        by_state: dict[DeadLetterState, list[int]] = defaultdict(list)
        revisions: list[dict[str, Any]] = []
        for keeping in (True, False):
            group = [waiting for waiting in fresh if (waiting.keeps_id and waiting.letter.id in free) is keeping]
            if not group:
                continue
            inserted = sa.insert(dead_letter).returning(dead_letter.c.id, sort_by_parameter_order=True)
            ids = self._connection.scalars(inserted, [_row(waiting, keeping=keeping) for waiting in group])
            for letter_id, waiting in zip(ids, group, strict=True):
                by_state[DeadLetterState(waiting.letter.state)].append(letter_id)
                revisions += [{**vars(one), "letter": letter_id} for one in waiting.revisions]
        for state, letters in by_state.items():
            ledger.note_dead_letters(self._connection, letters, None, state, self._cause)
        if revisions:
            self._connection.execute(sa.insert(revision), revisions)

    def _settle_rivals(self, fresh: list[_Waiting]) -> None:
        """Let of each row one letter be parked: the one that is here, or the newest that comes."""
        parked = [one for one in fresh if one.letter.state == DeadLetterState.PARKED]
        parked.sort(key=lambda one: one.letter.version or 0, reverse=True)
        taken = set(joining.open_letters(self._connection, [*filter(None, (one.identity for one in parked))]))
        for waiting in parked:
            if waiting.identity in taken:
                waiting.letter = replace(waiting.letter, state=DeadLetterState.SUPERSEDED)
            taken.update(filter(None, [waiting.identity]))

    def _free_ids(self, ids: list[int]) -> set[int]:
        """Give those ids that nobody has or will be given: below the newest, and not taken."""
        newest = self._connection.scalar(sa.select(sa.func.max(dead_letter.c.id))) or 0
        taken = set(self._connection.scalars(sa.select(dead_letter.c.id).where(dead_letter.c.id.in_(ids))))
        return {one for one in ids if one < newest} - taken


_BY_KEY = (dead_letter.c.stream, dead_letter.c.key)


def _identity(letter: Any) -> Identity:
    """A batch's line is refused once; what could not be sent has a version of its own."""
    if letter.batch is not None:
        return (letter.direction, letter.channel, letter.batch, letter.line)
    return (letter.direction, letter.channel, letter.stream, letter.key, letter.version)


def _row(waiting: _Waiting, *, keeping: bool) -> dict[str, Any]:
    letter = waiting.letter
    values = {one.name: getattr(letter, one.name) for one in fields(SavedLetter) if keeping or one.name != "id"}
    return values | {
        "fingerprint": store.Letter(
            Direction(letter.direction),
            letter.channel,
            letter.record,
            letter.error,
            letter.message,
            pointer=letter.pointer or "",
            cause=letter.cause,
            stream=letter.stream,
        ).fingerprint,
        "state": DeadLetterState(letter.state),
        "identity": waiting.identity,
        "revision": max((one.number for one in waiting.revisions), default=0),
        "updated_at": now(),
        "next_try_at": schedule.next_try(letter.direction, letter.error, 0, now()),
    }
