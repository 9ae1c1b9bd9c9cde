"""An installation as a user makes it: an empty environment, and in it nothing but what is declared.

The tests' own environment brings along what users lack; here it doesn't.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from exchange.operating import broker
from tests.celery.conftest import until
from tests.wheels import ROOT, built_once

DEPLOY_LOCK = ROOT / "deploy" / "requirements.lock"
COMMAND_SECONDS = 120.0
STOP_SECONDS = 60.0

IMPORT_EVERYTHING = """
import importlib, importlib.metadata, json, pkgutil, exchange
imported = []
for module in pkgutil.walk_packages(exchange.__path__, "exchange."):
    if module.name not in ("exchange.__main__", "exchange.celery.redbeat", "exchange.testing.fixtures"):  # need more
        importlib.import_module(module.name)
        imported.append(module.name)
print(json.dumps([imported, [one.metadata["Name"] for one in importlib.metadata.distributions()]]))
"""


class Installation:
    """One empty environment with the exchange in it, and one side that lives beside it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.elsewhere = folder / "elsewhere"
        self.home = folder / "home"
        self.elsewhere.mkdir()
        venv.create(folder / "venv", symlinks=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EXCHANGE_", "CELERY_", "PYTHON", "VIRTUAL_ENV", "COV"))
        }
        self.environment = kept | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONNOUSERSITE": "1",
            "EXCHANGE_NETWORK": "response",
            "EXCHANGE_PEER": "request",
            "EXCHANGE_HOME": str(self.home),
            "EXCHANGE_WORKER_CONCURRENCY": "1",
            "EXCHANGE_EXPORT_EVERY": "1",
        }

    def install(self, *what: str) -> None:
        """Install with the tests' own pip, from whichever index it knows."""
        quietly = ("--quiet", "--disable-pip-version-check", "--no-compile", "--retries", "0")
        python = ("--python", str(self.bin / "python"))
        done = subprocess.run(
            [sys.executable, "-m", "pip", *python, "install", *quietly, *what],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            _skip_without_index(self.elsewhere)
        assert done.returncode == 0, done.stderr

    def link(self, wheel: Path) -> None:
        """Give it what a wheel needs out of the tests' own environment, which has the locked versions."""
        (packages,) = self.bin.parent.glob("lib/python*/site-packages")
        for needed in _needed_by(wheel):
            for file in needed.files or ():
                if ".." not in file.parts:
                    link = packages / file
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file.locate())
            for script in needed.entry_points.select(group="console_scripts"):
                program = self.bin / script.name
                program.write_text(f"#!{self.bin}/python\nfrom {script.module} import {script.attr}\n{script.attr}()\n")
                program.chmod(0o755)

    def run(self, command: str, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run an installed command to its end, which must be one of ``codes``, and give what it prints."""
        done = subprocess.run(
            [str(self.bin / command), *words],
            cwd=self.elsewhere,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode in codes, f"{command} {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def holds(self) -> tuple[set[str], set[str]]:
        """Name the modules of ours, each of which it can import, and the distributions that it has."""
        imported, distributions = json.loads(self.run("python", "-c", IMPORT_EVERYTHING))
        return set(imported), set(map(_normal, distributions))


def _needed_by(wheel: Path) -> list[Distribution]:
    """Find here what a wheel asks for, without extras, and what that asks for in turn."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        asked = [(line, "") for line in message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])]
    found: dict[str, Distribution] = {}
    looked_at: set[tuple[str, str]] = set()
    while asked:
        line, extra = asked.pop()
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        one = found.setdefault(_normal(wanted.name), distribution(wanted.name))
        assert wanted.specifier.contains(one.version, prereleases=True), f"{line}, but here is {one.version}"
        for more in {"", *wanted.extras} - {name for at, name in looked_at if at == one.name}:
            looked_at.add((one.name, more))
            asked += [(line, more) for line in one.requires or ()]
    return list(found.values())


def _skip_without_index(folder: Path) -> None:
    """Skip the test where pip reaches no index at all; in CI it has to."""
    wanted = ["--no-deps", "--no-cache-dir", "--retries", "0", "--quiet", "--dest", str(folder / "probe"), "packaging"]
    probe = subprocess.run([sys.executable, "-m", "pip", "download", *wanted], capture_output=True, check=False)
    if probe.returncode != 0 and "CI" not in os.environ:
        pytest.skip("pip reaches no index here, so that nothing can be installed into an empty environment")


@pytest.fixture
def empty(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _crosses_a_batch(side: Installation, **more: str) -> None:
    """Set a side up, run it until a call that was sent by Celery has come back, and verify what it made."""
    side.environment |= more
    side.run("exchange", "init")
    log = side.elsewhere / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [str(side.bin / "exchange"), "up"],
            cwd=side.elsewhere,
            env=side.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        until(lambda: " ready." in log.read_text() or up.poll() is not None)
        assert up.poll() is None, log.read_text()
        side.run("exchange", "seed")
        # That beat has called for, at its tick.
        until(lambda: list((side.home / "outgoing").glob("directory-*.manifest.jsonl")))
        called = side.run("celery", "-A", "exchange", "call", "exchange.export").strip()
        assert "batches" in _result(side, called)
        # It has a fault to tell of, as nobody is trusted yet: not one of these two.
        looked = map(json.loads, side.run("exchange", "doctor", "--json", codes=(1,)).splitlines())
        levels = {line["check"]: line["level"] for line in looked}
        assert (levels["worker"], levels["broker"]) == ("ok", "ok")
        up.send_signal(signal.SIGTERM)
        assert up.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        up.kill()
        up.wait()
    said = log.read_text()
    assert "starting it again" not in said, said
    trusted = next((side.home / "keys").glob("*.pem"))
    lines = side.run("exchange", "verify", "--json", "--trust", str(trusted), str(side.home / "outgoing")).splitlines()
    assert {json.loads(line)["verdict"] for line in lines} == {"ok"}


def _result(side: Installation, called: str) -> dict[str, Any]:
    """Wait for what came of a call."""
    address = broker.running(side.home / "broker")
    assert address is not None
    key = f"celery-task-meta-{called}"
    with address.client(COMMAND_SECONDS) as client:
        until(lambda: client.exists(key))
        result: dict[str, Any] = json.loads(client.get(key) or b"{}")["result"]
    return result


@pytest.fixture
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    return built_once(tmp_path_factory, shared=worker_id != "master")


@pytest.mark.thorough  # wheel and dependencies each have tests that cost less
@pytest.mark.processes
def test_the_wheel_and_what_it_declares_are_enough_to_run_a_side(empty: Installation, wheel: Path) -> None:
    # As pip puts it together: the locked versions, and nothing beyond what the wheel asks for.
    empty.link(wheel)
    empty.install("--no-deps", "--no-index", str(wheel))
    imported, distributions = empty.holds()
    assert "pytest" not in distributions
    assert {"exchange.celery.tasks", "exchange.testing.servers"} <= imported
    _crosses_a_batch(empty)


@pytest.mark.torture  # CI runs it, too
@pytest.mark.processes
def test_pip_finds_what_the_wheel_declares_and_nothing_more_than_is_linked_above(
    empty: Installation, wheel: Path
) -> None:
    # The locked versions, so that a release of today is no failure of ours.
    empty.install("--constraint", str(_without_hashes(ROOT / "requirements.lock", empty.elsewhere)), str(wheel))
    imported, distributions = empty.holds()
    assert "exchange.celery.tasks" in imported
    assert distributions == {"exchange", *(_normal(one.name) for one in _needed_by(wheel))}
    _crosses_a_batch(empty)


@pytest.mark.torture  # CI runs it, too
@pytest.mark.processes
def test_what_the_image_holds_is_enough_to_run_a_side_with_all_that_is_optional(
    empty: Installation, wheel: Path
) -> None:
    empty.install("--require-hashes", "--requirement", str(DEPLOY_LOCK))
    empty.install("--no-deps", "--no-index", str(wheel))
    assert "pytest" not in empty.holds()[1]
    empty.run("python", "-c", "import psycopg, exchange.celery.redbeat")
    _crosses_a_batch(empty, EXCHANGE_NUDGE="true")


def _without_hashes(lock: Path, folder: Path) -> Path:
    """Write a lock as constraints: pip takes hashes for all it installs or for nothing, and the wheel has none."""
    pinned = re.findall(r"^\S+==[^\\\n]+", lock.read_text(), re.MULTILINE)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pinned))
    return constraints


