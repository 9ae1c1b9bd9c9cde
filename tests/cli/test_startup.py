"""What a command loads, seen without a clock: the modules that are there once it has ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from exchange.cli.app import COMMANDS, app
from tests.cli.conftest import Pair
from tests.wheels import ROOT

ELSEWHERE = {"alembic", "celery", "kombu", "redis", "jsonschema", "rich", "psycopg", "opentelemetry"}
NOT_FOR_STATUS = {
    *ELSEWHERE,
    "zstandard",
    "exchange.incoming.judge",
    "exchange.tables.loader",
    "exchange.dead_letters.store",
}
NOT_FOR_HELP = {*ELSEWHERE, "sqlalchemy", "jsonschema_rs", "pydantic", "cryptography"}

RUN = """
import sys
from exchange.cli import main
try:
    main()
finally:
    ours = {name for name in sys.modules if name.startswith("exchange.")}
    print(*sorted(ours | {name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded(words: list[str], settings: dict[str, str]) -> set[str]:
    """Run a command in an interpreter of its own; give the packages and modules of ours that it loaded."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout, "the command said nothing"
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--version"], ["--help"]], ids=" ".join)
def test_a_command_that_only_tells_of_itself_loads_no_database_and_no_library_for_schemas_or_keys(
    words: list[str],
) -> None:
    assert not loaded(words, {}) & NOT_FOR_HELP


def test_a_command_that_is_mistyped_is_answered_with_the_one_that_was_meant() -> None:
    answer = CliRunner().invoke(app, ["dead-leters"])
    assert (answer.exit_code, "Did you mean 'dead-letters'?" in answer.stderr) == (2, True)


def test_status_loads_a_database_and_nothing_that_migrates_runs_tasks_or_words_faults_of_records(seeded: Pair) -> None:
    modules = loaded(["status"], seeded.response.environment)
    assert "sqlalchemy" in modules
    commands = {name for name in modules if name.startswith("exchange.cli.")}
    assert commands == {f"exchange.cli.{name}" for name in ("app", "runtime", "output", "audited", "at_work", "status")}
    assert not modules & NOT_FOR_STATUS


def test_the_list_of_commands_fits_a_terminal_of_80_columns_with_a_whole_sentence_each() -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    names = re.findall(r"^  ([a-z][a-z-]*)  ", shown, re.MULTILINE)
    assert sorted(names) == sorted(COMMANDS)
    assert "..." not in shown.partition("Set up:")[2]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.valkey
@pytest.mark.parametrize(
    "words", [["health", "--only", "triggers"], pytest.param(["metrics"], marks=pytest.mark.thorough)], ids=" ".join
)
def test_health_and_metrics_load_nothing_that_migrates_runs_tasks_or_backs_up_and_no_client_of_a_broker(
    seeded: Pair, valkey_url: str, words: list[str]
) -> None:
    modules = loaded(words, {**seeded.response.environment, "EXCHANGE_BROKER_URL": valkey_url})
    assert "exchange.watching.health" in modules
    assert not modules & {
        "alembic",
        "celery",
        "kombu",
        "redis",
        "opentelemetry",
        "exchange.operating.backup",
        "exchange.tables.loader",
    }
