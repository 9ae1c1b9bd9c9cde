"""What people drop in these contests: readings of machines, six columns, with their constraints and captured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database import make_engine
from exchange.database import network as own_network
from exchange.operating import migrate
from exchange.tables import capture

MACHINES = 1_000
EVERY = 100
"""One row of so many is bad in the files that have bad ones."""

metadata = sa.MetaData()
machine = sa.Table(
    "machine", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(40), nullable=False)
)
reading = sa.Table(
    "reading",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("machine_id", sa.ForeignKey("machine.id"), nullable=False),
    sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("celsius", sa.Numeric(6, 2)),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("note", sa.Text),
    sa.CheckConstraint("celsius > -274", name="celsius_is_possible"),
)
channels = (Channel("readings", "request", "response", [Stream(machine), Stream(reading)]),)
COLUMNS = ", ".join(column.name for column in reading.columns)
HEADER = COLUMNS.replace(" ", "") + "\n"

_STATES = ("running", "idle", "stopped", "in maintenance")
_NOTES = ("", "", "", "checked", '"said ""fine"", left"')


def line(number: int) -> str:
    """Write a reading of some 65 bytes as CSV."""
    draw = hashlib.blake2b(number.to_bytes(8), digest_size=8).digest()
    seconds, celsius = number * 7 % 86_400, int.from_bytes(draw[:2]) % 20_000 - 2_000
    day = 1 + number // 50_000 % 28
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    moment = f"2026-{1 + number // 1_400_000 % 12:02}-{day:02}T{clock}Z"
    sign = "-" if celsius < 0 else ""
    return (
        f"{number},{1 + draw[2] * 3 % MACHINES},{moment},{sign}{abs(celsius) // 100}.{abs(celsius) % 100:02},"
        f"{_STATES[draw[3] % 4]},{_NOTES[draw[4] % 5]}\n"
    )


def _bad_line(number: int) -> str:
    cells = line(number).rstrip("\n").split(",", 5)
    match number // EVERY % 5:
        case 0:
            cells[3] = "warm"
        case 1:
            cells.pop()
        case 2:
            cells[1] = "2000000000"
        case 3:
            cells[0] = str(number - 1)
        case _:
            cells[3] = "-300.00"
    return ",".join(cells) + "\n"


BAD = "no number; a cell missing; a foreign key without its row; a key that was there; a CHECK constraint broken"


def lines(count: int, *, spoilt: bool = False) -> Iterator[str]:
    """Write so many, of which one in a hundred is bad if they are ``spoilt``."""
    for number in range(1, count + 1):
        yield _bad_line(number) if spoilt and number % EVERY == 0 else line(number)


def write(file: Path, count: int, *, spoilt: bool = False) -> None:
    """Write a file of readings."""
    with file.open("w") as out:
        out.write(HEADER)
        out.writelines(lines(count, spoilt=spoilt))


def make(url: str) -> None:
    """Make the tables in an empty database: captured, with machines, and nothing pending."""
    engine = make_engine(url)
    migrate.upgrade(engine, (migrate.CORE,), network="request")
    with engine.begin() as connection:
        own_network.open_network(connection, "request")
        metadata.create_all(connection)
        for table in (machine, reading):
            capture.install(connection, table.name)
        connection.execute(sa.insert(machine), [{"id": n, "name": f"press {n}"} for n in range(1, MACHINES + 1)])
        connection.exec_driver_sql("DELETE FROM exchange_change")
    engine.dispose()
