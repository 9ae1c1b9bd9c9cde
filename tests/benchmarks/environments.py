"""Environments of their own for what is no part of the project: the peers, and what draws the plot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.measuring import ROOT, note

REQUIREMENTS = {
    "dlt": "dlt[postgres]==1.31.0",
    "target-postgres": "meltanolabs-target-postgres==0.8.1",
    "sqlite-utils": "sqlite-utils==4.2.1",
    "pandas": "pandas==3.1.1 sqlalchemy psycopg[binary]",
    "csvkit": "csvkit==2.2.0 psycopg[binary]",
    "matplotlib": "matplotlib==3.11.2",
}
FOLDER = ROOT / ".cache" / "bench"

_VERSIONS = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"


class Environments:
    """Makes each environment when it is first wanted and keeps it. ``missing`` says why one is not there."""

    def __init__(
        self, *, wanted: bool = True, requirements: Mapping[str, str] = REQUIREMENTS, folder: Path = FOLDER
    ) -> None:
        self.missing: dict[str, str] = {}
        self._requirements = requirements
        self._folder = folder
        self._wanted = wanted
        self._pythons: dict[str, Path | None] = {}

    def python(self, name: str) -> Path | None:
        """Give the Python of an environment, or None if it can't be had."""
        if name not in self._pythons:
            self._pythons[name] = self._install(name) if self._wanted else None
            if not self._wanted:
                self.missing[name] = "left out of this run"
        return self._pythons[name]

    def versions(self) -> dict[str, str]:
        """Say what was installed for the environments in use: each with the version of its main package."""
        found = {}
        for name, python in self._pythons.items():
            if python is not None:
                said = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True).stdout
                package = self._requirements[name].partition("==")[0].partition("[")[0]
                found[package] = json.loads(said)[package]
        return found

    def _install(self, name: str) -> Path | None:
        folder, requirement = self._folder / name, self._requirements[name]
        python, stamp = folder / "bin" / "python", folder / "installed"
        if stamp.is_file() and stamp.read_text() == requirement:
            return python
        note(f"installing {requirement} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        venv: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", folder]
        ours: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
        pip = [*ours, "install", "--quiet", *requirement.split()]
        for command in (venv, pip):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
                self.missing[name] = f"could not be installed: {reason}"
                note(f"{requirement} {self.missing[name]}")
                return None
        stamp.write_text(requirement)
        return python
