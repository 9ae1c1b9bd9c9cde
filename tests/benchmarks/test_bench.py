"""The benchmarks run and report; what they measure is nothing to test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bars import Bar, at_least, at_most, rates
from tests.benchmarks.environments import Environments
from tests.benchmarks.measuring import ROOT, Measured


@pytest.mark.postgres
@pytest.mark.processes
@pytest.mark.parametrize(
    "which, cores",
    [
        pytest.param({"import-new"}, 2, marks=pytest.mark.thorough, id="import"),
        # A nudge's way is timed between two whole networks, the others beside one PostgreSQL.
        pytest.param({"nudge"}, 2, marks=[pytest.mark.torture, pytest.mark.valkey], id="nudge"),
        pytest.param(None, 1, marks=pytest.mark.torture, id="others"),
    ],
)
def test_every_contest_runs_at_small_sizes_and_the_report_has_its_bars(
    tmp_path: Path, forked_python: Path, which: set[str] | None, cores: int
) -> None:
    from tests.benchmarks.bench import CONTESTS, ON_ONE_CORE  # noqa: PLC0415 - half a second that one process of a run needs

    contests = [name for name in CONTESTS if (name in which if which else name not in {"import-new", "nudge"})]
    page = tmp_path / "RESULTS.md"
    page.write_text("an older run\n<!-- What follows is written by hand; a new run keeps it. -->\nwhy it is so\n")

    command = (sys.executable, "-m", "tests.benchmarks.bench")
    done = subprocess.run(
        [*command, "--quick", "--output", str(tmp_path), "--cores", str(cores), "--only", *contests],
        cwd=ROOT,
        env=os.environ | {"BENCH_PYTHON": str(forked_python)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    on_one_core = [f"{name}, on one core" for name in contests if cores == 1 and name in ON_ONE_CORE]
    assert list(found["outcomes"]) == [*contests, *on_one_core]
    written = page.read_text()
    assert "an older run" not in written
    assert written.endswith("\nwhy it is so\n")
    for outcome in found["outcomes"].values():
        for bar in outcome["bars"]:
            assert bar["values"] or bar["absent"]
            assert f"| {bar['what']} |" in written
    assert ("import, PostgreSQL, all rows new" in done.stdout) == ("import-new" in contests)


@pytest.mark.thorough
@pytest.mark.processes
def test_a_peer_that_cannot_be_installed_is_said_to_be_missing(tmp_path: Path) -> None:
    environments = Environments(requirements={"dlt": str(tmp_path / "no-such-package")}, folder=tmp_path)

    assert environments.python("dlt") is None

    assert environments.missing["dlt"].startswith("could not be installed: ")
    assert environments.versions() == {}


def test_a_bar_is_the_median_of_the_ratios_of_rounds_not_the_ratio_of_medians() -> None:
    ours = [Measured(seconds, 100, 0) for seconds in (1.0, 2.0, 10.0)]
    beside = [Measured(seconds, 100, 0) for seconds in (0.9, 1.0, 9.0)]

    bar = rates("rate", at_least(0.85), ours, beside)

    assert bar.reached == pytest.approx(0.9)
    assert bar.met


def test_a_goal_is_met_from_its_own_value_on() -> None:
    assert Bar("", at_least(2), (2.0,)).met
    assert Bar("", at_most(2), (2.0,)).met
    assert Bar("", at_most(2), (2.1,)).met is False
    assert Bar("", None, (2.0,)).met is None
    assert Bar("", at_most(2), ()).met is None
