"""Two sides and a carrier between them for an application's own tests: its models, its channels, real databases.

    with two_sides(folder, channels) as sides:
        with Session(sides["plant"].engine) as session, session.begin():
            session.add(Machine(name="press"))
        sides.cross()

No worker, no broker and no setting of the environment: ``cross`` does what beat has done on both sides.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.schema import CreateSchema

from exchange.api import Exchange
from exchange.channels.channel import Channel, at_network
from exchange.database.dialects import dialect_of
from exchange.database.engine import make_engine, sqlite_url
from exchange.files import keys
from exchange.operating import migrate
from exchange.results import ImportRun
from exchange.settings import Settings
from exchange.tables import capture
from exchange.testing.carrier import Carrier

MakeTables = Callable[[Connection, str], None]
"""Makes the application's tables in one network's database, captured where rows come from."""


@dataclass(frozen=True)
class TestedSide:
    """One network: its side of the exchange, and its database."""

    __test__ = False

    exchange: Exchange
    database_url: str

    @property
    def engine(self) -> Engine:
        """An engine on the database."""
        return self.exchange.site.engine


class Sides(Mapping[str, TestedSide]):
    """Both sides by their networks' names, and a carrier from each of them to the other.

    ``carriers`` have ``faults``, to lose, delay or damage files.
    """

    def __init__(self, sides: Mapping[str, TestedSide]) -> None:
        self._sides = sides
        one, other = ((name, side.exchange.settings) for name, side in sides.items())
        self.carriers = {
            one[0]: Carrier(one[1].outgoing, other[1].incoming),
            other[0]: Carrier(other[1].outgoing, one[1].incoming),
        }

    def __getitem__(self, network: str) -> TestedSide:
        return self._sides[network]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sides)

    def __len__(self) -> int:
        return len(self._sides)

    def cross(self) -> dict[str, ImportRun]:
        """Export on both sides, carry, import on both sides; give each side's import.

        Raises AssertionError with the sentence if an export or import was in trouble. What is parked, refused or held
        is in the result.
        """
        for side in self._sides.values():
            exported = side.exchange.export()
            for sentence in filter(None, (exported.trouble, *exported.faults)):
                raise AssertionError(sentence)
        for carrier in self.carriers.values():
            carrier.carry()
        runs = {name: side.exchange.import_batches() for name, side in self._sides.items()}
        for sentence in filter(None, (run.trouble for run in runs.values())):
            raise AssertionError(sentence)
        return runs


def create_tables(channels: Sequence[Channel]) -> MakeTables:
    """Give what makes the tables of the channels' models, and all others beside them, without any migration."""

    def make(connection: Connection, network: str) -> None:
        """Create what is not there, under the names that it has at the network, and have it captured or received."""
        here = [(stream, channel) for channel in at_network(channels, network) for stream in channel.streams]
        declared = [stream.table for channel in channels for stream in channel.streams]
        elsewhere = {table for table, (stream, _) in zip(declared, here, strict=True) if stream.table is not table}
        every = [
            table for metadata in dict.fromkeys(one.metadata for one in declared) for table in metadata.sorted_tables
        ]
        tables = [*(table for table in every if table not in elsewhere), *(stream.table for stream, _ in here)]
        schemas = dict.fromkeys(table.schema for table in tables if table.schema is not None)
        for schema in schemas if dialect_of(connection).is_postgresql else ():
            connection.execute(CreateSchema(schema, if_not_exists=True))
        for table in tables:
            table.create(connection, checkfirst=True)
        for stream, channel in here:
            name, place = stream.table.name, stream.table.schema
            if channel.source == network:
                key = {str(column.name): stream.in_files[column.name] for column in stream.key}
                capture.install(connection, name, key, stream=stream.name, schema=place)
            else:
                capture.add_version_column(connection, name, place)

    return make


@contextmanager
def two_sides(
    folder: Path,
    channels: Sequence[Channel],
    urls: Mapping[str, str] | None = None,
    make_tables: MakeTables | None = None,
    templates: Path | None = None,
) -> Iterator[Sides]:
    """Set up the two networks that the channels name below an empty folder, each trusting the other's key.

    ``urls`` are those of an empty database for each (SQLite files in the folder); ``make_tables`` makes the
    application's tables, as its migrations do (``create_tables``). ``templates`` is a folder that keeps SQLite files
    from one test to the next of the same channels: made once, they are copied.
    """
    networks = list(dict.fromkeys(name for channel in channels for name in (channel.source, channel.target)))
    one, other = networks
    made: dict[str, TestedSide] = {}
    with ExitStack() as stack:
        for network, peer in ((one, other), (other, one)):
            url = (urls or {}).get(network) or sqlite_url(folder / f"{network}.db")
            _make_database(url, network, make_tables or create_tables(channels), templates, folder)
            home = folder / network
            home.mkdir(mode=0o700)
            keys.new(home / "keys", f"{network}-test")
            settings = Settings(network=network, peer=peer, home=home, database_url=url, settle_seconds=0)
            exchange = stack.enter_context(Exchange(settings, channels=channels))
            exchange.migrate()
            made[network] = TestedSide(exchange, url)
        for network, peer in ((one, other), (other, one)):
            public = made[peer].exchange.settings.keys_folder / f"{peer}-test.pem"
            keys.trust(made[network].exchange.settings.keys_folder, keys.candidate(public))
        yield Sides(made)


def _make_database(url: str, network: str, make_tables: MakeTables, templates: Path | None, folder: Path) -> None:
    file = folder / f"{network}.db"
    template = templates / file.name if templates is not None and url == sqlite_url(file) else None
    if template is not None and template.exists():
        shutil.copyfile(template, file)
        return
    engine = make_engine(url)
    try:
        migrate.upgrade(engine, network=network)
        with engine.begin() as connection:
            make_tables(connection, network)
    finally:
        engine.dispose()
    if template is not None:
        shutil.copyfile(file, template)
