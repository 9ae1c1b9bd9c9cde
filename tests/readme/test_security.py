"""What SECURITY.md says is so: its commands are run, what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exchange.settings import variables
from tests.readme.session import read_sessions
from tests.readme.test_readme import _play

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


@pytest.mark.processes
def test_what_the_page_shows_comes_out_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    (session,) = (one for one in read_sessions(PAGE).values() if one.steps)
    (tmp_path / "here").mkdir()
    _play(session, tmp_path, forked_python)
    made = tmp_path / "here/request/var/request"
    assert [(made / name).stat().st_mode & 0o777 for name in ("outgoing", "incoming", "keys")] == [0o750, 0o770, 0o700]


def test_every_setting_and_page_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(EXCHANGE_\w+)[`=]", PAGE))
    assert named
    assert named <= {variable.name for variable in variables()}
    assert [path for path in re.findall(r"\]\(([\w./-]+)\)", PAGE) if not (ROOT / path).exists()] == []


def test_the_first_page_leads_to_it() -> None:
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text()
