"""``exchange extract``: what is written, of which rows, and what keeps it from being written."""

from __future__ import annotations

import builtins
import gzip
import json
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard
from pyarrow import parquet

from exchange.api import Exchange, RefusedArgument
from exchange.api.acts import ByPerson
from exchange.celery import work
from exchange.channels import Channel, Stream
from exchange.database import tables
from exchange.intake.extract import Asked, extract
from exchange.people.roles import Forbidden, Person, Role
from exchange.settings import Settings
from exchange.testing.sides import create_tables
from tests.channels.test_codecs_round_trip import every_type, rows
from tests.cli.conftest import Pair
from tests.databases import Databases

goods = sa.Table(
    "goods",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(80)),
    sa.Column("price", sa.Numeric(8, 2)),
    sa.Column("sold", sa.DateTime(timezone=True)),
    sa.Column("weight", sa.REAL),
    sa.Column("facts", sa.JSON(none_as_null=True)),
    sa.Column("buyer", sa.Text),
)
CHANNELS = [Channel("goods", "plant", "office", [Stream(goods, sensitive=["buyer"])])]
MORNING, MIDNIGHT = datetime(2026, 11, 22, 6, 15, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)
ROWS: list[tuple[Any, ...]] = [
    (1, "=1+1", Decimal("1.50"), MORNING, 0.1, {"a": [None]}, "eve"),
    (2, "", Decimal("-3.00"), None, -2.5, sa.JSON.NULL, "bob"),
    (3, None, Decimal("80.00"), MIDNIGHT, None, None, None),
    (4, '-5 "a",\r\nb', None, None, 1.0, "=", None),
    (5, "-5", None, None, None, 5, None),
]
CSV = (
    "id,name,price,sold,weight,facts\n"
    '1,"\'=1+1",1.50,2026-11-22T06:15:00.000000Z,0.1,"{""a"":[null]}"\n'
    '2,"",-3.00,,-2.5,null\n'
    "3,,80.00,2026-11-23T00:00:00.000000Z,,\n"
    '4,"\'-5 ""a"",\r\nb",,,1.0,"""="""\n'
    '5,"-5",,,,"5"\n'
)


@contextmanager
def plant_of(channels: list[Channel], home: Path, url: str) -> Iterator[Exchange]:
    """Give the side of a plant in a database that ``prepared`` has made."""
    home.mkdir(mode=0o700)
    with Exchange(Settings(network="plant", peer="office", home=home, database_url=url), channels=channels) as exchange:
        exchange.migrate()
        yield exchange


def prepared(channels: list[Channel], rows: Sequence[Any], home: Path, url: str) -> None:
    """Make the tables of a plant, with their rows, for whichever home comes first."""
    with plant_of(channels, home, url) as exchange, exchange.engine.begin() as connection:
        create_tables(channels)(connection, "plant")
        for row in rows:  # one by one: executemany would bind JSON's null as NULL
            connection.execute(sa.insert(channels[0].streams[0].table).values(row))
        connection.execute(sa.update(tables.network).values(home=None, home_place=None))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def plant(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Exchange]:
    """Give the plant with its goods, on each kind of database."""
    made = partial(prepared, CHANNELS, ROWS, tmp_path / "template")
    url = databases.fresh(request.param, "a plant with goods", made)
    with plant_of(CHANNELS, tmp_path / "plant", url) as exchange:
        yield exchange


def ids(plant: Exchange, *where: str) -> list[int]:
    """Give the ids of the goods that some conditions mean."""
    file = plant.settings.home / "some.jsonl"
    plant.extract("goods", file, where=where, columns=["id"], replace=True, sensitive=True)
    return sorted(json.loads(line)["id"] for line in file.read_text().splitlines())


def test_cells_are_as_intake_reads_them_and_no_spreadsheet_computes_one(plant: Exchange, tmp_path: Path) -> None:
    done = plant.extract("goods", tmp_path / "goods.csv")
    assert (tmp_path / "goods.csv").read_bytes().decode() == CSV
    assert (done.rows, done.refused, done.defused, done.hidden) == (5, 0, 2, ("buyer",))
    plant.extract("goods", tmp_path / "raw.csv.gz", raw=True)
    assert gzip.decompress((tmp_path / "raw.csv.gz").read_bytes()).decode() == CSV.replace("\"'", '"')
    plant.extract("goods", tmp_path / "some.jsonl.zst", columns=["facts", "id"], where=["id<4"])
    lines = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "some.jsonl.zst").read_bytes())
    assert lines.splitlines() == [
        b'{"facts":{"a":[null]},"id":1}',
        b'{"id":2,"facts:json":null}',
        b'{"facts":null,"id":3}',
    ]


