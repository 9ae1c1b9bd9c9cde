"""``exchange check``: each thing that one side can prove of itself, broken on purpose, and none while all is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.operating.check import examine_side, files, ledger, rows
from exchange.operating.check.wrong import Kind
from exchange.operating.doctor.finding import Finding, Level
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.conftest import every_pair
from tests.crossing.healing import go_round
from tests.crossing.sides import Link, Side
from tests.crossing.test_carriage import Writer
from tests.operating.test_oracle import FIRST, at_rest

_SETTINGS: Any = SimpleNamespace(peer="the other side")


def look(side: Side, *, deep: bool = True) -> list[Finding]:
    """Give what is not well."""
    return [one for one in examine_side(_SETTINGS, side.site, deep=deep, pause=0) if one.level is not Level.OK]


def _remove(side: Side, folder: str, pattern: str) -> None:
    for path in (side.home / folder).glob(pattern):
        path.unlink()


def _change(side: Side, folder: str, pattern: str) -> None:
    for path in (side.home / folder).glob(pattern):
        path.write_bytes(path.read_bytes()[:-1] + b"?")


_ANY_BATCH = "(SELECT max(id) FROM exchange_batch WHERE channel = 'forth')"
_ITS_EVENTS = (
    "SELECT subject, subject_id, at, to_state, cause, who FROM exchange_event"
    f" WHERE subject = 'batch' AND subject_id = {_ANY_BATCH}"
)
_BROKEN: tuple[tuple[Kind, str, str | Callable[[Side], None]], ...] = (
    (files.NOT_SEALED, "one", lambda side: _remove(side, "sealed", "forth-*1.jsonl*")),
    (files.NOT_ARCHIVED, "two", lambda side: _remove(side, "archive", "forth-*1.jsonl*")),
    (files.CHANGED, "one", lambda side: _change(side, "sealed", "forth-*2.jsonl*")),
    (files.CHANGED, "two", lambda side: _change(side, "archive", "forth-*2.jsonl*")),
    (files.UNKNOWN, "one", lambda side: (side.home / "outgoing" / "forth-ffffffffffff-0000000009.jsonl").touch()),
    (files.UNKNOWN, "two", lambda side: (side.home / "archive" / "forth-ffffffffffff-0000000009~2.jsonl").touch()),
    (files.NOT_OURS, "two", lambda side: (side.home / "quarantine" / "notes.txt").touch()),
    (files.UNPAIRED, "two", lambda side: (side.home / "work" / "forth-ffffffffffff-0000000009.jsonl").touch()),
    (ledger.LETTERS, "one", "UPDATE exchange_dead_letter_count SET letters = letters + 1"),
    (rows.UNSENT, "one", "DELETE FROM exchange_dead_letter"),
    (rows.NOBODYS, "two", f"INSERT INTO account (id, name) VALUES ({FIRST + 99}, 'nobody''s')"),
    (rows.UNREADABLE, "two", f"UPDATE account SET name = 'a' || char(0) WHERE id = {FIRST + 1}"),
    (rows.TOO_NEW, "two", f"UPDATE account SET exchange_version = {2**62} WHERE id = {FIRST + 2}"),
    (rows.DELETED, "two", f"INSERT INTO exchange_tombstone VALUES ('account', '{{\"id\"\\:{FIRST + 3}}}', {2**61})"),
    (ledger.OTHER_STATE, "one", f"UPDATE exchange_batch SET state = 'published' WHERE id = {_ANY_BATCH}"),
    (ledger.COUNTS, "two", f"UPDATE exchange_batch SET applied = applied + 1 WHERE id = {_ANY_BATCH}"),
    (
        ledger.TWICE,
        "two",
        f"INSERT INTO exchange_event (subject, subject_id, at, to_state, cause, who) {_ITS_EVENTS}",
    ),
    (ledger.OTHER_DIGEST, "two", "UPDATE exchange_position SET digest = 'ff' WHERE channel = 'forth'"),
    (ledger.HOLE_OUT, "one", "DELETE FROM exchange_batch WHERE channel = 'forth' AND sequence = 3"),
    (ledger.HOLE_IN, "two", "DELETE FROM exchange_batch WHERE channel = 'forth' AND sequence = 3"),
    (ledger.AHEAD, "two", "UPDATE exchange_position SET sequence = 1 WHERE channel = 'forth' AND direction = 'in'"),
)


@pytest.mark.thorough
def test_nothing_is_found_on_sides_at_rest_and_each_thing_that_is_broken_is_with_what_comes_next(small: Link) -> None:
    at_rest(small)
    sides = {"one": small.one, "two": small.other}
    for side in sides.values():
        assert [one.message for one in look(side) if one.check != "agreement"] == []
    for broken in (_BROKEN[:-1], _BROKEN[-1:]):  # the last one hides another
        for _, network, breaking in broken:
            if isinstance(breaking, str):
                sides[network].execute(breaking)
            else:
                breaking(sides[network])
        found = {name: look(side) for name, side in sides.items()}
        for kind, network, _ in broken:
            (one,) = (one for one in found[network] if kind.what in one.message)
            assert (one.check, one.level, bool(one.remedy)) == (kind.check, kind.level, True)


def test_changes_that_no_export_takes_and_triggers_that_are_gone_are_found(small: Link) -> None:
    go_round(small)
    small.one.execute(sa.insert(shop.account), [{"id": 1, "name": "n"}])
    assert {one.check for one in look(small.one, deep=False)} == {"agreement"}
    small.one.execute("UPDATE exchange_success SET at = '2026-01-01 00:00:00.000000'")
    with small.one.engine.begin() as connection:
        capture.drop(connection, "account")
    found = {one.check: one.message for one in look(small.one, deep=False)}
    assert "changes of channel forth wait, and no export of it was done for long" in found["pending"]
    assert "not captured" in found["tables"]


@every_pair
@pytest.mark.torture
def test_nothing_is_found_while_both_sides_work(link: Link, seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    ended = threading.Event()
    said: list[str] = []

    def watch(side: Side) -> None:
        while not ended.is_set():
            said.extend(f"{side.site.network}: {one.message}" for one in look(side) if one.check != "agreement")
            time.sleep(0.01)

    watchers = [threading.Thread(target=watch, args=(side,)) for side in (link.one, link.other)]
    for side in (link.one, link.other):
        side.limit(batch_records=7, gap_seconds=0, period_seconds=1e-6)
    writer = Writer(link, seed)
    for one in watchers:
        one.start()
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            writer.write()
            go_round(link)
    finally:
        ended.set()
        for one in watchers:
            one.join()
    assert said == []
