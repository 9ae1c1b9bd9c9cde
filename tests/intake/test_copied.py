"""What PostgreSQL's COPY writes is made the same CSV as rows from the driver, and refused where those are."""

from __future__ import annotations

import enum
import uuid
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from exchange.api import Exchange
from exchange.channels import Channel, Stream
from exchange.settings import Settings
from exchange.tables import capture
from exchange.testing.sides import create_tables
from tests.databases import Databases

pytestmark = pytest.mark.postgres


class Mood(enum.Enum):
    """What an enumeration may have."""

    GLAD = "glad"
    FORMULA = "=1+1"


EVERY = sa.Table(
    "every",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("whole", sa.BigInteger),
    sa.Column("narrow", sa.SmallInteger),
    sa.Column("exact", sa.Numeric(8, 2)),
    sa.Column("any_exact", sa.Numeric),
    sa.Column("real", sa.Float),
    sa.Column("single", sa.REAL),
    sa.Column("truth", sa.Boolean),
    sa.Column("word", sa.Text),
    sa.Column("short", sa.String(5)),
    sa.Column("fixed", sa.CHAR(4)),
    sa.Column("day", sa.Date),
    sa.Column("aware", sa.DateTime(timezone=True)),
    sa.Column("naive", sa.DateTime),
    sa.Column("seconds", postgresql.TIMESTAMP(precision=0)),
    sa.Column("clock", sa.Time),
    sa.Column("span", sa.Interval),
    sa.Column("uuid", sa.Uuid),
    sa.Column("mood", sa.Enum(Mood, native_enum=False, values_callable=lambda kind: [one.value for one in kind])),
    sa.Column("octets", sa.LargeBinary),
    sa.Column("many", postgresql.ARRAY(sa.Text).with_variant(sa.JSON(), "sqlite")),
)
TEXTS = [
    "",
    "a",
    "=1+1",
    "-5",
    "+x",
    "\\N",
    "\\",
    "a\tb",
    "a\nb",
    "\r",
    '"',
    "a,b",
    "NULL",
    "\u00e9\U0001f600",
    "\\t",
    " =2",
]
MOMENT = datetime(2026, 11, 28, 6, 15, tzinfo=UTC)
VALUES: dict[str, list[Any]] = {
    "whole": [0, -1, 2**63 - 1, -(2**63)],
    "narrow": [0, -32768],
    "exact": [Decimal("1.50"), Decimal("-0.01"), Decimal("999999.99")],
    "any_exact": [Decimal("1e30"), Decimal("0.1"), Decimal("NaN")],
    "real": [0.1, 1e22, -0.0, 5e-324, float("inf"), float("nan"), 3.0],
    "single": [0.5, 16777216.0, 0.1],
    "truth": [True, False],
    "word": TEXTS,
    "short": [one for one in TEXTS if len(one) <= 5],
    "fixed": ["a", "abcd", "=1"],
    "day": [date(2026, 2, 28), date(1, 1, 1), date(9999, 12, 31)],
    "aware": [MOMENT, MOMENT.replace(microsecond=120000), MOMENT.replace(year=1), MOMENT.replace(microsecond=1)],
    "naive": [one.replace(tzinfo=None) for one in (MOMENT, MOMENT.replace(microsecond=500000))],
    "seconds": [MOMENT.replace(tzinfo=None)],
    "clock": [MOMENT.time(), MOMENT.replace(microsecond=7).time()],
    "uuid": [uuid.UUID(int=7)],
    "mood": [*Mood],
    "octets": [b"", b"\\x", b"=1", bytes(range(256))],
    "many": [[], ["a", None], TEXTS],
}
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={name: st.sampled_from([*some, None]) for name, some in VALUES.items()}),
    max_size=12,
)
ODD = [
    "UPDATE every SET day = 'infinity'",
    "UPDATE every SET aware = '-infinity'",
    "UPDATE every SET day = '0044-03-15 BC'",
]


@pytest.fixture
def plant(tmp_path: Path, databases: Databases) -> Any:
    """Give a side that sends the table."""
    (tmp_path / "plant").mkdir(mode=0o700)
    channels = [Channel("all", "plant", "office", [Stream(EVERY)])]
    url = databases.fresh("postgresql")
    given_settings = Settings(network="plant", peer="office", home=tmp_path / "plant", database_url=url)
    with Exchange(given_settings, channels=channels) as exchange:
        exchange.migrate()
        with exchange.engine.begin() as connection:
            create_tables(channels)(connection, "plant")
        yield exchange


