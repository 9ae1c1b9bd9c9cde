"""Parcels that a plant sends and the office is stricter about: dead letters of three causes, one of them hostile.

Both sides are SQLite files. The office has a rule on weights, one on labels, and a column that is sensitive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Enum, ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from exchange.channels import Channel, Stream
from exchange.database.tables import dead_letter
from exchange.settings import Settings
from exchange.tables import capture
from exchange.testing.sides import Sides, two_sides

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202eevil\x1b[31m'


class Base(DeclarativeBase):
    """The application's tables."""


class Depot(Base):
    """Where parcels come from."""

    __tablename__ = "depot"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    town: Mapped[str] = mapped_column(String(40))


class Parcel(Base):
    """A parcel."""

    __tablename__ = "parcel"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    depot_id: Mapped[int] = mapped_column(ForeignKey("depot.id", name="parcel_depot"))
    label: Mapped[str] = mapped_column(String(200))
    weight: Mapped[Decimal] = mapped_column(Numeric(6, 1))
    kind: Mapped[str | None] = mapped_column(Enum("box", "letter", name="parcel_kind"))
    sender: Mapped[str | None] = mapped_column(String(80))
    fragile: Mapped[bool] = mapped_column(default=False)


channels = [
    Channel("parcels", source="plant", target="office", streams=[Stream(Depot), Stream(Parcel, sensitive=["sender"])])
]


def make_tables(connection: Connection, network: str) -> None:
    """Make one side's tables; the office's have rules."""
    metadata = sa.MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata)
    if network == "office":
        parcel = metadata.tables["parcel"]
        parcel.append_constraint(sa.CheckConstraint(parcel.c.weight <= 500, name="parcel_weight"))
        parcel.append_constraint(sa.UniqueConstraint(parcel.c.label, name="parcel_label"))
    metadata.create_all(connection)
    for name in ("depot", "parcel"):
        if network == "plant":
            capture.install(connection, name)
        else:
            capture.add_version_column(connection, name)


def parcel(number: int, **values: Any) -> Parcel:
    """Make one that the office takes."""
    usual = {"depot_id": 1, "label": f"parcel {number}", "weight": Decimal(5), "kind": "box", "fragile": False}
    return Parcel(id=number, **(usual | {"sender": f"sender {number}"} | values))


@dataclass
class Post:
    """Both sides, and the settings by which the office is served."""

    sides: Sides
    settings: Settings

    @property
    def office(self) -> Engine:
        """Give an engine on the office's database."""
        return self.sides["office"].engine

    def send(self, *rows: Base) -> None:
        """Let the plant commit rows, and have them cross."""
        with Session(self.sides["plant"].engine) as session, session.begin():
            for row in rows:
                session.merge(row)
        self.sides.cross()

    def ids(self, error: str, state: str = "parked") -> list[int]:
        """Give the office's letters of a class of error."""
        letter = dead_letter.c
        asking = sa.select(letter.id).where(letter.error == error, letter.state == state).order_by(letter.id)
        with self.office.connect() as connection:
            return list(connection.scalars(asking))

    def rows(self, sql: str) -> Sequence[Any]:
        """Ask the office's database."""
        with self.office.connect() as connection:
            return connection.execute(sa.text(sql)).all()

    def do(self, sql: str) -> None:
        """Change the office's database, as its application does."""
        with self.office.begin() as connection:
            connection.execute(sa.text(sql))


@contextmanager
def post(folder: Path, urls: Mapping[str, str] | None = None) -> Iterator[Post]:
    """Make both sides, in SQLite files unless there are ``urls``; at the office eleven parcels did not take effect."""
    with two_sides(folder, channels, urls, make_tables=make_tables) as sides:
        settings = sides["office"].exchange.settings.model_copy(update={"app": "tests.console.parcels:channels"})
        made = Post(sides, settings)
        made.send(Depot(id=1, town="Ulm"), *(parcel(number) for number in range(1, 4)))
        with Session(made.office) as session, session.begin():  # visitors have some labels of the plant's
            session.add_all(parcel(1000 + number, label=f"label {number}", sender=None) for number in range(1, 11))
        made.send(*(parcel(10 + number, label=f"label {number}") for number in range(1, 11)))
        made.send(parcel(30, label=HOSTILE, weight=Decimal(2500), kind=None))
        yield made
