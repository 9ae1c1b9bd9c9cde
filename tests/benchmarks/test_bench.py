from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.postgres
@pytest.mark.processes
def test_the_benchmark_runs_and_prints_its_table() -> None:
    root = Path(__file__).parents[2]

    shown = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench", "--records", "300"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert shown.returncode == 0, shown.stderr
    rows = [line for line in shown.stdout.splitlines() if "port" in line and "floor" not in line]
    assert len(rows) == 4, shown.stdout
