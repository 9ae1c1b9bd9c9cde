"""Both networks of the reference application: their databases, keys and sites, made for one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels import Channel
from exchange.channels.schemas import Checker
from exchange.database import make_engine
from exchange.database import network as own_network
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.limits import Limits
from exchange.link.home import take_over
from exchange.operating import migrate
from exchange.reference import channels as reference_channels
from exchange.reference.models import ProfileType, Request, User
from exchange.site import Site
from tests.benchmarks.data import COLUMNS, USERS, copy_line, requests

PEERS = {"request": "response", "response": "request"}
_ROWS_AT_ONCE = 20_000


def make_keys(folder: Path) -> None:
    """Give each network a signing key."""
    folder.mkdir()
    for network in PEERS:
        key = SigningKey.generate(network)
        (folder / f"{network}.key").write_bytes(key.to_pem())
        (folder / f"{network}.pem").write_bytes(key.public_pem())


def signing_key(network: str, keys: Path) -> SigningKey:
    """Give a network's key."""
    return SigningKey.from_pem(network, (keys / f"{network}.key").read_bytes())


def site(
    network: str,
    url: str,
    home: Path,
    keys: Path,
    *,
    limits: Limits | None = None,
    shards: int = 1,
) -> Site:
    """Assemble one side without settings, with everything on: signatures, schemas, versions, compression.

    A database is copied and used from one home after another, so it is taken over.
    """
    peer = PEERS[network]
    channels = _declared(shards)
    assembled = Site(
        network=network,
        peer=peer,
        engine=make_engine(url),
        channels=channels,
        spool=Spool(Folders(home, home / "outgoing", home / "incoming")),
        checkers={stream.name: Checker(stream) for channel in channels for stream in channel.streams},
        signing_key=signing_key(network, keys),
        trusted=TrustedKeys.from_pems({peer: (keys / f"{peer}.pem").read_bytes()}),
        limits=limits or Limits(),
    )
    assembled.spool.prepare(make=True)
    take_over(assembled)
    return assembled


def _declared(shards: int) -> tuple[Channel, ...]:
    if shards == 1:
        return reference_channels
    split: dict[str, Any] = {"shards": shards}
    return tuple(
        Channel(one.name, one.source, one.target, one.streams, **split) if one.name == "requests" else one
        for one in reference_channels
    )


def migrated(url: str, network: str) -> None:
    """Make a network's tables, with users on both sides, and nothing pending."""
    engine = make_engine(url)
    migrate.upgrade(engine, (migrate.CORE, migrate.REFERENCE), network=network)
    with engine.begin() as connection:
        own_network.open_network(connection, network)
        connection.execute(sa.insert(ProfileType), [{"id": 1, "name": "all", "daily_limit": 10**6, "priority": 5}])
        connection.execute(sa.insert(User), list(_users()))
        connection.exec_driver_sql("DELETE FROM exchange_change")
    engine.dispose()


def _users() -> Iterator[dict[str, Any]]:
    for one in range(1, USERS + 1):
        yield {"id": one, "name": f"u{one}", "email": f"u{one}@example.org", "profile_type_id": 1, "active": True}


def add_requests(connection: Connection, count: int) -> None:
    """Add requests as an application would, in bulk: they are captured where triggers stand."""
    if connection.dialect.name == "postgresql":
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.cursor() as cursor, cursor.copy(f"COPY request ({COLUMNS}) FROM STDIN") as copy:
            for row in requests(count):
                copy.write(copy_line(row))
        return
    for rows in _portions(requests(count)):
        connection.execute(sa.insert(Request), rows)


def _portions(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    portion: list[dict[str, Any]] = []
    for row in rows:
        portion.append(row)
        if len(portion) == _ROWS_AT_ONCE:
            yield portion
            portion = []
    if portion:
        yield portion
