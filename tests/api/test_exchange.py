from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import NullPool, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import exchange
from exchange import Exchange
from exchange.api import RefusedArgument
from exchange.channels import Channel, Stream
from exchange.database import make_engine
from exchange.database.borrowed import EngineRefused, borrow_engine
from exchange.database.tables import audit
from exchange.files import keys
from exchange.format.errors import TransientError
from exchange.operating import migrate
from exchange.settings import SettingsFaults
from exchange.tables import capture
from tests.databases import Databases


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


CHANNELS = [Channel("items", "plant", "office", [Stream(Item)])]


def database(databases: Databases, kind: str, network: str) -> str:
    """Give a database with the application's table, captured where its rows come from."""

    def migrated(url: str) -> None:
        engine = make_engine(url)
        migrate.upgrade(engine, network=network)
        engine.dispose()

    def prepare(url: str) -> None:
        engine = make_engine(url)
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            capture.add_version_column(connection, "item")
            if network == "plant":
                capture.install(connection, "item")
        engine.dispose()

    return databases.fresh(kind, ("of a program", network), prepare, (("migrated", network), migrated))


@contextmanager
def a_side(folder: Path, network: str, url: str, **more: Any) -> Iterator[Exchange]:
    """Give a side with its keys and folders."""
    home, peer = folder / network, {"plant": "office", "office": "plant"}[network]
    home.mkdir(mode=0o700)
    keys.new(home / "keys", f"{network}-1")
    with Exchange.from_settings(
        network=network, peer=peer, home=home, database_url=url, channels=CHANNELS, settle_seconds=0.001, **more
    ) as side:
        side.migrate()
        yield side


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def carry(plant: Exchange, office: Exchange) -> None:
    for path in sorted(plant.settings.outgoing.iterdir()):
        if not path.name.startswith("."):
            (office.settings.incoming / path.name).write_bytes(path.read_bytes())


def trust(plant: Exchange, office: Exchange) -> None:
    public = next((plant.settings.keys_folder).glob("*.pem"))
    keys.trust(office.settings.keys_folder, keys.candidate(public))


def test_a_program_exports_imports_and_mends_dead_letters_as_the_command_line_does(
    tmp_path: Path, databases: Databases
) -> None:
    with (
        a_side(tmp_path, "plant", database(databases, "sqlite", "plant")) as plant,
        a_side(tmp_path, "office", database(databases, "sqlite", "office")) as office,
    ):
        trust(plant, office)
        with Session(office.site.engine) as session, session.begin():
            session.add(Item(id=9, name="b"))
        with Session(plant.site.engine) as session, session.begin():
            session.add_all([Item(id=1, name="a"), Item(id=2, name="b")])
        (sent,) = plant.export().batches
        assert (sent.channel, sent.records) == ("items", 2)
        carry(plant, office)
        (came,) = office.import_batches("items", reason="it is Monday").batches
        assert (came.records.applied, came.records.parked) == (1, 1)
        ((letter,), (group,)) = office.dead_letters.list().letters, office.dead_letters.groups()
        assert (letter.id, group.letters, letter.error) == (1, 1, "unique")
        assert "unique" in str(office.dead_letters.show(1))
        assert [one.failed for one in office.dead_letters.retry([1], rehearse=True)] == [True]
        assert office.dead_letters.select("once").letters == 1
        (outcome,) = office.dead_letters.rehearse("once")
        assert (outcome.outcome, outcome.letters) == ("would be parked", 1)
        assert [json.loads(line)["id"] for line in office.dead_letters.lines()] == [1]
        assert [(one.stream, one.changed) for one in office.schemas.list()] == [("item", None)]
        office.dead_letters.edit(1, "it is the same one", values={"/data/name": "c"}, who="ada")
        assert [one.state for one in office.dead_letters.retry([1])] == ["applied"]
        assert next(one for one in office.status().channels if one.channel == "items").applied == 1
        assert plant.resync("items").asked
        assert {one.check for one in office.findings()} >= {"settings", "database", "agreement"}
        assert {one.check for one in office.health().parts} >= {"space", "tables", "agreement"}
        assert (office.alarms().standing, office.alarms().alone) == ((), False)
        with office.site.engine.connect() as connection:
            done = connection.execute(
                sa.select(audit.c.action, audit.c.who, audit.c.origin).where(audit.c.concludes.is_(None))
            ).all()
        names = ["import", "select_dead_letters", "edit_dead_letter", "retry_dead_letter"]
        assert [row.action for row in done] == names
        assert done[2].who == "ada"
        assert done[0].origin.startswith("program, ")


