"""Selections: dead letters that a person looked at, frozen under a name, so that nothing else is hit later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import insert_new
from exchange.database.engine import among, in_parts, now
from exchange.database.tables import DeadLetterState, dead_letter, selected, selection
from exchange.database.whoami import whoami
from exchange.dead_letters.filters import Filters
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError
from exchange.format.moments import in_words

MOST_NAMED = 5
"""So many of the selections that there are stand in a sentence, the newest."""


@dataclass(frozen=True)
class Selection(AsDict):
    """Letters under a name. ``left`` were not tried yet, ``parked`` were tried and stayed so."""

    name: str
    filters: dict[str, Any]
    letters: int
    at: datetime
    who: str
    left: int
    parked: int


@dataclass(frozen=True)
class NamedSelection:
    """A selection as it was made: what became of its letters is not looked at."""

    name: str
    filters: dict[str, Any]
    letters: int
    at: datetime
    who: str


def create_selection(connection: Connection, name: str, filters: Filters) -> Selection:
    """Freeze the letters that ``filters`` mean now, in the caller's writing transaction.

    Raises TransientError, with nothing changed, if the name is taken or there is no letter.
    """
    if _row(connection, name) is not None:
        there = find_selection(connection, name)
        msg = (
            f"selection {name} is there already, by {there.who} at {in_words(there.at)};"
            f" nothing was changed; take another name, or `exchange dead-letters unselect {name}` first"
        )
        raise TransientError(msg)
    fresh = {"name": name, "filters": json.dumps(filters.as_dict()), "letters": 0, "at": now(), "who": whoami()[:255]}
    if not insert_new(connection, selection, fresh):
        raise TransientError(f"selection {name} was made by somebody else just now; nothing was changed")
    letter = dead_letter.c
    meant = sa.select(sa.literal(name), letter.id, letter.attempts, letter.revision).where(*filters.where())
    freezing = sa.insert(selected).from_select(["selection", "letter", "attempts", "revision"], meant)
    number = connection.execute(freezing, execution_options={"preserve_rowcount": True}).rowcount
    if not number:
        raise TransientError("there is no such dead letter; nothing was selected")
    connection.execute(sa.update(selection).where(selection.c.name == name).values(letters=number))
    return find_selection(connection, name)


def delete_selection(connection: Connection, name: str) -> None:
    """Remove a selection, in the caller's transaction; its letters stay as they are. Raises TransientError."""
    _found(connection, name)
    connection.execute(sa.delete(selected).where(selected.c.selection == name))
    connection.execute(sa.delete(selection).where(selection.c.name == name))


def find_selection(connection: Connection, name: str) -> Selection:
    """Give a selection by its name. Raises TransientError if there is none."""
    return _selection(connection, _found(connection, name))


def named_selection(connection: Connection, name: str) -> NamedSelection:
    """Give a selection as it was made, without a look at its letters. Raises TransientError if there is none."""
    return _named(_found(connection, name))


def _found(connection: Connection, name: str) -> Any:
    row = _row(connection, name)
    if row is None:
        names = list(connection.scalars(sa.select(selection.c.name).order_by(selection.c.at.desc())))
        near = [f"did you mean {' or '.join(some)}?" for some in [get_close_matches(name, names)] if some]
        known = ", ".join(names[:MOST_NAMED]) or "none"
        said = f"there is no selection {name} (there are: {known}); nothing was changed"
        raise TransientError("; ".join([said, *near]))
    return row


def newest_selections(connection: Connection, limit: int) -> list[NamedSelection]:
    """Give the newest selections, at most so many, without a look at their letters."""
    rows = connection.execute(sa.select(selection).order_by(selection.c.at.desc(), selection.c.name).limit(limit))
    return [_named(row) for row in rows]


def _named(row: Any) -> NamedSelection:
    return NamedSelection(row.name, json.loads(row.filters), row.letters, row.at, row.who)


def count_outcomes(connection: Connection, name: str) -> dict[DeadLetterState | None, int]:
    """Count what became of a selection's letters when they were tried or given up; None: not tried yet."""
    counting = sa.select(selected.c.state, sa.func.count()).where(selected.c.selection == name)
    found = connection.execute(counting.group_by(selected.c.state)).all()
    return {DeadLetterState(state) if state else None: number for state, number in found}


