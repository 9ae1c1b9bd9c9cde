"""Whose database this is: the network's name, its epochs, and whether its exports are halted."""

from __future__ import annotations

import secrets
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from exchange.database.dialects import dialect_of, insert_new
from exchange.database.engine import now
from exchange.database.ledger import at_place
from exchange.database.tables import Direction, network, position
from exchange.database.tables import epoch as minted
from exchange.format.errors import TransientError, printable
from exchange.format.lineage import MOST_NAMED, LeftEpoch


def open_network(connection: Connection, name: str) -> str:
    """Give this database's epoch, minting it at first. Raises TransientError if it belongs to another network.

    Runs in the caller's transaction.
    """
    epoch = known_epoch(connection, name)
    if epoch is None:
        minted_now = secrets.token_hex(6)
        insert_new(connection, network, {"id": 1, "name": name, "epoch": minted_now, "created_at": now()})
        epoch = known_epoch(connection, name)  # somebody else's, if both came at once
        assert epoch is not None
    return epoch


def known_epoch(connection: Connection, name: str) -> str | None:
    """Give this database's epoch, None before its first use. Raises TransientError if it belongs to another network.

    Reads in the caller's transaction.
    """
    row = connection.execute(_KNOWN_EPOCH).one_or_none()
    if row is None:
        return None
    if row.name != name:
        msg = (
            f"this database belongs to network {row.name}, but EXCHANGE_NETWORK says {name}; nothing was done;"
            " give each network a database of its own"
        )
        raise TransientError(msg)
    return str(row.epoch)


_KNOWN_EPOCH = sa.select(network.c.name, network.c.epoch)


def named(connection: Connection) -> str | None:
    """Give the name of the network whose database this is; None before its first use.

    Reads in the caller's transaction. Raises DBAPIError where the exchange's tables are missing.
    """
    return connection.scalar(sa.select(network.c.name))


def refuse_hidden_tables(connection: Connection, name: str) -> None:
    """Raise TransientError if this network's tables lie in a schema that this role's search path does not reach.

    Others beside them would be empty: nothing of what was sent and taken would be known. Asks PostgreSQL's catalogue,
    in the caller's transaction.
    """
    if not dialect_of(connection).is_postgresql:
        return
    hidden = connection.scalars(
        sa.text(
            "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relname = 'exchange_network' AND c.relkind = 'r' AND to_regclass('exchange_network') IS NULL"
        )
    ).all()
    for schema in hidden:
        if _network_in(connection, schema) in {name, None}:
            msg = (
                f"the exchange's tables lie in schema {printable(schema)}, which this role's search_path does not"
                " reach; nothing was done; set it as for the role that made them (ALTER ROLE ... SET search_path)"
            )
            raise TransientError(msg)


def _network_in(connection: Connection, schema: str) -> str | None:
    """Give the name of the network whose tables lie in a schema; None if there is none, or we may not read it."""
    elsewhere = sa.table("exchange_network", sa.column("name"), schema=schema)
    try:
        with connection.begin_nested():
            return connection.scalar(sa.select(elsewhere.c.name))
    except DBAPIError:
        return None


def left_behind(connection: Connection, channel: str, current: str) -> list[LeftEpoch]:
    """Give the epochs that this network has left, the newest first, and how far an outgoing channel came in each.

    Reads in the caller's transaction.
    """
    ordered = list(connection.scalars(_LEFT_EPOCHS, {"current": current}))
    sealed = {
        row.epoch: LeftEpoch(row.epoch, row.sequence, row.digest)
        for row in connection.execute(_LEFT_POSITIONS, {"channel": channel, "current": current})
    }
    return [sealed.get(one, LeftEpoch(one)) for one in (*ordered, *sorted(sealed.keys() - set(ordered)))]


_LEFT_EPOCHS = (
    sa.select(minted.c.epoch)
    .where(minted.c.epoch != sa.bindparam("current"))
    .order_by(minted.c.number.desc(), minted.c.epoch)
    .limit(MOST_NAMED)
)
_LEFT_POSITIONS = sa.select(position.c.epoch, position.c.sequence, position.c.digest).where(
    position.c.direction == Direction.OUT,
    position.c.channel == sa.bindparam("channel"),
    position.c.epoch != sa.bindparam("current"),
)


def remember_epoch(connection: Connection, name: str, reason: str, *, who: str, at: datetime | None = None) -> None:
    """Enter an epoch of this network as the newest of those that it knows, unless it knows it.

    Nothing orders them but their number: clocks are set back, and an older copy of a database is restored later. Runs
    in the caller's transaction.
    """
    if connection.scalar(sa.select(sa.exists().where(minted.c.epoch == name))):
        return
    number = (connection.scalar(sa.select(sa.func.max(minted.c.number))) or 0) + 1
    row = {"epoch": name, "at": at or now(), "who": who[:255], "reason": reason, "number": number}
    insert_new(connection, minted, row)


def remember_sealed(connection: Connection, channel: str, epoch: str, sequence: int, digest: str) -> None:
    """Note that this network sealed a batch in an epoch that it left, where its database says less or something else.

    Such a database went back to an earlier copy since. Runs in the caller's transaction.
    """
    here = (position.c.direction == Direction.OUT) & (position.c.channel == channel) & (position.c.epoch == epoch)
    past = here & (position.c.current == 0)
    known = connection.scalar(sa.select(position.c.sequence).where(here))
    values = {"sequence": sequence, "digest": digest}
    if known is None:
        fresh = {"direction": Direction.OUT, "channel": channel, "epoch": epoch, "current": 0, "adopted_at": now()}
        insert_new(connection, position, fresh | values)
        return
    ours = at_place(connection, Direction.OUT, channel, epoch, sequence)
    if known < sequence or (ours is not None and ours.digest != digest):
        connection.execute(sa.update(position).where(past).values(values))


def halted(connection: Connection) -> str | None:
    """Say why nothing is exported, if something was found out about this database; None if all is well.

    Reads in the caller's transaction.
    """
    return connection.scalar(_HALTED)


_HALTED = sa.select(network.c.halted_because)


def halt(connection: Connection, because: str) -> None:
    """Stop all exports until a person acts; what was found out first is what stays written.

    Runs in the caller's transaction.
    """
    stopping = sa.update(network).where(network.c.halted_because.is_(None))
    connection.execute(stopping.values(halted_because=because, halted_at=now()))
