"""Rows of files that lack columns for which the model has a default: loaded, mended and sent like any others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.intake import Intake
from exchange.database.locks import reading
from exchange.database.tables import IntakeState, change, dead_letter
from exchange.dead_letters.retry import retry_letters
from exchange.intake import dropped, folders, ledger, standing
from exchange.site import Site
from tests.crossing.sides import Side
from tests.databases import Databases

metadata = sa.MetaData()
note = sa.Table(
    "note",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, default=uuid.uuid4),
    sa.Column("name", sa.String(5), nullable=False),
    sa.Column("rank", sa.Integer, nullable=False, default=3),
)
CHANNELS = (Channel("forth", "one", "two", [Stream(note)]),)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def side(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Side]:
    side = Side("one", "two", databases, request.param, tmp_path / "home", CHANNELS, metadata=metadata)
    side.site = replace(side.site, intakes=(Intake("notes", stream="note", folder="drop", bad_share=1),))
    side.site = replace(side.site, limits=replace(side.site.limits, intake_part_bytes=1_000))
    assert folders.make_all(side.site, None, beyond=True) == []
    yield side
    side.engine.dispose()


def load(site: Site, name: str, text: str) -> standing.DroppedFile:
    (site.spool.folders.home / "drop" / name).write_text(text)
    dropped.take_in(site)
    while dropped.work_off(site, lambda: False):
        pass
    with reading(site.engine) as connection:
        return standing.list_files(connection)[0]


def test_rows_have_keys_and_values_of_the_model_and_so_has_a_row_that_was_bad(side: Side) -> None:
    file = load(side.site, "notes.csv", "name\n" + "".join(f"n{at}\n" for at in range(1_000)) + "far too long\n")
    assert (file.state, file.rows_loaded, file.rows_parked, file.parts) == (IntakeState.LOADED, 1_000, 1, 1)
    with reading(side.engine) as connection:
        entry = ledger.find(connection, file.id)
    assert entry is not None
    assert entry.terms.whole, "what is read again has other keys, so nothing could be taken back"
    (letter,) = side.all(sa.select(dead_letter.c.id))
    side.execute(sa.update(dead_letter).values(record=b"short", record_bytes=5))
    (done,) = retry_letters(side.site, [letter.id])
    assert not done.failed, done

    rows = side.rows(note)
    assert len({row["id"] for row in rows}) == 1_001
    assert {row["rank"] for row in rows} == {3}
    assert len({row.key for row in side.all(sa.select(change.c.key))}) == 1_001


def test_with_their_keys_in_the_file_rows_are_loaded_by_parts(side: Side) -> None:
    lines = "".join(f"{uuid.UUID(int=at)},n{at}\n" for at in range(1_000))
    file = load(side.site, "keyed.csv", f"id,name\n{lines}")
    assert (file.state, file.rows_loaded) == (IntakeState.LOADED, 1_000)
    assert file.parts > 1
    assert {row["rank"] for row in side.rows(note)} == {3}
