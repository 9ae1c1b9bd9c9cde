"""The watcher: it looks at how this side is, compares that with what stands, and tells people.

It is a process or a thread of its own, since worker and beat may be dead. Any number may look at one side: the one that
gets the lock tells. What is told is in the database; when that is away, in a file below the home. It changes nothing
else, and whatever goes wrong at one look, there is a next one.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from exchange.database import clock
from exchange.database.engine import make_engine, missing_file
from exchange.database.errors import first_line, transient_errors
from exchange.database.locks import Busy, locked, try_lock
from exchange.files.folder import make_private
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError, printable
from exchange.operating import last_runs, logs, readiness
from exchange.operating.assemble import assemble
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.operating.reloading import Reloader, say_reloaded
from exchange.operating.service_manager import manager
from exchange.settings import NotifyTarget, Settings, SettingsFaults, variable_name
from exchange.watching import delivery, outbox, samples, schedule, standing
from exchange.watching.alarms import Compared, Rules, Silence, Standing, compare
from exchange.watching.health import Looker
from exchange.watching.messages import Message, of_news, of_trial
from exchange.watching.outbox import Kept
from exchange.watching.report import read_report
from exchange.watching.report_pages import as_message
from exchange.watching.standing import Noted

log = structlog.get_logger("exchange")

FIRST_SECONDS = 20.0
"""So soon the first look is."""

MOST_BUSY = 2
"""At so many looks in a row only one who writes for long can be in the way: then it is told without the database."""

_AWAY = frozenset({Alarm.DATABASE, Alarm.MIGRATIONS})


@dataclass(frozen=True)
class Look(AsDict):
    """What came of a look: what stands and is told of to people, what was sent to whom, and what was not, why."""

    standing: tuple[Standing, ...] = ()
    told: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    unsent: tuple[str, ...] = ()
    alone: str = ""
    """Why the database has no part in it."""
    busy: str = ""
    """Who tells just now, if it is another one."""


@dataclass(frozen=True)
class _Told:
    """What was worked out while the lock was held."""

    compared: Compared
    claimed: Sequence[Kept]
    noted: Noted
    due: Sequence[tuple[str, str]] = ()
    """Reports that nobody has sent."""


TURN_SECONDS = 1.0
"""So often it says that it works, and looks for new settings."""


class Watcher:
    """Looks at one side. Not for several threads at once."""

    def __init__(self, settings: Settings, look: Callable[[], Sequence[Finding]] | None = None) -> None:
        """Take the settings, and in place of ``read_health`` what finds how this side is."""
        self._settings = settings
        self._looker = None if look else Looker(settings)
        self._look = look or (lambda: self._looker.read().parts if self._looker else ())
        self._engine: Engine | None = None
        self._said: set[str] = set()
        self._busy = 0

    def run(self, stopping: threading.Event, turned: Callable[[], object] = lambda: None) -> None:
        """Look at each period until somebody says to stop; ``turned`` is called at each turn, some in a period."""
        # What was started together with us is given the time to come up.
        self._pause(stopping, min(self._settings.watch_every, FIRST_SECONDS), turned)
        while not stopping.is_set():
            self.try_to_look()
            self._pause(stopping, self._settings.watch_every, turned)
        self.close()

    def _pause(self, stopping: threading.Event, seconds: float, turned: Callable[[], object]) -> None:
        until = time.monotonic() + seconds
        while True:
            turned()
            left = until - time.monotonic()
            if left <= 0 or stopping.wait(min(left, TURN_SECONDS)):
                return

    def take(self, settings: Settings) -> None:
        """Go by other settings from the next look on."""
        self.close()
        if self._looker is not None:
            self._looker = Looker(settings)
        self._settings = settings

    def close(self) -> None:
        """Let go of the database, until the next look."""
        if self._looker is not None:
            self._looker.close()
        if self._engine is not None:
            self._engine.dispose()
        self._engine = None

    def try_to_look(self) -> Look | None:
        """Look once; whatever goes wrong is logged."""
        try:
            done = self.look_once()
        except Exception as error:  # whatever it is, the next look may tell
            log.exception("watch", message=printable(f"{type(error).__name__}: {error}", 500))
            return None
        self._log(done)
        return done

    def look_once(self) -> Look:
        """Look, tell what is new, and try again what could not be told before. Raises SettingsFaults."""
        findings = self._look()
        targets = {one.name: one for one in self._settings.notify_targets}
        away = next((one for one in findings if one.alarm in _AWAY and one.level is Level.FAULT), None)
        if away is not None:  # or it is somebody else's
            return self._without_database(findings, targets, away.message)
        try:
            told = self._told_by_database(findings, targets)
        except Busy as busy:
            self._busy += 1
            if self._busy < MOST_BUSY:  # another one tells, which takes a moment
                return Look(busy=str(busy))
            return self._without_database(findings, targets, str(busy))
        except (TransientError, SQLAlchemyError) as error:
            why = str(error) if isinstance(error, TransientError) else first_line(error)
            return self._without_database(findings, targets, why)
        self._busy = 0
        standing.write_noted(self._settings.watch_file, told.noted)
        after = self._send(told.claimed, targets)
        with transient_errors():
            outbox.conclude(self._database(), told.claimed, after)
        try:
            self._report(told.due, list(targets), findings)
        except (TransientError, Busy, SettingsFaults) as error:
            self._warn_once("report", f"a report is not sent yet: {printable(str(error), 500)}")
        return self._done(told, after)

    # With the database

    def _told_by_database(self, findings: Sequence[Finding], targets: Mapping[str, NotifyTarget]) -> _Told:
        engine = self._database()
        moment = clock.now()
        with transient_errors(), locked(engine, standing.WATCH_LOCK) as connection:
            known, silences = standing.read_standing(connection), standing.read_silences(connection)
            noted = standing.read_noted(self._settings.watch_file)
            before = known
            if noted is not None and noted.alone:  # what was told while the database was away
                known = list(noted.known)
                outbox.keep(connection, noted.messages)
            compared = compare(known, findings, silences, self._rules(), moment, list(targets))
            standing.write_standing(connection, before, compared.known)
            standing.remove_ended(connection, moment)
            if compared.news:
                message = of_news(self._settings.network, compared.news, moment)
                outbox.keep(connection, outbox.written(message, targets, moment))
            samples.keep_samples(connection, self._settings)
            due = schedule.unsent_reports(connection, self._settings)
            claimed = outbox.claim_due(connection, targets, moment)
        return _Told(compared, claimed, Noted(moment, known=compared.known, silences=tuple(silences)), due)

    def _report(self, due: Sequence[tuple[str, str]], targets: Sequence[str], findings: Sequence[Finding]) -> None:
        """Keep reports for the next look to send; another watcher may have done so meanwhile."""
        if not due or not targets:
            return
        site = assemble(self._settings, keyless=True, engine=self._database())
        for kind, once in due:
            moment = clock.now()
            message = as_message(read_report(self._settings, site, moment - schedule.PERIODS[kind], kind, findings))
            with transient_errors(), locked(site.engine, standing.WATCH_LOCK) as connection:
                outbox.keep(connection, outbox.written(message, targets, moment), once=once)

    def _database(self) -> Engine:
        if self._engine is None:
            self._engine = make_engine(self._settings.database_url, lock_seconds=self._settings.lock_seconds)
        missing = missing_file(self._engine)
        if missing is not None:
            raise TransientError(f"{missing}: there is no database yet; `exchange migrate` makes it")
        return self._engine

    # Without it

    def _without_database(self, findings: Sequence[Finding], targets: Mapping[str, NotifyTarget], why: str) -> Look:
        """Compare with what the file has, and tell from there. One process of this home does."""
        self.close()  # a server that comes back is met by new connections
        try:
            make_private(self._settings.watch_lock.parent)
            with self._settings.watch_lock.open("ab") as file:
                if not try_lock(file):
                    return Look(alone=why, busy="another watcher tells without the database")
                return self._told_alone(findings, targets, why)
        except OSError:  # the home is away, too: rather told twice than not
            return self._told_alone(findings, targets, why)

    def _told_alone(self, findings: Sequence[Finding], targets: Mapping[str, NotifyTarget], why: str) -> Look:
        moment = clock.now()
        noted = standing.read_noted(self._settings.watch_file) or self._memory or Noted(moment)
        silences: tuple[Silence, ...] = noted.silences
        compared = compare(noted.known, findings, silences, self._rules(), moment, list(targets))
        waiting = [one for one in noted.messages if one.target in targets] if noted.alone else []
        if compared.news:
            waiting += outbox.written(of_news(self._settings.network, compared.news, moment), targets, moment)
        waiting = waiting[-outbox.MOST_WAITING :]
        claimed = outbox.claim_in_turn(waiting, moment)
        after = {one.number: one for one in self._send(claimed, targets)}
        left = [after.get(one.number, one) for one in waiting]
        kept = tuple(one for one in left if one.state == outbox.WAITING)
        self._memory = Noted(moment, alone=True, known=compared.known, silences=silences, messages=kept)
        standing.write_noted(self._settings.watch_file, self._memory)
        done = self._done(_Told(compared, claimed, self._memory), list(after.values()))
        return replace(done, alone=printable(why, 500))

    _memory: Noted | None = None
    """What the file would have, if it could be written."""

    # Either way

    def _send(self, claimed: Sequence[Kept], targets: Mapping[str, NotifyTarget]) -> list[Kept]:
        moment = clock.now()
        parcels = [one.parcel(targets[one.target], self._settings.network) for one in claimed]
        answers = {one.parcel.number: one for one in delivery.send_all(parcels, self._settings.notify_secret)}
        return [one.after(answers[one.number], moment) for one in claimed if one.number in answers]

    def _done(self, told: _Told, after: Sequence[Kept]) -> Look:
        if not any(one.state != outbox.SENT for one in after):
            self._say_alive()
        return Look(
            standing=tuple(one for one in told.compared.known if one.stands),
            told=tuple(f"{one.what}: {one.standing.name}" for one in told.compared.news),
            sent=tuple(f"{one.target}: {one.message.title}" for one in after if one.state == outbox.SENT),
            unsent=tuple(f"{one.target}: {one.last_error}" for one in after if one.state != outbox.SENT),
        )

    def _say_alive(self) -> None:
        """Give the sign of life that another service waits for; where it can't be given, that one raises the alarm."""
        url = self._settings.notify_alive
        if url is None:
            return
        try:
            delivery.get(url)
        except delivery.Undelivered as fault:
            self._warn_once("alive", f"EXCHANGE_NOTIFY_ALIVE: {fault}")

    def _rules(self) -> Rules:
        current = self._settings
        return Rules(
            Level(current.notify_level), timedelta(hours=current.notify_remind), timedelta(seconds=current.watch_every)
        )

    def _log(self, done: Look) -> None:
        for line in done.told:
            log.warning("alarm", message=line)
        for line in done.sent:
            log.info("told", message=line)
        for line in done.unsent:
            log.error("untold", message=line)
        if done.alone:
            self._warn_once("alone", f"the database is away: {done.alone}")
        elif not done.busy:
            self._said.discard("alone")

    def _warn_once(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("watch", message=sentence)


def run_watcher(settings: Settings) -> None:
    """Watch until SIGTERM or Ctrl-C, with logs on stderr. Call it in the main thread."""
    logs.configure("watch", settings.log_level, settings.log_format, secrets=settings.passwords)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    watcher, reloader = Watcher(settings), Reloader(settings, say_reloaded)
    if not sys.stdin.isatty():  # whose end is to end us
        reloader.listen()
    with suppress(OSError):
        for sentence in last_runs.begin(settings, "watch"):
            log.warning("restarted", message=sentence)

    def turn() -> None:
        manager().works()
        if reloader.reload_if_asked():
            watcher.take(reloader.settings)

    readiness.report_ready()
    log.info(
        "watching", every=f"{settings.watch_every:g} s", told=", ".join(one.name for one in settings.notify_targets)
    )
    watcher.run(stopping, turn)
    manager().stops()


@dataclass(frozen=True)
class Trial(AsDict):
    """What a target answered to a message that was sent at once."""

    target: str
    taken: bool
    said: str


def try_targets(settings: Settings, who: str) -> list[Trial]:
    """Send a trial to everybody who is told, and give what each answered. Raises SettingsFaults."""
    return send_now(settings, of_trial(settings.network, who))


def send_now(settings: Settings, message: Message) -> list[Trial]:
    """Send a message to everybody, once and without the outbox, and give what each answered.

    Raises SettingsFaults if there is nobody.
    """
    moment = clock.now()
    targets = {one.name: one for one in settings.notify_targets}
    if not targets:
        raise SettingsFaults([f"{variable_name('notify')}: expected somebody to tell, found nobody"])
    kept = outbox.written(message, targets, moment)
    parcels = [one.parcel(targets[one.target], settings.network) for one in kept]
    answers = delivery.send_all(parcels, settings.notify_secret)
    return [Trial(one.parcel.target.name, one.fault is None, str(one.fault or "it was taken")) for one in answers]
