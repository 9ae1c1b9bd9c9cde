"""The application of the night shift: a plant sends machines, readings and badges, and the office is stricter.

As a program it makes its tables on one side, as the application's own migration would.
"""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from exchange.channels import Channel, Stream
from exchange.database import make_engine
from exchange.settings import load_settings
from exchange.tables import capture


class Base(DeclarativeBase):
    """The application's tables."""


class Machine(Base):
    """A machine, and how hot it may become."""

    __tablename__ = "machine"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(40))
    limit: Mapped[Decimal] = mapped_column(Numeric(6, 1))


class Reading(Base):
    """What a machine's thermometer said."""

    __tablename__ = "reading"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machine.id", name="reading_machine"))
    celsius: Mapped[Decimal] = mapped_column(Numeric(6, 1))


class Badge(Base):
    """A badge. The office hands out some of its own to visitors."""

    __tablename__ = "badge"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    holder: Mapped[str] = mapped_column(String(40))


TABLES = (Machine, Reading, Badge)

channels = [Channel("works", source="plant", target="office", streams=[Stream(table) for table in TABLES])]


def make_tables() -> None:
    """Make the tables of this side, and let the plant's be captured."""
    settings = load_settings()
    if settings.network == "office":
        machine, badge = Base.metadata.tables["machine"], Base.metadata.tables["badge"]
        machine.append_constraint(sa.CheckConstraint(machine.c.limit <= 500, name="machine_limit"))
        badge.append_constraint(sa.UniqueConstraint(badge.c.number, name="badge_number"))
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        for table in TABLES:
            capture.add_version_column(connection, table.__tablename__)
            if settings.network == "plant":
                capture.install(connection, table.__tablename__)
    engine.dispose()


if __name__ == "__main__":
    make_tables()
