"""One dead letter looked at from all sides, and what nobody may see of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from exchange.channels import Channel, Stream
from exchange.database.locks import reading
from exchange.database.tables import DeadLetterState, Direction, dead_letter
from exchange.dead_letters import masking, pages, retry, show
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.groups import grouped
from exchange.dead_letters.show import View
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres, trusted_forger
from tests.crossing.forging import Forger, account, delete, upsert
from tests.crossing.sides import Link, Side
from tests.databases import Databases

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
SECRET = "s3cr3t-6f1c"


def look(side: Side, letter_id: int = 1) -> View:
    with reading(side.engine) as connection:
        view = show.view(side.site, connection, letter_id)
    assert view is not None
    return view


def test_a_letter_is_shown_with_its_place_its_row_and_what_came_after(receiver: Side, forger: Forger) -> None:
    forger.send([account(1, FIRST, name="old", age=30)])
    stem = forger.send([account(2, FIRST + 1), account(1, FIRST + 2, name="new", age=300)])
    receiver.take_in()

    view = look(receiver)
    assert (view.letter.batch, view.letter.line, view.letter.producer) == (stem, 2, "by hand")
    assert (view.letter.error, view.letter.state) == ("constraint", DeadLetterState.PARKED)
    assert view.rule == "account_age: CHECK (age < 200)"
    assert view.record == json.dumps(account(1, FIRST + 2, name="new", age=300))
    assert view.row is not None
    assert view.row.data == {"id": 1, "name": "old", "age": 30}
    assert view.since == f"the row has version {FIRST}, which is older than this record"
    assert list(view.differences) == [("name", "new", "old"), ("age", 300, 30)]
    assert not view.others

    retry.retry_letters(receiver.site, [1])
    assert [event["to_state"] for event in look(receiver).history] == ["parked", "parked"]
    assert look(receiver).history[0]["cause"].startswith("retried")

    forger.send([account(1, FIRST + 3, name="new", age="x")])
    receiver.take_in()
    assert look(receiver).letter.state == DeadLetterState.SUPERSEDED
    assert [one.id for one in look(receiver).others] == [2]
    newest = look(receiver, 2)
    assert (newest.letter.seen, newest.letter.first_seen) == (2, look(receiver).letter.created_at)
    assert [line.text.strip() for line in newest.pretty if line.fails] == ['"age": "x"']
    assert newest.rule is not None
    assert newest.rule.startswith('age: {"')

    forger.send([delete("account", FIRST + 4, id=1)])
    receiver.take_in()
    assert look(receiver).since == f"deleted by version {FIRST + 4}"


@pytest.mark.same_on
def test_the_rules_of_other_constraints_are_shown_too(receiver: Side, forger: Forger) -> None:
    forger.send([upsert("seat", FIRST, id=1, code="a", rank=1, row=1)])
    forger.send(
        [
            upsert("seat", FIRST + 1, id=2, code="b", rank=1, row=1),
            upsert("visit", FIRST + 2, id=1, country="at", number=7),
            b'{"stream": "seat", \x1b',
            b'{"stream":"seat","op":"other","version":1}',
        ]
    )
    receiver.take_in()
    with reading(receiver.engine) as connection:
        ids = {one.error: one.id for one in pages.page(connection, Filters()).letters}
    assert look(receiver, ids["unique"]).rule == "seat_row_rank: UNIQUE (row, rank)"
    orphan = look(receiver, ids["foreign_key"])
    assert orphan.rule == "visit_place: FOREIGN KEY visit (country, number) REFERENCES place (country, number)"
    assert orphan.since == "there is no such row"
    assert orphan.advice.fault == "a missing parent"
    for unread in (look(receiver, ids["json"]), look(receiver, ids["record"])):
        assert (unread.rule, unread.since, unread.row) == (None, None, None)
        assert unread.advice.fault == "sender"
    assert look(receiver, ids["json"]).pretty == ()


@pytest.mark.same_on
def test_every_type_of_key_finds_its_row(receiver: Side, forger: Forger) -> None:
    forger.send([upsert("node", FIRST, id="6513270e-0000-4000-8000-00000000abcd", parent=None, name="root")])
    forger.send([upsert("node", FIRST + 1, id="6513270e-0000-4000-8000-00000000abcd", parent=None, name=5)])
    forger.send([upsert("place", FIRST + 2, country="at", number=1, name="p")])
    forger.send([upsert("place", FIRST + 3, country="at", number=1, name=None)])
    receiver.take_in()
    for letter_id in (1, 2):
        row = look(receiver, letter_id).row
        assert row is not None
        assert row.data is not None
        assert row.version in {FIRST, FIRST + 2}


def test_an_outgoing_letter_shows_its_row(small: Link) -> None:
    small.one.execute(sa.insert(shop.account).values(id=7, name="x" * 40, age=1))
    small.one.execute(sa.insert(shop.node).values(id=shop.TYPES["mark"][1], name="x" * 50))
    small.one.export()
    view = look(small.one)
    assert view.letter.direction is Direction.OUT
    assert view.row is not None
    assert view.row.data is not None
    assert view.row.data["parent"] is None
    assert view.row.data["name"].startswith("(name: expected a string of at most 40 characters")
    assert view.advice.fault == "here"
    small.one.execute(sa.delete(shop.node))
    assert look(small.one).since == "there is no such row"


# What is sensitive


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def discreet(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Side]:
    """Give a receiver to whom names, codes and texts are sensitive, and a place's key too."""
    streams = [
        Stream(shop.account, exclude=["password"], sensitive=["name", "age"]),
        Stream(shop.seat, sensitive=["code", "rank"]),
        Stream(shop.place, sensitive=["country", "name"]),
        Stream(shop.visit, sensitive=["country"]),
    ]
    channels = (Channel("forth", "one", "two", streams),)
    side = Side("two", "one", databases, request.param, tmp_path / "two", channels, metadata=shop.metadata)
    yield side
    side.engine.dispose()