def test_a_condition_is_read_by_the_type_of_its_column(plant: Exchange) -> None:
    for conditions, expected in (
        (["price>=1.5"], [1, 3]),
        (["price<80.0", "price > -3"], [1]),
        (["price!=80"], [1, 2, 4, 5]),
        (["sold>2026-11-22"], [1, 3]),
        (["sold<=2026-11-22T08:15:00+02:00"], [1]),
        (["weight=0.1"], [1]),
        (["name="], [2]),
        (["name IS NULL"], [3]),
        (["facts is not null"], [1, 2, 4, 5]),
        (["name=' OR 1=1 --"], []),
        (["buyer=eve"], [1]),
    ):
        assert ids(plant, *conditions) == expected, conditions
    with pytest.raises(RefusedArgument, match=r'^where: price: expected a decimal .* found "80x"; nothing was written'):
        ids(plant, "price=80x")


@pytest.mark.same_on("postgresql")
def test_what_makes_no_sense_is_one_sentence_and_no_file(plant: Exchange, tmp_path: Path) -> None:
    file = tmp_path / "goods.csv"
    (tmp_path / "folder.csv").mkdir()
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"where": ["prize=1"]}, "where: expected COLUMN=VALUE .* found 'prize=1'"),
        ({"where": ["facts=1"]}, "where: facts can only be asked for IS NULL or IS NOT NULL"),
        ({"columns": ["id", "prize"]}, "columns: expected some of id, name, .* found 'prize'"),
        ({"columns": ["name"]}, "columns: name alone may be NULL"),
        ({"columns": ["buyer"]}, "buyer is sensitive: --sensitive writes it"),
        ({"where": ["buyer=eve"]}, "buyer is sensitive"),
        ({"stream": "good"}, "stream: expected one of goods, found 'good'"),
        ({"format": "jsonl"}, "format: expected csv, as the file's name says, found jsonl"),
        ({"to": tmp_path / "goods.xls"}, "expected a name that ends in .csv, .jsonl or .parquet"),
        ({"to": tmp_path / "goods.parquet.gz"}, "Parquet is compressed within"),
        ({"to": tmp_path / "folder.csv"}, "expected a new file or a plain one"),
    ]
    for asked, sentence in refusals:
        with pytest.raises(RefusedArgument, match=sentence):
            plant.extract(**{"stream": "goods", "to": file, "format": None if "to" in asked else "csv", **asked})
    file.write_text("mine")
    with pytest.raises(RefusedArgument, match=r"goods.csv: expected a new file, found one; --force replaces it"):
        plant.extract("goods", file)
    assert sorted(one.name for one in tmp_path.iterdir() if "goods" in one.name) == ["goods.csv"]
    assert file.read_text() == "mine"
    plant.extract("goods", file, replace=True)
    assert file.read_bytes().decode() == CSV


