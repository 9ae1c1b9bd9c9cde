"""What README.md says is so: its commands are run, its tables compared, what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exchange.settings import Variable, variables
from exchange.testing import servers
from tests.deploy.commands import write_programs
from tests.readme.session import Play, Session, Shell, read_sessions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SESSIONS = read_sessions(README)


def _play(session: Session, folder: Path, python: Path, replaced: dict[str, str] | None = None) -> None:
    """Run a session below ``folder``, with this source tree's commands before any installed ones."""
    programs = write_programs(folder / "bin", python)
    (programs / "python").symlink_to(python)
    place = folder / "here"
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
def test_the_worked_example_runs_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    _play(SESSIONS["factory"], tmp_path, forked_python)
    for log in ("by-hand.log", "up.log"):
        worker = (tmp_path / "here" / "plant" / log).read_text()
        assert "failed" not in worker, worker


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


def test_every_console_block_belongs_to_a_session_that_is_run() -> None:
    assert {name for name, session in SESSIONS.items() if session.steps} == {"factory", "reference"}


def test_the_first_commands_are_targets_of_the_makefile() -> None:
    commands = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert commands == ["make demo\nmake test\n"]
    for command in commands[0].splitlines():
        subprocess.run([*command.split(), "-n"], cwd=ROOT, check=True, capture_output=True)


def test_the_table_of_settings_is_the_settings_class() -> None:
    shown = re.findall(r"^\| `EXCHANGE_.*$", README, re.MULTILINE)
    assert shown == [settings_row(variable) for variable in variables()]


def settings_row(variable: Variable) -> str:
    """Give a setting's row in the README's table."""
    meaning, default = variable.description, variable.default
    if said := re.fullmatch(r"(.*) \(default: (.*)\)\.", meaning):
        meaning, default = f"{said[1]}.", said[2]
    shown = "required" if default is None else f"`{default}`" if default else ""
    return f"| `{variable.name}` | {meaning.replace('<', '&lt;')} | {shown} |"


def test_every_path_that_is_named_is_there() -> None:
    named = set(re.findall(r"(?:`|\()((?:tests|schemas|deploy|exchange)/[\w./-]*)(?:`|\))", README))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", README))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= headings