def both_ways(plant: Exchange, folder: Path, monkeypatch: pytest.MonkeyPatch, *, raw: bool) -> list[Any]:
    """Extract by COPY and by rows of the driver; give bytes and what was counted of each."""
    found = []
    for name, way in (("copied", capture.copied), ("rows", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(capture, "copied", way)
            done = plant.extract("every", folder / f"{name}.csv", raw=raw, replace=True)
        content = (folder / f"{name}.csv").read_bytes()
        found.append((content, done.rows, done.refused, done.defused, done.sentences))
    return found


@pytest.mark.parametrize("raw", [False, True])
@given(rows=ROWS, odd=st.sampled_from(["", "", *ODD]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_copied_is_the_same_csv_to_the_byte(
    plant: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bool, rows: list[dict[str, Any]], odd: str
) -> None:
    with plant.engine.begin() as connection:
        connection.execute(sa.delete(EVERY))
        if rows:
            empty = dict.fromkeys(VALUES)
            connection.execute(sa.insert(EVERY), [{**empty, "id": at, **row} for at, row in enumerate(rows)])
        if odd:
            connection.exec_driver_sql(f"{odd} WHERE id %% 3 = 1")
    copied, by_rows = both_ways(plant, tmp_path, monkeypatch, raw=raw)

    assert copied == by_rows


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        "ALTER COLUMN narrow TYPE bigint",
        "ALTER COLUMN whole TYPE text",
        "ALTER COLUMN short TYPE text",
        "ALTER COLUMN word TYPE bytea USING word::bytea",
        "ALTER COLUMN exact TYPE text",
    ],
)
def test_a_table_that_is_another_one_than_its_model_says_is_judged_alike(
    plant: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    row = {"narrow": 1, "whole": 7, "short": "abcde", "word": "x", "exact": Decimal("1.50")}
    with plant.engine.begin() as connection:
        connection.execute(sa.insert(EVERY), {"id": 0, **row})
        connection.exec_driver_sql(f"ALTER TABLE every {change}")
        values = {"narrow": "99999", "whole": "'007'", "short": "'too long'", "exact": "'1.505'"}
        name = change.split()[2]
        if name in values:
            connection.exec_driver_sql(f"INSERT INTO every (id, {name}) VALUES (9, {values[name]})")
    copied, by_rows = both_ways(plant, tmp_path, monkeypatch, raw=False)

    assert copied == by_rows


def test_rows_that_are_given_up_in_the_middle_leave_a_connection_that_works(plant: Exchange) -> None:
    with plant.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO every (id, word) SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n"
        )
    with plant.engine.connect() as connection:
        found = capture.copied(connection, sa.select(EVERY.c.id, EVERY.c.word).where(EVERY.c.id > sa.bindparam("n", 5)))
        assert found is not None
        with closing(found[1]) as lines:  # type: ignore[type-var]
            assert next(lines)[0] == b"6\t" + b"x" * 1000 + b"\n"
        assert connection.scalar(sa.select(sa.func.count()).select_from(EVERY)) == 5000


@pytest.mark.thorough
@pytest.mark.parametrize(
    "where",
    [
        ["exact>=1.50"],
        ["day=2026-02-28"],
        ["aware<2027-01-01T00:00:00Z"],
        ["truth=true"],
        ["word=50% of 'it' \\ \"x\""],
        ["word!=50%s"],
        [f"uuid={uuid.UUID(int=7)}"],
        ["whole IS NOT NULL", "id>0"],
        ["word=no such"],
    ],
    ids=range(9),
)
def test_conditions_are_the_same_of_what_is_copied(
    plant: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: list[str]
) -> None:
    row = {name: some[0] for name, some in VALUES.items()}
    words = ["50% of 'it' \\ \"x\"", "50%s"]
    with plant.engine.begin() as connection:
        connection.execute(sa.insert(EVERY), [{**row, "id": at, "word": word} for at, word in enumerate(words)])
        connection.execute(sa.insert(EVERY), {"id": 9})
    found = []
    for name, way in (("copied", capture.copied), ("rows", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(capture, "copied", way)
            done = plant.extract("every", tmp_path / f"{name}.csv", where=where)
        found.append(((tmp_path / f"{name}.csv").read_bytes(), done.rows))

    assert found[0] == found[1]
