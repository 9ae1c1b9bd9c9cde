"""What waits for a second person: proposed by one, confirmed by another one, as it was frozen when it was proposed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from exchange.database import clock
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, wait_for, writing
from exchange.database.tables import is_proposal_open, proposal
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable

MOST_OPEN = 1_000
"""So many wait at most."""
MOST_BYTES = 1024 * 1024
"""So much JSON of what is frozen."""
CUT_OFF = timedelta(days=1)
"""What was begun so long ago and has no end was killed."""
_LOCK = "proposals"


class State(StrEnum):
    """How a proposal is."""

    OPEN = "open"
    CONFIRMING = "confirming"
    """Another person confirmed it, and it is being done."""
    CONFIRMED = "confirmed"
    FAILED = "failed"
    """It was confirmed, and could not be done; or what it is about had changed."""
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class NotSecond(Exception):  # noqa: N818 - an answer to a person
    """Whoever confirms is no second person, or the proposal waits for nobody any more; one sentence."""


@dataclass(frozen=True)
class Proposal(AsDict):
    """What was proposed. ``frozen`` is what is done, ``facts`` how what it concerns was then."""

    id: int
    state: State
    action: str
    arguments: Mapping[str, Any]
    who: str
    also: tuple[str, ...]
    """Other names of whoever proposed it: whom they said they ask for, who made the token."""
    origin: str
    why: str
    at: datetime
    expires_at: datetime
    closed_by: str | None
    closed_at: datetime | None
    result: Mapping[str, Any] | None
    frozen: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def is_open(self) -> bool:
        """Whether it waits for another person."""
        return self.state is State.OPEN and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nobody confirmed it in time."""
        return now() >= self.expires_at or clock.since(self.at) == timedelta.max

    def __str__(self) -> str:
        """Say what was proposed, by whom and why."""
        asked = ", ".join(f"{name} {printable(str(value), 100)}" for name, value in self.arguments.items())
        return (
            f"{self.action}{f' ({asked})' if asked else ''} by {printable(self.who, 100)}: {printable(self.why, 300)}"
        )

    def brief(self) -> dict[str, Any]:
        """Give what a list of other things has of it."""
        shown = self.as_dict()
        return {name: shown[name] for name in ("id", "action", "who", "why", "at", "expires_at")}

    def refuse_same(self, names: tuple[str, ...]) -> None:
        """See that whoever has these names did not propose it. Raises NotSecond."""
        proposers = {one.lower() for one in (self.who, *self.also)}
        same = next((one for one in names if one.lower() in proposers), None)
        if same is not None:
            raise NotSecond(
                f"proposal {self.id} was made by {printable(self.who, 100)}, and {printable(same, 100)} is no second"
                " person; another one has to confirm it"
            )


