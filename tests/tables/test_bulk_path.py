"""Rows enter their table in several ways; whichever they take, the outcome is what the most careful way gives."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import sqlalchemy as sa

from exchange.database import tables
from exchange.format.errors import Verdict
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.incoming import apply
from exchange.incoming.manifests import Arrival
from exchange.limits import Limits
from exchange.tables.loader import bulk_path, chunk
from exchange.tables.loader.bulk_path import BulkPath
from exchange.tables.loader.copy import csv, put
from exchange.tables.loader.staging import Rows, Stage
from tests.crossing import shop
from tests.crossing.conftest import needs_postgres
from tests.crossing.forging import Forger, account, delete, upsert
from tests.crossing.sides import Side
from tests.databases import Databases

Records = list[dict[str, Any]]
FIRST = 1_700_000_000_000_000


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def new_side(
    request: pytest.FixtureRequest, tmp_path: Path, databases: Databases
) -> Iterator[Callable[[], tuple[Side, Forger]]]:
    """Give a function that makes a receiver and who forges its batches, on each kind of database."""
    made: list[Side] = []

    def make() -> tuple[Side, Forger]:
        home = tmp_path / f"receiver-{len(made)}"
        side = Side("two", "one", databases, request.param, home, shop.channels, metadata=shop.metadata)
        side.limit(invalid_share=1.0, deleted_share=1.0)
        made.append(side)
        key = SigningKey.generate("one")
        side.site = replace(side.site, trusted=TrustedKeys.from_pems({key.name: key.public_pem()}))
        return side, Forger(side, key)

    yield make
    for side in made:
        side.engine.dispose()


def seat(number: int, version: int, code: str, row: int | None = None, rank: int | None = None) -> dict[str, Any]:
    return upsert("seat", version, id=number, code=code, rank=rank, row=row)


def node(number: int, version: int, parent: int | None) -> dict[str, Any]:
    return upsert("node", version, id=_uuid(number), parent=None if parent is None else _uuid(parent), name="n")


def _uuid(number: int) -> str:
    return str(uuid.UUID(int=number))


def batch(draw: random.Random, number: int) -> Records:
    """Make a batch that conflicts with what is there and within itself, so that no order of lines matters."""
    # Codes pass between all seats of the first batch but four, whose codes others try to take.
    moving = draw.sample(range(4, 30), 26)
    records = [seat(one, 0, f"c{code}") for one, code in zip(moving, draw.sample(moving, 26), strict=True)]
    if number == 0:
        records += [seat(one, 0, f"c{one}") for one in range(4)]
    else:
        records += [
            seat(100 * number + one, 0, draw.choice([f"c{one % 4}", f"new {number} {one}"])) for one in range(9)
        ]
        records += [delete("seat", 0, id=100 * (number - 1) + one) for one in range(5) if number > 1]
    nodes = draw.sample(range(30), 20)
    records += [node(one, 0, draw.choice([None, *range(33)])) for one in nodes]
    records += [delete("node", 0, id=_uuid(one)) for one in set(range(30)) - set(nodes) if draw.random() < 0.3]
    accounts = draw.sample(range(40), 25)
    records += [account(one, 0, age=draw.choice([None, 7, 70, 200])) for one in accounts]
    for at, record in enumerate(records):
        old = record["stream"] != "seat" and draw.random() < 0.2
        record["version"] = FIRST + 200 * number + at - 250 * old
    return records


def outcome(side: Side) -> dict[str, Any]:
    """Give everything that batches have left behind."""
    letters, batches = tables.dead_letter.c, tables.batch.c
    versions: sa.ColumnElement[Any] = sa.column(tables.VERSION_COLUMN)
    return {
        **{
            table.name: sorted(map(tuple, side.all(sa.select(*table.c, versions).select_from(table))), key=repr)
            for table in (shop.seat, shop.node, shop.account)
        },
        "letters": side.all(
            sa.select(letters.batch, letters.line, letters.error).order_by(letters.batch, letters.line)
        ),
        "counts": side.all(
            sa.select(batches.applied, batches.duplicate, batches.stale, batches.parked).order_by(batches.sequence)
        ),
    }


def statements(side: Side, run: Callable[[], Any]) -> list[str]:
    """Run something and give what it asked of the database."""
    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sa.event.listen(side.engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        sa.event.remove(side.engine, "before_cursor_execute", note)
    return [one for one in said if "account" in one or "seat" in one or "exchange_arriving" in one]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 30))])
def test_few_rows_at_a_time_end_where_all_compared_at_once_do(
    seed: int, new_side: Callable[[], tuple[Side, Forger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    batches = [batch(draw, number) for number in range(3)]
    (careful, to_careful), (usual, to_usual) = new_side(), new_side()
    for records in batches:
        to_careful.send(records)
        to_usual.send(records)

    with monkeypatch.context() as patch:
        patch.setattr(BulkPath, "write", lambda path, rows: path.stage.add(rows))
        assert {one.verdict for one in careful.take_in().batches} == {Verdict.APPLIED}
    monkeypatch.setattr(chunk, "FIRST_ROWS", 2)
    monkeypatch.setattr(chunk, "MOST_ROWS", 5)
    assert {one.verdict for one in usual.take_in().batches} == {Verdict.APPLIED}

    assert outcome(usual) == outcome(careful)
    assert len(outcome(usual)["letters"]) > 10
    assert any(stale for _, _, stale, _ in outcome(usual)["counts"])


def test_new_rows_are_not_staged(new_side: Callable[[], tuple[Side, Forger]]) -> None:
    side, forger = new_side()
    forger.send([account(number, FIRST + number) for number in range(2_000)])

    said = statements(side, side.take_in)

    assert len(side.rows(shop.account)) == 2_000
    assert not [one for one in said if "TEMPORARY TABLE" in one]


def test_changed_and_new_rows_are_staged_and_written_without_a_look(
    new_side: Callable[[], tuple[Side, Forger]],
) -> None:
    side, forger = new_side()
    forger.send([account(number, FIRST + number) for number in range(1_000)])
    side.take_in()
    forger.send([account(number, FIRST + 5_000 + number, age=7) for number in range(500, 1_500)])

    said = statements(side, side.take_in)

    assert [row["age"] for row in side.rows(shop.account)].count(7) == 1_000
    assert sum("TEMPORARY TABLE" in one for one in said) == 1
    assert any("ON CONFLICT" in one for one in said)
    assert not any("exchange_stage" in one for one in said)


def test_only_the_doubtful_wait_for_the_end(new_side: Callable[[], tuple[Side, Forger]]) -> None:
    side, forger = new_side()
    forger.send([account(number, FIRST + number, age=200 if number % 100 == 7 else 20) for number in range(1_000)])

    said = statements(side, side.take_in)

    assert len(side.rows(shop.account)) == 990
    assert outcome(side)["counts"] == [(990, 0, 0, 10)]
    assert not [one for one in said if "ON CONFLICT" in one], "nothing was there, so nothing is replaced"
    assert sum("SELECT" in one and "exchange_arriving_0" in one for one in said) > 0


def test_values_taken_within_a_batch_keep_only_their_later_lines_waiting(
    new_side: Callable[[], tuple[Side, Forger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    keep = Stage.add

    def noted(stage: Stage, rows: Rows) -> None:
        kept.extend(rows.lines)
        keep(stage, rows)

    monkeypatch.setattr(Stage, "add", noted)
    side, forger = new_side()
    codes = ["c10" if number == 50 else f"c{number}" for number in range(1_000)]
    forger.send([seat(number, FIRST + number, code) for number, code in enumerate(codes)])

    side.take_in()

    assert kept == [51]
    assert outcome(side)["letters"] == [(side.all(sa.select(tables.batch.c.stem))[0][0], 51, "unique")]


def test_lines_of_rows_that_waited_are_parked_as_they_came_without_a_second_reading(
    new_side: Callable[[], tuple[Side, Forger]], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[Arrival] = []
    lines = apply._lines

    def noted(arrival: Arrival, data: BinaryIO, limits: Limits) -> Iterator[tuple[int, bytes]]:
        readings.append(arrival)
        return lines(arrival, data, limits)

    monkeypatch.setattr(apply, "_lines", noted)
    records: list[list[sa.Row[Any]]] = []
    for most in (bulk_path.MOST_RECORD_BYTES, -1):
        monkeypatch.setattr(bulk_path, "MOST_RECORD_BYTES", most)
        side, forger = new_side()
        forger.send([account(number, FIRST + number, age=200 if number % 100 == 7 else 20) for number in range(1_000)])
        side.take_in()
        records.append(side.all(sa.select(tables.dead_letter.c.record).order_by(tables.dead_letter.c.line)))

    assert records[0] == records[1]
    assert len(records[0]) == 10
    assert len(readings) == 1, "only what was not kept in memory is read again"


def test_a_row_that_the_constraint_itself_fails_on_is_found_by_writing_it(
    new_side: Callable[[], tuple[Side, Forger]],
) -> None:
    side, forger = new_side()
    with side.engine.begin() as connection:
        quote = connection.dialect.identifier_preparer.quote
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(
                "CREATE TRIGGER wary BEFORE INSERT ON account WHEN NEW.age = 13"
                " BEGIN SELECT RAISE(ABORT, 'not thirteen'); END"
            )
        else:
            connection.exec_driver_sql(f"ALTER TABLE account ADD CHECK (1 / ({quote('age')} - 13) < 9)")
    forger.send([account(number, FIRST + number, age=number) for number in range(20)])

    side.take_in()

    assert [row["age"] for row in side.rows(shop.account)] == [age for age in range(20) if age != 13]
    assert outcome(side)["counts"] == [(19, 0, 0, 1)]


@pytest.mark.parametrize(
    "text, written",
    [
        ("plain", b'"plain"'),
        ('a "quoted" \\ one', rb'"a \"quoted\" \\ one"'),
        ("tab\tline\nreturn\rbell\x07\\n", b'"tab\tline\nreturn\rbell\x07\\\\n"'),
        (r"\.", rb'"\\."'),
        ("null", b'"null"'),
    ],
)
def test_a_text_is_written_for_copy_so_that_it_reads_back(text: str, written: bytes) -> None:
    assert csv([(text, None, 1, True, 0.5)]) == written + b",null,1,true,0.5\n"


@pytest.mark.postgres
def test_copy_reads_back_every_character(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    table = sa.Table("texts", sa.MetaData(), sa.Column("n", sa.Integer), sa.Column("t", sa.Text))
    texts = [chr(code) for code in range(1, 0x250)] + [
        "\\.",
        "\n\\.\n",
        "\\",
        '"',
        '\\"',
        "null",
        "",
        "a\\nb",
        "\u2028😀",
    ]
    with engine.begin() as connection:
        table.create(connection)
        put(connection, table, ["n", "t"], enumerate(texts))
        back = connection.scalars(sa.select(table.c.t).order_by(table.c.n)).all()
    engine.dispose()

    assert back == texts
