"""``exchange nudge``: exports shortly after a commit, imports when files arrive, loads what people drop, beside beat.

It looks, and calls the tasks that beat calls; it does no work of its own and keeps no state that anybody would
miss. Commits are looked for rather than announced: PostgreSQL's NOTIFY takes one lock over all commits of its
kind, and an application's commits are not to wait for us. Two looks at an index cost neither side anything.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import redis
import structlog
from kombu.exceptions import OperationalError
from sqlalchemy import Connection, Engine

from exchange.celery import app
from exchange.celery.calls import TICK
from exchange.celery.nudge_pace import NudgePace, Pending
from exchange.celery.nudge_watch import WatchedFolder
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine, missing_file
from exchange.database.errors import transient_errors
from exchange.files.pid_lock import hold
from exchange.format.errors import TransientError, printable
from exchange.intake.folders import Drop, Watcher, drops
from exchange.operating import broker, last_runs, logs, readiness
from exchange.operating.assemble import assemble
from exchange.operating.reloading import Reloader, say_reloaded
from exchange.operating.service_manager import manager
from exchange.settings import Settings, SettingsFaults
from exchange.tables import capture

COMMITS_SECONDS = 0.2
"""How often we look for commits."""
FOLDER_SECONDS = 0.5
"""How often we list the incoming folder, whether we are told of arrivals or not."""
DROPS_SECONDS = 1.0
"""How often we list a folder that people drop files into."""
IDLE_SHARE = 50
"""After a look we rest at least this many times as long as it took, however full a folder or far a database."""
AWAY_SECONDS = 2.0
"""How soon we ask again for something that was atask."""
EXPIRES_SECONDS = 10.0
"""A nudge that no worker took for so long is void: what it was for is still there, and is nudged for again."""

log = structlog.get_logger("exchange")
Answer = TypeVar("Answer")


def run_nudge(settings: Settings) -> NoReturn:
    """Nudge until this process is ended, which may be done at any time and in any task.

    What is away (broker, database, folder) is said once and waited for. Raises BrokerFault if the embedded
    broker does not run when this begins.
    """
    manager()
    logs.configure("nudge", settings.log_level, settings.log_format, secrets=settings.passwords)
    folder, changes = WatchedFolder(settings.incoming), Changes(make_engine(settings.database_url))
    imports = NudgedTask("exchange.import", "the incoming folder", FOLDER_SECONDS, lambda: _arrived(folder))
    exports = NudgedTask("exchange.export", "the database", COMMITS_SECONDS, changes.look)
    tasks = (imports, exports, *_dropped_files(settings))
    queue = Queue(app.conf.exchange_secret_broker_url, app.conf.task_default_queue)
    # A second process would only say everything twice; and doctor asks whether there is one.
    with hold(settings.nudge_lock, _say_waiting):
        with suppress(OSError):
            for sentence in last_runs.begin(settings, "nudge"):
                log.warning("restarted", message=sentence)
        signal.signal(signal.SIGTERM, _end)
        reloader = Reloader(settings, say_reloaded)
        if not sys.stdin.isatty():  # whose end is to end us
            reloader.listen()
        readiness.report_ready("nudging")
        log.info("nudging", imports=f"when files come to {settings.incoming}", exports="after commits")
        for task in tasks[2:]:
            log.info("nudging", loads=f"when files are dropped into {task.place}")
        while True:
            manager().works()
            reloader.reload_if_asked()
            for task in tasks:
                task.look()
            now = time.monotonic()
            due = [task for task in tasks if task.pace.due_at <= now]
            if due:
                queue.nudge(due)
            if folder.wait(max(0.0, min(task.next_at for task in tasks) - time.monotonic())):
                imports.skip_pause()


class ExternalService:
    """Something that may be away: said once, and asked again now and then until it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._away = False
        self.again_at = 0.0

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """Ask, or give None while it is atask."""
        if time.monotonic() < self.again_at:
            return None
        try:
            answer = question()
        except (TransientError, OSError, redis.RedisError, OperationalError) as error:
            if not self._away:
                refused = broker.not_let_in(error)
                said = f"{printable(str(error), 500)}; beat and we go on when it is back"
                log.warning("away", what=self._what, message=str(refused or said))
            self._away, self.again_at = True, time.monotonic() + AWAY_SECONDS
            return None
        if self._away:
            log.info("back", what=self._what)
            self._away = False
        return answer


