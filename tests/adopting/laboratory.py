"""An application that isn't ours, made to order: a shop that lends films, with models and Alembic history of its own.

On PostgreSQL it has what such applications have: a schema of its own, enums, arrays, a search vector that a trigger
fills, a domain, a partitioned table, a view, triggers that touch ``last_update``, and two tables that refer to each
other. On SQLite it has what of this there is. Its rows are as many as one asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

PACKAGE = "lending"

_MODELS = '''
from __future__ import annotations

import datetime
import decimal
import enum
import uuid

import sqlalchemy as sa
from sqlalchemy import ForeignKey, ForeignKeyConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

POSTGRESQL = {postgresql}
SCHEMA = "lending" if POSTGRESQL else None
IN = "lending." if POSTGRESQL else ""
MOMENT = sa.DateTime(timezone=True)


class Base(DeclarativeBase):
    metadata = sa.MetaData(
        schema=SCHEMA,
        naming_convention={{
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }},
    )


class Rating(enum.Enum):
    G = "G"
    PG = "PG"
    R = "R"


class Updated:
    last_update: Mapped[datetime.datetime] = mapped_column(MOMENT, server_default=sa.func.now())


class Country(Updated, Base):
    __tablename__ = "country"
    country_id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[str] = mapped_column(sa.String(50))


class City(Updated, Base):
    __tablename__ = "city"
    city_id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[str] = mapped_column(sa.String(50))
    country_id: Mapped[int] = mapped_column(ForeignKey(IN + "country.country_id"))


class Address(Updated, Base):
    __tablename__ = "address"
    address_id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(sa.String(80))
    postal_code: Mapped[str | None] = mapped_column(sa.CHAR(8))
    city_id: Mapped[int] = mapped_column(ForeignKey(IN + "city.city_id"))


class Language(Updated, Base):
    __tablename__ = "language"
    language_id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    name: Mapped[str] = mapped_column(sa.CHAR(20))


class Category(Updated, Base):
    __tablename__ = "category"
    category_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(25), unique=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey(IN + "category.category_id"))


class Actor(Updated, Base):
    __tablename__ = "actor"
    actor_id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str] = mapped_column(sa.String(45))
    last_name: Mapped[str] = mapped_column(sa.String(45), index=True)


class Film(Updated, Base):
    __tablename__ = "film"
    film_id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(255))
    release_year: Mapped[int | None] = mapped_column(
        postgresql.DOMAIN("year", sa.Integer(), schema=SCHEMA, create_type=False) if POSTGRESQL else sa.Integer()
    )
    language_id: Mapped[int] = mapped_column(ForeignKey(IN + "language.language_id"))
    rental_rate: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(4, 2))
    length: Mapped[int | None] = mapped_column(sa.SmallInteger)
    rating: Mapped[Rating | None] = mapped_column(sa.Enum(Rating, name="rating", schema=SCHEMA))
    special_features: Mapped[list | None] = mapped_column(postgresql.ARRAY(sa.Text) if POSTGRESQL else sa.JSON())
    details: Mapped[dict | None] = mapped_column(postgresql.JSONB() if POSTGRESQL else sa.JSON())
    fulltext: Mapped[str | None] = mapped_column(postgresql.TSVECTOR() if POSTGRESQL else sa.Text())
    title_length: Mapped[int | None] = mapped_column(sa.Integer, sa.Computed("length(title)", persisted=True))


class FilmActor(Updated, Base):
    __tablename__ = "film_actor"
    actor_id: Mapped[int] = mapped_column(ForeignKey(IN + "actor.actor_id"), primary_key=True)
    film_id: Mapped[int] = mapped_column(ForeignKey(IN + "film.film_id"), primary_key=True)


class FilmCategory(Updated, Base):
    __tablename__ = "film_category"
    film_id: Mapped[int] = mapped_column(ForeignKey(IN + "film.film_id"), primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey(IN + "category.category_id"), primary_key=True)


class Store(Updated, Base):
    __tablename__ = "store"
    store_id: Mapped[int] = mapped_column(primary_key=True)
    manager_staff_id: Mapped[int] = mapped_column(ForeignKey(IN + "staff.staff_id", use_alter=True))
    address_id: Mapped[int] = mapped_column(ForeignKey(IN + "address.address_id"))


class Staff(Updated, Base):
    __tablename__ = "staff"
    staff_id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str] = mapped_column(sa.String(45))
    store_id: Mapped[int] = mapped_column(ForeignKey(IN + "store.store_id"))
    password: Mapped[str | None] = mapped_column(sa.String(64))
    picture: Mapped[bytes | None]
    shift: Mapped[datetime.timedelta | None]


class Customer(Updated, Base):
    __tablename__ = "customer"
    customer_id: Mapped[int] = mapped_column(primary_key=True)
    store_id: Mapped[int] = mapped_column(ForeignKey(IN + "store.store_id"))
    first_name: Mapped[str] = mapped_column(sa.String(45))
    email: Mapped[str | None] = mapped_column(sa.String(80))
    address_id: Mapped[int] = mapped_column(ForeignKey(IN + "address.address_id"))
    active: Mapped[bool]
    create_date: Mapped[datetime.date]
    came_from: Mapped[str | None] = mapped_column(postgresql.INET() if POSTGRESQL else sa.String(40))


class Inventory(Updated, Base):
    __tablename__ = "inventory"
    inventory_id: Mapped[int] = mapped_column(primary_key=True)
    film_id: Mapped[int] = mapped_column(ForeignKey(IN + "film.film_id"))
    store_id: Mapped[int] = mapped_column(ForeignKey(IN + "store.store_id"))


class Rental(Updated, Base):
    __tablename__ = "rental"
    rental_id: Mapped[int] = mapped_column(primary_key=True)
    rental_date: Mapped[datetime.datetime] = mapped_column(MOMENT)
    inventory_id: Mapped[int] = mapped_column(ForeignKey(IN + "inventory.inventory_id"))
    customer_id: Mapped[int] = mapped_column(ForeignKey(IN + "customer.customer_id"))
    return_date: Mapped[datetime.datetime | None] = mapped_column(MOMENT)
    staff_id: Mapped[int] = mapped_column(ForeignKey(IN + "staff.staff_id"))


class Payment(Base):
    __tablename__ = "payment"
    payment_date: Mapped[datetime.datetime] = mapped_column(MOMENT, primary_key=True)
    payment_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(IN + "customer.customer_id"))
    rental_id: Mapped[int] = mapped_column(ForeignKey(IN + "rental.rental_id"))
    amount: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(7, 2))
    __table_args__ = {{"postgresql_partition_by": "RANGE (payment_date)"}}


class Review(Base):
    __tablename__ = "review"
    review_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    film_id: Mapped[int] = mapped_column(ForeignKey(IN + "film.film_id"))
    stars: Mapped[float]
    text: Mapped[str] = mapped_column(sa.Text)


class PriceRule(Base):
    __tablename__ = "price_rule"
    price_rule_id: Mapped[int] = mapped_column(primary_key=True)
    percent: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(5, 2))
    counter: Mapped[int] = mapped_column(sa.Integer)


class PageView(Base):
    """A log without a key, as there is one in every application."""

    __table__ = sa.Table(
        "page_view", Base.metadata, sa.Column("at", MOMENT), sa.Column("path", sa.Text), info={{"keyless": True}}
    )
    __mapper_args__ = {{"primary_key": [__table__.c.at, __table__.c.path]}}
'''

_INI = """[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
path_separator = os
sqlalchemy.url = {url}

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = plain

[logger_root]
level = WARNING
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain

[formatter_plain]
format = %(levelname)s %(message)s
"""

_ENV = """
import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from lending.models import Base

url = os.environ.get("LENDING_DATABASE") or context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=NullPool).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, include_schemas=True)
    with context.begin_transaction():
        context.run_migrations()
