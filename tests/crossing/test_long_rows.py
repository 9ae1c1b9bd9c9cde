"""Rows up to the limit cross whole, wait whole where they are refused, and longer ones are parked with the setting."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from exchange.database.locks import reading
from exchange.database.tables import DeadLetterState, dead_letter
from exchange.dead_letters import retry
from tests.crossing.shop import everything, one_of_everything
from tests.crossing.sides import Link, Side

pytestmark = pytest.mark.thorough

MEBIBYTE = 1024 * 1024


def insert(side: Side, *sizes: int) -> None:
    rows = [one_of_everything(number) | {"text": "ü" * (size // 2)} for number, size in enumerate(sizes, 1)]
    side.execute(sa.insert(everything), rows)


def lengths(side: Side) -> dict[int, int]:
    with reading(side.engine) as connection:
        return {row.id: len(row.text) * 2 for row in connection.execute(sa.select(everything.c.id, everything.c.text))}


def test_a_row_below_the_limit_crosses_or_waits_whole_and_a_longer_one_names_the_setting(alike: Link) -> None:
    below, above = 15 * MEBIBYTE, 17 * MEBIBYTE
    insert(alike.one, below, above, 10)
    if alike.other.engine.dialect.name == "sqlite":
        alike.other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON everything WHEN NEW.id = 1 BEGIN SELECT RAISE(ABORT, 'not yet'); END"
        )
    else:
        alike.other.execute("ALTER TABLE everything ADD CONSTRAINT no CHECK (id <> 1)")
    alike.round()

    (sent,) = alike.one.all(sa.select(dead_letter))
    assert "at most 16777216 are taken (EXCHANGE_MAX_RECORD_BYTES, on both sides)" in sent.message
    (letter,) = alike.other.all(sa.select(dead_letter))
    assert len(letter.record) == letter.record_bytes > below
    assert lengths(alike.other) == {3: 10}
    if alike.other.engine.dialect.name == "sqlite":
        alike.other.execute("DROP TRIGGER no")
    else:
        alike.other.execute("ALTER TABLE everything DROP CONSTRAINT no")
    (done,) = retry.retry_letters(alike.other.site, [letter.id])
    assert done.state is DeadLetterState.APPLIED, done.message
    assert lengths(alike.other) == {1: below, 3: 10}
