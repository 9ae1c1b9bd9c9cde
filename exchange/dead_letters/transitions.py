"""Dead letters brought from one state to another, many at once; each change with its event.

Whoever changes letters locks their rows first and looks at their state then: of two operators one wins, and the
other is told by whom and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from exchange.database import ledger
from exchange.database import states as state_changes
from exchange.database.dialects import dialect_of
from exchange.database.engine import among, in_parts, now
from exchange.database.tables import DeadLetterState, dead_letter, event, revision
from exchange.dead_letters import schedule
from exchange.dead_letters.joining import at_version, open_letters
from exchange.dead_letters.store import Letter, Parked, brief_columns, find, parked
from exchange.format.errors import printable
from exchange.format.moments import in_words

_BY_HAND = {DeadLetterState.DISCARDED: "discarded", DeadLetterState.PARKED: "restored"}


class Taken(NamedTuple):
    """A letter whose row is locked, and its record: as it came, or as a person last mended it."""

    letter: Parked
    record: bytes

    @property
    def is_whole(self) -> bool:
        """Whether all of the record is there: of a long one only the beginning is kept; a revision is never cut."""
        return self.letter.revision > 0 or self.letter.record_bytes == len(self.letter.record)


@dataclass(frozen=True)
class Outcome:
    """What a retry made of a letter; ``refused`` says what is wrong with it now if it stays parked."""

    letter: Parked
    state: DeadLetterState
    sentence: str
    refused: Letter | None = None


def take(connection: Connection, ids: Sequence[int], *, lock: bool = True) -> list[Taken]:
    """Give those of some letters that are parked, by id, and lock their rows until the caller's transaction ends.

    Without ``lock`` nobody is kept off them: enough to say what would become of them.
    """
    newest = sa.and_(revision.c.letter == dead_letter.c.id, revision.c.number == dead_letter.c.revision)
    taking = (
        sa.select(*brief_columns(dead_letter), dead_letter.c.record, revision.c.record.label("mended"))
        .select_from(dead_letter.outerjoin(revision, newest))
        .where(among(connection, dead_letter.c.id, ids), dead_letter.c.state == DeadLetterState.PARKED)
        .order_by(dead_letter.c.id)
    )
    if lock:
        taking = taking.with_for_update(of=dead_letter)
    return [
        Taken(parked(row), at_version(row.mended, row.version) if row.mended else row.record)
        for row in connection.execute(taking)
    ]


def settle(connection: Connection, outcomes: Sequence[Outcome], how: str = "retried") -> None:
    """Write down what a retry made of letters, in the transaction in which they were taken: state, attempt, event."""
    moment = now()
    retried = {"attempts": dead_letter.c.attempts + 1, "updated_at": moment}
    failed = [outcome for outcome in outcomes if outcome.refused is not None]
    if failed:
        _renew(connection, [outcome.refused for outcome in failed if outcome.refused], ids_of(failed), retried)
        said = sa.literal(f"{how}: ", sa.Text) + dead_letter.c.message
        ledger.note_dead_letters(connection, ids_of(failed), DeadLetterState.PARKED, DeadLetterState.PARKED, said)
    kind = attrgetter("state", "sentence")
    for (state, sentence), alike in groupby(sorted((o for o in outcomes if o.refused is None), key=kind), key=kind):
        ids = ids_of(alike)
        settling = sa.update(dead_letter).where(among(connection, dead_letter.c.id, ids))
        connection.execute(settling.values(**retried, state=state))
        ledger.note_dead_letters(connection, ids, DeadLetterState.PARKED, state, f"{how}: {sentence}")


def ids_of(outcomes: Iterable[Outcome]) -> list[int]:
    """Give the ids of the letters."""
    return [outcome.letter.id for outcome in outcomes]


def _renew(connection: Connection, faults: Sequence[Letter], ids: Sequence[int], values: dict[str, Any]) -> None:
    """Let letters say what is wrong with them now: on PostgreSQL one statement for all that is alike but for words."""
    alike = attrgetter("error", "pointer", "cause", "fingerprint")
    by_fault = sorted(zip(ids, faults, strict=True), key=lambda pair: alike(pair[1]))
    for same, some in groupby(by_fault, key=lambda pair: alike(pair[1])):
        renewed = dict(zip(("error", "pointer", "cause", "fingerprint"), same, strict=True))
        pairs = list(some)
        renewed |= {"next_try_at": schedule.next_try(pairs[0][1].direction, same[0], 0, now()), "tries": 0}
        said = [(letter_id, fault.message) for letter_id, fault in pairs]
        if dialect_of(connection).is_postgresql:
            new = (
                sa.func.unnest(
                    sa.cast([one for one, _ in said], postgresql.ARRAY(sa.BigInteger)),
                    sa.cast([message for _, message in said], postgresql.ARRAY(sa.Text)),
                )
                .table_valued("id", "message", name="new")
                .render_derived()
            )
            changing = sa.update(dead_letter).where(dead_letter.c.id == new.c.id)
            connection.execute(changing.values(**values, **renewed, message=new.c.message))
        else:
            changing = sa.update(dead_letter).where(dead_letter.c.id == sa.bindparam("letter"))
            connection.execute(
                changing.values(**values, **renewed, message=sa.bindparam("said")),
                [{"letter": letter_id, "said": message} for letter_id, message in said],
            )


def discard(connection: Connection, ids: int | Sequence[int], reason: str) -> str | None:
    """Discard parked letters in the caller's transaction; give a sentence, with none changed, if one isn't parked."""
    return _move(connection, ids, DeadLetterState.PARKED, DeadLetterState.DISCARDED, reason)


def restore(connection: Connection, ids: int | Sequence[int], reason: str) -> str | None:
    """Park discarded letters again in the caller's transaction; give a sentence, with none changed, if one isn't."""
    return _move(connection, ids, DeadLetterState.DISCARDED, DeadLetterState.PARKED, reason)


def _move(
    connection: Connection,
    ids: int | Sequence[int],
    before: DeadLetterState,
    after: DeadLetterState,
    reason: str,
) -> str | None:
    if after not in state_changes.DEAD_LETTER_TRANSITIONS.get(before, frozenset()):
        msg = f"no dead letter comes from {before} to {after}"
        raise ValueError(msg)
    wanted = [ids] if isinstance(ids, int) else list(ids)
    groups = list(in_parts(wanted))
    for some in groups:
        states = locked_states(connection, some)
        refusal = next((refused for one in some if (refused := _refusal(connection, one, states, before))), None)
        if refusal is None and after is DeadLetterState.PARKED:
            refusal = _rival(connection, some)
        if refusal:
            return refusal
    cause = f"{_BY_HAND[after]}: {printable(reason, 1000)}"
    for some in groups:
        changing = sa.update(dead_letter).where(among(connection, dead_letter.c.id, some))
        connection.execute(changing.values(state=after, updated_at=now()))
        ledger.note_dead_letters(connection, some, before, after, cause)
    return None


def locked_states(connection: Connection, ids: Sequence[int]) -> dict[int, DeadLetterState]:
    """Lock the rows of letters, by id, until the caller's transaction ends, and give their states."""
    asking = (
        sa.select(dead_letter.c.id, dead_letter.c.state)
        .where(among(connection, dead_letter.c.id, ids))
        .order_by(dead_letter.c.id)
        .with_for_update()
    )
    return {row.id: DeadLetterState(row.state) for row in connection.execute(asking)}


