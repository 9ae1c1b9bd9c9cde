"""Rows of models of every kind cross as their models have them: inherited, joined, deferred, under other names."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, deferred, mapped_column, synonym

from exchange.channels import Channel, Stream
from exchange.testing.sides import two_sides

pytestmark = pytest.mark.thorough


class Base(DeclarativeBase):
    pass


class Numbered:
    """What models share."""

    number: Mapped[int] = mapped_column("Item No", primary_key=True)


class Item(Numbered, Base):
    __tablename__ = "item"
    name: Mapped[str] = mapped_column("label", sa.Text, unique=True)
    secret: Mapped[str] = mapped_column(sa.Text, key="hidden")
    notes: Mapped[str | None] = deferred(mapped_column(sa.Text))
    title = synonym("name")
    shouted = column_property(sa.func.upper(sa.literal_column("item.label")))


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 - SQLAlchemy's way


class Manager(Person):
    __tablename__ = "manager"
    id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"), primary_key=True)
    grade: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Guest(Person):
    room: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "guest"}  # noqa: RUF012


class Animal(ConcreteBase, Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "animal", "concrete": True}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(primary_key=True)
    barks: Mapped[bool]
    __mapper_args__ = {"polymorphic_identity": "dog", "concrete": True}  # noqa: RUF012


class Part(Base):
    __tablename__ = "part"
    b: Mapped[int]
    a: Mapped[str]
    owner_id: Mapped[int] = mapped_column("owner", sa.ForeignKey(Person.id), key="of")
    above: Mapped[str | None]
    above_b: Mapped[int | None]
    __table_args__ = (
        sa.PrimaryKeyConstraint("b", "a"),
        sa.ForeignKeyConstraint(["above_b", "above"], ["part.b", "part.a"]),
    )


def test_rows_of_models_of_every_kind_cross(tmp_path: Path) -> None:
    channels = (
        Channel("things", "plant", "office", [Stream(Item, table={"office": "Item copy"}, columns={"number": "id"})]),
        Channel(
            "people",
            "plant",
            "office",
            [
                Stream(Part, table={"plant": "part at plant"}, columns={"a": "b", "b": "a"}),
                Stream(Manager),
                Stream(Person, table={"office": "people"}),
            ],
        ),
        Channel("animals", "plant", "office", [Stream(Dog), Stream(Animal)]),
    )
    with two_sides(tmp_path, channels) as sides:
        plant, office = sides["plant"], sides["office"]
        with Session(plant.engine) as session, session.begin():
            session.add_all([Item(number=1, name="bolt", secret="s", notes="n"), Dog(id=1, barks=True), Animal(id=1)])
            session.add_all([Manager(id=1, grade=3), Guest(id=2, room=7), Person(id=3)])
        parts = next(stream.table for stream in plant.exchange.site.channels[1].streams if stream.name == "part")
        with plant.engine.begin() as connection:
            rows = [{"b": 1, "a": "x", "of": 1}, {"b": 0, "a": "y", "of": 2, "above_b": 1, "above": "x"}]
            connection.execute(sa.insert(parts), rows)
        runs = sides.cross()
        assert [batch.records.parked for batch in runs["office"].batches] == [0, 0, 0, 0]
        for mine, theirs in zip(plant.exchange.site.channels, office.exchange.site.channels, strict=True):
            for stream, there in zip(mine.streams, theirs.streams, strict=True):
                with plant.engine.connect() as one, office.engine.connect() as two:
                    sent = one.execute(sa.select(*stream.columns).order_by(*stream.key)).all()
                    assert two.execute(sa.select(*there.columns).order_by(*there.key)).all() == sent
                    assert sent
        with plant.engine.begin() as connection:
            connection.execute(sa.delete(parts).where(parts.c.a == "y"))
            connection.execute(sa.update(parts).values(a="z"))
        with Session(plant.engine) as session, session.begin():
            session.get_one(Manager, 1).grade = 4
        sides.cross()
        with office.engine.connect() as two:
            assert two.execute(sa.text("SELECT b, a, owner FROM part")).all() == [(1, "z", 1)]
            assert two.execute(sa.text('SELECT label FROM "Item copy"')).scalars().all() == ["bolt"]
            assert two.execute(sa.text("SELECT grade FROM manager")).scalars().all() == [4]
            assert two.execute(sa.text("SELECT kind FROM people ORDER BY id")).scalars().all() == [
                "manager",
                "guest",
                "person",
            ]
