from __future__ import annotations

import os
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
    assert service["read_only"]
    assert service["tmpfs"][0] == "/tmp"  # noqa: S108 - the container's own
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Nobody begins as root: our own image says whom it runs as, the others are told.
    assert ("user" in service) is not service["image"].startswith("exchange:")
    assert service.get("user", "exchange") not in {"root", "0", 0}


@pytest.mark.parametrize("path, name", SERVICES)
def test_an_image_is_ours_or_named_by_a_digest_that_was_looked_up(path: Path, name: str) -> None:
    image = _service(path, name)["image"]
    digest = r"\$\{[A-Z]+_DIGEST:\?[^}]+\}"
    assert image == "exchange:0.1" or re.fullmatch(rf"[a-z]+:[\d.]+@{digest}", image)
    if image == "exchange:0.1":
        (built_on,) = _service(path, name)["build"]["args"].items()
        assert built_on[0] == "PYTHON_DIGEST"
        assert re.fullmatch(digest, built_on[1])


def test_the_image_builds_on_a_digest_and_on_nothing_without_one() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^ARG (.+)$", dockerfile, re.MULTILINE) == ["PYTHON_DIGEST"]
    for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        assert image.endswith("@${PYTHON_DIGEST}")


def test_the_page_says_how_to_find_every_digest() -> None:
    page = (DEPLOY / "README.md").read_text()
    (images,) = re.findall(r"^    for image in (.+); do$", page, re.MULTILINE)
    named = {
        _service(path, name)["image"].partition("@")[0] for path in COMPOSE_FILES for name in compose(path)["services"]
    }
    base = set(re.findall(r"^FROM (\S+)@", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    assert set(images.split()) == (named - {"exchange:0.1"}) | base
    wanted = {word for path in COMPOSE_FILES for word in re.findall(r"\$\{(\w+):\?", path.read_text())}
    assert {word for word in wanted if f"    {word}=" not in page} == set()


@pytest.mark.parametrize("path, name", SERVICES)
def test_a_password_comes_from_a_file_and_from_no_variable(path: Path, name: str) -> None:
    service = _service(path, name)
    for variable, value in service.get("environment", {}).items():
        if "PASSWORD" in variable or "AUTH" in variable:
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in service["secrets"]
        assert not re.search(r"://\S*:\S*@", str(value))
    for variable in re.findall(r"\$\{(\w+)", path.read_text()):
        assert "PASSWORD" not in variable


@pytest.mark.skipif(shutil.which("openssl") is None and "CI" not in os.environ, reason="openssl isn't installed here")
def test_the_secrets_that_the_page_makes_are_those_that_compose_reads(tmp_path: Path) -> None:
    page = (DEPLOY / "README.md").read_text()
    (lines,) = re.findall(r"^(    install -d -m 0700 deploy/secrets\n(?:    .*\n)+)", page, re.MULTILINE)
    (tmp_path / "deploy").mkdir()
    subprocess.run(["/bin/sh", "-ec", lines], cwd=tmp_path, check=True)
    folder = tmp_path / "deploy/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    named = {one["file"].rpartition("/")[2] for one in compose(DEPLOY / "compose.yaml")["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == named
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o444
        assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())


@pytest.mark.parametrize("path, name", SERVICES)
def test_what_runs_on_is_started_again_and_looked_at(path: Path, name: str) -> None:
    service = _service(path, name)
    if service["restart"] != "no":
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("path, name", SERVICES)
def test_every_variable_of_ours_is_a_setting(path: Path, name: str) -> None:
    ours = {variable for variable in _service(path, name).get("environment", {}) if variable.startswith("EXCHANGE_")}
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


def test_the_image_is_not_root_and_copies_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["exchange"]
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    assert "EXCHANGE_CARRIER_GROUP=exchange-carrier" in dockerfile
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


needs_systemd = pytest.mark.skipif(
    SYSTEMD_ANALYZE is None and "CI" not in os.environ, reason="systemd-analyze isn't installed here"
)


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_exposes_next_to_nothing(path: Path) -> None:
    asked = subprocess.run(
        [str(SYSTEMD_ANALYZE), "security", "--offline=true", "--no-pager", "--threshold=20", path],
        capture_output=True,
        text=True,
        check=False,
    )
    (exposure,) = re.findall(r"exposure level for \S+: (\S+)", asked.stdout)
    assert asked.returncode == 0, asked.stdout
    assert float(exposure) < 2.0


@needs_systemd
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
