"""``exchange up``: broker, worker and beat of one side under one roof, started, watched and stopped in order.

One process, no threads: it reads its children's logs, starts again what died, and on Ctrl-C or SIGTERM stops what
watches (if EXCHANGE_NOTIFY is set), what nudges (if EXCHANGE_NUDGE says so), the worker, then beat, then the broker. A
second Ctrl-C kills. What was ready once is started again for ever; what ends again and again and never was can't start
here, and all of it ends with a sentence. Nothing is left running, even when this process itself is killed: on Linux the
kernel ends its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from exchange.files.ownership import why_not_imported
from exchange.format.errors import TransientError, printable
from exchange.operating import last_runs, logs
from exchange.operating.broker import EmbeddedBroker
from exchange.operating.prepare import prepare
from exchange.operating.readiness import ReadyPipe
from exchange.operating.reloading import TAKEN, Outcome, Reloader
from exchange.operating.service_manager import Listener, manager
from exchange.settings import Settings, SettingsFaults

STOP_SECONDS = 30.0
"""How long a worker may take for the batch at hand before it is killed, which rolls the batch back."""
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that ran this long has recovered: its next death is a first one."""
MOST_FALSE_STARTS = 5
"""So often a child may end that was never ready, while a database comes up, say; then it can't start here."""
HUNG_SECONDS = 120.0
"""A child that was ready, and has given no sign of life for so long, hangs."""
TICK_SECONDS = 0.2

_COLOURS = {"nudge": 34, "watch": 31, "serve": 37, "worker": 36, "beat": 35, "broker": 33, "exchange": 32}
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")}
_PROCESSES = {"exchange": "up"}
"""What a process calls itself in its own lines, where that is not what it is called before them."""
_PR_SET_PDEATHSIG = 1
_CHILD_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class _Child:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    starts_at: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    rest: bytes = field(default=b"", repr=False)
    """The log line that has not ended yet."""
    last_words: str = ""
    """The last line of its log that was not empty."""
    ready_pipe: ReadyPipe | None = None
    listener: Listener | None = None
    was_ready: bool = False
    """Whether it ever was ready, in any of its lives."""
    false_starts: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether it is ready now, as far as it can say so."""
        return self.process is not None and (self.listener is None or self.listener.is_ready)

    def kill(self) -> None:
        """Kill it, and whatever it left behind in its group."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def run_side(settings: Settings, out: TextIO | None = None) -> None:
    """Make one side ready and run it until SIGINT or SIGTERM. Logs go to ``out`` (stderr).

    Raises SettingsFaults, TransientError or BrokerFault if it or a process of it can't start; then nothing is running.
    """
    stranger = why_not_imported()
    if stranger is not None:  # Celery has Python import from there
        raise SettingsFaults([f"{stranger}; nothing was started: go to another folder"])
    prepare(settings).engine.dispose()
    Supervisor(settings, out).run()


