"""A compact crossing through databases as others have them: see ``tests/unlike.py``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.tables import dead_letter
from exchange.link import reconcile, send_requests
from tests.cli.conftest import Side as Command
from tests.crossing import shop
from tests.crossing.sides import Link, Side
from tests.postgresql import Cluster
from tests.unlike import UnlikeDatabases, pgbouncer

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def unlike(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """Give two such sides: one knows no encoding, the other one only Western Europe's letters."""
    server = postgres_cluster.url
    home = tmp_path_factory.mktemp("unlike")
    with pgbouncer(server) as bouncer:
        sides, made = [], []
        for name, peer, encoding in (("one", "two", "SQL_ASCII"), ("two", "one", "LATIN1")):
            made.append(UnlikeDatabases(server, bouncer, encoding))
            sides.append(Side(name, peer, made[-1], "postgresql", home / name, shop.channels, metadata=shop.metadata))
        yield Link(sides[0], sides[1])
        for side in sides:
            side.engine.dispose()
        for databases in made:
            databases.drop()


WESTERN = {"name": "äö", "text": "ü\\n 'x'\\\\", "document": {"a": [1, 2.5, None, "é"]}}
"""Values that both encodings store."""


def test_rows_of_every_type_cross_both_ways(unlike: Link) -> None:
    western = {f"{name}{end}": value for name, value in WESTERN.items() for end in ("", "_always")}
    rows = [shop.one_of_everything(1) | western, shop.one_of_everything(2, empty=True) | western]
    for row in rows:
        unlike.one.execute(sa.insert(shop.everything).values(row))
    unlike.one.execute(sa.insert(shop.account).values(id=1, name="Zoë", password="never sent"))
    unlike.one.execute(sa.insert(shop.node).values(id=uuid.UUID(int=1), name="root"))
    unlike.round()
    assert unlike.other.rows(shop.everything) == unlike.one.rows(shop.everything)
    assert unlike.other.rows(shop.everything)[0] == rows[0]

    unlike.one.execute(sa.update(shop.everything).values(real=0.1 + 0.2, naive=None).where(shop.everything.c.id == 1))
    unlike.one.execute(sa.delete(shop.everything).where(shop.everything.c.id == 2))
    unlike.other.execute(sa.insert(shop.note).values(id=1, account=1, text="naïve"))
    unlike.round()
    unlike.other.execute(sa.update(shop.note).values(text="cliché"))
    unlike.round()
    assert unlike.other.rows(shop.everything) == unlike.one.rows(shop.everything)
    assert [row["real"] for row in unlike.other.rows(shop.everything)] == [0.1 + 0.2]
    assert [row["text"] for row in unlike.one.rows(shop.note)] == ["cliché"]


def test_what_an_encoding_can_not_store_is_that_records_fault(unlike: Link) -> None:
    one, two = unlike.one, unlike.other
    one.execute(sa.insert(shop.account), [{"id": 2, "name": "price €"}, {"id": 3, "name": "dûment"}])
    one.execute(sa.insert(shop.seat), [{"id": number, "code": code} for number, code in enumerate("a€b")])
    unlike.round()
    lacking = [one.message for one in _letters(two)]
    assert len(lacking) == 2
    assert all('no equivalent in encoding "LATIN1"' in message for message in lacking)
    assert {row["name"] for row in two.rows(shop.account)} >= {"dûment"}
    assert [row["code"] for row in two.rows(shop.seat)] == ["a", "b"]

    one.execute(sa.update(shop.account).values(name="price in euro").where(shop.account.c.id == 2))
    unlike.round()
    assert len(_letters(two)) == 1


def test_bytes_of_no_encoding_are_that_rows_fault(unlike: Link) -> None:
    one = unlike.one
    one.execute("INSERT INTO account (id, name) VALUES (4, chr(255)), (5, 'fine')")
    one.execute("INSERT INTO place (country, number, name) VALUES (chr(254), 1, 'x'), ('ch', 1, 'Chur')")
    run = one.export()
    assert (run.trouble, run.parked) == (None, 2)
    assert {one.message.partition(";")[0] for one in _letters(one)} == {
        f"{name}: its bytes are not UTF-8" for name in ("name", "country")
    }
    unlike.round()
    assert [row["name"] for row in unlike.other.rows(shop.place)] == ["Chur"]
    one.execute("DELETE FROM account WHERE id = 4")
    one.execute("DELETE FROM place WHERE number = 1 AND name = 'x'")
    unlike.round()


def test_comparisons_snapshots_and_commands_go_through(unlike: Link) -> None:
    one, two = unlike.one, unlike.other
    one.execute(sa.insert(shop.account).values(id=50, name="Zoë"))
    unlike.round()
    two.execute(sa.update(shop.account).values(name="mangled").where(shop.account.c.id == 50))
    reconcile.request_checkpoints(one.site, "forth")
    unlike.round()
    standing = {one.stream: one.state for one in reconcile.report_agreement(two.site, "forth")}
    assert standing["account"] != "equal" == standing["everything"]
    send_requests.add_snapshot_requests(one.site, "forth", ["account"])
    unlike.round()
    assert {row["name"] for row in two.rows(shop.account) if row["id"] == 50} == {"Zoë"}

    for side, peer in ((one, "two"), (two, "one")):
        command = Command("request", side.home)
        command.environment |= {
            "EXCHANGE_NETWORK": side.site.network,
            "EXCHANGE_PEER": peer,
            "EXCHANGE_APP": "tests.crossing.shop:channels",
            "EXCHANGE_DATABASE_URL": side.engine.url.render_as_string(),
        }
        assert f"{side.site.network}, epoch" in command.do("status").out
        command.do("migrate")
        command.do("prune", "--reason", "it costs 5 €")
        assert command.do("audit", "--json").lines[0]["why"] == (
            "it costs 5 €" if side is one else "it costs 5 \\u20ac"
        )
        found = [json.loads(line) for line in command.run("doctor", "--json").out.splitlines()]
        well = {one["check"] for one in found if one["level"] == "ok"}
        assert well >= {"database", "migrations", "audit", "tables", "clock", "batches"}
        assert ("encoding" in well) == (side is two)


def _letters(side: Side) -> list[Any]:
    parked = dead_letter.c.state == "parked"
    return side.all(sa.select(dead_letter.c.error, dead_letter.c.message, dead_letter.c.key).where(parked))
