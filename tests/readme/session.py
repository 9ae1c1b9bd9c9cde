"""The README as a session: its named files are written, its console blocks run in order, their output compared.

- "`name`:" before a fenced block names the file that the block is.
- A ``console`` block holds commands after ``$`` or ``folder$`` and what they print; ``...`` stands for lines left out.
- What is new each time (epochs, digests, ids, times, sizes, revisions of the database) is matched by its form. An
  epoch, an id, a key's year or its fingerprint that the README shows stands for the real one in every later command.
- A command may fail only where ``echo $?`` follows. At ``^C`` somebody interrupts it.
- ``<!-- session: NAME -->`` begins a session in an empty folder, ``<!-- session: none -->`` ends it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_SECONDS = 60.0
STOP_SECONDS = 20.0
MOST_WRAPPED = 5
"""Into so many lines one is wrapped at most."""
COLUMNS = 120
_DONE = "--done--"
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`([\w./-]+)`:\s*\Z")
_SESSION = re.compile(r"^<!-- session: (\w+) -->$", re.MULTILINE)
_PROMPT = re.compile(r"^(\w*)\$ (.*)$")
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_VARIES = re.compile(
    r"(?P<who>\S+@[\w.-]+ pid \d+)"
    r"|(?P<fingerprint>SHA256:[A-Za-z0-9+/]{43})"
    r"|(?P<uuid>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
    r"|(?P<digest>\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16})\b)"
    r"|(?P<lasting>\b\d+ (?:d|h|min|s)\b(?: \d+ (?:h|min|s)\b)?)"
    r"|(?P<backup>\b\d{8}T\d{6}Z-[0-9a-f]{4}\b)"
    r"|(?P<epoch>\b[0-9a-f]{12}\b)"
    r"|(?P<moment>\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?)"
    r"|(?P<clock>\b\d\d:\d\d:\d\d(?:\.\d+)?)"
    r"|(?P<year>\b20\d\d\b)"
    r"|(?P<revision>\bcore_\d{4}\b)"
    r"|(?P<version>\b\d{16}\b)"
    r"|(?P<number>\b\d{2,}\b)"
    r"|(?P<folder>(?:/[\w.-]+)+/(?=plant|office|request|response))"
    r"|(?P<host>(?<=@)[\w.-]+(?= ready|:))"
    r"|(?P<password>(?<=shown this once: )\S+)"
)


@dataclass
class Step:
    """One command, where it runs and what the README says it prints."""

    folder: str
    command: str
    expected: list[str] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether somebody presses Ctrl-C once it printed what is shown before ``^C``."""
        return "^C" in self.expected


@dataclass
class Session:
    """The files and the commands of one part of the README."""

    files: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def read_sessions(text: str) -> dict[str, Session]:
    """Read every session of a README by its name."""
    sessions: dict[str, Session] = {}
    for block in _FENCED.finditer(text):
        before = text[: block.start()]
        name = ([*_SESSION.findall(before)] or ["none"])[-1]
        session = sessions.setdefault(name, Session())
        if block[1] == "console":
            session.steps += _steps(block[2])
        elif named := _NAMED.search(before):
            session.files[named[1]] = block[2]
    return sessions


def _steps(block: str) -> Iterator[Step]:
    step: Step | None = None
    for line in block.splitlines():
        if prompt := _PROMPT.match(line):
            if step:
                yield step
            step = Step(prompt[1], prompt[2])
        elif step and step.command.endswith("\\"):
            step.command += f"\n{line}"
        else:
            assert step, f"a console block must begin with a command, not {line!r}"
            step.expected.append(line)
    if step:
        yield step


