"""Celery, the alarm clock: the exchange's own application, and its tasks in another one (``exchange.tasks``).

The own application is made when it is asked for: ``celery -A exchange worker|beat|call|inspect`` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exchange.celery.own_app import SigningAMQP, app, configuration

__all__ = ["SigningAMQP", "app", "configuration"]


def __getattr__(name: str) -> Any:
    """Make the own application: another one's process must not have it beside its own."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("exchange.celery.own_app"), name)
