"""What answers the reference application's requests: whether it can and reaches what it asks, and how it fared last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.database import clock
from exchange.database.locks import reading
from exchange.format.errors import printable
from exchange.format.moments import in_words, lasting
from exchange.operating.assemble import handler_sources, load_request_handler
from exchange.operating.doctor.finding import Alarm, Findings, fault, ok, warning
from exchange.settings import Settings, SettingsFaults
from exchange.site import Site

if TYPE_CHECKING:
    from exchange.reference.handlers import Sources

WAITING = timedelta(minutes=5)
"""A request that has no answer yet for so long is worth a look, whatever its handler reaches by now."""

_CORRECT = "correct it; until then the worker does not start, nor does it answer"


def handler_names(settings: Settings) -> tuple[str, ...]:
    """Name what answers requests here; nothing on a side that answers none."""
    if not settings.answers_requests:
        return ()
    from exchange.reference.handlers import names  # noqa: PLC0415 - loads the models that come along

    return names(settings.handler)


def check_handlers(settings: Settings) -> Findings:
    """Look at each that answers requests, and whether all together can be."""
    well = True
    for name in handler_names(settings):
        for found in check_handler(settings, name):
            well = well and found.alarm is None
            yield found
    if well and settings.answers_requests:
        try:
            load_request_handler(settings)
        except SettingsFaults as faults:
            yield fault("handler", str(faults), _CORRECT, alarm=Alarm.HANDLER)


def check_handler(settings: Settings, name: str) -> Findings:
    """Make one handler as the worker does, and ask what it asks whether it answers."""
    from exchange.reference.handlers import Later, load_handlers  # noqa: PLC0415 - likewise

    try:
        sources = handler_sources(settings)
        load_handlers(name, sources)
    except (ValueError, SettingsFaults) as error:
        said = f"EXCHANGE_HANDLER: {printable(str(error), 400)}"
        yield fault("handler", said, _CORRECT, alarm=Alarm.HANDLER, subject=name)
        return
    try:
        asks = _looked_at(name, sources)
    except Later as later:
        remedy = "see that it runs, and that its setting is right; requests stay pending and are tried again"
        yield fault("handler", f"{name}: {later}", remedy, alarm=Alarm.HANDLER, subject=name)
        return
    except ValueError as error:
        said = f"{name}: {printable(str(error), 400)}"
        yield fault("handler", said, "correct it; it is read anew each time", alarm=Alarm.HANDLER, subject=name)
        return
    yield ok("handler", f"{name} answers requests{asks}", subject=name)


def check_answers(settings: Settings, site: Site) -> Findings:
    """Say when each handler last answered and failed, and which requests wait for what it asks."""
    for name in handler_names(settings):
        record = _record(site.engine, name)
        since = record.waiting_since
        if since is not None and clock.since(since) > WAITING:
            remedy = "what it says may be over by now: they are tried again at least every ten minutes"
            said = f"{name}: {record}"
            yield warning("answers", said, remedy, alarm=Alarm.HANDLER, subject=f"{name} waits", since=since)
        else:
            yield ok("answers", f"{name}: {record}", since=record.answered_at, subject=name)


def _looked_at(name: str, sources: Sources) -> str:
    """Ask what a handler asks, and say what that is; nothing for a function. Raises Later and ValueError."""
    if name == "sql":
        from exchange.reference.sql_handler import look_at_database  # noqa: PLC0415 - only where it is named

        return f", {look_at_database(sources)}"
    if name == "http":
        from exchange.reference.http_handler import look_at_service  # noqa: PLC0415 - likewise

        return f", {look_at_service(sources)}"
    return ""


@dataclass(frozen=True)
class _Record:
    """How a handler fared last."""

    answered_at: datetime | None = None
    failed_at: datetime | None = None
    message: str = ""
    waiting: int = 0
    waiting_since: datetime | None = None

    def __str__(self) -> str:
        last = f"it last answered {_ago(self.answered_at)}" if self.answered_at else "it has not answered yet"
        failed = f", and last failed {_ago(self.failed_at)}: {printable(self.message, 160)}" if self.failed_at else ""
        if self.waiting_since is None:
            return last + failed
        requests = "1 request waits" if self.waiting == 1 else f"{self.waiting} requests wait"
        return f"{last}{failed}; {requests} for it, the first one since {in_words(self.waiting_since)}"


def _ago(moment: datetime | None) -> str:
    return f"{lasting(max(clock.now() - moment, timedelta()))} ago" if moment else "never"


def _record(engine: Engine, name: str) -> _Record:
    from exchange.reference.handlers import called  # noqa: PLC0415 - loads the models that come along
    from exchange.reference.models import AnswerLater, HandlerOutcome  # noqa: PLC0415 - likewise

    mine = called(name)
    with reading(engine) as connection:
        last = connection.execute(
            sa.select(HandlerOutcome.answered_at, HandlerOutcome.failed_at, HandlerOutcome.message).where(
                HandlerOutcome.handler == mine
            )
        ).one_or_none()
        number, since = connection.execute(
            sa.select(sa.func.count(), sa.func.min(AnswerLater.since)).where(AnswerLater.handler == mine)
        ).one()
    answered, failed, message = last or (None, None, None)
    return _Record(
        answered_at=answered,
        failed_at=failed,
        message=message or "",
        waiting=number,
        waiting_since=since,
    )
