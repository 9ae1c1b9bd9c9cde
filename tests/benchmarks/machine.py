"""Where and with what it was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("sqlalchemy", "psycopg", "orjson", "jsonschema-rs", "zstandard", "cryptography", "celery")
"""What of the project's dependencies has a share in the figures."""


def machine() -> dict[str, str]:
    """Describe the machine."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}, {_field('/etc/os-release', 'PRETTY_NAME', '=')}",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }


def versions(postgresql: str) -> dict[str, str]:
    """Give the versions of everything of ours; ``postgresql`` is what the server says of itself."""
    ours = {"exchange": version("exchange"), "Python": platform.python_version()}
    return (
        ours | {"PostgreSQL": postgresql, "SQLite": sqlite3.sqlite_version} | {name: version(name) for name in PACKAGES}
    )


def _memory() -> str:
    found = _field("/proc/meminfo", "MemTotal")
    return f"{int(found.split()[0]) / 2**20:.0f} GiB" if found else "unknown"


def _field(file: str, name: str, separator: str = ":") -> str:
    """Give the first value of a name in one of the system's text files, if there is one."""
    path = Path(file)
    for line in path.read_text().splitlines() if path.is_file() else ():
        found, _, value = line.partition(separator)
        if found.strip() == name:
            return value.strip().strip('"')
    return ""
