"""RedBeat's schedule, which several beats share in the broker, made to outlive what happens to clock and broker.

RedBeat keeps the moments of the next ticks in Redis, by the wall clock: what was written while that was ahead fires
nothing for as long, and nothing fires after the keys are gone. Every error of the broker ends it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import redis
from celery import Celery
from redbeat.decoder import to_timestamp
from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock, get_redis

from exchange.celery import service
from exchange.celery.beat import Broker, reloader_of_beat
from exchange.celery.signs import BeatSigns

AGAIN_SECONDS = 5.0
"""How soon the broker is asked again after it refused something."""


PERIODS = ("export_every", "import_every", "reconcile_every", "answer_every", "intake_every")
"""These it has written to the broker as it started."""


class SteadyRedBeat(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat, but an entry never waits for longer than its interval, and a broker that refuses is asked again."""

    def __init__(self, app: Celery, *args: Any, **options: Any) -> None:
        """Take what Celery gives."""
        self._broker = Broker()
        self._signs = BeatSigns()
        self._reloader = reloader_of_beat(app, PERIODS)
        # Here and not in Celery's settings, of which a worker's ``inspect conf`` would show the password.
        app.conf.redbeat_redis_url = app.conf.broker_url
        super().__init__(app, *args, **options)

    def setup_schedule(self) -> None:
        """Write the entries of the settings to the broker, once it takes them."""
        while True:
            try:
                super().setup_schedule()
            except redis.RedisError as error:
                self._broker.refused(error)
                time.sleep(AGAIN_SECONDS)
            else:
                return

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due; give the seconds until something is again."""
        try:
            if self.lock is None or not self.lock.owned():  # its key is gone, or another beat ticks since
                acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
            self._bring_back()
            wait: float = super().tick(*args, **options)
        except redis.RedisError as error:
            self._broker.refused(error)
            service.say_that_it_ticks()
            return AGAIN_SECONDS
        self._broker.took()
        if self._reloader is not None:
            self._reloader.reload_if_asked()
        self._signs.note()
        service.say_that_it_ticks()
        return wait

    def _bring_back(self) -> None:
        """Have run now what would wait for longer than it may, or was lost."""
        client, now = get_redis(self.app), to_timestamp(self.app.now())
        for name, entry in self.app.redbeat_conf.schedule.items():
            key = self.Entry.generate_key(self.app, name)
            due = client.zscore(self.app.redbeat_conf.schedule_key, key)
            if due is None or due > now + entry["schedule"] + 1:
                client.delete(key)
                anew = self._maybe_entry(name, entry)
                anew.last_run_at = None
                anew.save()