def _refusal(
    connection: Connection, letter_id: int, states: dict[int, DeadLetterState], wanted: DeadLetterState
) -> str | None:
    if letter_id not in states:
        return str(missing(letter_id))
    if states[letter_id] is not wanted:
        return f"{standing(connection, letter_id)}; nothing was changed"
    return None


def _rival(connection: Connection, ids: Sequence[int]) -> str | None:
    """Say that a letter can't be parked again, as another one of its row is or is to be."""
    left = set(ids).difference(restorable(connection, ids))
    if not left:
        return None
    return f"another dead letter of the row of dead letter {min(left)} is parked, or would be; nothing was changed"


def restorable(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Give those of some letters that can be parked together: of each row the newest, and none if one is parked."""
    letter = dead_letter.c
    asking = sa.select(letter.id, letter.identity).order_by(
        sa.func.coalesce(letter.version, 0).desc(), letter.id.desc()
    )
    found: list[int] = []
    taken: set[str] = set()
    for some in in_parts(ids):
        rows = connection.execute(asking.where(among(connection, letter.id, some))).all()
        taken.update(open_letters(connection, [row.identity for row in rows if row.identity]))
        for row in rows:
            if row.identity is None or row.identity not in taken:
                found.append(row.id)
                taken.update(filter(None, [row.identity]))
    return sorted(found)


class Standing(NamedTuple):
    """How a letter stands, and where to look if there is none; as text both."""

    message: str
    remedy: str | None = None

    def __str__(self) -> str:
        """Give the sentence that a person reads."""
        return self.message if self.remedy is None else f"{self.message}; {self.remedy}"


def missing(letter_id: int) -> Standing:
    """Say that there is no such letter."""
    return Standing(f"there is no dead letter {letter_id}", "`exchange dead-letters list` shows those there are")


def standing(connection: Connection, letter_id: int) -> Standing:
    """Say how a letter stands, by whom and since when; ``missing`` if there is none."""
    letter = find(connection, letter_id)
    if letter is None:
        return missing(letter_id)
    last = last_event(connection, letter_id)
    by = f" by {printable(last.who)} at {in_words(last.at)}" if last else ""
    how = "parked, last changed" if letter.state is DeadLetterState.PARKED else f"{letter.state} already,"
    return Standing(f"dead letter {letter_id} is {how}{by}")


def last_event(connection: Connection, letter_id: int) -> Any:
    """Give who last did something to a letter, when and what (``who``, ``at``, ``cause``); None if nobody did."""
    return connection.execute(
        sa.select(event.c.who, event.c.at, event.c.cause)
        .where(event.c.subject == "dead_letter", event.c.subject_id == letter_id)
        .order_by(event.c.id.desc())
        .limit(1)
    ).one_or_none()
