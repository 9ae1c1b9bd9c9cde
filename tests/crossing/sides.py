"""Two networks in one test process: real databases, real folders, and a carrier between them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from exchange.channels import Channel
from exchange.channels.channel import at_network
from exchange.channels.schemas import Checker
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine
from exchange.database.locks import locked, reading
from exchange.database.network import open_network
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.incoming import importer
from exchange.limits import Limits
from exchange.operating import migrate
from exchange.outgoing import compose, exporter
from exchange.results import ExportRun, ImportRun
from exchange.site import Site
from exchange.tables import capture
from exchange.testing.carrier import HONEST, Carrier, Faults
from tests.databases import Lender

QUICK = Limits(settle_seconds=0, grace_seconds=3600)


def quick_engine(url: str) -> Engine:
    """Make an engine as in production, but for SQLite's waiting for the disk: no test cuts the power."""
    engine = make_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _hurry(driver: sqlite3.Connection, _record: object) -> None:
            driver.execute("PRAGMA synchronous = OFF")

    return engine


def _database(databases: Lender, kind: str, network: str, channels: tuple[Channel, ...], metadata: sa.MetaData) -> str:
    """Give the URL of a database with the exchange's tables and the application's, those captured that it sends."""
    here = at_network(channels, network)
    streams = [(stream, channel.source == network) for channel in here for stream in channel.streams]

    def migrated(url: str) -> None:
        engine = quick_engine(url)
        migrate.upgrade(engine, network=network)
        engine.dispose()

    def prepare(url: str) -> None:
        engine = quick_engine(url)
        with engine.begin() as connection:
            for name in sorted({stream.table.schema for stream, _ in streams if stream.table.schema}):
                connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))
            metadata.create_all(connection)
            for stream, sent in streams:
                table, schema = stream.table.name, stream.table.schema
                capture.add_version_column(connection, table, schema)
                if sent:
                    names = {str(column.name): stream.in_files[column.name] for column in stream.key}
                    capture.install(connection, table, names, stream=stream.name, schema=schema)
        engine.dispose()

    shape = (network, metadata, *((stream.name, stream.table.name, stream.key_names, sent) for stream, sent in streams))
    return databases.fresh(kind, shape, prepare, (("migrated", network), migrated))


class Side:
    """One network: its site, and the few things that tests do to it."""

    def __init__(
        self,
        network: str,
        peer: str,
        databases: Lender,
        kind: str,
        home: Path,
        channels: tuple[Channel, ...],
        *,
        metadata: sa.MetaData,
        limits: Limits = QUICK,
    ) -> None:
        self.key = SigningKey.generate(f"{network}-test")
        self.site = Site(
            network=network,
            peer=peer,
            engine=quick_engine(_database(databases, kind, network, channels, metadata)),
            channels=channels,
            spool=Spool(Folders(home, home / "outgoing", home / "incoming")),
            checkers={stream.name: Checker(stream) for channel in channels for stream in channel.streams},
            signing_key=self.key,
            trusted=TrustedKeys.from_pems({}),
            own=TrustedKeys.from_pems({self.key.name: self.key.public_pem()}),
            limits=limits,
        )
        self.site.spool.prepare(make=True)
        with self.engine.begin() as connection:
            open_network(connection, network)

    @property
    def engine(self) -> Engine:
        """The database."""
        return self.site.engine

    @property
    def home(self) -> Path:
        """The folders."""
        return self.site.spool.folders.home

    def trust(self, other: Side) -> None:
        """Accept the other side's signatures."""
        self.site = replace(self.site, trusted=TrustedKeys.from_pems({other.key.name: other.key.public_pem()}))

    def limit(self, **limits: Any) -> None:
        """Change some limits."""
        self.site = replace(self.site, limits=replace(self.site.limits, **limits))

    def execute(self, statement: sa.Executable | str, values: Any = None) -> None:
        """Change data as an application would."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement, values)

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        """Give a table's rows in the order of its key."""
        with reading(self.engine) as connection:
            return [dict(row._mapping) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]

    def all(self, statement: sa.Select[Any]) -> list[Any]:
        """Give what a query finds."""
        with reading(self.engine) as connection:
            return list(connection.execute(statement))

    def export(self) -> ExportRun:
        """Run an export."""
        return exporter.export(self.site, stopping=importer.never)

    def take_in(self) -> ImportRun:
        """Run an import."""
        return importer.import_batches(self.site)

    def be_impatient(self) -> None:
        """Wait for another writer of a SQLite database no longer than a moment."""
        if dialect_of(self.engine).is_sqlite:

            @sa.event.listens_for(self.engine, "checkout")
            def shorten(driver: Any, _record: object, _proxy: object) -> None:
                driver.execute("PRAGMA busy_timeout = 50")

    def seal(self, channel: Channel) -> None:
        """Seal what is pending of a channel, and publish nothing: as an export that dies between the two."""
        with locked(self.engine, f"export {channel.name}", isolation_level="REPEATABLE READ") as connection:
            compose.seal_changes(self.site, connection, channel)


class Link:
    """Two sides that trust each other, and a carrier each way."""

    def __init__(self, one: Side, other: Side, faults: Faults = HONEST, seed: int = 0) -> None:
        self.one, self.other = one, other
        one.trust(other)
        other.trust(one)
        self.there = Carrier(one.site.spool.folders.outgoing, other.site.spool.folders.incoming, faults, seed=seed)
        self.back = Carrier(other.site.spool.folders.outgoing, one.site.spool.folders.incoming, faults, seed=seed + 1)

    def round(self) -> tuple[ImportRun, ImportRun]:
        """Export, carry and import both ways; give the imports of one and of the other."""
        for side in (self.one, self.other):
            exported = side.export()
            assert exported.trouble is None, exported.trouble
        self.there.carry()
        self.back.carry()
        return self.one.take_in(), self.other.take_in()