class Shell:
    """A bash in a folder, as at a terminal but without colours; ``close`` ends all that it left running."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._errors = folder.with_name(f"{folder.name}.stderr")
        self._terminal, terminal = pty.openpty()
        with self._errors.open("wb") as errors:
            self._bash = subprocess.Popen(
                ["/usr/bin/env", "bash", "--norc", "--noprofile"],
                cwd=folder,
                env=environment | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=terminal,
                stderr=errors,
                start_new_session=True,
            )
        os.close(terminal)
        self._groups = [self._bash.pid]
        self._read = 0

    def run(self, step: Step) -> tuple[list[str], int]:
        """Run one command to its end; give its lines and its exit code."""
        if step.interrupted:
            return self._run_and_interrupt(step)
        self._write(f"cd '{self._folder}/{step.folder}'; (exit ${{status:-0}}); {step.command}\n")
        self._write(f"status=$?; echo {_DONE} $status\n")
        lines, code = self._until_done()
        return lines + self._complaints(), code

    def _run_and_interrupt(self, step: Step) -> tuple[list[str], int]:
        # Without job control a shell shields what it puts in the background from Ctrl-C.
        log = self._folder / "interrupted.log"
        self._write(f"cd '{self._folder}/{step.folder}'; set -m; {step.command} > '{log}' 2>&1 & set +m; wait_for=$!\n")
        self._write(f"echo {_DONE} $wait_for\n")
        _, process = self._until_done()
        self._groups.append(process)
        deadline = time.monotonic() + COMMAND_SECONDS
        before = [shown for shown in step.expected[: step.expected.index("^C")] if shown != "..."]
        while not all(any(_same(shown, line) for line in _lines(log)) for shown in before):
            assert time.monotonic() < deadline, f"{step.command}: waited in vain; it said:\n{log.read_text()}"
            time.sleep(0.1)
        os.kill(process, signal.SIGINT)
        self._write(f"wait $wait_for; status=$?; echo {_DONE} $status\n")
        _, code = self._until_done()
        self._complaints()
        return _lines(log), code

    def close(self) -> None:
        """End the shell, and whatever a step that failed left in the background."""
        assert self._bash.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._bash.stdin.close()
        for group in self._groups:
            _end(group)
        self._bash.wait()
        os.close(self._terminal)

    def _write(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text.encode())
        self._bash.stdin.flush()

    def _until_done(self) -> tuple[list[str], int]:
        """Read what is printed until the mark; give the lines and the number behind the mark."""
        text = b""
        deadline = time.monotonic() + COMMAND_SECONDS
        while not (mark := re.search(rb"^" + _DONE.encode() + rb" (\d+)\r?\n\Z", text, re.MULTILINE)):
            left = deadline - time.monotonic()
            assert left > 0, (
                f"waited {COMMAND_SECONDS} s in vain; so far: {text.decode(errors='replace')}{self._logs()}"
            )
            if select.select([self._terminal], [], [], left)[0]:
                text += os.read(self._terminal, 65536)
        printed = _STYLE.sub("", text[: mark.start()].decode(errors="replace"))
        return [line.rstrip() for line in printed.splitlines()], int(mark[1])

    def _logs(self) -> str:
        return "".join(f"\n{log}:\n{log.read_text(errors='replace')}" for log in self._folder.rglob("*.log"))

    def _complaints(self) -> list[str]:
        said = self._errors.read_bytes()
        new, self._read = said[self._read :], len(said)
        return [line.rstrip() for line in new.decode(errors="replace").splitlines()]


def _end(group: int) -> None:
    """Ask a process group to end, and end it if it doesn't."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 0.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-group, os.WNOHANG)
                os.killpg(group, 0)
                time.sleep(0.05)


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


class Play:
    """Runs a session and holds what it prints against the README."""

    def __init__(self, shell: Shell, replaced: dict[str, str] | None = None) -> None:
        self._shell = shell
        self._replaced = dict(replaced or {})
        self.transcript: list[tuple[Step, list[str], int]] = []

    def run(self, session: Session) -> None:
        """Run every step. Raises AssertionError with both texts at the first that differs."""
        followers = [*session.steps[1:], None]
        for step, follower in zip(session.steps, followers, strict=True):
            command = step.command
            for shown, real in self._replaced.items():
                command = command.replace(shown, real)
            printed, code = self._shell.run(Step(step.folder, command, step.expected))
            self.transcript.append((step, printed, code))
            may_fail = follower is not None and follower.command == "echo $?"
            said = "\n".join(printed)
            assert code == 0 or may_fail, f"{command}: exit code {code}\n{said}"
            wrong = self._difference(step.expected, printed)
            shown = "\n".join(step.expected)
            assert wrong is None, f"{command}\nshown:\n{shown}\nprinted:\n{said}\nmissing: {wrong}"

    def _difference(self, expected: list[str], printed: list[str]) -> str | None:
        """Give the first line shown that was not printed where it should be; None if all is as shown."""
        if not expected:
            return None
        rest, skipping = list(printed), False
        for shown in expected:
            if shown in {"...", "^C"}:
                skipping = True
                continue
            while rest and not (lines := _lines_of(shown, rest)):
                if not skipping:
                    return shown
                del rest[0]
            if not rest:
                return shown
            self._learn(shown, _joined(rest[:lines]))
            del rest[:lines]
            skipping = False
        return "(nothing more)" if rest and not skipping else None

    def _learn(self, shown: str, printed: str) -> None:
        for ours, theirs in zip(_VARIES.finditer(shown), _VARIES.finditer(printed), strict=True):
            if ours.lastgroup in {"epoch", "uuid", "year", "fingerprint"}:
                known = self._replaced.setdefault(ours[0], theirs[0])
                assert known == theirs[0], f"{ours[0]} stands for {known} and for {theirs[0]}"


def _lines_of(shown: str, printed: list[str]) -> int:
    """Say how many of the lines printed are the one shown, which a longer path had wrapped; 0 if they are another."""
    lines = range(1, min(len(printed), MOST_WRAPPED) + 1)
    return next((number for number in lines if _same(shown, _joined(printed[:number]))), 0)


def _joined(lines: list[str]) -> str:
    return " ".join([lines[0], *(line.lstrip() for line in lines[1:])])


def _same(shown: str, printed: str) -> bool:
    return _form(shown) == _form(printed)


def _form(line: str) -> str:
    return " ".join(_VARIES.sub(lambda found: f"<{found.lastgroup}>", line).split())
