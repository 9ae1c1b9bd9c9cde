"""What is due now and then: pruning, backups, alarms, and requests to answer."""

from __future__ import annotations

import dataclasses

from billiard.exceptions import SoftTimeLimitExceeded

from exchange.celery.arguments import RefusedCall, check_text
from exchange.celery.work.frame import stopping, task
from exchange.celery.work.own_side import own_exchange, own_site
from exchange.celery.work.said import Result, counted, log
from exchange.dead_letters.counts import alarms
from exchange.operating.assemble import load_request_handler
from exchange.reference.answering import answer_requests as answer


@task("exchange.silence_alarm")
def silence_alarm(reason: str, alarm: str, length: str, subject: str | None = None) -> Result:
    """Have nobody told of an alarm for a length of time such as 2h; of one subject, or of all."""
    check_text("subject", subject)
    return own_exchange().silence_alarm(str(alarm), str(length), reason, subject=subject).as_dict()


@task("exchange.unsilence_alarm")
def unsilence_alarm(alarm: str, subject: str | None = None) -> Result:
    """Have people told of an alarm again."""
    check_text("subject", subject)
    own_exchange().unsilence_alarm(str(alarm), subject=subject)
    return {"message": f"people are told of {alarm} again"}


@task("exchange.test_alarms")
def test_alarms() -> Result:
    """Send a trial message to everybody who is told: ``targets``, what each answered."""
    answers = own_exchange().test_alarms()
    reached = sum(one.taken for one in answers)
    return {
        "targets": [one.as_dict() for one in answers],
        "message": f"{reached} of {len(answers)} were reached",
    }


@task("exchange.prune")
def prune() -> Result:
    """Remove what retention no longer keeps: counts by what it was."""
    for alarm in alarms(own_site()):
        log.warning("alarm", message=str(alarm))
    return counted(own_exchange().prune().as_dict(), "nothing to prune")


@task("exchange.backup")
def backup() -> Result:
    """Make a backup in the folder of the settings, and let go of old ones there."""
    done = own_exchange().backup().as_dict()
    log.info("backup", **done)
    return done | {"message": f"a backup of {done['rows']} rows lies in {done['folder']}"}


@task("exchange.answer_requests")
def answer_requests() -> Result:
    """Hand new requests of the reference application to the handler: counts by what came of them."""
    settings = own_exchange().settings
    if not settings.answers_requests:
        raise RefusedCall(f"network {settings.network} of {settings.app} has no requests to answer")
    answers = answer(
        own_site().engine,
        load_request_handler(settings),
        settings.network,
        seconds=settings.handler_seconds,
        stopping=stopping,
        interrupts=(KeyboardInterrupt, SoftTimeLimitExceeded),
    )
    return counted(dataclasses.asdict(answers), "nothing to answer")