# What is declared


def _declared() -> Mapping[str, set[str]]:
    """Give the distributions that the package asks for: always (''), and by extra."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {_normal(re.split(r"[\[<>=!~; ]", one, maxsplit=1)[0]) for one in needs}
        for extra, needs in asked.items()
    }


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"exchange"}


def test_whatever_is_imported_is_declared() -> None:
    of = {module: {_normal(name) for name in names} for module, names in packages_distributions().items()}
    declared = _declared()
    for path in sorted([*(ROOT / "exchange").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]):
        # What a room or a module needs beyond the rest has an extra of its own, of the same name; what a function
        # imports as it runs may be of any extra.
        always = declared[""].union(*(declared.get(name, set()) for name in (*path.parts[-2:], path.stem)))
        nodes = set(ast.walk(ast.parse(path.read_text())))
        late = {inner for node in nodes if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
        for some, allowed in ((nodes - late, always), (late, set().union(*declared.values()))):
            for module in _imported(some):
                assert of.get(module, {module}) & allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_the_image_holds_all_that_is_declared() -> None:
    held = {_normal(name) for name in re.findall(r"^([^=\s]+)==", DEPLOY_LOCK.read_text(), re.MULTILINE)}
    declared = _declared()
    for extra in ("", "backup", "http", "notify", "postgres", "redbeat", "tracing"):
        assert declared[extra] <= held
