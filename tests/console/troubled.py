"""An office with a trouble of each kind in what a plant sends: refused, held, missing, damaged, of nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from exchange.channels import Channel, Stream
from exchange.database.tables import change
from exchange.settings import Settings
from exchange.testing.sides import Sides, create_tables, two_sides

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e\x1b[31m'
SECRET = "4242-their-number"
DELETES = 1001


class Base(DeclarativeBase):
    """The application's tables."""


class Machine(Base):
    """A machine; the office takes none that is hotter than 500."""

    __tablename__ = "machine"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(80))
    number: Mapped[str] = mapped_column(String(40))
    celsius: Mapped[int]


class Badge(Base):
    """A badge; of these many are deleted at once."""

    __tablename__ = "badge"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Reading(Base):
    """A reading; of these batches are lost."""

    __tablename__ = "reading"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Order(Base):
    """What the office sends."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


channels = [
    Channel(
        "works", "plant", "office", [Stream(Machine, sensitive=["number"])], on_invalid="reject", on_refused="wait"
    ),
    Channel("badges", "plant", "office", [Stream(Badge)]),
    Channel("readings", "plant", "office", [Stream(Reading)]),
    Channel("orders", "office", "plant", [Stream(Order)]),
]


@dataclass
class Troubled:
    """Both sides, and the office's settings with what it declares."""

    sides: Sides

    @property
    def office(self) -> Settings:
        """The settings of the side that receives."""
        return self._of("office")

    @property
    def plant(self) -> Settings:
        """The settings of the side that sends."""
        return self._of("plant")

    def _of(self, name: str) -> Settings:
        settings = self.sides[name].exchange.settings
        return settings.model_copy(update={"app": "tests.console.troubled:channels"})

    def write(self, network: str, *rows: Base) -> None:
        """Commit rows as the application does."""
        with Session(self.sides[network].engine) as session, session.begin():
            session.add_all(rows)

    def stem(self, channel: str, sequence: int) -> str:
        """Give the name of a batch that came."""
        found = self.sides["office"].exchange.site.spool.folders.incoming.parent.rglob(f"{channel}-*{sequence:010}*")
        return min(path.name.partition(".")[0] for path in found)

    def sent(self, channel: str, sequence: int) -> str:
        """Give the name of a batch that went out."""
        found = self.sides["office"].exchange.site.spool.folders.sealed.glob(f"{channel}-*{sequence:010}*")
        return min(path.name.partition(".")[0] for path in found)


def _make_tables(connection: Connection, network: str) -> None:
    if network == "office":
        machine = Base.metadata.tables["machine"].to_metadata(sa.MetaData())
        machine.append_constraint(sa.CheckConstraint("celsius <= 500", name="machine_celsius"))
        machine.create(connection)
    create_tables(channels)(connection, network)


@contextmanager
def troubled(folder: Path) -> Iterator[Troubled]:
    """Make both sides, with a trouble of each kind at the office."""
    with two_sides(folder, channels, make_tables=_make_tables) as sides:
        made = Troubled(sides)
        cold = [Machine(id=one, name=f"press {one}", number=SECRET, celsius=90) for one in range(1, 4)]
        made.write("plant", *cold, *(Badge(id=one) for one in range(DELETES)), Reading(id=1))
        made.write("office", Order(id=1))
        sides.cross()
        hot = [Machine(id=one, name=HOSTILE, number=SECRET, celsius=900) for one in (4, 5)]
        made.write("plant", Machine(id=6, name="lathe", number=SECRET, celsius=20), *hot)
        with sides["plant"].engine.begin() as connection:
            connection.execute(sa.delete(Badge.__table__))  # type: ignore[arg-type]
        sides.cross()
        carrier = sides.carriers["plant"]
        carrier.loses = lambda name: name.startswith("readings")
        for lost in (2, 3):
            made.write("plant", Reading(id=lost))
            sides["plant"].exchange.export()
            carrier.carry()
        carrier.loses = None
        made.write("plant", Reading(id=4))
        sides.cross()
        _bring_a_stranger(made)
        with sides["plant"].engine.begin() as connection:
            connection.execute(
                sa.insert(change), [{"stream": "gauge", "op": "I", "key": json.dumps({"id": one})} for one in range(3)]
            )
        yield made


def _bring_a_stranger(made: Troubled) -> None:
    """Bring a batch that says of itself that a key signed it which nobody trusts here."""
    sent, incoming = made.plant.outgoing, made.office.incoming
    assert sent is not None
    assert incoming is not None
    manifest = next(path for path in sent.iterdir() if path.name.startswith("works") and "manifest" in path.name)
    stem = manifest.name.partition(".")[0]
    place = stem.rpartition("-")[2]
    for path in sent.iterdir():
        if path.name.startswith(stem):
            renamed = path.name.replace(place, f"{77:010}")
            shutil.copyfile(path, incoming / renamed)
            if path == manifest:
                claim, signature = path.read_bytes().split(b"\n")[:2]
                (incoming / renamed).write_bytes(
                    claim + b"\n" + signature.replace(b"plant-test", b"nobody-else") + b"\n"
                )
    made.sides["office"].exchange.import_batches()
