"""Lines of a batch to rows: those of a known shape by columns, all others in the usual way, to the same end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from exchange.channels import Channel, Stream
from exchange.channels.schemas import Checker
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.signing import TrustedKeys
from exchange.site import Site
from exchange.tables.loader import Loader
from exchange.tables.loader.decode import BadLine, Decoder

METADATA = sa.MetaData()
AUTHOR = sa.Table("author", METADATA, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(5)))
BOOK = sa.Table(
    "book",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("price", sa.Numeric()),
    sa.Column("notes", sa.JSON()),
)
CHANNEL = Channel("library", source="request", target="response", streams=[Stream(AUTHOR), Stream(BOOK)])

NEWEST = 1_000


def author(number: int, name: str = '"Ann"', version: int = 1) -> bytes:
    values = b'{"id":%d,"name":%b}' % (number, name.encode())
    return b'{"stream":"author","op":"upsert","version":%d,"data":%b}' % (version, values)


def book(number: int, price: str = '"1.50"', notes: str = '{"a":[1,null]}') -> bytes:
    values = b'{"id":%d,"price":%b,"notes":%b}' % (number, price.encode(), notes.encode())
    return b'{"stream":"book","op":"upsert","version":%d,"data":%b}' % (number, values)


def gone(number: int, stream: str = "book") -> bytes:
    return b'{"stream":"%b","op":"delete","version":7,"key":{"id":%d}}' % (stream.encode(), number)


PIECES = {
    "one stream": [author(number) for number in range(9)],
    "one record": [author(1)],
    "documents": [book(1, notes=notes) for notes in ("null", "{}", "5", "-0.5", '"5"', "true", "[]", '"null"')],
    "several streams": [*map(author, range(4)), *map(book, range(4)), *map(gone, range(4)), *map(author, range(4))],
    "streams in turn": [one(number) for number in range(1, 5) for one in (author, book, gone)],
    "bad values": [*map(author, range(9)), author(9, '"too long"'), author(10, "5"), *map(author, range(11, 19))],
    "only bad values": [author(number, "5") for number in range(9)],
    "a bad value first": [author(0, "5"), *map(author, range(1, 9))],
    "no JSON": [*map(author, range(5)), b"{", b"", *map(author, range(5, 9))],
    "written otherwise": [*map(author, range(5)), author(5).replace(b":", b": "), *map(author, range(6, 9))],
    "too new": [*map(author, range(5)), author(5, version=NEWEST + 1), *map(author, range(6, 9))],
    "a stream that is not declared": [gone(number, "lender") for number in range(3)],
    "a stream that the manifest has not": [author(1), gone(1, "other"), author(2)],
    "JSON's null": [book(1), book(2).replace(b'"notes":{"a":[1,null]}', b'"notes:json":null'), book(3)],
    "a number of too many digits": [book(1), book(2, '"' + "9" * 131_073 + '"'), book(3, '"1e5"'), book(4)],
    "a number that SQLite's float is not": [book(1), book(2, '"0.1234567890123456789"'), *map(book, range(3, 9))],
    "a number out of range": [gone(1), gone(2**31), gone(3)],
}


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def decoded(site: Site, connection: Connection, lines: list[bytes], *, known: bool) -> Any:
    """Decode lines and give their rows, by line, what is wrong with the others, and how many could be read."""
    for checker in site.checkers.values():
        checker.__dict__.pop("known_shapes", None)
        if not known:
            checker.__dict__["known_shapes"] = {}
    rows: dict[int, Any] = {}
    bad: dict[int, Any] = {}
    with Loader(connection, CHANNEL, 10) as loader:
        decoder = Decoder(site, {"author": 1, "book": 1, "lender": 1}, loader, NEWEST)
        for found in decoder.decode(lines, 100):
            if isinstance(found, BadLine):
                error = found.error
                bad[found.number] = found.line, error.error, error.pointer, error.sentence
                continue
            members = zip(*found.rows[1:], strict=True)
            rows |= {line: (found.stream, found.rows.op, repr(others)) for line, *others in members}
        return rows, bad, decoder.counts()


@pytest.mark.parametrize("name", PIECES)
def test_lines_become_the_same_rows_whichever_way_they_are_read(
    name: str, engine: Engine, connection: Connection, tmp_path: Path
) -> None:
    checkers = {stream.name: Checker(stream) for stream in CHANNEL.streams}
    site = Site(
        network="response",
        peer="request",
        engine=engine,
        channels=(CHANNEL,),
        spool=Spool(Folders(tmp_path, tmp_path / "outgoing", tmp_path / "incoming")),
        checkers=checkers,
        signing_key=None,
        trusted=TrustedKeys({}),
    )
    lines = PIECES[name]
    rows, bad, counts = decoded(site, connection, lines, known=True)
    assert (rows, bad, counts) == decoded(site, connection, lines, known=False)
    assert sorted([*rows, *bad]) == [*range(100, 100 + len(lines))]
