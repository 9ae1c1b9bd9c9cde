"""The instrument of a hundred ugly files and a large one, at a size that shows that it runs and looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.database.engine import make_engine
from tests.databases import Databases
from tests.intake import hundred, ugly


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_ugly_files_and_a_large_one_are_loaded_past_their_bad_rows_and_cross(
    kind: str, tmp_path: Path, databases: Databases
) -> None:
    urls = {name: databases.fresh(kind) for name in ("plant", "office")} if kind == "postgresql" else None
    found = hundred.run(tmp_path, 2_000_000, hundred.chosen_files(20), urls)

    assert found.rows > 3_000
    assert found.parked == found.rows // hundred.EVERY
    assert found.intake.marks[-1][1] == found.rows
    assert min(one.peak_bytes for one in (found.intake, found.sent, found.received)) > 0


def test_what_is_not_the_same_on_both_sides_is_said(tmp_path: Path) -> None:
    for name in ("here", "there"):
        ugly.metadata.create_all(make_engine(f"sqlite:///{tmp_path}/{name}.db"))
    with make_engine(f"sqlite:///{tmp_path}/there.db").begin() as connection:
        connection.execute(ugly.thing.insert().values(id=1, name="only there"))

    with pytest.raises(AssertionError, match="None here"):
        hundred._assert_same(f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db", 0, 500)
