"""What SECURITY.md says is so: its commands are run, what it names exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readme.session import read_sessions
from tests.readme.test_readme import _play

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


@pytest.mark.processes
def test_what_the_page_shows_comes_out_as_it_stands(tmp_path: Path, forked_python: Path) -> None:
    (session,) = (one for one in read_sessions(PAGE).values() if one.steps)
    _play(session, tmp_path, forked_python)
    made = tmp_path / "here/request/var/request"
    assert [(made / name).stat().st_mode & 0o777 for name in ("outgoing", "incoming", "keys")] == [0o750, 0o770, 0o700]
