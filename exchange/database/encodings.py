"""The characters that a PostgreSQL database can store, where it was not made in UTF-8."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.format.errors import Problem

ANY_BYTES = "SQL_ASCII"
"""PostgreSQL's name for no encoding at all: whatever bytes come are stored, and counted as characters."""


@dataclass(frozen=True)
class NarrowEncoding:
    """One that lacks characters: PostgreSQL's name for it, and Python's."""

    name: str
    codec: str

    def lacks(self, text: str) -> str | None:
        """Give the first character of a text that can't be stored; None if all can."""
        if text.isascii():
            return None
        try:
            text.encode(self.codec)
        except UnicodeEncodeError as error:
            return text[error.start]
        return None

    def storable(self, text: Any) -> Any:
        """Write a text with an escape in place of each character that can't be stored; anything else as it is."""
        if not isinstance(text, str):
            return text
        return text.encode(self.codec, "backslashreplace").decode(self.codec)


def server_encoding(connection: Connection) -> str:
    """Give the encoding of a PostgreSQL database, as it told when it was connected to."""
    driver: Any = connection.connection.driver_connection
    return str(driver.info.parameter_status("server_encoding"))


def narrow_encoding(connection: Connection) -> NarrowEncoding | None:
    """Give what a database is encoded in, if it lacks characters that others have, and Python knows it."""
    if not dialect_of(connection).is_postgresql:
        return None
    name = server_encoding(connection)
    if name in {"UTF8", ANY_BYTES}:
        return None
    try:
        return NarrowEncoding(name, codecs.lookup(name.replace("WIN", "cp").replace("KOI8", "koi8_")).name)
    except LookupError:
        return None


def problem(connection: Connection) -> Problem | None:
    """Say so if nothing tells which characters the texts of a database are made of."""
    if not dialect_of(connection).is_postgresql or server_encoding(connection) != ANY_BYTES:
        return None
    return Problem(
        "it has no encoding (SQL_ASCII): texts are taken for UTF-8 and counted in bytes; rows with others are parked",
        "make a database in UTF8 and move the data there, converting what is not",
    )
