"""What the wide part of the application writes: each changes some rows of one transaction, as the dice say."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tests.simulation.wide import NEVER, PARENTS, STREAMS
from tests.simulation.world import Network, World

WORDS = (
    "a",
    "A",
    "\u00e4",
    "a\u0308",
    "\u00df",
    "ss",
    " a",
    "a ",
    "",
    "\u0130",
    "i",
    "%",
    "\"'\\",
    "\U0001d11e\n",
    "\u2028",
)
"""Texts that somebody might take for each other, or for something else."""

BODIES: tuple[Any, ...] = (
    *(sa.null(), None, {}, [], 0, 1.5, "null", "", False, 2**53, "a\u0308", [None]),
    *({"a": None}, {"b": 1, "a": 2}, {"a": 2, "b": 1}),
)
"""``sa.null()`` is the database's NULL, None JSON's."""

KEYS = 6

Key = Mapping[str, Any]


def _word(draw: random.Random) -> str:
    return f"w{draw.random():.6f}"


def _is(table: sa.Table, key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == value for name, value in key.items()))


def put(connection: sa.Connection, table: sa.Table, key: Key, **values: object) -> None:
    """Write a row, whether there is one."""
    if not connection.execute(sa.update(table).where(_is(table, key)).values(**values)).rowcount:
        connection.execute(sa.insert(table).values(**key, **values))


def _some(connection: sa.Connection, table: sa.Table, draw: random.Random) -> Key | None:
    """Draw the key of a row that is there."""
    found = connection.execute(sa.select(*table.primary_key).order_by(*table.primary_key)).all()
    return dict(draw.choice(found)._mapping) if found else None


def _place(draw: random.Random) -> Key:
    return {"country": draw.choice(WORDS), "number": draw.randrange(2)}


def change_place(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end a place, or give it another key and its old one to a new place."""
    table = network.tables["place"]
    key, other = _some(connection, table, draw), _place(draw)
    turn = draw.random()
    if key is None or turn < 0.4:
        put(connection, table, other, name=_word(draw))
        return f"place {other}"
    if turn < 0.6:
        connection.execute(sa.delete(table).where(_is(table, key)))
        return f"place {key} ended"
    if connection.scalar(sa.select(sa.func.count()).where(_is(table, other))):
        connection.execute(sa.delete(table).where(_is(table, other)))
    doc = network.tables["doc"]  # no row may refer to a key that goes
    connection.execute(sa.update(doc).where(_is(doc, key)).values(country=None, number=None))
    connection.execute(sa.update(table).where(_is(table, key)).values(**other))
    if turn < 0.8 and key != other:
        put(connection, table, key, name=_word(draw))
    return f"place {key} is {other}"


