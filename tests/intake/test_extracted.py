"""What ``exchange extract`` writes of every type reads back as the same rows, from either database into either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from exchange.api import Exchange
from exchange.channels import Channel, Stream, register_codec
from exchange.channels.intake import Intake
from exchange.database.tables import IntakeState
from exchange.intake import folders
from exchange.settings import Settings
from exchange.testing.sides import create_tables
from tests.channels import test_codecs_postgresql as own
from tests.channels.test_codecs_round_trip import every_type, rows
from tests.databases import Databases
from tests.intake.outcomes import letters, work


class Place(sa.types.UserDefinedType[str]):
    """PostgreSQL's own point, which SQLite keeps as a text."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        return "POINT"


class Mood(sa.types.UserDefinedType[str]):
    """A text that crosses in capitals."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        return "TEXT"


register_codec(
    Place,
    encode=lambda text: text.strip("()").split(","),
    decode=lambda pair: f"({pair[0]},{pair[1]})",
    json_schema={"type": "array", "items": {"type": "string"}},
)
register_codec(Mood, encode=str.upper, decode=str.lower, json_schema={"type": "string"})


def own_table() -> sa.Table:
    """Describe a table of PostgreSQL's types and of two of one's own; the wheel's server has no XML."""
    table = own.the_table(without="xml")
    table.append_column(sa.Column("place", Place))
    table.append_column(sa.Column("mood", Mood))
    return table


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@contextmanager
def plant(home: Path, url: str, table: sa.Table) -> Iterator[Exchange]:
    """Give a side that sends a table, which is there."""
    home.mkdir(mode=0o700)
    channels = [Channel("all", "plant", "office", [Stream(table)])]
    settings = Settings(network="plant", peer="office", home=home, database_url=url, settle_seconds=0)
    with Exchange(settings, channels=channels) as exchange:
        exchange.migrate()
        with exchange.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS hstore")
                create_tables(channels)(connection, "plant")
            else:  # create_all fails for a DOMAIN, variant or not
                connection.execute(sa.schema.CreateTable(table))
        yield exchange


def lines(exchange: Exchange, file: Path) -> list[bytes]:
    """Extract all rows to a file; give its lines in one order."""
    (stream,) = exchange.site.channels[0].streams
    done = exchange.extract(stream.name, file, raw=True, replace=True)
    assert (done.refused, done.sentences) == (0, ())
    return sorted(file.read_bytes().split(b"\n"))


def taken_in(exchange: Exchange, file: Path) -> None:
    """Drop a file into an empty table."""
    (stream,) = exchange.site.channels[0].streams
    site = replace(exchange.site, intakes=(Intake("again", stream.table, folder="drop"),))
    assert folders.make_all(site, None, beyond=True) == []
    with exchange.engine.begin() as connection:
        connection.execute(sa.delete(stream.table))
    (exchange.settings.home / "drop" / file.name).write_bytes(file.read_bytes())
    found = work(site)[f"again/{file.name}"]
    assert (found.state, found.rows_parked) == (IntakeState.LOADED, 0), (found.message, letters(site))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_that_both_databases_have(tmp_path: Path, databases: Databases, kind: str) -> None:
    table = every_type(nullable=True)
    with plant(tmp_path / "plant", databases.fresh(kind), table) as exchange:
        with exchange.engine.begin() as connection:
            connection.execute(sa.insert(table), rows(nullable=True))
        for name in ("every.jsonl", "every.csv"):
            before = lines(exchange, tmp_path / name)
            assert len(before) > 5
            taken_in(exchange, tmp_path / name)
            assert lines(exchange, tmp_path / f"again-{name}") == before


@pytest.mark.postgres
@pytest.mark.thorough
def test_every_type_of_postgresql_alone_and_by_way_of_sqlite(tmp_path: Path, databases: Databases) -> None:
    url = databases.fresh("postgresql")
    files = [tmp_path / "own.jsonl", tmp_path / "own.csv"]
    with plant(tmp_path / "one", url, own_table()) as exchange:
        with exchange.engine.begin() as connection:
            for number in range(own.ROWS):
                row = {name: [*values][number] for name, (_, values) in own.TYPES.items() if number < len(values)}
                row.pop("xml", None)
                marks = ", ".join(["%s", *(f"CAST(%s AS {kind})" for kind in map(own.type_of, row))])
                statement = f"INSERT INTO own ({', '.join(['id', *row])}) VALUES ({marks})"
                connection.exec_driver_sql(statement, (number, *row.values()))
            connection.exec_driver_sql("UPDATE own SET place = '(1.5,-2)', mood = '=\"glad\", not null' WHERE id < 3")
        before = {file: lines(exchange, file) for file in files}
        assert all(len(one) > own.ROWS for one in before.values())
        for file in files:
            taken_in(exchange, file)
            assert lines(exchange, tmp_path / f"again-{file.name}") == before[file]
    with plant(tmp_path / "two", databases.fresh("sqlite"), own_table()) as exchange:
        for file in files:
            taken_in(exchange, file)
            assert lines(exchange, tmp_path / f"there-{file.name}") == before[file]