@dataclass
class NudgedTask:
    """A task that is nudged, the import or the export: where to look for its work, how often, and its name."""

    name: str
    place: str
    every_seconds: float
    find: Callable[[], Pending]
    pace: NudgePace = field(default_factory=NudgePace)
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"spread": True})
    _look_at: float = 0.0
    _rested_at: float = 0.0

    def __post_init__(self) -> None:
        self._outside = ExternalService(self.place)

    def look(self) -> None:
        """See what waits, if it is time to."""
        began = time.monotonic()
        if began < max(self._look_at, self._rested_at, self._outside.again_at):
            return
        found = self._outside.ask(self.find)
        ended = time.monotonic()
        if found is not None:
            self.pace.see(found, ended)
        self._rested_at = ended + IDLE_SHARE * (ended - began)
        self._look_at = ended + self.every_seconds

    def skip_pause(self) -> None:
        """Look as soon as we have rested."""
        self._look_at = 0.0

    @property
    def next_at(self) -> float:
        """When there is something to do."""
        return min(self.pace.due_at, max(self._look_at, self._rested_at, self._outside.again_at))


class Changes:
    """The application's database, asked for pending changes over one connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def look(self) -> Pending:
        """See the oldest and the newest pending change. Raises TransientError."""
        try:
            with transient_errors(), self._connected().begin():
                assert self._connection is not None
                found = capture.extent(self._connection)
        except TransientError:
            self._leave()
            raise
        if found is None:
            return Pending()
        oldest, newest = found
        return Pending(work=frozenset([oldest]), news=frozenset([newest]))

    def _connected(self) -> Connection:
        if self._connection is None:
            missing = missing_file(self._engine)
            if missing is not None:
                raise TransientError(f"{missing}: there is no database yet; `exchange migrate` makes it")
            options = {"isolation_level": "AUTOCOMMIT"} if dialect_of(self._engine).is_postgresql else {}
            self._connection = self._engine.connect().execution_options(exchange_read_only=True, **options)
        return self._connection

    def _leave(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.invalidate()
            self._connection = None
        self._engine.dispose()


class Queue:
    """The worker's queue: a nudge goes in only if nothing waits there, so nudges never pile up."""

    def __init__(self, url: str, name: str) -> None:
        self._client = broker.connect(url)
        self._name = name
        self._outside = ExternalService("the broker")

    def nudge(self, tasks: list[NudgedTask]) -> None:
        """Call these tasks, or put them off: the broker is away, or the worker busy or atask."""
        sent = self._outside.ask(lambda: self._send(tasks))
        now = time.monotonic()
        for task in tasks:
            if sent:
                task.pace.nudged(now)
            else:
                task.pace.hold(now)

    def _send(self, tasks: list[NudgedTask]) -> bool:
        if self._client.llen(self._name):
            return False
        for task in tasks:
            arguments = dict(task.arguments)
            app.send_task(task.name, kwargs=arguments, expires=EXPIRES_SECONDS, headers=TICK, ignore_result=True)
            log.debug("nudged", task=task.name)
        return True


def _end(_number: int, _frame: object) -> NoReturn:
    manager().stops()
    raise SystemExit(0)


def _say_waiting(who: str) -> None:
    log.warning("waiting", message=f"{printable(who) or 'another process'} nudges here; this one goes on after it")


def _dropped_files(settings: Settings) -> Iterator[NudgedTask]:
    """Give a task for each folder that people drop files into; none where what is declared is faulty, as beat says."""
    with suppress(SettingsFaults):
        site = assemble(settings, keyless=True)
        site.engine.dispose()
        for drop in drops(site):
            watcher = Watcher()

            def find(drop: Drop = drop, watcher: Watcher = watcher) -> Pending:
                """See which files are complete."""
                ready = watcher.look(drop, settings.settle_seconds, touching=False).ready
                found = frozenset((one.name, one.seen) for one in ready)
                return Pending(work=found, news=found)

            yield NudgedTask("exchange.intake", str(drop.path), DROPS_SECONDS, find, arguments={})


def _arrived(folder: WatchedFolder) -> Pending:
    found = folder.look()
    return Pending(work=found, news=found)
