"""Both sides' tables compared row by row through plain drivers: neither the product nor SQLAlchemy has a part in it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import psycopg


@dataclass(frozen=True)
class Compared:
    """One table: how many rows each side has, and the first that differ."""

    table: str
    sent: int
    received: int
    differ: int
    first: tuple[Any, Any] | None


def compare(ours: str, theirs: str, tables: Mapping[str, Iterable[str]], leave: Iterable[str] = ()) -> list[Compared]:
    """Compare the tables of two databases; of each, columns ordered by its key, but for those in ``leave``."""
    return [_compared(ours, theirs, table, [*key], {*leave}) for table, key in tables.items()]


def _compared(ours: str, theirs: str, table: str, key: list[str], leave: set[str]) -> Compared:
    columns = [one for one in _columns(ours, table) if f"{table}.{one}" not in leave and one != "exchange_version"]
    sent = received = differ = 0
    first = None
    for here, there in zip_longest(_rows(ours, table, columns, key), _rows(theirs, table, columns, key)):
        sent += here is not None
        received += there is not None
        if here != there:
            differ += 1
            first = first or (here, there)
    return Compared(table, sent, received, differ, first)


def digest(url: str, table: str, key: Iterable[str]) -> str:
    """Give one number of all rows of a table."""
    columns = [one for one in _columns(url, table) if one != "exchange_version"]
    found = hashlib.sha256()
    for row in _rows(url, table, columns, [*key]):
        found.update(repr(row).encode())
    return found.hexdigest()


def _columns(url: str, table: str) -> list[str]:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            # How a JSON text is spaced is no part of its value.
            kinds = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_xinfo({table})")}
            return [f"json({name})" if kind == "JSON" else name for name, kind in kinds.items()]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return [column.name for column in connection.execute(f"SELECT * FROM {table} LIMIT 0").description or ()]


def _rows(url: str, table: str, columns: list[str], key: list[str]) -> Iterator[tuple[Any, ...]]:
    order = ", ".join(key)
    if url.startswith("sqlite"):
        names = ", ".join(f"quote({one})" for one in columns)
        with sqlite3.connect(url.removeprefix("sqlite:///")) as lite:
            yield from lite.execute(f"SELECT {names} FROM {table} ORDER BY {order}")
        return
    names = ", ".join(f'"{one}"::text' for one in columns)
    with psycopg.connect(url.replace("+psycopg", "")) as connection, connection.cursor("rows") as cursor:
        connection.execute("SET TimeZone = 'UTC'")
        cursor.itersize = 10_000
        yield from cursor.execute(f"SELECT {names} FROM {table} ORDER BY {order}")
