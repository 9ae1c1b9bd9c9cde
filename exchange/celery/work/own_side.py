"""This process's own side, opened once, and by which settings it works."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Engine

from exchange.api import Exchange
from exchange.api.acts import left_to_the_caller
from exchange.celery.service import changes
from exchange.operating import logs
from exchange.operating.reloading import read_anew
from exchange.settings import Settings, SettingsFaults, load_settings
from exchange.site import Site

LENDERS: list[Callable[[], Engine]] = []
"""The last of them gives the engine whose pool the tasks share, if there is one."""


def own_site() -> Site:
    """Give the side as the workflows see it."""
    return own_exchange().site


def own_exchange() -> Exchange:
    """Give this process's own side: who asks for what is written down by the task."""
    return _exchange_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _exchange_of(_process: int) -> Exchange:
    lent = LENDERS[-1]() if LENDERS else None
    return Exchange(_present_settings(), engine=lent, acting=left_to_the_caller, ready=True)


class _Held:
    """The settings of this process, and at which of its worker's changes of them they were read."""

    settings: Settings | None = None
    number = 0


def hold_settings(settings: Settings) -> None:
    """Have this process, and those that it forks, work by these settings until they are read anew."""
    _Held.settings, _Held.number = settings, changes()


def forget_settings() -> None:
    """Have this process read its settings, and open its side, anew when they are needed next."""
    _close()
    _Held.settings = None


def is_open() -> bool:
    """Say whether this process has opened its side: to ask for it would open it."""
    return bool(_exchange_of.cache_info().currsize)


def _close() -> None:
    if is_open():
        own_exchange().close()
    _exchange_of.cache_clear()


def _present_settings() -> Settings:
    if _Held.settings is None:
        hold_settings(load_settings())
    assert _Held.settings is not None
    return _Held.settings


def follow_changes() -> None:
    """Read the settings anew if the worker has done so since: what it took is taken, unless it is faulty by now."""
    if _Held.settings is None or _Held.number == changes():
        return
    _Held.number = changes()
    with suppress(SettingsFaults):
        _Held.settings, _ = read_anew(_Held.settings)
        logs.change(_Held.settings.log_level, _Held.settings.log_format, secrets=_Held.settings.passwords)
        _close()
