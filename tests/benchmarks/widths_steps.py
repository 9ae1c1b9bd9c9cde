"""The steps that are measured of rows of many shapes: ours, and COPY of ready rows into the same table.

python -m tests.benchmarks.widths_steps NAME JSON-ARGUMENTS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psycopg
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.database import make_engine
from exchange.database import network as own_network
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.errors import Verdict
from exchange.format.signing import TrustedKeys
from exchange.incoming import importer
from exchange.link.home import take_over
from exchange.operating import migrate
from exchange.outgoing import exporter
from exchange.site import Site
from exchange.tables import capture
from tests.benchmarks.measuring import Clock, answer
from tests.benchmarks.steps import server_of

NUMBERS = 5
"""So many columns of whole numbers each table has: indexes and foreign keys are on them."""
OWNERS = 1_000
_PIECE_BYTES = 1 << 20
_PARTS = 32
"""After so many pieces of 32 bytes a long text begins anew."""


class Shape(NamedTuple):
    """What rows are like: texts of so many bytes, and what the table has of indexes and foreign keys."""

    name: str
    texts: int
    length: int
    indexes: int = 0
    parents: int = 0

    @property
    def width(self) -> int:
        """About how many bytes a row has."""
        return 40 + self.texts * (self.length + 1)


def tables(shape: Shape) -> tuple[sa.Table, sa.Table]:
    """Describe the table of a shape, and the one that its rows may refer to."""
    metadata = sa.MetaData()
    owner = sa.Table("owner", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
    numbers = [
        sa.Column(
            f"number_{at}",
            sa.Integer,
            *([sa.ForeignKey("owner.id")] if at < shape.parents else []),
            index=at < shape.indexes,
            nullable=False,
        )
        for at in range(NUMBERS)
    ]
    texts = [sa.Column(f"text_{at}", sa.Text, nullable=False) for at in range(shape.texts)]
    return owner, sa.Table("wide", metadata, sa.Column("id", sa.Integer, primary_key=True), *numbers, *texts)


def site(url: str, home: str, shape: Shape, network: str) -> Site:
    """Assemble one side."""
    folder = Path(home)
    channels = (Channel("wide", "request", "response", [*map(Stream, tables(shape))]),)
    here = Site(
        network=network,
        peer="response" if network == "request" else "request",
        engine=make_engine(url),
        channels=channels,
        spool=Spool(Folders(folder, folder / "outgoing", folder / "incoming")),
        checkers={stream.name: Checker(stream) for channel in channels for stream in channel.streams},
        signing_key=None,
        trusted=TrustedKeys({}),
        require_signature=False,
    )
    here.spool.prepare(make=True)
    take_over(here)
    with here.engine.connect():  # before the clock starts: a worker has a connection
        pass
    return here


def make(url: str, shape: Shape, network: str, rows: int) -> None:
    """Make both tables in an empty database, with owners, and so many rows whose capture is pending."""
    engine = make_engine(url)
    migrate.upgrade(engine, (migrate.CORE,), network=network)
    with engine.begin() as connection:
        own_network.open_network(connection, network)
        for table in tables(shape):
            table.create(connection)
            if network == "request":
                capture.install(connection, table.name)
            else:
                capture.add_version_column(connection, table.name)
        connection.exec_driver_sql(f"INSERT INTO owner (id) SELECT n FROM generate_series(0, {OWNERS - 1}) n")
        connection.exec_driver_sql("DELETE FROM exchange_change")
        numbers = [f"(n * {at + 7}) %% {OWNERS}" for at in range(NUMBERS)]
        texts = [_text(at, shape.length) for at in range(shape.texts)]
        connection.exec_driver_sql(
            f"INSERT INTO wide SELECT {', '.join(['n', *numbers, *texts])} FROM generate_series(1, {rows}) n"
        )
    engine.dispose()


def _text(at: int, length: int) -> str:
    """Give a text that differs in each row and is hard to pack."""
    parts = [f"md5((n * 1000 + {at * 31 + part})::text)" for part in range(min(-(-length // 32), _PARTS))]
    again = -(-length // (32 * _PARTS))
    return f"left(repeat({' || '.join(parts)}, {again}), {length})"


def write_ready(url: str, shape: Shape, file: Path) -> None:
    """Write the rows as COPY reads them."""
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY wide ({_columns(shape)}) TO STDOUT") as copy,
        file.open("wb") as out,
    ):
        out.writelines(copy)


def _columns(shape: Shape) -> str:
    return ", ".join(column.name for column in tables(shape)[1].columns)


def send(clock: Clock, shape: Shape, *, url: str, home: str) -> int:
    """Export all that is pending."""
    here = site(url, home, shape, "request")
    with clock:
        done = exporter.export(here, channel="wide", stopping=importer.never)
    assert done.trouble is None, done.trouble
    return sum(batch.records for batch in done.batches)


def take(clock: Clock, shape: Shape, *, url: str, home: str) -> int:
    """Import all that arrived."""
    here = site(url, home, shape, "response")
    with clock:
        done = importer.import_batches(here)
    assert done.trouble is None, done.trouble
    for one in done.batches:
        assert one.verdict is Verdict.APPLIED, one.message
    return sum(batch.records.applied for batch in done.batches)


def copy_ready(clock: Clock, shape: Shape, *, url: str, file: str) -> int:
    """COPY ready rows into the table that ours go to, with its indexes and constraints."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor, clock:
        with cursor.copy(f"COPY wide ({_columns(shape)}) FROM STDIN") as copy, Path(file).open("rb") as rows:
            while piece := rows.read(_PIECE_BYTES):
                copy.write(piece)
        records = cursor.rowcount
        connection.commit()
    return records


STEPS: dict[str, Callable[..., int]] = {step.__name__: step for step in (send, take, copy_ready)}


def main() -> None:
    """Run the step that is named and say what it took."""
    name, arguments = sys.argv[1:]
    given = json.loads(arguments)
    shape = Shape(*given.pop("shape"))
    clock = Clock(server=server_of(given["url"]))
    answer(clock, STEPS[name](clock, shape, **given))


if __name__ == "__main__":
    main()
