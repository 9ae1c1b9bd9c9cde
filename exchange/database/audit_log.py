"""The audit: what people did by hand, written down by whom, when, from where, why, and with what result.

The row is committed before the work begins, so nothing is done by hand that is not written down; what came of it is a
row of its own, and an act without one is at work, or was killed. Rows are only ever added (see ``audit_chain``). What
beat and other processes of ours do by themselves is not audited.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from exchange.database import clock
from exchange.database.audit_chain import add, adding
from exchange.database.engine import missing_file
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.database.tables import audit
from exchange.format.as_dict import AsDict
from exchange.format.errors import RecordError, TransientError, printable, rule_of

MAX_NAME_CHARACTERS = 100
"""How long a person's name may be."""
MAX_REASON_CHARACTERS = 1000
"""And what a person gives as a reason."""
UNKNOWN = "unknown"
"""Who made a call that was refused."""
_BEGIN_SECONDS = 1.0
"""How long SQLite's other writer is waited for before an action: whoever writes longer is at work, and is named."""
_END_SECONDS = 30.0
"""And after it, when the work is done and only its result is missing."""
_LONGEST = 10_000
"""Characters of JSON that are kept of arguments and of a result."""
_FEW = 20
"""So many items of a list are kept as they are; of a longer one the first few, and how many there were."""

MOST_REFUSED = 100
"""So many refusals are written down within an hour: who reaches the broker alone must not fill the database."""


class Repeated(Exception):  # noqa: N818 - reads as what it is
    """A call that was done already came again."""


@dataclass
class Act:
    """One action by hand while it is being done. ``trouble`` says that its result could not be written down."""

    id: int
    begun: Mapping[str, Any]
    result: dict[str, Any] | None = None
    trouble: str | None = field(default=None)

    def came_to(self, result: Mapping[str, Any]) -> None:
        """Say what came of it: fields that JSON knows, long lists cut. The last word counts."""
        self.result = dict(result)


@contextmanager
def audited(
    engine: Engine,
    action: str,
    arguments: Mapping[str, Any],
    *,
    who: str,
    origin: str,
    why: str | None = None,
    call: str | None = None,
) -> Iterator[Act]:
    """Do something by hand: the block is the work, and says what came of it with ``came_to``.

    Of ``arguments`` what is None or False was not asked for, and is left out. If the block raises, that is the result
    unless another one was given. Begin it outside of any transaction. ``call`` is the id of a task that was called: one
    that was begun and cut off is gone on with as the same act. Raises Repeated if it was done, Busy or TransientError,
    and nothing was done, if it can't be written down. The beginning and the result are each committed in a transaction
    of their own, whatever becomes of the work's.
    """
    begun = {
        "who": printable(who, MAX_NAME_CHARACTERS),
        "origin": printable(origin, 255),
        "action": action,
    }
    asked = _json({name: value for name, value in arguments.items() if value not in (None, False)})
    with adding(engine, _BEGIN_SECONDS) as connection:
        number = _unfinished(connection, call) if call is not None else None
        if number is None:
            number = add(connection, {**begun, "arguments": asked, "why": why, "call": call})
    act = Act(number, begun)
    try:
        yield act
    except BaseException as error:
        if act.result is None:
            act.came_to(_failure(error))
        raise
    finally:
        _conclude(engine, act)


def _unfinished(connection: Connection, call: str) -> int | None:
    """Find the act of a call that came before and was cut off. Raises Repeated if it came to its end."""
    number = connection.scalar(sa.select(audit.c.id).where(audit.c.call == call))
    if number is None:
        return None
    if connection.scalar(sa.select(audit.c.id).where(audit.c.concludes == number)) is not None:
        raise Repeated
    return int(number)


def write_refusal(engine: Engine, action: str, claimed: str, *, origin: str, sentence: str) -> bool:
    """Write down that a call was refused, of which nothing is believed; False if there were too many within an hour.

    Raises Busy or TransientError. Commits a transaction of its own.
    """
    with adding(engine, _BEGIN_SECONDS) as connection:
        latest = connection.execute(
            sa.select(audit.c.at, audit.c.result).order_by(audit.c.id.desc()).limit(MOST_REFUSED)
        )
        recent = [row for row in latest if clock.since(row.at) < timedelta(hours=1) and _is_refusal(row.result)]
        if len(recent) >= MOST_REFUSED:
            return False
        add(
            connection,
            {
                "who": UNKNOWN,
                "origin": printable(origin, 255),
                "action": printable(action, 63),
                "arguments": _json({"claimed": printable(claimed)}),
                "result": _json({"refused": sentence}),
            },
        )
    return True


def _is_refusal(result: str | None) -> bool:
    return result is not None and result.startswith('{"refused"')


def is_kept(engine: Engine) -> bool:
    """Tell whether the database has an audit yet; one that was never migrated has none. Raises TransientError.

    Reads in a transaction of its own.
    """
    if missing_file(engine) is not None:
        return False
    with transient_errors():
        return sa.inspect(engine).has_table(audit.name)


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
    try:
        with adding(engine, _END_SECONDS) as connection:
            add(connection, {**act.begun, "result": _json(act.result), "concludes": act.id})
    except (Busy, TransientError, DBAPIError) as error:
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
class AuditEntry(AsDict):
    """One row of the audit. ``result`` is None while it is at work, and of what was killed."""

    id: int
    at: datetime
    who: str
    origin: str
    action: str
    arguments: dict[str, Any]
    why: str | None
    result: dict[str, Any] | None


def entries(
    connection: Connection,
    *,
    action: str | None = None,
    who: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """Give what was done by hand, newest first, or what comes ``after`` a row. Reads in the caller's transaction."""
    ended = audit.alias("ended")
    query = (
        sa.select(audit, sa.func.coalesce(audit.c.result, ended.c.result).label("came_to"))
        .outerjoin(ended, ended.c.concludes == audit.c.id)
        .where(audit.c.concludes.is_(None))
        .order_by(audit.c.id.desc())
        .limit(limit)
    )
    for column, wanted in ((audit.c.action, action), (audit.c.who, who)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(audit.c.id < after)
    if since is not None:
        query = query.where(audit.c.at >= since)
    if until is not None:
        query = query.where(audit.c.at < until)
    return [
        AuditEntry(
            row.id,
            row.at,
            row.who,
            row.origin,
            row.action,
            json.loads(row.arguments),
            row.why,
            json.loads(row.came_to) if row.came_to else None,
        )
        for row in connection.execute(query)
    ]
