"""Health: how a side is, at a glance and within a bounded time, however much there is of it and whatever hangs.

What is found is found by the very checks of ``exchange doctor``, the quick ones. Each part is looked at in a thread of
its own: one that does not answer in time is itself a finding, what it found until then counts, and the rest is given.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.engine import make_url

from exchange.database import clock
from exchange.database.dialects import POSTGRESQL
from exchange.database.engine import make_engine
from exchange.files.spool import Spool
from exchange.format.errors import printable
from exchange.format.moments import lasting, to_rfc3339
from exchange.operating.assemble import assemble, folders
from exchange.operating.doctor import quick
from exchange.operating.doctor.backups import check_backups
from exchange.operating.doctor.broker import check_broker
from exchange.operating.doctor.clock import check_clock
from exchange.operating.doctor.file_system import check_private_folders, check_room, check_shared_folder
from exchange.operating.doctor.finding import Alarm, DatabaseCheck, Finding, Findings, Level, fault, looked
from exchange.operating.doctor.handlers import check_handler, handler_names
from exchange.operating.doctor.keys import check_keys
from exchange.operating.doctor.processes import check_restarts
from exchange.settings import Settings, SettingsFaults
from exchange.site import Site

SECONDS = 2.0
"""So long a part may take."""
FRESH_SECONDS = 1.0
"""What was found so short a time ago is not looked for anew, however many ask."""
KEPT_SECONDS = 10.0
"""The same of what is tried by writing (to the broker, and a file in each folder), and of tables, triggers and
migrations, if they are well: only a person changes those."""
ABANDONED_SECONDS = 30.0
"""After so long a look that hangs is left to itself, and another one begun."""
MOST_ABANDONED = 4
"""So many of them may hang beside each other, of each part."""

_RANK = {level: number for number, level in enumerate(Level)}
_DATABASE_SECONDS = {"connect_timeout": "5", "tcp_user_timeout": "10000", "keepalives_idle": "10"}
"""What libpq gives up after, so that a thread that waits for a server behind a dead line ends in the end."""


@dataclass(frozen=True)
class Health:
    """How a side is at a moment: what each part is like, the worst first in ``level``."""

    network: str
    at: datetime
    parts: tuple[Finding, ...]
    looked_at: datetime | None = None
    """When the oldest look began that said any of it."""

    @property
    def level(self) -> Level:
        """How the worst part is."""
        return max((one.level for one in self.parts), key=_RANK.__getitem__, default=Level.OK)

    @property
    def is_ready(self) -> bool:
        """Whether nothing needs a person."""
        return self.level is not Level.FAULT

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """What somebody is to be told of."""
        return tuple(one for one in self.parts if one.alarm is not None)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "network": self.network,
            "level": self.level.value,
            "ready": self.is_ready,
            "at": to_rfc3339(self.at),
            "parts": [one.as_dict() for one in self.worst_first()],
        }

    def worst_first(self) -> list[Finding]:
        """Give the parts in the order in which people read them."""
        return sorted(self.parts, key=lambda one: -_RANK[one.level])


def read_health(settings: Settings, make_site: Callable[[], Site] | None = None, *, seconds: float = SECONDS) -> Health:
    """Look once. Whoever looks again and again keeps a ``Looker``, which keeps its connections.

    Those of a site that is given stay with whoever gave it.
    """
    looker = Looker(settings, make_site)
    try:
        return looker.read(seconds)
    finally:
        if make_site is None:
            looker.close()


class Looker:
    """Looks at one side, again and again, from any thread: all that ask at once get what one look found."""

    def __init__(self, settings: Settings, make_site: Callable[[], Site] | None = None) -> None:
        """Take the side, and what makes its site (by itself: one with an engine that gives up in time)."""
        self._settings = settings
        self._make_site = make_site or partial(make_watching_site, settings)
        self._site: Site | None = None
        self._first, self._checks = (
            [(name, _Kept(check) if check in quick.SELDOM else check) for name, check in checks]
            for checks in (quick.FIRST, (*quick.TABLES, *quick.WORK))
        )
        places = folders(settings)
        database = f"see that {settings.shown_database_url} is right and runs"
        self._parts = (
            _Part("clock", Alarm.CLOCK, "set it, and have NTP keep it", check_clock),
            _Part("keys", Alarm.KEY, "see that its disk answers", partial(check_keys, settings)),
            _Part("folders", Alarm.FOLDER, "see that its disk answers", partial(check_private_folders, places), "home"),
            *(
                _Part(one.role, Alarm.FOLDER, f"see what {one.path} is mounted from", look, one.role)
                for one in Spool(places).shared
                for look in [partial(check_shared_folder, places, one)]
            ),
            _Part(
                "space",
                Alarm.DISK,
                "see what does not answer of the folders, and what is mounted there",
                partial(check_room, places, settings.limits.batch_bytes),
                fresh_seconds=KEPT_SECONDS,
            ),
            _Part("restarts", Alarm.WORKER, "see that the home's disk answers", partial(check_restarts, settings)),
            _Part("backup", Alarm.BACKUP, "see that its disk answers", partial(check_backups, settings)),
            *(
                _Part(
                    "handler",
                    Alarm.HANDLER,
                    "see that what it asks runs and answers",
                    partial(check_handler, settings, name),
                    name,
                    fresh_seconds=KEPT_SECONDS,
                )
                for name in handler_names(settings)
            ),
            _Part(
                "broker",
                Alarm.BROKER,
                "see that it runs, and what is between here and there",
                self._broker,
                fresh_seconds=KEPT_SECONDS,
            ),
            _Part("database", Alarm.DATABASE, database, self._database),
        )

    def read(self, seconds: float = SECONDS) -> Health:
        """Say how the side is; takes at most ``seconds``, and less than a twentieth of one where nothing hangs."""
        return self._read(seconds, 0.0)

    def read_lately(self, seconds: float) -> Health:
        """Say the same; of a part that gives no answer in ``seconds`` what a look at it said before, if that is recent.

        That is, not older than ``ABANDONED_SECONDS``.
        """
        return self._read(seconds, ABANDONED_SECONDS)

    def _read(self, seconds: float, most_age: float) -> Health:
        deadline = time.monotonic() + seconds
        for part in self._parts:
            part.begin()
        looks = [part.found(deadline, most_age) for part in self._parts]
        found = [finding for findings, _ in looks for finding in findings]
        return Health(self._settings.network, clock.now(), tuple(found), min(at for _, at in looks))

    def close(self) -> None:
        """Let go of the connections."""
        if self._site is not None:
            self._site.engine.dispose()

    def _broker(self) -> Findings:
        return check_broker(self._settings)

    def _database(self) -> Findings:
        if self._site is None:
            try:
                self._site = self._make_site()
            except SettingsFaults as faults:
                for sentence in faults.faults:
                    yield fault("settings", sentence, "correct it, and start again what watches", alarm=Alarm.SETTINGS)
                return
        yield from quick.look(self._settings, self._site, self._checks, self._first)


def make_watching_site(settings: Settings) -> Site:
    """Make a site for looking at its database alone, whose engine gives up on a line that is dead.

    Raises SettingsFaults.
    """
    url = make_url(settings.database_url)
    if url.get_backend_name() == POSTGRESQL.name:
        url = url.update_query_dict({name: at for name, at in _DATABASE_SECONDS.items() if name not in url.query})
    engine = make_engine(url.render_as_string(hide_password=False), lock_seconds=settings.lock_seconds)
    return assemble(settings, keyless=True, engine=engine)


class _Kept:
    """A check whose findings count for ``KEPT_SECONDS``, if none is a fault: what is mended is seen at once."""

    def __init__(self, check: DatabaseCheck) -> None:
        self._check = check
        self._until = 0.0
        self._found: list[Finding] = []

    def __call__(self, settings: Settings, site: Site) -> Findings:
        if time.monotonic() < self._until:
            yield from self._found
            return
        begun = time.monotonic()
        found = list(self._check(settings, site))
        if not any(one.level is Level.FAULT for one in found):
            self._found, self._until = found, begun + KEPT_SECONDS
        yield from found


@dataclass
class _Look:
    """One look at a part, going on or done: what it found so far."""

    begun: float = field(default_factory=time.monotonic)
    begun_at: datetime = field(default_factory=clock.now)
    findings: list[Finding] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


class _Part:
    """One part of a side, looked at by one thread at a time."""

    def __init__(
        self,
        name: str,
        alarm: Alarm,
        remedy: str,
        look: Callable[[], Findings],
        subject: str = "",
        *,
        fresh_seconds: float | None = None,
    ) -> None:
        self._name, self._alarm, self._remedy, self._look, self._subject = name, alarm, remedy, look, subject
        self._fresh_seconds = FRESH_SECONDS if fresh_seconds is None else fresh_seconds
        self._lock = threading.Lock()
        self._present: _Look | None = None
        self._answered: _Look | None = None
        self._hung: list[_Look] = []
        self._silent_since: datetime | None = None

    def begin(self) -> None:
        """Begin to look, unless a look goes on or has just ended."""
        with self._lock:
            present = self._present
            self._hung = [one for one in self._hung if not one.done.is_set()]
            if present is not None:
                age = time.monotonic() - present.begun
                if present.done.is_set():
                    if age < self._fresh_seconds:
                        return
                elif age < ABANDONED_SECONDS or len(self._hung) >= MOST_ABANDONED:
                    return
                else:
                    self._hung.append(present)
            self._present = _Look()
            threading.Thread(target=self._run, args=(self._present,), name=f"look {self._name}", daemon=True).start()

    def _run(self, look: _Look) -> None:
        try:
            look.findings += looked(self._name, partial(self._collect, look), self._remedy, self._alarm)
        except Exception as error:  # noqa: BLE001 - a fault of ours hides no other part
            said = f"it can't be looked at: {type(error).__name__}: {printable(str(error), 300)}"
            look.findings.append(self._fault(said))
        finally:
            look.done.set()

    def _collect(self, look: _Look) -> Findings:
        """Write down what is found as it is found: it counts, whatever hangs after it."""
        for finding in self._look():
            look.findings.append(finding)
        yield from ()

    def found(self, deadline: float, most_age: float) -> tuple[list[Finding], datetime]:
        """Give what was found until ``deadline``, and when that look began; that more was to come is the last of it.

        Instead of a look that goes on the last one counts that was done, if it began ``most_age`` seconds ago or later.
        """
        look = self._present
        assert look is not None
        if look.done.wait(max(deadline - time.monotonic(), 0)):
            self._silent_since, self._answered = None, look
            return look.findings, look.begun_at
        last = self._answered
        if last is not None and time.monotonic() - last.begun < most_age:
            return last.findings, last.begun_at
        since = self._silent_since = self._silent_since or look.begun_at
        took = lasting(max(clock.now() - since, timedelta()))
        said = f"no answer from {self._subject or self._name} for {took}; nothing more is known of it"
        return [*look.findings, self._fault(said, since)], look.begun_at

    def _fault(self, said: str, since: datetime | None = None) -> Finding:
        return fault(self._name, said, self._remedy, since=since, alarm=self._alarm, subject=self._subject)
