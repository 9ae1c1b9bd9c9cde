from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.env_example import render
from exchange.settings import load_settings, variables
from tests.deploy.commands import COMPOSE_FILES, DEPLOY, ROOT, UNITS, compose, unit

SERVICES = [
    pytest.param(path, name, id=f"{path.stem}-{name}") for path in COMPOSE_FILES for name in compose(path)["services"]
]
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
OUR_VARIABLES = {variable.name for variable in variables()} | {"EXCHANGE_ENV_FILE", "EXCHANGE_ADMIN_PASSWORD"}


def _service(path: Path, name: str) -> dict[str, Any]:
    service: dict[str, Any] = compose(path)["services"][name]
    return service


def test_env_example_is_what_the_settings_class_says() -> None:
    assert (DEPLOY / "env.example").read_text() == render(), "python -m deploy.env_example > deploy/env.example"


def test_env_example_filled_in_is_a_valid_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required = "EXCHANGE_NETWORK=request\nEXCHANGE_PEER=response\n"
    # The defaults it shows are values that it takes.
    every_line = re.sub(r"^#(EXCHANGE_\w+=)", r"\1", render(), flags=re.MULTILINE) + required
    for name in OUR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = []
    for text in (required, every_line):
        (tmp_path / "settings.env").write_text(text)
        monkeypatch.setenv("EXCHANGE_ENV_FILE", str(tmp_path / "settings.env"))
        found.append(load_settings())
    assert found[0] == found[1]


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.stem)
def test_a_compose_file_satisfies_the_compose_specification(path: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path, name", SERVICES)
def test_a_service_is_confined(path: Path, name: str) -> None:
    service = _service(path, name)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "ports" not in service
    networks = compose(path)["networks"]
    assert service["networks"]
    assert all(networks[network]["internal"] for network in service["networks"])
    if service["image"].startswith("exchange"):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "user" not in service


@pytest.mark.parametrize("path, name", SERVICES)
def test_what_runs_on_is_started_again_and_looked_at(path: Path, name: str) -> None:
    service = _service(path, name)
    if service["restart"] != "no":
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("path, name", SERVICES)
def test_every_variable_of_ours_is_a_setting(path: Path, name: str) -> None:
    ours = {variable for variable in _service(path, name)["environment"] if variable.startswith("EXCHANGE_")}
    assert ours <= OUR_VARIABLES


@pytest.mark.parametrize("path", [*COMPOSE_FILES, *UNITS, DEPLOY / "Dockerfile"], ids=lambda path: path.name)
def test_no_password_is_written_down(path: Path) -> None:
    for line in path.read_text().splitlines():
        found = re.search(r"(?:PASSWORD|AUTH|requirepass)[\s:=]+(?!\$\{)([\w-]+)$", line)
        assert found is None, line


def test_the_sides_of_the_demo_share_two_folders_and_nothing_else() -> None:
    services = compose(DEPLOY / "compose.demo.yaml")["services"]
    mounts = {
        side: dict(volume.split(":") for volume in services[f"{side}-side"]["volumes"])
        for side in ("request", "response")
    }
    shared = mounts["request"].keys() & mounts["response"].keys()
    assert {(mounts["request"][name], mounts["response"][name]) for name in shared} == {
        ("/exchange/outgoing", "/exchange/incoming"),
        ("/exchange/incoming", "/exchange/outgoing"),
    }
    assert not set(services["request-side"]["networks"]) & set(services["response-side"]["networks"])


def test_redis_keeps_what_it_is_told() -> None:
    configuration = compose(DEPLOY / "compose.yaml")["configs"]["redis"]["content"]
    for line in ("appendonly yes", "maxmemory-policy noeviction", "requirepass ${REDIS_PASSWORD"):
        assert line in configuration


def test_the_image_is_not_root_and_copies_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["exchange"]
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    copied = set()
    for words in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        copied |= set(words.split()[:-1])
    assert copied == allowed
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_the_image_holds_versions_of_the_lock() -> None:
    def pinned(path: Path) -> set[str]:
        return set(re.findall(r"^\S+==\S+|--hash=\S+", path.read_text(), re.MULTILINE))

    assert pinned(DEPLOY / "requirements.lock") <= pinned(ROOT / "requirements.lock")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_unprivileged_and_reads_the_settings_file(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["User"] == "exchange"
    assert service["NoNewPrivileges"] == "yes"
    assert service["Restart"] == "always"
    names = set(re.findall(r"^Environment=(\w+)=", path.read_text(), re.MULTILINE))
    assert "EXCHANGE_ENV_FILE" in names
    assert names <= OUR_VARIABLES


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd isn't installed here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_a_unit(path: Path, tmp_path: Path) -> None:
    # The program it names is not installed here; everything else is checked as it stands.
    copy = tmp_path / path.name
    copy.write_text(re.sub(r"/opt/exchange/bin/\w+", "/bin/true", path.read_text()))
    checked = subprocess.run(
        [str(SYSTEMD_ANALYZE), "verify", "--man=no", "--recursive-errors=no", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
