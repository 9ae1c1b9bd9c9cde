from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.console.chromium import PROGRAM, Watched, chromium
from tests.console.served import Browser

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / ".cache" / "pictures" / "console.png"
MOST_BYTES = 300 * 1024

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
def test_the_demo_shows_both_sides_agreeing_keeps_their_consoles_when_asked_and_leaves_nothing_running(
    tmp_path: Path, forked_python: Path
) -> None:
    home = tmp_path / "demo"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    command = [str(forked_python), "-m", "exchange", "demo", "--keep", "--home", str(home)]
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        told = "".join(lines)
        try:
            for port in re.findall(r"http://127\.0\.0\.1:(\d+)/", told):
                signed_in = re.search(r"Sign in as (\w+) with (\S+);", told)
                assert signed_in is not None, told
                browser = Browser(int(port))
                browser.post("/sign-in", name=signed_in[1], password=signed_in[2])
                assert f"{signed_in[1]}, administrator" in browser.get("/schedule").words
                _take_picture(int(port), *signed_in.groups())
        finally:
            demo.terminate()
            told += demo.communicate(timeout=60)[0]
    assert demo.returncode == 0, told
    assert "the two sides agree" in told
    assert "quarantined" in told
    assert re.search(r"requests \d+ was missing for [\d.]+ s; it came as requests-\w+-\d+\.r\d", told)
    assert "UNIQUE constraint failed: request.kind" in " ".join(told.split())
    left = [process.info["name"] for process in psutil.process_iter(["name", "cmdline"]) if _of(process, home)]
    assert left == []

    status = exchange(forked_python, "status", "--json", EXCHANGE_ENV_FILE=str(home / "response" / "settings.env"))
    found = json.loads(status.stdout)
    assert found["dead_letters"]["parked"] == 1
    # What was quarantined was carried again and applied since: it is nobody's worry any more, and still listed.
    assert [one["quarantined"] for one in found["channels"] if one["channel"] == "requests"] == [0]
    kept = exchange(
        forked_python,
        "batches",
        "--json",
        "--state",
        "quarantined",
        EXCHANGE_ENV_FILE=str(home / "response/settings.env"),
    )
    assert [json.loads(line)["reason"] for line in kept.stdout.splitlines()] == ["corrupt"]


def _take_picture(port: int, name: str, password: str) -> None:
    """Make the picture that README shows, beside others; ours stays as it is until somebody puts this one there."""
    if PROGRAM is None:
        return
    with chromium() as browser:
        looked = Watched(browser, 1280, 860)
        looked.page.goto(f"http://127.0.0.1:{port}/")
        looked.page.fill("input[name=name]", name)
        looked.page.fill("input[name=password]", password)
        looked.page.click("main button, form button")
        looked.page.wait_for_selector("#main")
        looked.picture(PICTURE, whole=False)
        assert looked.wrong == []
    for file in (PICTURE, ROOT / "deploy" / "console.png"):
        assert file.stat().st_size < MOST_BYTES


def _of(process: psutil.Process, home: Path) -> bool:
    return any(str(home) in word for word in process.info["cmdline"] or ())
