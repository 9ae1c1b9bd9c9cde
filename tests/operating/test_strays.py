"""Files that nothing speaks of are found, and go when nobody will ask for them; no leap of a clock makes them old."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.database.clock import AHEAD
from exchange.database.engine import now
from exchange.files.batch_files import DRAFT_ENDING
from exchange.format.names import BatchName
from exchange.operating.doctor.leavings import check_strays
from exchange.operating.prune import prune_expired
from exchange.operating.retention_clock import FILE
from tests.crossing import shop
from tests.crossing.sides import Link, Side

DAY = 86_400
UNKNOWN, LEFT = "ffffffffffff", "eeeeeeeeeeee"


def said(side: Side) -> dict[str, str]:
    """Give what doctor says of strays, by the command that comes next."""
    found = list(check_strays(None, side.site))  # type: ignore[arg-type]
    return {one.message: one.command for one in found if one.level != "ok"}


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def files(folder: Path, channel: str, epoch: str, *sequences: int) -> None:
    """Put files of batches into a folder that no row speaks of."""
    for sequence in sequences:
        for ending in (".jsonl.zst", ".manifest.jsonl"):
            (folder / f"{BatchName(channel, epoch, sequence)}{ending}").write_bytes(b"x")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> object:
    """Give a function that turns the clock."""
    return lambda days: monkeypatch.setenv(AHEAD, str(days * DAY))


def test_strays_are_found_and_go_when_nobody_will_ask_for_them(small: Link, at: object) -> None:
    side = small.one
    folders = side.site.spool.folders
    assert said(side) == {}
    side.execute(shop.account.insert().values(id=1, name="n"))
    small.round()
    small.round()
    (sent,) = [row.stem for row in side.all(sa.select(tables.batch.c.stem).where(tables.batch.c.channel == "forth"))]
    (epoch,) = side.all(sa.select(tables.network.c.epoch))[0]
    with side.engine.begin() as connection:
        left = {"epoch": LEFT, "at": now(), "who": "", "reason": "", "number": 1}
        connection.execute(sa.insert(tables.epoch).values(left))
    (folders.archive / f".{'0' * 32}.tmp").write_bytes(b"x")
    files(folders.sealed, "forth", UNKNOWN, 7)
    files(folders.sealed, "forth", LEFT, 1, 2)
    files(folders.sealed, "forth", epoch, 2)  # an export died before its commit: the next one replaces it
    files(folders.sealed, "forth", epoch, 9)
    files(folders.archive, "back", UNKNOWN, 3)
    (folders.work / f"back-{LEFT}-0000000001.jsonl.zst").write_bytes(b"x")

    at(31)  # type: ignore[operator]
    with side.site.spool.drafting() as (file, draft):
        file.write(b"somebody writes this")
        (folders.tmp / f"1-abc{DRAFT_ENDING}").write_bytes(b"x")
        found = said(side)
        for words, command in (
            ("2 drafts lie there that nobody writes any more", "exchange prune"),
            (f"4 files lie in sealed of which the ledger knows nothing, of epochs {epoch}, {UNKNOWN}", ""),
            ("3 files of epochs that were left", "exchange prune"),
            ("1 batches lie in archive of which the ledger knows nothing", ""),
            ("1 data files lie in work without a manifest", "exchange prune"),
        ):
            ((message, after),) = ((one, found[one]) for one in found if _same(words, one))
            assert after == command, message
        assert len(found) == 5
        before = names(folders.sealed)
        pruned = prune_expired(side.site)
        assert pruned.stray == 1 + 3 + 1  # one draft lay in the archive
        assert draft.exists()
    assert before - names(folders.sealed) >= {
        f"forth-{LEFT}-0000000001.manifest.jsonl",
        f"forth-{LEFT}-0000000002.jsonl.zst",
    }
    assert f"forth-{LEFT}-0000000002.manifest.jsonl" in names(folders.sealed)  # tells that the epoch was
    assert {f"forth-{UNKNOWN}-0000000007.jsonl.zst", f"forth-{epoch}-0000000009.jsonl.zst"} < names(folders.sealed)
    assert names(folders.work) == set()

    # Its row says that it went, but its files could not be removed then.
    side.execute(sa.update(tables.batch).where(tables.batch.c.stem == sent).values(pruned_at=now()))
    files(folders.sealed, "forth", epoch, 1)
    assert any("ledger says were pruned" in one for one in said(side))
    prune_expired(side.site)
    assert not any(sent in name for name in names(folders.sealed))

    side.execute(shop.account.insert().values(id=2, name="n"))
    side.export()
    for name in names(folders.sealed):
        if epoch in name:
            (folders.sealed / name).unlink()
    assert any("may be asked for and are no longer in sealed" in one for one in said(side))


def _same(words: str, message: str) -> bool:
    """Whether a message has these words; epochs stand in it in any order of their names."""
    first, _, epochs = words.partition(", of epochs ")
    return first in message and all(one in message for one in epochs.split(", "))


def test_what_a_killed_export_left_in_tmp_goes_when_the_next_one_begins_a_batch(small: Link, at: object) -> None:
    left = small.one.site.spool.folders.tmp / f"1-abc{DRAFT_ENDING}"
    left.write_bytes(b"x")
    with small.one.site.spool.drafting():
        assert left.exists()  # somebody may have begun it just now
    at(1)  # type: ignore[operator]
    with small.one.site.spool.drafting() as (_, mine):
        assert list(left.parent.iterdir()) == [mine]


def test_a_clock_that_leaps_ahead_or_back_lets_nothing_go_early(quick_receiver: Side, at: object) -> None:
    side, turn = quick_receiver, at
    archive = side.site.spool.folders.archive
    files(archive, "forth", UNKNOWN, 1)

    def prune_at(days: float) -> set[str]:
        turn(days)  # type: ignore[operator]
        prune_expired(side.site)
        return names(archive)

    before = names(archive)
    assert prune_at(0) == before
    assert prune_at(400) == before  # the clock was wrong
    turn(403)  # type: ignore[operator]
    assert any("the last prune was 3.0 days ago" in one for one in said(side))
    for day in range(401, 430):  # it stays so, or was right before: then time passes as ever
        assert prune_at(day) == before
    assert prune_at(430.5) == set()

    files(archive, "forth", UNKNOWN, 2)
    assert len(prune_at(5)) == 2  # put right
    assert len(prune_at(-900)) == 2
    assert len(prune_at(6)) == 2
    (side.home / FILE).write_bytes(b"not JSON")
    assert len(prune_at(400)) == 2  # when it was written counts
    assert len(json.loads((side.home / FILE).read_bytes())["leaps"]) == 1
