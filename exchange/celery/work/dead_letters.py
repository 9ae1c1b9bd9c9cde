"""Dead letters: tried again, let go of, and taken back."""

from __future__ import annotations

from collections.abc import Sequence

from celery import current_app, current_task

from exchange.celery.arguments import (
    by_ids,
    check_count,
    check_rate,
    check_truth,
    numbers,
    whole_number,
)
from exchange.celery.calls import TICK
from exchange.celery.work.frame import stopping, task
from exchange.celery.work.own_side import own_exchange
from exchange.celery.work.said import Result, counted, log, told
from exchange.dead_letters.background import BackgroundRetry
from exchange.dead_letters.bulk_retry import Pace
from exchange.operating.schedule import RETRIES_SECONDS
from exchange.results import Retried

MOST_TOLD = 100
"""So many records of a selection a result tells of one by one; of all it has the counts."""


@task("exchange.retry_dead_letter")
def retry_dead_letter(  # noqa: PLR0917 - as a call by hand names them
    ids: int | list[int] | None = None,
    selection: str | None = None,
    dry_run: bool = False,
    rate: float | None = None,
    canary: int | None = None,
    stop_after: int | None = None,
    again: bool = False,
    skip_changed: bool = False,
    background: bool = False,
) -> Result:
    """Try parked records again: those of ``ids``, or what is left of a selection, with a pace, or in the background."""
    switches = {"dry_run": dry_run, "again": again, "skip_changed": skip_changed, "background": background}
    for name, switch in switches.items():
        check_truth(name, switch)
    if by_ids(ids, selection):
        done = [one.without_values() for one in own_exchange().dead_letters.retry(numbers(ids), rehearse=dry_run)]
        return told(done, {}, "nothing to retry", what="dead_letters")
    for name, value in (("canary", canary), ("stop_after", stop_after)):
        check_count(name, value)
    check_rate("rate", rate)
    shown: list[Result] = []
    progress = own_exchange().site.progress
    progress.expect("all", own_exchange().dead_letters.count_left(str(selection)))

    def collect(retried: Sequence[Retried]) -> None:
        progress.add(len(retried))
        shown.extend(one.without_values().as_dict() for one in retried[: max(MOST_TOLD - len(shown), 0)])

    pace = Pace(rate, canary, stop_after)
    if background:
        begun = own_exchange().dead_letters.retry_in_background(
            str(selection), pace, again=again, skip_changed=skip_changed
        )
        return begun.as_dict()
    bulk = own_exchange().dead_letters.retry_selection(
        str(selection),
        pace,
        rehearse=dry_run,
        again=again,
        skip_changed=skip_changed,
        stopping=stopping,
        report=collect,
    )
    log.info("retried", **{name: value for name, value in bulk.as_dict().items() if value not in (None, "")})
    return bulk.as_dict() | {"dead_letters": shown, "message": bulk.stopped or f"{bulk.tried} tried"}


@task("exchange.work_retries")
def work_retries() -> Result:
    """Work on the retries in the background for a while; what is left a task that follows goes on with."""
    told: dict[int, BackgroundRetry] = {}
    more = own_exchange().dead_letters.work_off(stopping=stopping, report=lambda one: told.update({one.id: one}))
    for one in told.values():
        log.info("retried", **{name: value for name, value in one.as_dict().items() if value is not None})
    if more and not stopping():
        app = current_task.app if current_task else current_app
        app.send_task("exchange.work_retries", expires=RETRIES_SECONDS, headers=TICK)
    return {"retries": [one.as_dict() for one in told.values()], "more": more}


@task("exchange.pause_retry")
def pause_retry(reason: str, retry: int) -> Result:
    """Have a retry in the background stand still."""
    return own_exchange().dead_letters.pause_retry(whole_number(retry, "retry"), reason).as_dict()


@task("exchange.resume_retry")
def resume_retry(reason: str, retry: int) -> Result:
    """Let a retry in the background go on that was paused."""
    return own_exchange().dead_letters.resume_retry(whole_number(retry, "retry"), reason).as_dict()


@task("exchange.cancel_retry")
def cancel_retry(reason: str, retry: int) -> Result:
    """End a retry in the background where it is."""
    return own_exchange().dead_letters.cancel_retry(whole_number(retry, "retry"), reason).as_dict()


@task("exchange.discard_dead_letter")
def discard_dead_letter(
    reason: str, ids: int | list[int] | None = None, selection: str | None = None, skip_changed: bool = False
) -> Result:
    """Discard parked records by ``ids`` or a selection; if one of them can't be, none is."""
    check_truth("skip_changed", skip_changed)
    wanted = numbers(ids) if by_ids(ids, selection) else []
    number = own_exchange().dead_letters.discard(reason, wanted, selection=selection, skip_changed=skip_changed)
    return counted({"discarded": number}, "none")


@task("exchange.restore_dead_letter")
def restore_dead_letter(reason: str, ids: int | list[int] | None = None, selection: str | None = None) -> Result:
    """Park records again that were discarded, by ``ids`` or a selection; if one of them can't be, none is."""
    wanted = numbers(ids) if by_ids(ids, selection) else []
    return counted({"restored": own_exchange().dead_letters.restore(reason, wanted, selection=selection)}, "none")
