"""What the pages say is so: their commands are run, their tables compared, what they name exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from exchange.channels import check
from exchange.channels.codecs import ROWS
from exchange.database.tables import metadata
from exchange.operating.doctor.finding import Alarm
from exchange.settings import Variable, variables
from exchange.testing import servers
from tests.deploy.commands import UNITS, write_programs
from tests.readme.session import Play, Session, Shell, read_sessions

ROOT = Path(__file__).parents[2]
PAGES = {
    path: (ROOT / path).read_text()
    for path in (
        "README.md",
        "CHANNELS.md",
        "deploy/EXISTING.md",
        "deploy/GROWING.md",
        "deploy/OPERATE.md",
        "deploy/EXTRACT.md",
        "deploy/prometheus/README.md",
        "deploy/BY-HAND.md",
        "deploy/RECOVER.md",
        "deploy/INTAKE.md",
        "deploy/CELLS.md",
        "deploy/SETTINGS.md",
        "deploy/EMBED.md",
        "deploy/ALARMS.md",
        "deploy/CONSOLE.md",
        "deploy/REQUESTS.md",
        "deploy/README.md",
        "deploy/RUNBOOK.md",
        "deploy/GROWTH.md",
        "deploy/HANDLERS.md",
        "deploy/ROWS.md",
        "deploy/carrier/README.md",
        "exchange/reference/README.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "schemas/FORMAT.md",
        "tests/README.md",
        "tests/benchmarks/RESULTS.md",
        "CHANGELOG.md",
    )
}
"""In the order in which one reads them: a session goes on from page to page."""

README = PAGES["README.md"]
SESSIONS = read_sessions("\n".join(PAGES.values()))

KNOWN = {variable.name for variable in variables()} | {
    "EXCHANGE_ENV_FILE",
    "EXCHANGE_ADMINISTRATOR_PASSWORD",
    "EXCHANGE_DATA",
}


MADE = {"deploy/.env", "deploy/secrets/broker_password", "deploy/secrets/database_password"}
"""Files that a page has somebody make."""


def _play(session: Session, folder: Path, python: Path, replaced: dict[str, str] | None = None) -> None:
    """Run a session below ``folder``, with this source tree's commands before any installed ones."""
    programs = write_programs(folder / "bin", python)
    (programs / "python").symlink_to(python)
    place = folder / "here"
    place.mkdir()
    for name, content in session.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for shown, real in (replaced or {}).items():
            content = content.replace(shown, real)  # noqa: PLW2901 - the file's content, step by step
        path.write_text(content)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXCHANGE_", "CELERY_"))}
    search = os.pathsep.join([str(programs), str(Path(sys.executable).parent), clean["PATH"]])
    shell = Shell(place, clean | {"PATH": search, "PYTHONPATH": str(ROOT)})
    try:
        Play(shell, replaced).run(session)
    finally:
        shell.close()


@pytest.mark.processes
@pytest.mark.thorough
def test_the_worked_example_runs_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    _play(SESSIONS["factory"], tmp_path, forked_python)
    for log in ("by-hand.log", "up.log"):
        worker = (tmp_path / "here" / "plant" / log).read_text()
        assert "failed" not in worker, worker


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.postgres
@pytest.mark.valkey
def test_the_reference_application_runs_on_postgresql_and_redis_as_it_stands(
    tmp_path: Path, postgres_url: str, forked_python: Path
) -> None:
    with servers.valkey(appendonly="yes") as broker_url:
        shown = re.findall(
            r"^EXCHANGE_(?:DATABASE|BROKER)_URL=(.*)$", SESSIONS["reference"].files["response/.env"], re.MULTILINE
        )
        _play(SESSIONS["reference"], tmp_path, forked_python, dict(zip(shown, (postgres_url, broker_url), strict=True)))


@pytest.mark.thorough
@pytest.mark.processes
def test_an_existing_database_is_connected_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    _play(SESSIONS["existing"], tmp_path, forked_python)


@pytest.mark.processes
@pytest.mark.thorough
def test_each_change_of_a_declaration_is_made_on_one_side_first_as_it_stands(
    tmp_path: Path, forked_python: Path
) -> None:
    _play(SESSIONS["growing"], tmp_path, forked_python)


@pytest.mark.processes
@pytest.mark.thorough
def test_every_procedure_of_the_runbook_runs_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    _play(SESSIONS["runbook"], tmp_path, forked_python)