def change_doc(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end a document, swap the keys of two, or give one another key and the old one to a new one."""
    table = network.tables["doc"]
    key, place = _some(connection, table, draw), _some(connection, network.tables["place"], draw)
    values = {
        **(place if place is not None and draw.random() < 0.7 else {"country": None, "number": None}),
        "body": draw.choice(BODIES),
        "amount": draw.choice([None, "0.0001", "-99999999.9999", "1.5"]),
        "ratio": draw.choice([None, 0.1, -0.0, 1e300, 5e-324]),
        "raw": draw.choice([None, b"", b"\0\xff", b"null"]),
    }
    other, turn = {"code": draw.choice(WORDS)}, draw.random()
    if key is None or turn < 0.5:
        put(connection, table, other, **values)
        return f"doc {other}"
    if turn < 0.65 or key == other:
        connection.execute(sa.delete(table).where(_is(table, key)))
        return f"doc {key} ended"
    connection.execute(sa.update(table).where(_is(table, other)).values(code="between"))
    connection.execute(sa.update(table).where(_is(table, key)).values(**other))
    swapped = connection.execute(sa.update(table).where(table.c.code == "between").values(**key)).rowcount
    if not swapped and turn < 0.85:
        put(connection, table, key, **values)
    return f"doc {key} is {other}"


def move_slots(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Move all slots of an owner one rank on, in a ring, or write or end one."""
    slot = network.tables["slot"]
    owner = draw.choice([0, 1, None])
    mine = slot.c.owner.is_not_distinct_from(owner)
    ranks = {row.id: row.rank for row in connection.execute(sa.select(slot.c.id, slot.c.rank).where(mine))}
    if len(ranks) < 3 or draw.random() < 0.3:
        key = draw.randrange(2 * KEYS)
        connection.execute(sa.delete(slot).where(slot.c.id == key))
        if draw.random() < 0.8:
            free = sorted(set(range(KEYS)) - {rank for one, rank in ranks.items() if one != key})
            rank = draw.choice(free or [KEYS])
            connection.execute(sa.delete(slot).where(mine, slot.c.rank == rank))
            connection.execute(sa.insert(slot).values(id=key, owner=owner, rank=rank))
        return f"slot {key}"
    some = sorted(ranks)
    connection.execute(sa.update(slot).where(mine).values(rank=-1 - slot.c.rank))
    for key, after in zip(some, [*some[1:], some[0]], strict=True):
        connection.execute(sa.update(slot).where(slot.c.id == key).values(rank=ranks[after]))
    return f"slots {some} move on"


def connect(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Have a plug and a socket refer to each other, or end one of them."""
    plug, socket = network.tables["plug"], network.tables["socket"]
    one, other = draw.randrange(KEYS), draw.randrange(KEYS)
    if draw.random() < 0.35:
        table = draw.choice([plug, socket] if "socket" in _streams(network) else [plug])
        connection.execute(sa.delete(table).where(table.c.id == one))
        return f"{table.name} {one} ended"
    put(connection, plug, {"id": one}, name=_word(draw))
    if "socket" in _streams(network):
        put(connection, socket, {"id": other}, plug=one, name=_word(draw))
        connection.execute(sa.update(plug).where(plug.c.id == one).values(socket=other))
    return f"plug {one} in socket {other}"


def refer(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end a reply to a note that came from the other side, or a mark of an account of another channel."""
    name, parent = draw.choice([("reply", "note"), ("mark", "account")])
    if name not in _streams(network):
        return "nothing"
    table, key = network.tables[name], {"id": draw.randrange(KEYS)}
    found = _some(connection, network.tables[parent], draw)
    if draw.random() < 0.3:
        connection.execute(sa.delete(table).where(_is(table, key)))
        return f"{name} {key} ended"
    put(connection, table, key, **{parent: found and found["id"]}, text=_word(draw))
    return f"{name} {key} of {found}"


def rule(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end a rule: a bad one would have its whole batch refused."""
    table, key = network.tables["rule"], {"id": draw.randrange(KEYS)}
    if draw.random() < 0.3:
        connection.execute(sa.delete(table).where(_is(table, key)))
        return f"rule {key} ended"
    put(connection, table, key, name=_word(draw))
    return f"rule {key}"


def _streams(network: Network) -> set[str]:
    """Name the tables that this seed sends: what is written elsewhere would wait for ever."""
    return {name for channel in network.more for name in STREAMS[channel]}


Writer = Callable[[Network, sa.Connection, random.Random], str]

WRITERS: dict[Writer, str] = {
    change_place: "place",
    change_doc: "doc",
    move_slots: "slot",
    connect: "plug",
    refer: "reply",
    rule: "rule",
}


def write(world: World, draw: random.Random) -> str:
    """Change a few rows of the first network in one transaction, if its own database lets it."""
    network = world.one
    try:
        with world.as_of(network), network.side.engine.begin() as connection:
            able = [one for one, name in WRITERS.items() if name in _streams(network)]
            some = draw.choices(able, k=draw.randrange(1, 5)) if able else []
            return f"{network.name}: " + ", ".join(one(network, connection, draw) for one in some)
    except IntegrityError as error:
        return f"{network.name} refuses it: {error.orig}"


def write_bad_rule(world: World, draw: random.Random) -> str:
    """Write a row that has its whole batch refused."""
    with world.one.side.engine.begin() as connection:
        put(connection, world.one.tables["rule"], {"id": draw.randrange(KEYS)}, name=NEVER)
    world.rejected = True
    return "a rule that is refused"


def mend_rules(world: World) -> str:
    """Mend the rows for which batches are refused, as one has to where one bad record refuses its batch."""
    table = world.one.tables["rule"]
    with world.one.side.engine.begin() as connection:
        done = connection.execute(sa.update(table).where(table.c.name == NEVER).values(name="mended")).rowcount
    return f"{done} rules mended"


def edit_by_hand(world: World, draw: random.Random) -> str:
    """Change rows where they are received: end what others refer to, give a row another key, empty a reference."""
    network, names = draw.choice([(world.two, (*PARENTS, "account", "doc")), (world.one, ("note",))])
    table = network.tables[draw.choice(names)]
    try:
        with world.as_of(network), network.side.engine.begin() as connection:
            key = _some(connection, table, draw)
            if key is None or (
                network is world.two and table.name != "account" and table.name not in _streams(network)
            ):
                return "nothing"
            if draw.random() < 0.6:
                connection.execute(sa.delete(table).where(_is(table, key)))
                return f"{network.name}: {table.name} {key} deleted"
            name = next(iter(key))
            other = draw.choice(WORDS) if isinstance(key[name], str) else 20 + draw.randrange(KEYS)
            connection.execute(sa.update(table).where(_is(table, key)).values({name: other}))
            return f"{network.name}: {table.name} {key} is {other}"
    except IntegrityError as error:
        return f"{network.name} refuses it: {error.orig}"