"""

_TEMPLATE = '''"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''

_FIRST = """
from alembic import op
from lending.models import IN, SCHEMA, Base

revision = "a1f0"
down_revision = None


def upgrade():
    if SCHEMA:
        op.execute("CREATE SCHEMA lending")
        op.execute("CREATE DOMAIN lending.year AS integer CHECK (VALUE BETWEEN 1901 AND 2155)")
    Base.metadata.create_all(op.get_bind())


def downgrade():
    Base.metadata.drop_all(op.get_bind())
"""

_SECOND = """
from alembic import op
from lending.models import IN, SCHEMA, Base

revision = "b2e1"
down_revision = "a1f0"

TOUCHED = [name for name, table in Base.metadata.tables.items() if "last_update" in table.c]


def upgrade():
    if SCHEMA:
        for year in (2024, 2025, 2026):
            op.execute(
                f"CREATE TABLE lending.payment_{{year}} PARTITION OF lending.payment"
                f" FOR VALUES FROM ('{{year}}-01-01 00:00:00+00') TO ('{{year + 1}}-01-01 00:00:00+00')"
            )
        op.execute(
            "CREATE FUNCTION lending.touch() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.last_update = clock_timestamp(); RETURN NEW; END $$"
        )
        for table in TOUCHED:
            made = f"CREATE TRIGGER touched BEFORE UPDATE ON {{table}} FOR EACH ROW"
            op.execute(made + " EXECUTE FUNCTION lending.touch()")
        op.execute(
            "CREATE TRIGGER found BEFORE INSERT OR UPDATE ON lending.film FOR EACH ROW EXECUTE FUNCTION"
            " tsvector_update_trigger('fulltext', 'pg_catalog.english', 'title')"
        )
        op.execute(
            "CREATE VIEW lending.sales AS SELECT customer_id, sum(amount) AS total FROM lending.payment GROUP BY 1"
        )
    else:
        for table in TOUCHED:
            key = next(iter(Base.metadata.tables[table].primary_key)).name
            op.execute(
                f"CREATE TRIGGER touched_{{table}} AFTER UPDATE OF {{key}} ON {{table}} BEGIN UPDATE {{table}}"
                f" SET last_update = '2026-06-06 06:06:06.000000' WHERE {{key}} = NEW.{{key}}; END"
            )
        op.execute("CREATE VIEW sales AS SELECT customer_id, sum(amount) AS total FROM payment GROUP BY 1")


