"""Settings read anew while processes run: on SIGHUP, and when ``exchange reload`` asks all processes of this home.

Checked first and refused whole: then the old ones stay. What a process was set up by stays, too, and is named. Whoever
asks leaves a request in the home, which every process looks at as it turns, and each answers in its own file there: so
it works under systemd, in containers and below ``exchange up`` alike.
"""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from exchange.files import durable
from exchange.format.as_dict import AsDict
from exchange.format.errors import printable
from exchange.operating import last_runs, logs
from exchange.operating.service_manager import manager
from exchange.settings import NEEDS_RESTART, Settings, SettingsFaults, load_settings, variable_name

LOOK_SECONDS = 1.0
"""How often a process looks for a request."""
ANSWER_SECONDS = 20.0
"""So long an answer is waited for: beat turns each ten seconds."""

TAKEN, REFUSED, SILENT = "taken", "refused", "no answer"


@dataclass(frozen=True)
class Outcome(AsDict):
    """What came of it in one process: ``changed`` settings hold now, ``restart`` are those that wait for a restart."""

    state: str
    changed: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def say_reloaded(outcome: Outcome) -> None:
    """Log what came of reading the settings anew."""
    log = structlog.get_logger("exchange")
    for fault in outcome.faults:
        log.error("settings refused", message=f"{fault}; the old settings stay, all of them")
    if outcome.state == TAKEN:
        log.info("reloaded", settings=" ".join(outcome.changed) or "as they were")
    if outcome.restart:
        log.warning("restart needed", settings=" ".join(outcome.restart))


class Reloader:
    """The settings of one process, which may be read anew when it has time for that."""

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[Outcome], object],
        *,
        check: Callable[[Settings], object] | None = None,
        fixed: Iterable[str] = (),
        given: Iterable[str] = (),
    ) -> None:
        """Take what holds now and who logs what came of it.

        ``check`` raises SettingsFaults for what does not fit; ``fixed`` are more settings that this one can't change,
        and ``given`` those that may not be the file's.
        """
        self.settings = settings
        self._tell, self._check = tell, check
        self._fixed, self._given = NEEDS_RESTART | {*fixed}, {*given}
        self._asked = False
        self._looked_at = 0.0
        self._request = self._read_request()

    def listen(self) -> None:
        """Have SIGHUP ask for it. Call it in the main thread."""
        signal.signal(signal.SIGHUP, self.ask)

    def ask(self, *_: object) -> None:
        """Have the settings read when there is time; for a handler of a signal."""
        self._asked = True

    def reload_if_asked(self) -> bool:
        """Read the settings if somebody asked, and say whether others hold now; call it at each turn."""
        moment = time.monotonic()
        if not self._asked and moment < self._looked_at + LOOK_SECONDS:
            return False
        self._looked_at = moment
        request = self._read_request()
        if not self._asked and request == self._request:
            return False
        self._asked, self._request = False, request
        manager().reloads()
        outcome = self._reload()
        manager().ready()
        self._tell(outcome)
        with suppress(OSError):
            last_runs.answer({"request": request, **outcome.as_dict()})
        return bool(outcome.changed)

    def _reload(self) -> Outcome:
        try:
            self.settings, outcome = read_anew(self.settings, self._fixed, self._check, self._given)
        except SettingsFaults as refused:
            return Outcome(REFUSED, faults=tuple(refused.faults))
        set_up = self.settings
        logs.change(set_up.log_level, set_up.log_format, secrets=set_up.passwords)
        return outcome

    def _read_request(self) -> str:
        try:
            return str(json.loads(_request_file(self.settings).read_bytes()))
        except (OSError, ValueError):
            return ""


def read_anew(
    settings: Settings,
    fixed: Iterable[str] = NEEDS_RESTART,
    check: Callable[[Settings], object] | None = None,
    given: Iterable[str] = (),
) -> tuple[Settings, Outcome]:
    """Give the settings as they are now, but for those that are ``fixed``, and what changed. Raises SettingsFaults."""
    found = load_settings()
    differing = [one for one in type(found).model_fields if getattr(found, one) != getattr(settings, one)]
    kept = {one: getattr(settings, one) for one in differing if one in fixed}
    merged = found.model_copy(update=kept)
    if check is not None:
        check(merged)
    changed = tuple(variable_name(one) for one in differing if one not in kept)
    return merged, Outcome(TAKEN, changed, tuple(variable_name(one) for one in kept if one not in given))


def _request_file(settings: Settings) -> Path:
    return settings.run_folder / "reload"


@dataclass(frozen=True)
class Answer(AsDict):
    """What one process answered."""

    process: str
    host: str
    pid: int
    state: str
    changed: tuple[str, ...]
    restart: tuple[str, ...]
    faults: tuple[str, ...]


def ask_all(settings: Settings) -> list[Answer]:
    """Ask every process of this home to read its settings anew, and give their answers. Raises OSError."""
    request = secrets.token_hex(8)
    asked = last_runs.living(settings)
    durable.write(_request_file(settings), json.dumps(request).encode(), mode=0o600)
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        now = {(one.process, one.host, one.pid): one.answer for one in last_runs.living(settings)}
        answers = [now.get((one.process, one.host, one.pid), {}) for one in asked]
        if all(one.get("request") == request for one in answers) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return [
        Answer(one.process, one.host, one.pid, *_told(said if said.get("request") == request else {}))
        for one, said in zip(asked, answers, strict=True)
    ]


def _told(said: dict[str, object]) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    def texts(name: str) -> tuple[str, ...]:
        given = said.get(name)
        return tuple(printable(str(one), 300) for one in given) if isinstance(given, list) else ()

    return printable(str(said.get("state", SILENT)), 40), texts("changed"), texts("restart"), texts("faults")
