"""The exchange's tasks in your application's Celery: include this, or ``autodiscover_tasks(["exchange"])``.

    app = Celery("shop", include=["exchange.tasks"])
    app.conf.task_routes = {"exchange.*": {"queue": "exchange"}}
    app.conf.beat_schedule = {**my_schedule, **beat_schedule()}

Their names are ``exchange.export``, ``exchange.import`` and so on; ``tasks["exchange.export"]`` of your application, or
``send_task``, calls them. No result backend is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from exchange.celery import guest
from exchange.celery.calls import TICK_MARK
from exchange.celery.service import schedule
from exchange.celery.work import LENDERS
from exchange.settings import load_settings

__all__ = ["beat_schedule", "use_engine"]


def beat_schedule(prefix: str = "exchange-", **options: Any) -> dict[str, dict[str, Any]]:
    """Give the entries for beat, each named ``prefix`` and its work; ``options`` go to each, such as ``queue``.

    Reads the settings, which say how often. Raises SettingsFaults.
    """
    made = {}
    for name, entry in schedule(load_settings()).items():
        given = {one: value for one, value in entry["options"].items() if one != "headers"}
        made[f"{prefix}{name}"] = {**entry, "options": {**given, **options, "headers": {TICK_MARK: True}}}
    return made


def use_engine(lend: Callable[[], Engine]) -> None:
    """Have the tasks work on an engine of yours: ``lend`` gives this process's, once in each process.

    Call it as the worker is set up. What can't be shared is refused by each task with the reason.
    """
    LENDERS.append(lend)


guest.join()