@pytest.mark.same_on
def test_nothing_sensitive_is_seen_anywhere(discreet: Side) -> None:
    if discreet.engine.dialect.name == "postgresql":
        discreet.execute(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'I heard %', NEW.name; END$$"
        )
        discreet.execute(
            "CREATE TRIGGER tell BEFORE INSERT ON account FOR EACH ROW WHEN (NEW.id = 9) EXECUTE FUNCTION tell()"
        )
    forger = trusted_forger(discreet)
    with capture_logs() as logs:
        forger.send([account(1, FIRST, name=SECRET, age=1), upsert("seat", FIRST, id=1, code=SECRET, rank=1, row=1)])
        forger.send(
            [
                account(1, FIRST + 1, name=SECRET * 9, age=1),
                account(2, FIRST + 2, name=SECRET, age=300),
                account(3, FIRST + 3, name=[SECRET], age=1),
                account(9, FIRST + 4, name=SECRET, age=1),
                upsert("seat", FIRST + 5, id=2, code=SECRET, rank=2, row=2),
                upsert("place", FIRST + 6, country=SECRET[:2], number=1, name=SECRET),
                upsert("place", FIRST + 7, country=SECRET[:2], number=1, name=SECRET),
                upsert("place", FIRST + 8, country=SECRET, number=1, name=SECRET),
                upsert("visit", FIRST + 9, id=1, country="s3", number=12345),
                upsert("visit", FIRST + 10, id=2, country=SECRET, number=1, more=SECRET),
                json.dumps(account(4, FIRST + 11, name=SECRET)).replace("name", "n\\u0061me").encode(),
                json.dumps(account(5, FIRST + 12, name=SECRET)).encode()[:-1],
                b'{"stream":"account","name":"' + SECRET.encode() + b'","name":"\xff"}',
                b'{"stream":"account","op":"upsert","version":1,"data":"' + SECRET.encode() + b'"}',
                json.dumps({"stream": "unheard", "name": SECRET, "data": {"country": SECRET}}).encode(),
            ]
        )
        discreet.limit(invalid_share=1.0)
        run = discreet.take_in()
    assert SECRET not in repr(run) + repr(logs)
    with reading(discreet.engine) as connection:
        mask = masking.Mask(discreet.site.channels)
        letters = pages.page(connection, Filters(), limit=100).letters
        groups = grouped(connection, Filters(DeadLetterState.PARKED))
        views = [show.view(discreet.site, connection, one.id) for one in letters]
        stored = connection.scalars(sa.select(dead_letter.c.message)).all()
    assert len(letters) >= 13
    seen = [mask.brief(one).as_dict() for one in letters] + [one.as_dict() for one in groups]
    seen += [view.as_dict() for view in views if view]
    for one in [*seen, *stored]:
        assert SECRET not in repr(one), one
        assert SECRET[:2] not in repr({**one, "id": 0} if isinstance(one, dict) else one), one


@pytest.mark.parametrize("discreet", ["sqlite"], indirect=True)
def test_what_is_not_sensitive_is_shown_whole(discreet: Side) -> None:
    forger = trusted_forger(discreet)
    forger.send([account(1, FIRST, name="a", age="x")])
    discreet.take_in()
    view = look(discreet)
    assert view.record == json.dumps(account(1, FIRST, name="(hidden)", age="(hidden)")).replace(': "(h', ':"(h')
    assert view.letter.key == '{"id":1}'