class Supervisor:
    """Runs one side until it is told to stop."""

    def __init__(self, settings: Settings, out: TextIO | None = None) -> None:
        """Take the side to run and where the logs go (stderr)."""
        self._out = out or sys.stderr
        self._coloured = self._out.isatty() and not os.environ.get("NO_COLOR")
        self._folded = self._out.isatty()
        self._json = settings.log_format == logs.JSON
        self._stops = 0
        self._reloader = Reloader(settings, self._say_reloaded)
        manager()  # before anything is started
        self._selector = selectors.DefaultSelector()
        self._children = _children(settings)
        embedded = settings.broker_url is None
        parent = os.getpid()
        self._broker = (
            EmbeddedBroker(settings.broker_folder, lambda: _end_with_parent(parent, signal.SIGTERM))
            if embedded
            else None
        )

    def run(self) -> None:
        """Run until SIGINT or SIGTERM. Call it in the main thread of a process without others.

        Raises BrokerFault if the embedded broker can't start, TransientError if a child can't; then nothing is running.
        """
        with self._listening():
            with contextlib.suppress(OSError):
                for sentence in last_runs.begin(self._reloader.settings, "up"):
                    self._say("exchange", f"restarted: {sentence}")
            try:
                if self._broker is not None:
                    self._say("broker", f"listening on loopback port {self._broker.start().port}")
                self._watch()
            finally:
                self._stop()

    def _watch(self) -> None:
        is_ready = False
        while not self._stops:
            if self._broker is not None and self._broker.died():
                self._say("broker", "died; starting it again")
                self._broker.start()
            for child in self._children:
                self._kill_if_hung(child)
                self._restart_if_ended(child)
            if not is_ready and all(child.is_ready for child in self._children):
                manager().ready("all that it runs is ready")
                is_ready = True
            manager().works()
            self._reload_if_asked()
            self._read(TICK_SECONDS)

    def _reload_if_asked(self) -> None:
        if self._reloader.reload_if_asked():
            self._json = self._reloader.settings.log_format == logs.JSON

    def _say_reloaded(self, outcome: Outcome) -> None:
        for fault in outcome.faults:
            self._say("exchange", f"settings refused: {fault}; the old settings stay, all of them")
        if outcome.state == TAKEN:
            self._say("exchange", f"reloaded: {' '.join(outcome.changed) or 'settings are as they were'}")

    def _kill_if_hung(self, child: _Child) -> None:
        if child.process is None or child.listener is None:
            return
        child.listener.hear()
        if child.listener.hangs:
            self._say("exchange", f"{child.name} hangs: no sign of life of it for {HUNG_SECONDS:g} s; killing it")
            child.listener.is_ready = False
            child.kill()

    def _restart_if_ended(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.starts_at:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            return
        self._clean_up_after(child)
        if not child.was_ready:
            self._count_false_start(child, code)
        if now - child.started_at >= STEADY_SECONDS:
            child.backoff_seconds = FIRST_BACKOFF_SECONDS
        child.starts_at = now + child.backoff_seconds
        self._say("exchange", f"{child.name} {_ended(code)}; starting it again in {child.backoff_seconds:g} s")
        child.backoff_seconds = min(child.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)

    def _count_false_start(self, child: _Child, code: int) -> None:
        child.false_starts += 1
        if child.false_starts < MOST_FALSE_STARTS:
            return
        said = f": {printable(child.last_words, 500)}" if child.last_words else ""
        msg = (
            f"the {child.name} can't start: {child.false_starts} times it ended before it was ready, and at last"
            f" {_ended(code)}{said}; nothing is left running; mend that (`exchange doctor` may know more) and run"
            " `exchange up` again"
        )
        raise TransientError(msg)

    def _start(self, child: _Child) -> None:
        parent = os.getpid()
        child.ready_pipe, child.listener = ReadyPipe(), Listener.where_there_is_one(HUNG_SECONDS)
        spoken = child.listener.environment if child.listener else {}
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=os.environ | _CHILD_ENVIRONMENT | child.ready_pipe.environment | spoken,
            pass_fds=[child.ready_pipe.write_end],
            # A group of its own: Ctrl-C at the terminal reaches only us, who know the order.
            start_new_session=True,
            # Killed, not asked: a worker whose broker has gone may not hear, and its transaction rolls back.
            preexec_fn=lambda: _end_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 - there are no threads
        )
        child.ready_pipe.close_write_end()
        child.started_at = time.monotonic()
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _read(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            self._pass_on(key.data)

    def _pass_on(self, child: _Child) -> bool:
        """Print what a child has logged; false when it has closed its log or has nothing more to say now."""
        assert child.process is not None
        assert child.process.stdout is not None
        chunk = child.process.stdout.read(65536)
        if chunk == b"":
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.process.stdout)
        if not chunk:
            return False
        *lines, child.rest = (child.rest + chunk).split(b"\n")
        for line in lines:
            self._say_of(child, line)
        return True

    def _say_of(self, child: _Child, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        child.last_words = _words(text) or child.last_words
        self._say(child.name, text)

    def _clean_up_after(self, child: _Child) -> None:
        """Print a dead child's last words and end whatever it left behind in its group."""
        assert child.process is not None
        child.kill()
        while self._pass_on(child):
            pass
        if child.rest:
            self._say_of(child, child.rest)
            child.rest = b""
        assert child.process.stdout is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.process.stdout)
        child.process.stdout.close()
        child.process = None
        assert child.ready_pipe is not None
        child.was_ready |= child.ready_pipe.was_ready()
        if child.listener is not None:
            child.listener.close()
            child.listener = None

    def _stop(self) -> None:
        """Stop the children and then the broker, in this order: a worker without its broker doesn't stop."""
        self._stops = max(self._stops, 1)
        manager().stops()
        for child in self._children:
            self._stop_child(child)
        if self._broker is not None:
            self._broker.stop()
        self._selector.close()
        self._say("exchange", "stopped; nothing is left running")

    def _stop_child(self, child: _Child) -> None:
        if child.process is None:
            return
        self._say("exchange", f"stopping {child.name}")
        deadline = time.monotonic() + STOP_SECONDS
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
        while child.process.poll() is None:
            if self._stops > 1 or time.monotonic() > deadline:
                self._say("exchange", f"killing {child.name}; what it was doing is rolled back")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
                break
            self._read(TICK_SECONDS / 4)
        self._clean_up_after(child)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        def count(_number: int, _frame: FrameType | None) -> None:
            self._stops += 1

        def pass_on(_number: int, _frame: FrameType | None) -> None:
            self._reloader.ask()
            for child in self._children:
                if child.is_ready and child.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        child.process.send_signal(signal.SIGHUP)

        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        # The end of the terminal that it was started at is its own.
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, count if sys.stdin.isatty() else pass_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, name: str, line: str) -> None:
        if self._json:
            if line.strip():
                self._write(
                    line if _is_object(line) else logs.line_now(line.strip(), _PROCESSES.get(name, name), logs.JSON)
                )
            return
        label = f"{name:8} |"
        if self._coloured:
            label = f"\x1b[{_COLOURS[name]}m{label}\x1b[0m"
        line = f"{label} {line.rstrip().translate(_UNPRINTABLE)}"
        self._write(logs.fold(line, f"{name:8} |     ") if self._folded else line)

    def _write(self, line: str) -> None:
        # A closed terminal must not keep us from stopping our children.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(f"{line}\n")
            self._out.flush()


def _children(settings: Settings) -> list[_Child]:
    celery = [sys.executable, "-m", "celery", "-q", "-A", "exchange"]
    # No mingle, no gossip: this side has one worker, and it starts a second sooner.
    worker = [
        "worker",
        "--hostname",
        f"exchange-{settings.network}@%h",
        "--without-mingle",
        "--without-gossip",
    ]
    nudge = [_Child("nudge", [sys.executable, "-m", "exchange", "nudge"])] if settings.nudge else []
    watches = "serve" if settings.serve else "watch" if settings.notify_targets else None  # what serves watches, too
    watch = [_Child(watches, [sys.executable, "-m", "exchange", watches])] if watches else []
    # Stopped first, what watches does not tell that we stop the others.
    return [*watch, *nudge, _Child("worker", celery + worker), _Child("beat", [*celery, "beat"])]


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _words(line: str) -> str:
    """Give what a line of a child's log says."""
    return str(json.loads(line).get("event", "")) if _is_object(line) else line.strip()


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _end_with_parent(parent: int, number: signal.Signals) -> None:
    """In a new child: have the kernel send it a signal when its parent dies, however that happens."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)
