from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.processes


def exchange(python: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    return subprocess.run(
        [str(python), "-m", "exchange", *words],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.thorough
def test_the_demo_shows_both_sides_agreeing_and_what_they_refused_and_leaves_nothing_running(
    tmp_path: Path, forked_python: Path
) -> None:
    home = tmp_path / "demo"

    shown = exchange(forked_python, "demo", "--home", str(home))

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "the two sides agree" in shown.stdout
    assert "quarantined" in shown.stdout
    assert re.search(r"requests \d+ was missing for [\d.]+ s; it came as requests-\w+-\d+\.r\d", shown.stdout)
    assert "UNIQUE constraint failed: request.kind" in " ".join(shown.stdout.split())
    left = [process.info["name"] for process in psutil.process_iter(["name", "cmdline"]) if _of(process, home)]
    assert left == []

    status = exchange(forked_python, "status", "--json", EXCHANGE_ENV_FILE=str(home / "response" / "settings.env"))
    told = json.loads(status.stdout)
    assert told["dead_letters"]["parked"] == 1
    # What was quarantined was carried again and applied since: it is nobody's worry any more, and still listed.
    assert {one["channel"]: one["quarantined"] for one in told["channels"] if one["direction"] == "in"} == {
        "requests": 0
    }
    kept = exchange(
        forked_python,
        "batches",
        "--json",
        "--state",
        "quarantined",
        EXCHANGE_ENV_FILE=str(home / "response/settings.env"),
    )
    lines = [json.loads(line) for line in kept.stdout.splitlines()]
    assert [one["reason"] for one in lines] == ["corrupt"], lines


def _of(process: psutil.Process, home: Path) -> bool:
    return any(str(home) in word for word in process.info["cmdline"] or ())