def downgrade():
    pass
"""

_THIRD = """
import sqlalchemy as sa
from alembic import op
from lending.models import SCHEMA

revision = "c3d2"
down_revision = "b2e1"


def upgrade():
    op.create_index("review_film", "review", ["film_id"], schema=SCHEMA)
    if SCHEMA:
        # Wider in the table than in the model, and a column that no model knows.
        op.execute("ALTER TABLE lending.price_rule ALTER COLUMN counter TYPE bigint")
        op.execute("ALTER TABLE lending.price_rule ADD COLUMN note text")


def downgrade():
    op.drop_index("review_film", "review", schema=SCHEMA)
"""


def write_application(folder: Path, url: str) -> None:
    """Write the application's package and its Alembic history into a folder."""
    postgresql = url.startswith("postgresql")
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / PACKAGE).mkdir()
    files = {
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/models.py": _MODELS.format(postgresql=postgresql),
        "alembic.ini": _INI.format(url=url.replace("%", "%%")),
        "migrations/env.py": _ENV,
        "migrations/script.py.mako": _TEMPLATE,
        "migrations/versions/a1f0_tables.py": _FIRST,
        "migrations/versions/b2e1_triggers.py": _SECOND.format(),
        "migrations/versions/c3d2_more.py": _THIRD,
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def migrate(folder: Path, url: str) -> None:
    """Bring a database to the newest revision of the application's own history, in this process."""
    config = Config(str(folder / "alembic.ini"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")


def fill(url: str, rows: int) -> None:
    """Fill the application's tables with about so many rows, the same ones each time."""
    engine = create_engine(url)
    postgresql = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        for before in ["SET search_path TO lending, public"] if postgresql else ["PRAGMA foreign_keys = OFF"]:
            connection.exec_driver_sql(before)
        for statement in _statements(rows, postgresql=postgresql):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        connection.commit()
    engine.dispose()


def _statements(rows: int, *, postgresql: bool) -> Iterator[str]:
    fk = "fk_store_manager_staff_id_staff"
    for table, columns, count, values in _rows(rows, postgresql=postgresql):
        if table == "store" and postgresql:
            yield f"ALTER TABLE store DROP CONSTRAINT {fk}"
        series = f"WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {count})"
        yield f"INSERT INTO {table} ({columns}) {series} SELECT {values} FROM s"
        if table == "staff" and postgresql:
            yield f"ALTER TABLE store ADD CONSTRAINT {fk} FOREIGN KEY (manager_staff_id) REFERENCES staff (staff_id)"


def _rows(rows: int, *, postgresql: bool) -> list[tuple[str, str, int, str]]:
    """Give, for each table, its columns, how many rows, and the values of row ``i`` in SQL."""

    def moment(seconds: str) -> str:
        if postgresql:
            return f"to_timestamp(1735689600 + {seconds})"
        return f"strftime('%Y-%m-%d %H:%M:%S', 1735689600 + {seconds}, 'unixepoch') || '.000000'"

    def cast(value: str, kind: str) -> str:
        return f"CAST({value} AS {kind})" if postgresql else value

    films, customers = min(1000, max(rows // 20, 5)), min(600, max(rows // 20, 5))
    lent = max(int((rows - 5 * films - customers) / 2.06), 10)
    stored = max(lent // 16, 5)
    now, when = moment("0"), "(i % 500000) * 60"
    true = "true" if postgresql else "1"
    texts = "ARRAY['Trailers', NULL, 'it''s \"quoted\"']" if postgresql else "'[\"Trailers\", null]'"
    shift = "interval '8 hours 30 minutes'" if postgresql else "'1970-01-01 08:30:00.000000'"
    picture = "decode('00ff10', 'hex')" if postgresql else "x'00ff10'"
    day = "date '2025-01-01' + i % 365" if postgresql else "date('2025-01-01', '+' || (i % 365) || ' days')"
    uuid = "CAST(lpad(to_hex(i), 32, '0') AS uuid)" if postgresql else "printf('%032x', i)"
    rating = cast("CASE i % 3 WHEN 0 THEN 'G' WHEN 1 THEN 'PG' ELSE 'R' END", "rating")
    details = cast("'{\"n\": ' || i || ', \"big\": 9007199254740991}'", "jsonb")
    came_from = cast("'10.0.0.1'", "inet")
    film = "film_id, title, release_year, language_id, rental_rate, length, rating, special_features, details"
    years = "1950 + i % 70, 1 + i % 3, (i % 900) / 100.0"
    back = f"CASE WHEN i % 7 > 0 THEN {moment(f'{when} + 86400')} END"
    return [
        ("country", "country_id, country, last_update", 20, f"i, 'country ' || i, {now}"),
        ("city", "city_id, city, country_id, last_update", 60, f"i, 'city ' || i, 1 + i % 20, {now}"),
        (
            "address",
            "address_id, address, postal_code, city_id, last_update",
            100,
            f"i, i || ' street', 'P' || i, 1 + i % 60, {now}",
        ),
        ("language", "language_id, name, last_update", 3, f"i, 'language ' || i, {now}"),
        (
            "category",
            "category_id, name, parent_id, last_update",
            9,
            f"i, 'category ' || i, CASE WHEN i > 3 THEN i - 3 END, {now}",
        ),
        ("actor", "actor_id, first_name, last_name, last_update", 50, f"i, 'A' || i, 'B' || i, {now}"),
        (
            "film",
            f"{film}, last_update",
            films,
            f"i, 'film ' || i || ' \u00e9\u4e2d', {years}, 60 + i % 90, {rating}, {texts}, {details}, {now}",
        ),
        ("film_actor", "actor_id, film_id, last_update", films, f"1 + i % 50, i, {now}"),
        ("film_category", "film_id, category_id, last_update", films, f"i, 1 + i % 9, {now}"),
        ("store", "store_id, manager_staff_id, address_id, last_update", 2, f"i, i, i, {now}"),
        (
            "staff",
            "staff_id, first_name, store_id, password, picture, shift, last_update",
            2,
            f"i, 'staff ' || i, i, 'hash' || i, {picture}, {shift}, {now}",
        ),
        (
            "customer",
            "customer_id, store_id, first_name, email, address_id, active, create_date, came_from, last_update",
            customers,
            f"i, 1 + i % 2, 'C' || i, 'c' || i || '@example.org', 1 + i % 100, {true}, {day}, {came_from}, {now}",
        ),
        ("inventory", "inventory_id, film_id, store_id, last_update", stored, f"i, 1 + i % {films}, 1 + i % 2, {now}"),
        (
            "rental",
            "rental_id, rental_date, inventory_id, customer_id, return_date, staff_id, last_update",
            lent,
            f"i, {moment(when)}, 1 + i % {stored}, 1 + i % {customers}, {back}, 1 + i % 2, {now}",
        ),
        (
            "payment",
            "payment_date, payment_id, customer_id, rental_id, amount",
            lent,
            f"{moment(when)}, i, 1 + i % {customers}, i, (i % 1000) / 100.0",
        ),
        ("review", "review_id, film_id, stars, text", films, f"{uuid}, i, (i % 50) / 10.0, 'a review' || i"),
        ("price_rule", "price_rule_id, percent, counter", 5, "i, i * 10.5, i"),
        ("page_view", "at, path", 5, f"{now}, '/' || i"),
    ]