def list_selections(connection: Connection) -> list[Selection]:
    """Give all selections, newest first."""
    rows = connection.execute(sa.select(selection).order_by(selection.c.at.desc(), selection.c.name))
    return [_selection(connection, row) for row in rows.all()]


def check_unchanged(connection: Connection, name: str) -> None:
    """Raise TransientError if a letter of a selection is not as the selection has it.

    One that became superseded by itself is no surprise, and left out.
    """
    letter, mine = dead_letter.c, selected.c
    expected = sa.func.coalesce(mine.state, DeadLetterState.PARKED.value)
    changed = sa.or_(
        letter.id.is_(None),
        letter.revision != mine.revision,
        letter.attempts != mine.attempts,
        letter.state.not_in([expected, DeadLetterState.SUPERSEDED]),
    )
    number, first = connection.execute(
        sa.select(sa.func.count(), sa.func.min(mine.letter))
        .select_from(selected.outerjoin(dead_letter, letter.id == mine.letter))
        .where(mine.selection == name, _open(), changed)
    ).one()
    if number:
        from exchange.dead_letters.transitions import standing  # noqa: PLC0415 - who only lists loads no loader

        how = standing(connection, first).message
        msg = (
            f"{number} of the letters of selection {name} changed since it was made: {how}; nothing was changed;"
            " `--skip-changed` goes on without them"
        )
        raise TransientError(msg)


def unchanged_letters() -> tuple[sa.ColumnElement[bool], ...]:
    """Say that a letter, joined to its place in a selection, is parked as the selection has it."""
    letter, mine = dead_letter.c, selected.c
    same = (letter.id == mine.letter, letter.revision == mine.revision, letter.attempts == mine.attempts)
    return (*same, letter.state == DeadLetterState.PARKED)


def parked_in(connection: Connection, name: str) -> list[int]:
    """Give the ids of the letters of a selection that are parked as it has them, tried or not."""
    asking = sa.select(selected.c.letter).where(selected.c.selection == name, _open(), *unchanged_letters())
    return list(connection.scalars(asking.order_by(selected.c.letter)))


def discarded_in(connection: Connection, name: str) -> list[int]:
    """Give the ids of the letters of a selection that are discarded."""
    gone = sa.and_(dead_letter.c.id == selected.c.letter, dead_letter.c.state == DeadLetterState.DISCARDED)
    asking = sa.select(selected.c.letter).where(selected.c.selection == name, gone)
    return list(connection.scalars(asking.order_by(selected.c.letter)))


def mark(
    connection: Connection, name: str, ids: Sequence[int], state: DeadLetterState | None, *, tried: bool = False
) -> None:
    """Note what became of letters of a selection, in the transaction that changed them; None: as if never tried.

    ``tried`` counts an attempt, as the letter itself does.
    """
    for some in in_parts(ids):
        mine = sa.and_(selected.c.selection == name, among(connection, selected.c.letter, some))
        marking = sa.update(selected).where(mine).values(state=state, attempts=selected.c.attempts + int(tried))
        connection.execute(marking)


def try_again(connection: Connection, name: str) -> None:
    """Open the letters of a selection that were tried and stayed parked, in the caller's transaction."""
    stayed = sa.and_(selected.c.selection == name, selected.c.state == DeadLetterState.PARKED)
    connection.execute(sa.update(selected).where(stayed).values(state=None))


def _open() -> sa.ColumnElement[bool]:
    return sa.or_(selected.c.state.is_(None), selected.c.state == DeadLetterState.PARKED)


def _row(connection: Connection, name: str) -> Any:
    return connection.execute(sa.select(selection).where(selection.c.name == name)).one_or_none()


def _selection(connection: Connection, row: Any) -> Selection:
    by_state = count_outcomes(connection, row.name)
    return Selection(
        row.name,
        json.loads(row.filters),
        row.letters,
        row.at,
        row.who,
        left=by_state.get(None, 0),
        parked=by_state.get(DeadLetterState.PARKED, 0),
    )
