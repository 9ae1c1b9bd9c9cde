"""An application all of whose names are as long as they may be, and two sides of it on which everything goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.files import keys
from exchange.testing.sides import Sides, create_tables, two_sides
from tests.cli.conftest import Done, Side
from tests.crossing.forging import last_byte_changed

SENDER, RECEIVER = "headquarters_of_the_north_coast", "measuring_station_beyond_the_ba"
ORDERS = "orders_and_their_confirmations_"
GAUGES = "readings_of_gauges_in_the_field"
FORGOTTEN = "a_stream_of_a_table_that_was_renamed_long_ago_and_forgotten_he"
metadata = sa.MetaData()


def _table(name: str, *columns: sa.Column[object]) -> sa.Table:
    return sa.Table(name, metadata, sa.Column("id", sa.String(120), primary_key=True), *columns)


customer = _table(
    "customers_who_have_signed_a_contract_for_a_measuring_station_now",
    sa.Column("registered_name_of_the_company", sa.String(60), nullable=False, unique=True),
)
order = _table(
    "orders_of_customers_with_everything_that_was_agreed_upon_since_x",
    sa.Column("customer", sa.ForeignKey(customer.c.id), nullable=False),
)
reading = _table(
    "readings_of_gauges_that_a_boat_brings_ashore_twice_a_week_or_so_"[:63],
    sa.Column("value", sa.Integer),
)
channels = [
    Channel(ORDERS, SENDER, RECEIVER, [Stream(customer, name=customer.name[:63]), Stream(order, name=order.name[:63])]),
    Channel(GAUGES, SENDER, RECEIVER, [Stream(reading)]),
    Channel("answers", RECEIVER, SENDER, [Stream(_table("answer", sa.Column("text", sa.Text)))]),
]


def long_key(number: int) -> str:
    return f"{number}-of-the-year-2026-as-the-books-of-the-{'very-' * 6}northern-branch-have-it"


@contextmanager
def sides_in_trouble(folder: Path) -> Iterator[tuple[Side, Side]]:
    """Give sender and receiver, on SQLite, after a life in which whatever is listed somewhere has happened."""
    with two_sides(folder, channels, make_tables=create_tables(channels)) as sides:
        sender, receiver = (_commands(sides, name) for name in (SENDER, RECEIVER))
        _live(sides, sender, receiver)
        yield sender, receiver


class LongSide(Side):
    """A side whose peer is that of this application."""

    def __post_init__(self) -> None:
        peer = RECEIVER if self.network == SENDER else SENDER
        self.environment |= {
            "EXCHANGE_NETWORK": self.network,
            "EXCHANGE_PEER": peer,
            "EXCHANGE_HOME": str(self.home),
            "EXCHANGE_APP": "tests.cli.long_names:channels",
            "EXCHANGE_SETTLE_SECONDS": "0",
            "EXCHANGE_DELETED_ROWS": "3",
            "EXCHANGE_BROKER_URL": "redis://127.0.0.1:1/0",
        }


def _commands(sides: Sides, network: str) -> Side:
    settings = sides[network].exchange.settings
    return LongSide(network, settings.home, {"EXCHANGE_DATABASE_URL": sides[network].database_url})


def _live(sides: Sides, sender: Side, receiver: Side) -> None:
    out, back = sides.carriers.values()

    def write(*statements: sa.Executable) -> None:
        with sides[SENDER].engine.begin() as connection:
            for one in statements:
                connection.execute(one)

    def cross() -> Done:
        sender.run("export")
        out.carry()
        done = receiver.run("import")
        back.carry()
        sender.run("import")
        return done

    names = [{"id": long_key(n), "registered_name_of_the_company": f"Company {n} of the coast"} for n in range(8)]
    write(sa.insert(customer).values(names), *(sa.insert(reading).values(id=str(n), value=n) for n in range(12)))
    cross()
    # The same name under another key there, a parent that is missing there: letters of several causes.
    with sides[RECEIVER].engine.begin() as connection:
        taken = [{"id": f"own-{n}", "registered_name_of_the_company": f"Taken {n}"} for n in range(3)]
        connection.execute(sa.insert(customer).values(taken))
        connection.execute(sa.delete(customer).where(customer.c.id == long_key(7)))
    again = [{"id": long_key(20 + n), "registered_name_of_the_company": f"Taken {n}"} for n in range(3)]
    write(
        sa.insert(customer).values(again),
        sa.insert(order).values([{"id": long_key(40 + n), "customer": long_key(20 + n % 3)} for n in range(4)]),
        sa.insert(order).values(id=long_key(50), customer=long_key(7)),
    )
    cross()
    # A damaged batch, one that is lost, and one that deletes too much.
    write(sa.insert(reading).values(id="damaged", value=1))
    sender.run("export", GAUGES)
    newest = max((sender.home / "outgoing").glob(f"{GAUGES}-*.jsonl.zst"))
    newest.write_bytes(last_byte_changed(newest.read_bytes()))
    cross()
    write(sa.insert(customer).values(id="lost", registered_name_of_the_company="Lost at sea"))
    sender.run("export", ORDERS)
    for path in (sender.home / "outgoing").glob(f"{ORDERS}-*"):
        path.unlink()
    write(sa.insert(customer).values(id="later", registered_name_of_the_company="Came later"))
    cross()
    for number in range(12):
        name = f"{GAUGES}-0123456789ab-{number + 1:010d}.manifest.jsonl"
        (receiver.home / "incoming" / name).write_text('{"format":"exchange-batch/1"}\n')
    receiver.run("import")
    sender.execute(f"INSERT INTO exchange_change (stream, op, key) VALUES ('{FORGOTTEN}', 'D', '{{}}')")
    reason = "the boat was late, and the person who keeps the books on the other side asked for it by telephone"
    receiver.run("versions", "let-in", ORDERS, "1999999999999999", "--reason", reason)
    receiver.run("versions", "let-in", GAUGES, "1999999999999998", "--reason", reason)
    receiver.run(
        "dead-letters",
        "select",
        "--name",
        "what-the-northern-branch-has-twice-in-its-books",
        "--stream",
        customer.name[:63],
    )
    receiver.run("dead-letters", "retry", "1", "--reason", reason, "--as", "a person with quite a long name")
    receiver.run("epoch", "adopt", "abcdefghijkl", "--reason", reason)
    keys.new(receiver.home / "keys", f"{RECEIVER}-the-second-key-of-2026")
    sender.run("reconcile", ORDERS, "--reason", reason)
    sender.run("resync", GAUGES, "--reason", reason)
    cross()
    write(sa.delete(reading))
    cross()
    cross()
    sender.run("reconcile", ORDERS, "--reason", reason)  # which its next export does