def test_what_makes_no_sense_is_refused_in_a_sentence(tmp_path: Path, databases: Databases) -> None:
    with pytest.raises(SettingsFaults, match="databse_url: expected a setting"):
        Exchange.from_settings(network="plant", peer="office", databse_url="x")
    with pytest.raises(AttributeError, match="no attribute 'exchanger'"):
        exchange.exchanger  # noqa: B018
    with a_side(tmp_path, "plant", database(databases, "sqlite", "plant")) as plant:
        with pytest.raises(RefusedArgument, match=r"channel: expected one that is sent here \(items\), found 'item'"):
            plant.export("item")
        with pytest.raises(RefusedArgument, match="reason: expected 1 to 1000 printable characters"):
            plant.export(reason="\n")
    away = Exchange.from_settings(
        network="plant", peer="office", home=tmp_path / "plant", database_url="sqlite:///no.db", channels=CHANNELS
    )
    with pytest.raises(TransientError, match=r"no\.db: there is no database yet"):
        away.status()


def _kept(session: Session) -> dict[str, Any]:
    """Give all that the application's own connection has and that ours changes."""
    driver: Any = session.connection().connection.driver_connection
    if session.get_bind().dialect.name == "sqlite":
        pragmas = ("foreign_keys", "recursive_triggers", "synchronous", "busy_timeout", "cache_size", "temp_store")
        found = {name: session.execute(sa.text(f"PRAGMA {name}")).scalar() for name in pragmas}
        tables = session.execute(sa.text("SELECT count(*) FROM sqlite_temp_master WHERE name LIKE 'exchange%'"))
        return {**found, "level": driver.isolation_level, "temporary": tables.scalar()}
    settings = ("application_name", "lock_timeout", "row_security", "TimeZone", "transaction_isolation", "DateStyle")
    found = {name: session.execute(sa.text(f"SHOW {name}")).scalar() for name in settings}
    return {**found, "threshold": driver.prepare_threshold}


@pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough])]
)
def test_the_applications_own_engine_is_shared_and_its_sessions_are_as_they_were(
    tmp_path: Path, databases: Databases, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCHANGE_DATABASE_PASSWORD_FILE", "/nowhere")  # for who connects by himself
    url = database(databases, kind, "office")
    options: dict[str, Any] = {"pool_size": 3, "max_overflow": 0, "isolation_level": "SERIALIZABLE"}
    if kind == "postgresql":
        options["connect_args"] = {"application_name": "shop", "options": "-c timezone=Asia/Tokyo"}
    own = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), **options)
    said: list[str] = []

    @event.listens_for(own, "begin")
    def _begin(connection: sa.Connection) -> None:
        said.append("begin")

    with (
        a_side(tmp_path, "plant", database(databases, "sqlite", "plant"), database_password_file=None) as plant,
        a_side(tmp_path, "office", url, engine=own) as office,
    ):
        trust(plant, office)
        with Session(own) as session:
            before = _kept(session)
        with Session(plant.site.engine) as session, session.begin():
            session.add_all([Item(id=1, name="a"), Item(id=2, name="b")])
        plant.export()
        carry(plant, office)
        said.clear()
        (came,) = office.import_batches("items").batches
        assert came.records.applied == 2
        assert said == []
        assert own.pool.checkedout() == 0  # type: ignore[attr-defined]
        with Session(own) as session, session.begin():
            assert _kept(session) == before
            assert session.scalar(sa.select(sa.func.count()).select_from(Item)) == 2
            with pytest.raises(sa.exc.IntegrityError, match="a"):  # its errors, too
                session.execute(sa.insert(Item), {"id": 3, "name": "a"})
        own.dispose()  # as after a fork
        assert office.import_batches("items").batches == ()
        assert office.site.engine.pool is own.pool
    with own.connect() as connection:
        assert connection.scalar(sa.select(1)) == 1
    own.dispose()


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: sa.create_engine("sqlite://"), "expected an engine of a SQLite file"),
        (lambda: sa.create_engine("sqlite:///x.db", pool_size=1, max_overflow=1), "expected a pool of 3 connections"),
        (lambda: Session(sa.create_engine("sqlite:///x.db")), "expected an Engine, found <sqlalchemy.orm.session"),
        (
            lambda: sa.create_engine("postgresql+psycopg_async://here/x", poolclass=NullPool),
            r"expected an engine of sqlite or of postgresql with psycopg 3, found postgresql\+psycopg_async",
        ),
    ],
)
def test_an_engine_that_cant_be_shared_is_refused_with_the_reason(make: Any, why: str) -> None:
    with pytest.raises(EngineRefused, match=why):
        borrow_engine(make())
