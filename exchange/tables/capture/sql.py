"""Words of SQL that both databases share: quoting, and running a statement exactly as it is written.

Values are written into the statements, quoted: trigger bodies can't have parameters, and table and column
names of the application may hold any character that a parameter marker begins with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sqlalchemy import Connection, CursorResult

from exchange.format.errors import Problem

OUT_OF_DATE = "its triggers are out of date"
"""What ``faults`` says of triggers that an earlier version wrote, or that somebody changed."""


@dataclass(frozen=True)
class TableProblem(Problem):
    """What is wrong with a stream's table.

    ``stops`` says that its rows can't be read or sent as they are, ``minor`` that only what is rarely done to a table
    was not captured; ``attached`` that it is partitions which came, whose rows ``take_in_partitions`` notes.
    """

    stops: bool = False
    minor: bool = False
    attached: bool = False


@dataclass(frozen=True)
class TableName:
    """A table of the application's; without a schema it is found as the database finds it."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        """Write it quoted, as SQL wants it."""
        return f"{identifier(self.schema)}.{identifier(self.name)}" if self.schema else identifier(self.name)


@dataclass(frozen=True)
class KeyColumn:
    """A column of a table's key and its type, as the database itself names it.

    ``exact`` says that equal values are always written alike, as those of a column that ignores case are not.
    ``renamed`` is what it is called in files, and so in the texts of keys, if that is another name.
    """

    name: str
    type: str
    exact: bool = True
    renamed: str | None = None

    @property
    def member(self) -> str:
        """Its name in the texts of keys."""
        return self.name if self.renamed is None else self.renamed


def in_files(key: Sequence[KeyColumn], names: Mapping[str, str]) -> list[KeyColumn]:
    """Give columns of a key as files call them, which ``names`` says."""
    return [replace(one, renamed=name) if (name := names[one.name]) != one.name else one for one in key]


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text that has no backslash, or one for SQLite."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """Quote texts for an IN list."""
    return ", ".join(literal(text) for text in texts)


def noted_stream(body: str, pattern: re.Pattern[str]) -> str | None:
    """Read out of a trigger of ours which stream it notes: the quoted name that a pattern finds."""
    found = pattern.search(body)
    return found[1].replace("''", "'").replace("\\\\", "\\") if found else None


def run(connection: Connection, statement: str) -> CursorResult[Any]:
    """Run a statement as it is: no parameters, so a ``%`` or ``:`` in a name means nothing."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


class CaptureSql(Protocol):
    """What ``postgresql`` and ``sqlite`` both have; a key's text is a JSON object of its columns."""

    def find(self, connection: Connection, table: TableName) -> TableName | None:
        """Give the table as the database has it, or None."""

    def other_kind(self, connection: Connection, table: TableName) -> str | None:
        """Say what has the name and is no table that rows are written to, such as a view; None if nothing has it."""

    def literal(self, text: str) -> str:
        """Quote a text."""

    def key_columns(self, connection: Connection, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
        """Give the named columns with their types; those that don't exist are left out."""

    def key_text(self, row: str, key: Sequence[KeyColumn]) -> str:
        """Write the SQL that gives a row's key as text; equal keys give equal texts."""

    def key_values(self, text: str, key: Sequence[KeyColumn]) -> list[str]:
        """Write the SQL that gives the key's values back."""

    def matches(self, row: str, text: str, key: Sequence[KeyColumn]) -> str:
        """Write the SQL condition that a row has the key in ``text``."""

    def bucket(self, text: str) -> str:
        """Write the SQL that gives the bucket of a key's text, 0 to 255, by its hash."""

    def install(self, connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str) -> None:
        """Put triggers on the table, in place of older ones."""

    def drop(self, connection: Connection, table: TableName) -> None:
        """Remove the triggers, if they are there."""

    def take_in_partitions(
        self, connection: Connection, table: TableName, key: Sequence[KeyColumn], stream: str
    ) -> None:
        """Note the rows that partitions had when they were attached, and capture those whole."""

    def captured(self, connection: Connection) -> list[str]:
        """Name the tables with triggers of ours."""


class Catalogue(Protocol):
    """What the catalogue says of tables and their triggers, read once for all of them.

    Each table is asked for by the name that this was made with, and of what is not there only ``find`` may be asked.
    """

    def find(self, table: TableName) -> TableName | None:
        """Give the table as the database has it, or None."""

    def key_columns(self, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
        """Give the named columns with their types; those that don't exist are left out."""

    def faults(self, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
        """Say how the table's triggers differ from what ``install`` would write."""

    def refusal(self, table: TableName) -> Problem | None:
        """Say why a table can't be captured; None if it can."""

    def other_tables(self, table: TableName | None, stream: str) -> list[str]:
        """Name other tables whose changes are noted for the stream."""

    def cautions(self, table: TableName) -> list[TableProblem]:
        """Say what of a captured table's changes its triggers can't have noted."""

    def hides_rows(self, table: TableName) -> Problem | None:
        """Say that the database would hide the table or rows of it from us; None if it does not."""

    def captured_as(self, table: TableName) -> str | None:
        """Name the stream under which the table's changes are noted; None if they are not."""


class CatalogueModule(Protocol):
    """What ``postgresql_catalogue`` and ``sqlite_catalogue`` both have."""

    @property
    def Catalogue(self) -> Callable[[Connection, Sequence[TableName], Sequence[str]], Catalogue]:  # noqa: N802
        """Read the catalogue of tables and of some columns of them."""

    def fingerprint(self, connection: Connection, tables: Sequence[TableName]) -> Hashable:
        """Give what differs whenever a ``Catalogue`` of these tables might."""
