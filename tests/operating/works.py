"""The application of the night shift: a plant sends machines, readings and badges; the office is stricter."""

from __future__ import annotations

import os
from decimal import Decimal

from sqlalchemy import CheckConstraint, ForeignKey, Numeric, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from exchange.channels import Channel, Stream

AT_THE_OFFICE = os.environ.get("EXCHANGE_NETWORK") == "office"


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


def make_strict() -> None:
    """Add what only the office's database insists on."""
    Machine.__table__.append_constraint(CheckConstraint('"limit" <= 500', name="machine_limit"))  # type: ignore[attr-defined]


channels = [
    Channel("works", source="plant", target="office", streams=[Stream(Machine), Stream(Reading), Stream(Badge)])
]
