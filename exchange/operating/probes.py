"""Rehearsing: what doctor tries rather than believes of the processes that it does not start.

What a worker and beat are made of is imported as they import it, the broker is connected to as they connect, and the
embedded broker's server is run. Nothing is sent, and nothing stays.
"""

from __future__ import annotations

import importlib
import subprocess

import redis
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from exchange.format.errors import Problem, printable
from exchange.operating import broker

CONNECT_SECONDS = 5
AGAIN_SECONDS = 0.2
_RUN_SECONDS = 30

_PARTS = (
    "exchange.celery.tasks",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.apps.beat",
    "celery.backends.redis",
)
"""What the two import beside the broker's transport, which its URL names."""


def parts_missing(url: str | None, *, redbeat: bool) -> str | None:
    """Import what worker and beat are made of; say what can't be. ``url`` is None for the embedded broker."""
    try:
        for name in (*_PARTS, *(["redbeat"] if redbeat else [])):
            importlib.import_module(name)
        Connection((url or "redis://").partition(":")[0] + "://").get_transport_cls()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - whatever it is, a worker ends with the same
        return f"worker and beat can't start: {type(error).__name__}: {printable(str(error), 300)}"
    return None


def connection_refused(url: str) -> str | None:
    """Connect as a worker does, and let go; say why that can't be."""
    try:
        address, options = broker.for_celery(url)
        asking = {"connect_timeout": CONNECT_SECONDS, "transport_options": options}
        with Connection(address, **asking) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, interval_start=AGAIN_SECONDS, timeout=CONNECT_SECONDS)
    except (OperationalError, redis.RedisError, OSError, ValueError) as error:
        return f"the broker does not take a worker's connection: {printable(str(error), 300)}"
    return None


def server_missing() -> Problem | None:
    """Run the embedded broker's server, which only says its version; say why that can't be."""
    try:
        binary = broker.find_server()
        done = subprocess.run([str(binary), "--version"], capture_output=True, timeout=_RUN_SECONDS, check=False)
    except broker.BrokerFault as fault:
        message = f"the embedded broker can't start: {printable(fault.problem.message, 300)}"
        return Problem(message, fault.problem.remedy)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Problem(f"the embedded broker can't start: {printable(str(error), 300)}")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        return Problem(
            f"the embedded broker can't start: {binary.name} ended with code {done.returncode}: {printable(said, 300)}"
        )
    return None
