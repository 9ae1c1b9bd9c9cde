"""Connections to the broker that outlive what happens to it: ended, read-only for a while, or full."""

from __future__ import annotations

from typing import Any

import redis
import structlog
from celery.backends.redis import RedisBackend
from celery.backends.redis import SentinelBackend as SentinelResults
from kombu.connection import Connection
from kombu.transport import redis as transports

from exchange.operating import broker

log = structlog.get_logger("exchange")


class _SteadyChannel:
    """A channel whose connection was closed is one that was lost, which Celery knows how to go on after."""

    connection: Any

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker was closed")
        return super()._connparams(asynchronous)  # type: ignore[misc]


class _Channel(_SteadyChannel, transports.Channel):
    pass


class _SentinelChannel(_SteadyChannel, transports.SentinelChannel):
    pass


class _Transport(transports.Transport):
    Channel = _Channel


class _SentinelTransport(transports.SentinelTransport):
    Channel = _SentinelChannel


_STEADY = {transports.Transport: _Transport, transports.SentinelTransport: _SentinelTransport}


class SteadyConnection(Connection):
    """Kombu's connection, over our transports."""

    def get_transport_cls(self) -> Any:
        """Give the class of the transport that the URL names."""
        named = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _STEADY.get(named, named)


class _Results:
    """Results are for whoever waits for one: what was done is done, whether the broker keeps its result or not."""

    def store_result(self, task_id: Any, *args: Any, **options: Any) -> Any:
        """Keep a result, or say why it is not kept."""
        try:
            return super().store_result(task_id, *args, **options)  # type: ignore[misc]
        except redis.RedisError as error:
            log.warning("result not kept", id=str(task_id), message=f"the broker: {broker.refusal(error)}")
            return None


class Results(_Results, RedisBackend):  # type: ignore[misc]
    """Results in a Redis."""


class ResultsBehindSentinels(_Results, SentinelResults):  # type: ignore[misc]
    """Results in the Redis that Sentinels name."""