@pytest.mark.same_on("postgresql")
def test_a_disk_without_room_leaves_nothing_behind(plant: Exchange, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(Exception, match="File too large") as raised:
            extract_alone(plant, folder / "goods.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(raised.value, OSError)
    assert raised.value.filename == str(folder / "goods.csv")
    assert list(folder.iterdir()) == []


def extract_alone(plant: Exchange, file: Path) -> None:
    """Extract without a row in the audit: of a database no file may grow either."""
    extract(plant.site, Asked("goods", file))


def test_a_row_that_can_not_cross_is_left_out_and_said(plant: Exchange, tmp_path: Path) -> None:
    plant.engine.dispose()
    with plant.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("UPDATE goods SET price = 'much' WHERE id = 3")
        else:
            connection.exec_driver_sql("UPDATE goods SET sold = 'infinity' WHERE id = 3")
    done = plant.extract("goods", tmp_path / "goods.csv")
    assert (done.rows, done.refused) == (4, 1)
    assert done.sentences[0].startswith("id 3: ")
    assert "\n3," not in (tmp_path / "goods.csv").read_text()


@pytest.mark.same_on("postgresql")
def test_who_asked_for_what_is_in_the_audit_but_no_value_and_what_is_sensitive_needs_the_right(
    plant: Exchange, tmp_path: Path
) -> None:
    file = tmp_path / "goods.jsonl"
    plant.extract("goods", file, where=["buyer=eve", "id<9"], sensitive=True, who="nora", reason="asked for")
    assert json.loads(file.read_text())["buyer"] == "eve"
    (entry,) = plant.audit.list(action="extract").entries
    assert (entry.who, entry.why) == ("nora", "asked for")
    assert entry.arguments == {"stream": "goods", "to": str(file), "where": ["buyer=", "id<"], "sensitive": True}
    assert entry.result is not None
    assert entry.result["rows"] == 1
    for person, allowed in (
        (Person("vera", Role.VIEWER, sees_sensitive=True), False),
        (Person("otto", Role.OPERATOR), False),
        (Person("olga", Role.OPERATOR, sees_sensitive=True), True),
    ):
        asking = plant.on_behalf(ByPerson(person, "console"))
        if allowed:
            assert asking.extract("goods", file, sensitive=True, replace=True).rows == 5
        else:
            with pytest.raises(Forbidden):
                asking.extract("goods", file, sensitive=True, replace=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def every(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Exchange]:
    """Give a plant with a table of every type that both databases have."""
    channels = [Channel("every", "plant", "office", [Stream(every_type(nullable=True))])]
    made = partial(prepared, channels, rows(nullable=True), tmp_path / "template")
    url = databases.fresh(request.param, "a plant with every type", made)
    with plant_of(channels, tmp_path / "plant", url) as exchange:
        yield exchange


@pytest.mark.same_on("postgresql")
def test_parquet_has_every_value_exactly(every: Exchange, tmp_path: Path) -> None:
    with pytest.raises(
        RefusedArgument, match="columns: Parquet keeps decimals of at most 76 digits, and decimal has no"
    ):
        every.extract("every", tmp_path / "every.parquet")
    (stream,) = every.site.channels[0].streams
    columns = [name for name in stream.names if name != "decimal"]
    every.extract("every", tmp_path / "every.parquet", columns=columns)
    every.extract("every", tmp_path / "every.jsonl", columns=columns)
    found = parquet.read_table(tmp_path / "every.parquet")
    with every.engine.connect() as connection:
        kept = connection.execute(sa.select(stream.table)).mappings().all()
    as_lines = [json.loads(line) for line in (tmp_path / "every.jsonl").read_bytes().splitlines()]
    written = found.drop_columns(["naive", "seconds", "aware"]).to_pylist()
    for row, own, line in zip(written, kept, as_lines, strict=True):
        for name in ("small", "big", "money", "fraction", "count", "real", "truth", "text", "day", "clock", "octets"):
            assert row[name] == own[name], name
        assert row["span"] == line["span"]
        assert row["uuid"] == line["uuid"]
        document = None if row["document"] is None else json.loads(row["document"])
        assert document == line["document"]
    moments = found.column("aware").cast("string").to_pylist()
    assert [one and one.replace(" ", "T") for one in moments] == [line["aware"] for line in as_lines]


@pytest.mark.same_on("postgresql")
def test_without_pyarrow_it_is_said_what_brings_it(
    plant: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RefusedArgument, match=r"pyarrow, which is not installed; pip install 'exchange\[parquet\]'"):
        plant.extract("goods", tmp_path / "goods.parquet")
    assert not (tmp_path / "goods.parquet").exists()


def test_the_command_and_the_task_write_the_same(seeded: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = seeded.response
    said = side.do("extract", "user", "--to", str(tmp_path / "users.csv"), "--where", "active=true").out
    assert said == f"{tmp_path}/users.csv: 1 rows of user\n"
    out = side.do("extract", "user", "--to", "-", "--format", "csv", "--where", "active=true").out
    assert out == (tmp_path / "users.csv").read_text()
    line = side.do("extract", "user", "--to", str(tmp_path / "users.jsonl"), "--columns", "id,name", "--json").line
    assert (line["rows"], line["columns"]) == (1, ["id", "name"])
    sentence = side.refused("extract", "user", "--to", "-", code=2)
    assert (
        sentence
        == "format: expected one of csv, jsonl, parquet beside standard output, found none; nothing was written"
    )
    sentence = side.refused("extract", "user", "--to", str(tmp_path / "none" / "users.csv"), code=1)
    assert sentence.startswith(f"{tmp_path / 'none'}: No such file or directory; ")
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    work.forget_settings()
    again = work.WORK["exchange.extract"]("user", str(tmp_path / "again.csv"), where=["active=true"])
    assert again["message"] == f"1 rows of user lie in {tmp_path}/again.csv"
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "users.csv").read_bytes()
    with pytest.raises(RefusedArgument, match=r"to: expected a file's whole path, found 'again.csv'"):
        work.WORK["exchange.extract"]("user", "again.csv")
