"""The side that is served, as long as the process lives: its connections, who watches it, how it is at a glance."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial

from exchange.api import Exchange
from exchange.database import clock
from exchange.operating.crossed import Crossed
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.operating.doctor.verdict import Verdict, judge
from exchange.serve.console.dead_letters_rehearsals import Rehearsals
from exchange.serve.feed import Feed
from exchange.serve.kept import Kept
from exchange.settings import Settings
from exchange.watching.health import Health, Looker, make_watching_site
from exchange.watching.metrics import Scraper
from exchange.watching.watcher import Watcher

STOP_SECONDS = 5.0
GLANCE_SECONDS = 0.3
"""A page waits so long for how the side is; of what hangs it says what is known."""
KEPT_SECONDS = 2.0
"""So long what was seen counts for all pages."""
CROSSED_SECONDS = 10.0
"""So long at least what crossed of late does."""
DAY = timedelta(days=1)


_PAGES = {
    Alarm.DEAD_LETTERS: "/dead-letters",
    Alarm.QUARANTINED: "/quarantine",
    Alarm.HELD: "/batches",
    Alarm.UNACKNOWLEDGED: "/batches",
    Alarm.GAP: "/gaps",
    Alarm.DISAGREEMENT: "/agreement",
    Alarm.HALTED: "/epochs",
    Alarm.KEY: "/keys",
    Alarm.BEAT: "/schedule",
    Alarm.WORKER: "/schedule",
    Alarm.SETTINGS: "/settings",
    Alarm.LINK_SILENT: "/peer",
    Alarm.FILE_REFUSED: "/files",
    Alarm.FILE_LATE: "/files",
    Alarm.DROP_FOLDER: "/files",
}
"""Where an alarm's page is; all are on that of health."""
_PAGES_OF_CHECKS = {
    "files": "/files",
    "paused": "/channels",
    "letters": "/dead-letters",
    "link": "/peer",
    "agreement": "/agreement",
}
"""The same of what is worth knowing and no alarm, by its check."""


class Side:
    """One side, for any number of threads."""

    def __init__(self, settings: Settings) -> None:
        """Take its settings; nothing is opened until somebody asks."""
        self.settings = settings
        self.exchange = Exchange(settings)
        self.looker = Looker(settings)
        self.scraper = Scraper(settings, self.looker, partial(make_watching_site, settings))
        self.rehearsals = Rehearsals()
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None
        self._lock = threading.Lock()
        self._seen: tuple[float, Health] | None = None
        self.crossed = Kept(self._read_crossed, CROSSED_SECONDS)
        """What crossed within the last day, by the hour."""
        self.feed = Feed(self.exchange.happenings)

    def watch(self) -> None:
        """Begin to tell people of alarms, in a thread."""
        watcher = Watcher(self.settings, lambda: self.looker.read().parts)
        self._watch = threading.Thread(target=watcher.run, args=(self._stopping,), name="watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """Let go of all of it."""
        self._stopping.set()
        self.rehearsals.close()
        if self._watch is not None:
            self._watch.join(STOP_SECONDS)
        self.looker.close()
        self.scraper.close()
        self.exchange.close()

    @property
    def health(self) -> Health:
        """Say how the side is, as somebody saw it at most two seconds ago."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > KEPT_SECONDS:
                seen = self.looker.read_lately(GLANCE_SECONDS) if self._seen else self.looker.read()
                self._seen = time.monotonic(), seen
            return self._seen[1]

    def _read_crossed(self) -> Crossed:
        return self.exchange.crossed(clock.now() - DAY)

    @property
    def verdict(self) -> Verdict:
        """Say whether a person is needed, and for what."""
        return judge(self.health.parts)

    @property
    def marked(self) -> dict[str, Finding]:
        """Give for each page that has something worth a look the worst of it."""
        found: dict[str, Finding] = {}
        for one in self.health.worst_first():
            if one.alarm is not None and one.level is not Level.OK:
                found.setdefault(page_of(one), one)
        return found


def page_of(one: Finding) -> str:
    """Say where a finding is told of with what can be done about it."""
    if one.alarm is not None:
        return _PAGES.get(one.alarm, "/health")
    return _PAGES_OF_CHECKS.get(one.check, "/health")
