"""Python programs that begin with their imports done: most of what a short command costs is reading these.

A server imports what our programs need, once in a test process, and forks itself for each program that is asked for.
``python`` in its folder takes ``-m``, ``-c`` and a file as the real one does, and runs with the arguments, environment,
folder, open files and largest size of a file that it was given. It passes on the signals that it gets, and dies with
its program, and the program with it. ``exchange.celery``, which reads the settings as it is imported, is imported by
each program anew.
Where the very start of a process is what a test is about, it starts ``sys.executable``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import logging
import os
import resource
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import typer.main

from tests import launching
from tests.launching import LENGTH_BYTES, PASSED_ON

ROOT = Path(__file__).parents[1]

LIBRARIES = (
    "alembic.command",
    "celery.app.amqp",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.pidbox",
    "celery.worker.strategy",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "kombu.transport.redis",
    "psycopg",
    "pydantic.type_adapter",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
)

READ_ANEW = {"__main__", "celery", "tasks", "testing"}
"""Rooms of ours that a program imports by itself."""

_LAUNCHER = """#!/bin/sh
exec {python} -I -S {file} {socket} "$0" "$@"
"""


class Forking:
    """The server, and a folder with the program ``python``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = folder / "socket"
        self.python = folder / "python"
        self.python.write_text(
            _LAUNCHER.format(
                python=shlex.quote(sys.executable),
                file=shlex.quote(launching.__file__),
                socket=shlex.quote(str(self.address)),
            )
        )
        self.python.chmod(0o755)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.address))
        listening.listen(64)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(listening.fileno())],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
        listening.close()

    def close(self) -> None:
        """End the server, and what it still runs."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.terminate()  # which ends one that still imports, and so has nothing that runs
        self._server.wait()


# The server


@dataclass
class _Program:
    """A program that runs, and whoever waits for it."""

    pid: int
    waiting: socket.socket


class _Server:
    """Starts programs, passes on their signals and says how they ended, until our parent is gone."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._programs: dict[int, _Program] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Serve until standard input ends; then end what still runs."""
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes)
        for readable, does in (
            (0, self._kill_all),
            (self._listening, self._begin),
            (woken, lambda: os.read(woken, 4096)),
        ):
            self._selector.register(readable, selectors.EVENT_READ, does)
        while 0 in self._selector.get_map():
            for key, _ in self._selector.select():
                key.data()
            self._bury()

    def _kill_all(self) -> None:
        self._selector.unregister(0)
        for program in self._programs.values():
            _kill(program.pid)

    def _begin(self) -> None:
        if (program := _begin(self._listening)) is not None:
            self._programs[program.pid] = program
            self._selector.register(program.waiting, selectors.EVENT_READ, partial(self._hear, program))

    def _hear(self, program: _Program) -> None:
        """Pass on signals; a launcher that is gone takes its program along."""
        numbers = b""
        with contextlib.suppress(OSError):
            numbers = program.waiting.recv(64)
        if not numbers:
            self._selector.unregister(program.waiting)
            _kill(program.pid)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program.pid, number)

    def _bury(self) -> None:
        for pid, code in _ended():
            program = self._programs.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(program.waiting)
            with contextlib.suppress(OSError):
                program.waiting.sendall(code.to_bytes(LENGTH_BYTES, "big", signed=True))
            program.waiting.close()


def _begin(listening: socket.socket) -> _Program | None:
    waiting, _ = listening.accept()
    try:
        head, files, _, _ = socket.recv_fds(waiting, LENGTH_BYTES, 3)
        length = int.from_bytes(head, "big")
        order = b""
        while len(order) < length:
            order += waiting.recv(length - len(order))
    except OSError:
        waiting.close()
        return None
    pid = os.fork()
    if pid == 0:
        waiting.close()
        listening.close()
        _become(json.loads(order), files)
    for file in files:
        os.close(file)
    return _Program(pid, waiting)


def _kill(pid: int) -> None:
    """Kill a program and what it forked: it leads a session, unless it has yet to become one."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _ended() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _become(order: dict[str, Any], files: list[int]) -> NoReturn:
    """Be the program that was asked for, in a forked child, to its end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *PASSED_ON):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.closerange(3, 256)
        resource.setrlimit(resource.RLIMIT_FSIZE, tuple(order["largest_file"]))
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        time.tzset()
        sys.stdin = os.fdopen(0, "r", closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False, buffering=1 if os.isatty(1) else -1)
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
        code = _run(order["words"])
    except SystemExit as end:
        code = _code(end)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:  # noqa: BLE001 - as an interpreter does with what nobody caught
        traceback.print_exc()
    finally:
        code = _finish(code)
        os._exit(code)


def _finish(code: int) -> int:
    with contextlib.suppress(Exception):
        logging.shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code & 0xFF


def _code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    sys.stderr.write(f"{end.code}\n")
    return 1


def _run(words: list[str]) -> int:
    program, flag, *rest = words
    sys.executable = program  # what it starts with its own interpreter is forked, too
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path]
    if flag == "-m":
        what, *arguments = rest
        sys.argv = [program, *arguments]
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as the interpreter has it
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif flag == "-c":
        what, *arguments = rest
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as the interpreter does
    elif not flag.startswith("-"):
        sys.argv = [flag, *rest]
        sys.path.insert(0, str(Path(flag).absolute().parent))
        runpy.run_path(flag, run_name="__main__")
    else:
        sys.stderr.write(f"{program}: only -m, -c and a file are known here\n")
        return 2
    return 0


def _import_all() -> None:
    """Import what programs need, and make the tree of commands."""
    for name in LIBRARIES:
        import_module(name)
    for path in sorted((ROOT / "exchange").rglob("*.py")):
        name, *rest = path.relative_to(ROOT / "exchange").with_suffix("").parts
        if name not in READ_ANEW:
            import_module(".".join(["exchange", name, *rest]).removesuffix(".__init__"))
    typer.main.get_command = functools.cache(typer.main.get_command)
    whole: Any = typer.main.get_command(import_module("exchange.cli.app").app)
    tuple(whole.commands.values())


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _import_all()
        gc.freeze()
        _Server(listening).serve()
