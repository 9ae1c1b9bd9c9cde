"""The audit: what people did by hand, written down by whom, when, from where, why, and with what result.

The row is committed before the work begins, so nothing is done by hand that is not written down; one without a
result is at work, or was killed. What beat and other processes of ours do by themselves is not audited.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from exchange.database import Busy, now, world_errors, writing
from exchange.format.errors import RecordError, WorldError, printable, rule_of
from exchange.models import audit

MAX_NAME_CHARACTERS = 100
"""How long a person's name may be."""
MAX_REASON_CHARACTERS = 1000
"""And what a person gives as a reason."""
_BEGIN_SECONDS = 1.0
"""How long SQLite's other writer is waited for before an action: whoever writes longer is at work, and is named."""
_END_SECONDS = 30.0
"""And after it, when the work is done and only its result is missing."""
_LONGEST = 10_000
"""Characters of JSON that are kept of arguments and of a result."""
_FEW = 20
"""So many items of a list are kept as they are; of a longer one the first few, and how many there were."""


@dataclass
class Act:
    """One action by hand while it is being done. ``trouble`` says that its result could not be written down."""

    id: int
    result: dict[str, Any] | None = None
    trouble: str | None = field(default=None)

    def came_to(self, result: Mapping[str, Any]) -> None:
        """Say what came of it: fields that JSON knows, long lists cut. The last word counts."""
        self.result = dict(result)


@contextmanager
def audited(
    engine: Engine, action: str, arguments: Mapping[str, Any], *, who: str, origin: str, why: str | None = None
) -> Iterator[Act]:
    """Do something by hand: the block is the work, and says what came of it with ``came_to``.

    Of ``arguments`` what is None or False was not asked for, and is left out. If the block raises, that is the result
    unless another one was given. Begin it outside of any transaction. Raises Busy or WorldError, and nothing was done,
    if it can't be written down.
    """
    with world_errors(), writing(engine, patience_seconds=_BEGIN_SECONDS) as connection:
        created = connection.execute(
            sa.insert(audit).values(
                at=now(),
                who=printable(who, MAX_NAME_CHARACTERS),
                origin=printable(origin, 255),
                action=action,
                arguments=_json({name: value for name, value in arguments.items() if value not in (None, False)}),
                why=why,
            )
        )
    act = Act(int(created.inserted_primary_key[0]))  # type: ignore[index]
    try:
        yield act
    except BaseException as error:
        if act.result is None:
            act.came_to(_failure(error))
        raise
    finally:
        _conclude(engine, act)


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Busy):
        return error.as_dict()
    if not isinstance(error, Exception):
        return {"failed": "interrupted"}
    record = error if isinstance(error, RecordError) else error.__cause__
    if isinstance(record, RecordError):  # its sentence may quote a value
        return {"failed": f"{printable(rule_of(record.error, record.pointer, None), 300)}; nothing was changed"}
    return {"failed": printable(str(error).strip() or type(error).__name__, 2000)}


def _conclude(engine: Engine, act: Act) -> None:
    result = sa.update(audit).where(audit.c.id == act.id, audit.c.result.is_(None)).values(result=_json(act.result))
    try:
        with world_errors(), writing(engine, patience_seconds=_END_SECONDS) as connection:
            connection.execute(result)
    except (Busy, WorldError, DBAPIError) as error:
        act.trouble = f"what came of it could not be written to the audit: {error}"


def _json(fields: Mapping[str, Any] | None) -> str:
    """Give fields as JSON that is never long: what would be is cut, and says so."""
    kept = {name: _cut(value) for name, value in (fields or {}).items()}
    text = json.dumps(kept, default=str)
    if len(text) <= _LONGEST:
        return text
    return json.dumps({name: printable(json.dumps(value, default=str)) for name, value in kept.items()})


def _cut(value: Any) -> Any:
    if isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping)) and len(value) > _FEW:
        return {"count": len(value), "first": list(value)[:_FEW]}
    return value


@dataclass(frozen=True)
class Entry:
    """One row of the audit. ``result`` is None while it is at work, and of what was killed."""

    id: int
    at: datetime
    who: str
    origin: str
    action: str
    arguments: dict[str, Any]
    why: str | None
    result: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {**self.__dict__, "at": self.at.isoformat()}


def entries(
    connection: Connection,
    *,
    action: str | None = None,
    who: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
) -> list[Entry]:
    """Give what was done by hand, newest first."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    for column, wanted in ((audit.c.action, action), (audit.c.who, who)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(audit.c.at >= since)
    if until is not None:
        query = query.where(audit.c.at < until)
    return [
        Entry(
            row.id,
            row.at,
            row.who,
            row.origin,
            row.action,
            json.loads(row.arguments),
            row.why,
            json.loads(row.result) if row.result else None,
        )
        for row in connection.execute(query)
    ]
