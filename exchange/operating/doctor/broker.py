"""The broker: whether it answers, takes what beat and worker write, and loses none of it."""

from __future__ import annotations

from exchange.files.pid_lock import held
from exchange.operating import broker
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, fault, of_problem, ok
from exchange.settings import Settings


def broker_url(settings: Settings) -> str | None:
    """Say where the broker is: the one that is set, or the embedded one if that runs."""
    if settings.broker_url is not None:
        return settings.broker_url
    if not settings.broker_folder.is_dir():
        return None
    address = broker.running(settings.broker_folder)
    return address.url if address else None


def check_broker(settings: Settings) -> Findings:
    """Ask the broker what it takes and keeps."""
    url = broker_url(settings)
    if url is None:
        # A side that is not up yet is in order; what runs by hand needs no broker, beat and worker do.
        needed = held(settings.beat_lock) or held(settings.worker_lock, by_others=True)
        yield Finding(
            "broker",
            Level.FAULT if needed else Level.WARNING,
            "the embedded broker does not run",
            "run `exchange up`, which starts it",
            "exchange up",
            alarm=Alarm.BROKER if settings.beat_lock.exists() else None,
        )
        return
    try:
        problems = broker.problems(url, settings.network, settings.home)
    except broker.BrokerFault as error:
        remedy = error.problem.remedy or "start it, or correct EXCHANGE_BROKER_URL"
        yield fault("broker", error.problem.message, remedy, alarm=Alarm.BROKER)
        return
    for worry in problems:
        yield of_problem("broker", worry, Level.FAULT, alarm=Alarm.BROKER)
    if not problems:
        kept = "evicts nothing and keeps an append-only file"
        if not broker.says_what_it_keeps(url):
            kept = "does not say what it evicts and keeps: see that it has noeviction and an append-only file"
        yield ok("broker", f"it takes what beat and worker write, and {kept}")
