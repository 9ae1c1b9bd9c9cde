"""What deploy/REQUESTS.md shows is run: a user signs in, asks, and is answered by the other network, by files alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from exchange.reference import channels, seeds
from exchange.reference.answering import answer_requests
from exchange.reference.handlers import echo
from exchange.testing.sides import TestedSide, two_sides
from tests.readme.test_readme import PAGES

PAGE = PAGES["deploy/REQUESTS.md"]
DONE = "--done--"


def by_migrations(_connection: Connection, _network: str) -> None:
    """Leave the tables to `exchange migrate`, which has those of the reference application."""


def environment(side: TestedSide) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
    home, programs = side.exchange.settings.home, Path(sys.executable).parent
    given = {"NETWORK": "request", "PEER": "response", "HOME": str(home), "SERVE_PORT": "0"}
    given["DATABASE_URL"] = side.database_url
    path = f"{programs}{os.pathsep}{clean['PATH']}"
    return clean | {"PATH": path} | {f"EXCHANGE_{name}": value for name, value in given.items()}


@contextmanager
def served(given: dict[str, str], folder: Path) -> Iterator[str]:
    """Serve the side, and give its port."""
    command = [sys.executable, "-m", "exchange", "serve"]
    with subprocess.Popen(command, cwd=folder, env=given, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"at=http://127\.0\.0\.1:([0-9]+)", process.stderr.readline())
            assert found is not None
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=60)


class Shell:
    """One shell for all that the page shows."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, block: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{block}\necho; echo {DONE}\n")
        self._process.stdin.flush()

    def printed(self) -> str:
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            if line.strip() == DONE:
                return "".join(lines).strip()
            lines.append(line)
        raise AssertionError("".join(lines))

    def run(self, block: str) -> str:
        self.begin(block)
        return self.printed()


@pytest.mark.processes
@pytest.mark.thorough
def test_a_user_signs_in_asks_and_is_answered_by_the_other_network_as_the_page_shows(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with two_sides(tmp_path, channels, make_tables=by_migrations) as sides:
        asking, answering = sides["request"], sides["response"]
        seeds.seed(answering.exchange.engine, "response")
        sides.cross()
        given = environment(asking)
        with served(given, tmp_path) as port:
            shown = [block.replace("http://localhost:8470", f"http://localhost:{port}") for block in blocks]
            with subprocess.Popen(
                ["/bin/bash", "-e"],
                cwd=tmp_path,
                env=given,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                shell = Shell(process)
                password, sign_in, refresh, ask, wait, page, key, sign_out = shown
                assert "may sign in" in shell.run(password)
                assert shell.run(sign_in + refresh + ask) == ""
                made = json.loads((tmp_path / "made").read_text())
                shell.begin(wait)
                sides.cross()
                answer_requests(answering.exchange.engine, echo, "response")
                sides.cross()
                assert "How warm is press 1?" in shell.printed()
                assert shell.run(page) == ""
                (one,) = json.loads((tmp_path / "page").read_text())["requests"]
                assert (one["id"], one["response"]["status"]) == (made["id"], "answered")
                of_the_key = shell.run(key)
                assert '"by":"API key"' in of_the_key
                assert "requests:read requests:write" in of_the_key
                assert shell.run(sign_out) == '{"signed_out":true}'
                refused = shell.run('curl -s $DOOR/requests --oauth2-bearer "$TOKEN"')
                assert json.loads(refused)["status"] == 401
