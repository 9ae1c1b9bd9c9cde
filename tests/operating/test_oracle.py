"""The oracle sees whatever is not as it is promised: each thing broken on purpose."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import sqlalchemy as sa

from exchange.database import tables
from exchange.link.vain_repairs import MOST_REPAIRS, RepairedRow
from exchange.operating.check import files, ledger, oracle
from exchange.operating.check.oracle import Oracle
from exchange.operating.check.wrong import Kind
from tests.crossing import shop
from tests.crossing.healing import go_round
from tests.crossing.sides import Link
from tests.crossing.test_carriage import Writer

FIRST = 1000
"""Rows from here on are broken, one for each way."""

_NOT_A_VALUE = f"UPDATE account SET name = 'a' || char(0) WHERE id = {FIRST}"
_ALL_LETTERS = "DELETE FROM exchange_dead_letter"
_BROKEN: tuple[tuple[Kind, str, str], ...] = (
    (oracle.DIFFERENT, "one", _ALL_LETTERS),
    (oracle.MISSING, "two", f"DELETE FROM account WHERE id = {FIRST + 1}"),
    (oracle.EXTRA, "two", f"INSERT INTO account (id, name) VALUES ({FIRST + 99}, 'nobody''s')"),
    (oracle.BACK, "two", f"UPDATE account SET exchange_version = 7 WHERE id = {FIRST + 2}"),
    (oracle.BOTH, "two", f"INSERT INTO exchange_tombstone VALUES ('account', '{{\"id\"\\:{FIRST + 3}}}', {2**62})"),
    (oracle.OTHER, "one", "UPDATE exchange_batch SET digest = 'ff' WHERE sequence = 1 AND channel = 'forth'"),
    (oracle.NEVER_SEALED, "one", "DELETE FROM exchange_batch WHERE sequence = 2 AND channel = 'forth'"),
    (oracle.UNSETTLED, "one", f"UPDATE account SET name = 'new' WHERE id = {FIRST + 4}"),
    (ledger.HOLE_IN, "two", "DELETE FROM exchange_batch WHERE sequence = 3 AND channel = 'forth'"),
)
_VAIN = RepairedRow("different", {"id": FIRST + 4}, MOST_REPAIRS, None, "2026-01-01T00:00:00Z", ())
_LEFT = {
    **dict.fromkeys(("sent", "received", "sequence"), 1),
    "direction": "in",
    "channel": "forth",
    "stream": "account",
    "epoch": "0" * 12,
    "buckets": "[]",
    "compared_at": datetime(2026, 1, 1, tzinfo=UTC),
    "in_vain": json.dumps({"rows": [vars(_VAIN)]}),
}
"""That repairs of a row do not hold."""


def at_rest(link: Link) -> Oracle:
    """Let rows of all kinds cross and come to rest, and one that can't be sent as it is."""
    for side in (link.one, link.other):
        side.limit(gap_seconds=0, period_seconds=1e-6)
    writer, seen = Writer(link, 1), Oracle(link.one.site, link.other.site)
    for _ in range(3):
        writer.write()
        go_round(link)
        assert seen.watch() == []
    link.one.execute(sa.insert(shop.account), [{"id": FIRST + number, "name": "n"} for number in range(5)])
    go_round(link)
    link.one.execute(_NOT_A_VALUE)
    for _ in range(4):
        go_round(link)
    assert seen.unsettled() == []
    assert len(link.one.all(sa.select(tables.dead_letter.c.id))) == 1
    return seen


def test_the_oracle_is_content_with_two_sides_at_rest_and_sees_each_thing_that_is_broken(small: Link) -> None:
    link, seen = small, at_rest(small)
    assert [str(one) for one in seen.judge()] == []

    link.other.execute(f"UPDATE account SET name = 'by hand' WHERE id = {FIRST + 4}")
    assert [one.kind for one in seen.judge()] == [oracle.DIFFERENT]
    link.other.execute(sa.insert(tables.agreement).values(**_LEFT))
    assert [str(one) for one in seen.judge()] == []

    for _, network, statement in _BROKEN:
        (link.one if network == "one" else link.other).execute(statement)
    for file in ("work/forth-0123456789ab-0000000001.jsonl", "archive/stray.txt"):
        (link.other.home / file).write_text("")
    kinds = {one.kind for one in [*seen.judge(), *seen.unsettled()]}
    assert {kind for kind, *_ in _BROKEN} - kinds == set()
    assert {oracle.LEFT, files.NOT_OURS} <= kinds
