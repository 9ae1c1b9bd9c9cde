"""What the files of deploy/ run: their commands and variables, as a service manager would see them."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILES = sorted(DEPLOY.glob("compose*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
_OURS = re.compile(r"(?<![\w/.-])(?<!-A )(?:exchange|celery -A exchange) [a-z][a-z-]*(?: [a-z][a-z-]*)?")


class _Unit(configparser.ConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def compose(path: Path) -> dict[str, Any]:
    """Read a compose file, its merges done."""
    read: dict[str, Any] = YAML(typ="safe").load(path)
    return read


def unit(path: Path) -> configparser.ConfigParser:
    """Read a unit; of a key that stands more than once the last line counts."""
    parser = _Unit(strict=False, interpolation=None)
    parser.read(path)
    return parser


def service_commands(service: dict[str, Any]) -> Iterator[list[str]]:
    """List what a service runs: its command and its health check."""
    if "command" in service:
        yield [word.replace("$$", "$") for word in service["command"]]
    test = service.get("healthcheck", {}).get("test")
    if test:
        shell, *words = test
        script = [word.replace("$$", "$") for word in words]
        yield ["sh", "-c", *script] if shell == "CMD-SHELL" else script


def all_commands() -> set[str]:
    """Find the commands of ours that any file of deploy/ or SECURITY.md names, as ``exchange keys new``."""
    services = [service for path in COMPOSE_FILES for service in compose(path)["services"].values()]
    lines = [shlex.join(command) for service in services for command in service_commands(service)]
    lines += [unit(path)["Service"]["ExecStart"].replace("/opt/exchange/bin/", "") for path in UNITS]
    for page in (DEPLOY / "README.md", ROOT / "SECURITY.md"):
        text = page.read_text()
        lines += re.findall(r"^    (.*)$", text, re.MULTILINE) + re.findall(r"`([^`]+)`", text)
    return {found.group() for line in lines for found in _OURS.finditer(line)}


def write_programs(folder: Path, python: Path) -> Path:
    """Make ``exchange`` and ``celery`` commands that run this source tree, installed or not, and ``alembic``."""
    folder.mkdir()
    for name, module in (("exchange", "exchange.cli"), ("celery", "celery.__main__"), ("alembic", "alembic.config")):
        program = folder / name
        program.write_text(
            f"#!/bin/sh\nexec {shlex.quote(str(python))} -c 'from {module} import main; main()' \"$@\"\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def environment(programs: Path, **variables: str) -> dict[str, str]:
    """Give a process the variables of a file of deploy/ and nothing of ours from the outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    path = f"{programs}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
