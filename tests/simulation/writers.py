"""What applications write: each changes some rows in a transaction of its own, as the dice say."""

from __future__ import annotations

import random
from collections.abc import Callable

import sqlalchemy as sa

from tests.simulation.application import NEVER, VAIN
from tests.simulation.world import Network, World

KEYS = 8
"""Few keys a table, so that the same rows are written again and again."""


def _word(draw: random.Random) -> str:
    return f"w{draw.random():.6f}"


def _keys(connection: sa.Connection, table: sa.Table) -> list[int]:
    return list(connection.scalars(sa.select(table.c.id).order_by(table.c.id)))


def _put(connection: sa.Connection, table: sa.Table, key: int, **values: object) -> None:
    """Write a row, whether there is one."""
    done = connection.execute(sa.update(table).where(table.c.id == key).values(**values))
    if not done.rowcount:
        connection.execute(sa.insert(table).values(id=key, **values))


def grow_tree(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Hang a node below another one, or cut off a leaf."""
    tree = network.tables["tree"]
    keys = _keys(connection, tree)
    key = draw.randrange(2 * KEYS)
    if key in keys and draw.random() < 0.5:
        below = [key]
        while more := list(
            connection.scalars(sa.select(tree.c.id).where(tree.c.parent.in_(below), tree.c.id.not_in(below)))
        ):
            below += more
        connection.execute(sa.update(tree).where(tree.c.id.in_(below)).values(parent=None))
        connection.execute(sa.delete(tree).where(tree.c.id.in_(below)))
        return f"tree: {len(below)} cut off"
    parents = [one for one in keys if one < key]
    _put(connection, tree, key, parent=draw.choice(parents) if parents else None, name=_word(draw))
    return f"tree {key}"


def change_team(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Make a team and its leader, who refer to each other, or end both."""
    team, person = network.tables["team"], network.tables["person"]
    key = draw.randrange(KEYS)
    if draw.random() < 0.3:
        connection.execute(sa.delete(person).where(person.c.team == key))
        # A leader of this team may be another team's person.
        connection.execute(sa.delete(team).where(team.c.id == key))
        return f"team {key} ended"
    _put(connection, team, key, leader=key, name=_word(draw))
    _put(connection, person, key, team=key, name=_word(draw))
    return f"team {key} and its leader"


def swap_seats(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Shuffle unique codes among rows, or end one and give its code to another."""
    seat = network.tables["seat"]
    keys = _keys(connection, seat)
    if len(keys) < 4 or draw.random() < 0.2:
        key = draw.randrange(KEYS)
        if key in keys:
            connection.execute(sa.delete(seat).where(seat.c.id == key))
            return f"seat {key} gone"
        codes = set(connection.scalars(sa.select(seat.c.code)))
        free = [f"c{number}" for number in range(KEYS) if f"c{number}" not in codes]
        connection.execute(sa.insert(seat).values(id=key, code=draw.choice(free), rank=draw.randrange(9)))
        return f"seat {key}"
    some = draw.sample(keys, draw.randrange(2, len(keys) + 1))
    codes_of = {row.id: row.code for row in connection.execute(sa.select(seat.c.id, seat.c.code))}
    codes_there = [codes_of[key] for key in some]
    draw.shuffle(codes_there)
    connection.execute(sa.update(seat).where(seat.c.id.in_(some)).values(code="-" + seat.c.code))
    for key, code in zip(some, codes_there, strict=True):
        connection.execute(sa.update(seat).where(seat.c.id == key).values(code=code))
    return f"seats {some} swap"


def change_account(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write, end, or end and make anew an account, with all that goes with it."""
    account = network.tables["account"]
    key = draw.randrange(KEYS)
    turn = draw.random()
    if turn < 0.4:
        connection.execute(sa.delete(account).where(account.c.id == key))
    if turn < 0.2:
        return f"account {key} ended, and what goes with it"
    _put(connection, account, key, name=_word(draw), badge=None)
    return f"account {key}" + (" anew" if turn < 0.4 else "")


def change_key(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Give a row another key."""
    table = network.tables[draw.choice(["seat", "item"])]
    keys = _keys(connection, table)
    free = sorted(set(range(2 * KEYS)) - set(keys))
    if not keys or not free:
        return "nothing"
    old, new = draw.choice(keys), draw.choice(free)
    connection.execute(sa.update(table).where(table.c.id == old).values(id=new))
    return f"{table.name} {old} is {new}"


def visit(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write a row that goes with an account, or end one."""
    table = network.tables["visit"]
    key, accounts = draw.randrange(KEYS), _keys(connection, network.tables["account"])
    if not accounts or draw.random() < 0.3:
        connection.execute(sa.delete(table).where(table.c.id == key))
        return f"visit {key} ended"
    _put(connection, table, key, account=draw.choice(accounts), text=_word(draw))
    return f"visit {key}"


def change_items(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end some rows of the channel in shards."""
    item = network.tables["item"]
    keys = draw.sample(range(2 * KEYS), draw.randrange(1, 4))
    for key in keys:
        if draw.random() < 0.3:
            connection.execute(sa.delete(item).where(item.c.id == key))
        else:
            _put(connection, item, key, label=_word(draw), amount=draw.randrange(100))
    return f"items {keys}"


def write_refused(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write a row that the other side refuses: by a constraint, a unique value, a value that is missing."""
    key, account = draw.randrange(KEYS), network.tables["account"]
    match draw.randrange(3):
        case 0:
            _put(connection, account, key, name=NEVER, badge=None)
            return f"account {key} has a name that is refused"
        case 1:
            _put(connection, account, key, name=_word(draw), badge=draw.randrange(2))
            return f"account {key} has a badge that another one may have"
    _put(connection, network.tables["item"], key, label=_word(draw), amount=None)
    return f"item {key} has no amount"


def write_vain(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write a row that the other side's trigger changes again."""
    key = draw.randrange(KEYS)
    _put(connection, network.tables["item"], key, label=VAIN, amount=1)
    return f"item {key} has a label that is changed over there"


def answer(network: Network, connection: sa.Connection, draw: random.Random) -> str:
    """Write or end notes on accounts, which are the other side's rows."""
    note = network.tables["note"]
    key, accounts = draw.randrange(KEYS), _keys(connection, network.tables["account"])
    if draw.random() < 0.3:
        connection.execute(sa.delete(note).where(note.c.id == key))
        return f"note {key} ended"
    _put(connection, note, key, account=draw.choice([*accounts, None]), text=_word(draw))
    return f"note {key}"


Writer = Callable[[Network, sa.Connection, random.Random], str]

OF_ONE: tuple[Writer, ...] = (grow_tree, change_team, swap_seats, change_account, change_key, visit, change_items)


def write_one(world: World, draw: random.Random) -> str:
    """Change a few rows of the first network in one transaction."""
    return _write(world, world.one, draw.choices(OF_ONE, k=draw.randrange(1, 5)), draw)


def write_two(world: World, draw: random.Random) -> str:
    """Change a few rows of the second network in one transaction."""
    return _write(world, world.two, [answer] * draw.randrange(1, 4), draw)


def refused(world: World, draw: random.Random) -> str:
    """Write what the other side refuses."""
    return _write(world, world.one, [write_refused], draw)


def vain(world: World, draw: random.Random) -> str:
    """Write what does not stay as it is over there."""
    return _write(world, world.one, [write_vain], draw)


def _write(world: World, network: Network, what: list[Writer], draw: random.Random) -> str:
    with world.as_of(network), network.side.engine.begin() as connection:
        return f"{network.name}: " + ", ".join(one(network, connection, draw) for one in what)
