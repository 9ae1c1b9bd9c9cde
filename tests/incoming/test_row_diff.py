"""Rows that are not what they are at their source are found and put right, by hand or by a batch that was cut."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from exchange.database.tables import DeadLetterState, RepairState, dead_letter, repair
from exchange.link import reconcile, send_requests
from exchange.link.reconcile import EQUAL, REPAIRED
from tests.crossing.shop import account, everything, node, place, seat
from tests.crossing.sides import Link, Side
from tests.crossing.test_agreement import some_of_everything


def pass_on(link: Link) -> list[str]:
    """Tell the first side what the second one asks for, as a control batch would; give what."""
    asked = link.other.all(sa.select(repair).where(repair.c.state == RepairState.OPEN))
    with link.one.engine.begin() as connection:
        for row in asked:
            send_requests.add_request(
                connection,
                channel=row.channel,
                want=row.want,
                streams=row.streams and json.loads(row.streams),
                buckets=row.buckets and json.loads(row.buckets),
                prune=bool(row.prune),
                reason=row.reason,
                who="the other side",
                answers=row.name,
            )
    return [row.want for row in asked]


def states(side: Side) -> dict[str, str]:
    """Give how each stream that has rows stands."""
    return {one.stream: one.state for one in reconcile.report_agreement(side.site, "forth") if one.rows}


def without_secrets(side: Side, table: sa.Table) -> list[dict[str, Any]]:
    """Give a table's rows as they cross."""
    return [{name: value for name, value in row.items() if name != "password"} for row in side.rows(table)]


def test_rows_changed_removed_and_added_by_hand_are_put_right_and_shown(link: Link) -> None:
    some_of_everything(link.one)
    link.round()
    link.other.execute("UPDATE account SET name = 'by hand' WHERE id IN (5, 17)")
    link.other.execute("DELETE FROM account WHERE id = 8")
    link.other.execute("DELETE FROM node WHERE name = 'leaf 1'")
    link.other.execute("INSERT INTO place (country, number, name) VALUES ('de', 1, 'mine')")
    link.other.execute("UPDATE everything SET truth = NULL WHERE id = 1")

    reconcile.request_checkpoints(link.one.site, "forth")
    link.round()
    assert pass_on(link) == ["snapshot"]
    link.round()

    assert set(states(link.other).values()) == {REPAIRED}
    found = {one.stream: one for one in reconcile.report_agreement(link.other.site, "forth")}
    assert (found["account"].missing, found["account"].extra, found["account"].different) == (1, 0, 2)
    assert found["place"].keys == ({"what": "extra", "key": {"country": "de", "number": 1}},)
    assert pass_on(link) == ["checkpoint"]
    link.round()
    assert set(states(link.other).values()) == {EQUAL}
    for table in (account, place, node, everything):
        assert without_secrets(link.one, table) == without_secrets(link.other, table)
    assert pass_on(link) == []


def test_rows_that_passed_unique_values_round_and_were_cut_apart_are_put_right_by_a_snapshot(small: Link) -> None:
    small.one.limit(batch_records=2)
    codes = ["a", "b", "c", "d"]
    small.one.execute(sa.insert(seat), [{"id": n, "code": code, "row": 1, "rank": n} for n, code in enumerate(codes)])
    small.round()
    small.one.execute(sa.update(seat).values(code="-" + seat.c.code))
    for number, code in enumerate([*codes[1:], codes[0]]):
        small.one.execute(sa.update(seat).where(seat.c.id == number).values(code=code))
    small.round()
    assert [row["code"] for row in small.other.rows(seat)] == codes  # each waits for another one's value
    with small.one.engine.begin() as connection:
        send_requests.add_request(connection, channel="forth", want="snapshot", streams=["seat"], reason="they differ")
    small.round()
    assert small.other.rows(seat) == small.one.rows(seat)
    parked = sa.select(dead_letter.c.id).where(dead_letter.c.state == DeadLetterState.PARKED)
    assert small.other.all(parked) == []