def test_the_runbook_has_a_command_for_every_alarm() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*`exchange .* \|$", PAGES["deploy/RUNBOOK.md"], re.MULTILINE)
    assert rows == [alarm.value for alarm in Alarm]


def test_the_runbook_names_every_unit() -> None:
    rows = re.findall(r"^\| `(exchange-\w+\.service)` \|", PAGES["deploy/RUNBOOK.md"], re.MULTILINE)
    assert sorted(rows) == [unit.name for unit in UNITS]


def test_every_console_block_belongs_to_a_session_that_is_run() -> None:
    assert {name for name, session in SESSIONS.items() if session.steps} == {
        "existing",
        "factory",
        "growing",
        "reference",
        "runbook",
        "security",
    }


def test_the_first_page_leads_to_every_other_and_no_page_is_left_out() -> None:
    made = {"var", "dist"}
    tops = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in made]
    ours = [page for top in tops for page in ([top] if top.is_file() else top.rglob("*")) if page.suffix == ".md"]
    assert {str(page.relative_to(ROOT)) for page in ours} == set(PAGES)
    assert set(re.findall(r"\]\(([\w./-]+\.md)\)", README)) == set(PAGES) - {"README.md"}


def test_the_commands_that_try_a_promise_are_targets_and_select_tests() -> None:
    table = README.partition("## What is promised")[2].partition("\n## ")[0]
    commands = re.findall(r"`(make [^`]+)`", table)
    assert len(commands) > 4
    files = {str(file.relative_to(ROOT)): file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    for command in commands:
        subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, check=True)
        selecting = re.search(r"ARGS=\W*(?:-k )?(.*)", command)
        for word in re.findall(r"[\w/]+", selecting[1].replace(" or ", " ")) if selecting else ():
            found = "".join(text for name, text in files.items() if word in name)
            runs = {"make test": "def test_", "make torture": r"mark\.(?:torture|thorough)"}
            assert re.search(runs[command.partition(" ARGS")[0]], found), f"{command}: {word}"


def test_the_first_commands_are_targets_of_the_makefile() -> None:
    commands = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert commands == ["make demo\nmake test\n"]
    for command in commands[0].splitlines():
        subprocess.run([*command.split(), "-n"], cwd=ROOT, check=True, capture_output=True)


def test_the_lines_that_declare_channels_declare_one_without_fault() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    declared: dict[str, Any] = {"__name__": "declared"}
    exec(compile(code, "README.md", "exec", dont_inherit=True), declared)  # noqa: S102 - what a reader puts into a file
    check(declared["channels"])


def test_the_table_of_settings_is_the_settings_class() -> None:
    shown = re.findall(r"^\| `EXCHANGE_.*$", PAGES["deploy/SETTINGS.md"], re.MULTILINE)
    assert shown == [settings_row(variable) for variable in variables()]


def settings_row(variable: Variable) -> str:
    """Give a setting's row in the table."""
    meaning, default = variable.description, variable.default
    if said := re.fullmatch(r"(.*) \(default: (.*)\)\.", meaning):
        meaning, default = f"{said[1]}.", said[2]
    shown = "required" if default is None else f"`{default}`" if default else ""
    return f"| `{variable.name}` | {meaning.replace('<', '&lt;')} | {shown} |"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_file_and_heading_that_a_page_names_is_there(page: str) -> None:
    text = PAGES[page]
    named = set(re.findall(r"`((?:tests|schemas|deploy|exchange)/[\w./-]*)`", text)) - MADE
    gone = {path for path in named if not (ROOT / path).exists()}
    for target in re.findall(r"\]\(([\w./#-]+)\)", text):
        path, _, heading = target.partition("#")
        other = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not other.exists() or (heading and heading not in headings(other.read_text())):
            gone.add(target)
    assert gone == set()
    if page != "CHANGELOG.md":
        assert set(re.findall(r"`(EXCHANGE_[A-Z_]+)[`=]", text)) <= KNOWN


def headings(text: str) -> set[str]:
    """Give the names by which links lead to a page's headings."""
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in lines}


def test_every_table_and_room_is_explained() -> None:
    page = PAGES["ARCHITECTURE.md"]
    assert set(re.findall(r"`(exchange_[a-z_]+)`", page)) == set(metadata.tables)
    rooms = {path.name for path in (ROOT / "exchange").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"`(\w+)/`", page))


def test_the_tests_of_every_module_are_found_by_its_name_or_in_the_table() -> None:
    named = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    rows = re.findall(r"^\| (`.*) \| (`tests/.*) \|$", PAGES["tests/README.md"], re.MULTILINE)
    listed = [pattern for row, _ in rows for pattern in re.findall(r"`([^`]+)`", row)]
    lost = {
        name
        for path in (ROOT / "exchange").rglob("*.py")
        if path.stem != "__init__" and not {path.stem, f"{path.stem}s", path.stem.removesuffix("s")} & named
        for name in [str(path.relative_to(ROOT / "exchange").with_suffix(""))]
        if not any(fnmatch(name, pattern) for pattern in listed)
    }
    assert lost == set()


def test_every_module_that_the_architecture_names_is_there() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", PAGES["ARCHITECTURE.md"]))
    assert len(named) > 20
    assert {path for path in named if not (ROOT / "exchange" / path).exists() and not (ROOT / path).exists()} == set()


def test_the_table_of_column_types_is_the_codes() -> None:
    shown = PAGES["CHANNELS.md"].partition("## Column types")[2].partition("\n### ")[0]
    rows = [line for line in shown.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in ROWS]
