"""Somebody who has a side's secret and calls its tasks: quicker than a command for each call."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

from exchange.celery import SigningAMQP
from exchange.celery.calls import Caller
from exchange.files import call_secret


class SigningClient(Celery):  # type: ignore[misc]
    """A connection to a side's broker that signs as ``celery call`` does."""

    amqp_cls = SigningAMQP
    home: Path

    def caller(self) -> Caller | None:
        return Caller.here()

    def secret(self) -> bytes:
        return call_secret.read(self.home)


def signing_client(home: Path, url: str) -> Celery:
    """Connect to the response network's broker; its home holds the secret."""
    made = SigningClient(broker=url, backend=url, set_as_current=False)
    made.conf.control_exchange = "exchange-response"
    made.home = home
    return made