def propose(engine: Engine, values: Mapping[str, Any], hours: float) -> Proposal:
    """Write down what is proposed, or give the open proposal of just the same.

    ``values`` are those of a Proposal from ``action`` to ``facts``. Raises TransientError if too much waits, and Busy.
    Commits a transaction of its own.
    """
    moment = now()
    row = {name: _json(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    row["also"] = _json(list(values["also"]))
    same = [proposal.c[name] == row[name] for name in ("action", "arguments", "frozen", "facts")]
    times = {"at": moment, "expires_at": moment + timedelta(hours=hours)}
    with transient_errors(), writing(engine) as connection:
        wait_for(connection, _LOCK)
        _expire(connection)
        waiting = sa.select(sa.func.count()).select_from(proposal).where(is_proposal_open(proposal))
        found = connection.execute(
            sa.select(proposal).where(is_proposal_open(proposal), proposal.c.state == State.OPEN, *same)
        ).first()
        if found is not None:
            return _proposal(found)
        if (connection.scalar(waiting) or 0) >= MOST_OPEN:
            raise TransientError(f"{MOST_OPEN} proposals wait already; `exchange proposals` lists them")
        inserting = sa.insert(proposal).values(**row, **times, state=State.OPEN.value).returning(proposal)
        return _proposal(connection.execute(inserting).one())


def find_proposal(engine: Engine, number: int) -> Proposal:
    """Give a proposal by its number. Raises TransientError if there is none."""
    with transient_errors(), reading(engine) as connection:
        row = connection.execute(sa.select(proposal).where(proposal.c.id == number)).one_or_none()
    if row is None:
        raise TransientError(f"there is no proposal {number}; `exchange proposals` lists them")
    return _proposal(row)


def list_proposals(engine: Engine, *, ended: bool = False, limit: int = 50) -> list[Proposal]:
    """Give those that wait, or with ``ended`` the newest of all, newest first. Raises TransientError."""
    with transient_errors(), reading(engine) as connection:
        return read_proposals(connection, ended=ended, limit=limit)


def read_proposals(connection: Connection, *, ended: bool = False, limit: int = 50) -> list[Proposal]:
    """Give the same, read in the caller's transaction."""
    query = sa.select(proposal).order_by(proposal.c.id.desc()).limit(limit)
    rows = connection.execute(query if ended else query.where(is_proposal_open(proposal)))
    found = [_proposal(row) for row in rows]
    return found if ended else [one for one in found if not one.is_over or one.state is State.CONFIRMING]


def take(engine: Engine, number: int, by: str, names: tuple[str, ...]) -> Proposal:
    """Take a proposal to do it, as nobody else can then; ``names`` are all of whoever confirms.

    Raises NotSecond, Busy, TransientError. Commits a transaction of its own.
    """
    with transient_errors(), writing(engine) as connection:
        wait_for(connection, _LOCK)
        found = _waiting(connection, number)
        found.refuse_same(names)
        _set(connection, number, State.CONFIRMING, by, None)
    return found


def close(engine: Engine, number: int, state: State, by: str, result: Mapping[str, Any]) -> None:
    """Write down what became of one that was taken. Raises Busy, TransientError. Commits a transaction of its own."""
    with transient_errors(), writing(engine) as connection:
        _set(connection, number, state, by, result)


def give_back(engine: Engine, number: int) -> None:
    """Let one that was taken wait again: nothing was done. Raises Busy, TransientError. Commits a transaction."""
    values = {"state": State.OPEN.value, "closed_by": None, "closed_at": None}
    with transient_errors(), writing(engine) as connection:
        connection.execute(sa.update(proposal).where(proposal.c.id == number).values(**values))


def withdraw(engine: Engine, number: int, by: str) -> Proposal:
    """Take back what waits. Raises NotSecond, Busy, TransientError. Commits a transaction of its own."""
    with transient_errors(), writing(engine) as connection:
        wait_for(connection, _LOCK)
        _waiting(connection, number)
        _set(connection, number, State.WITHDRAWN, by, None)
        return _proposal(connection.execute(sa.select(proposal).where(proposal.c.id == number)).one())


def sweep_proposals(connection: Connection, before: datetime) -> int:
    """End what nobody confirmed in time, and remove what ended ``before`` a moment; give how many rows went.

    Writes in the caller's transaction.
    """
    _expire(connection)
    cut_off = sa.and_(proposal.c.state == State.CONFIRMING, proposal.c.closed_at < now() - CUT_OFF)
    killed = {"state": State.FAILED.value, "result": _json({"failed": "it was cut off; the audit has how far it came"})}
    connection.execute(sa.update(proposal).where(cut_off).values(**killed))
    ended = proposal.c.state.not_in([State.OPEN, State.CONFIRMING])
    over = sa.and_(ended, sa.func.coalesce(proposal.c.closed_at, proposal.c.at) < before)
    return len(connection.execute(sa.delete(proposal).where(over).returning(proposal.c.id)).all())


def _waiting(connection: Connection, number: int) -> Proposal:
    row = connection.execute(sa.select(proposal).where(proposal.c.id == number)).one_or_none()
    if row is None:
        raise TransientError(f"there is no proposal {number}; `exchange proposals` lists them")
    found = _proposal(row)
    if not found.is_open:
        state = State.EXPIRED if found.state is State.OPEN else found.state
        by = f" by {printable(found.closed_by, 100)}" if found.closed_by else ""
        raise NotSecond(f"proposal {number} is {state}{by} already; propose it anew if it is still needed")
    return found


def _set(connection: Connection, number: int, state: State, by: str, result: Mapping[str, Any] | None) -> None:
    values = {
        "state": state.value,
        "closed_by": by,
        "closed_at": now(),
        "result": None if result is None else _json(result),
    }
    connection.execute(sa.update(proposal).where(proposal.c.id == number).values(**values))


def _expire(connection: Connection) -> None:
    moment = now()
    over = sa.or_(proposal.c.expires_at <= moment, proposal.c.at > moment + clock.SKEW)
    ended = {"state": State.EXPIRED.value, "closed_at": moment}
    connection.execute(
        sa.update(proposal).where(is_proposal_open(proposal), proposal.c.state == State.OPEN, over).values(**ended)
    )


def _json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    if len(text) > MOST_BYTES:
        raise TransientError("so much at once can't be proposed; select dead letters and propose the selection")
    return text


def _proposal(row: Row[Any]) -> Proposal:
    return Proposal(
        row.id,
        State(row.state),
        row.action,
        json.loads(row.arguments),
        row.who,
        tuple(json.loads(row.also)),
        row.origin,
        row.why,
        row.at,
        row.expires_at,
        row.closed_by,
        row.closed_at,
        json.loads(row.result) if row.result else None,
        json.loads(row.frozen),
        json.loads(row.facts),
    )
