"""What SQLite's schema says of tables and their triggers: read for all of them in a few statements."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Hashable, Sequence

from sqlalchemy import Connection

from exchange.format.errors import Problem
from exchange.tables.capture.sql import OUT_OF_DATE, KeyColumn, TableName, TableProblem, literal, noted_stream, run
from exchange.tables.capture.sqlite import PREFIX, columns_of, definitions, unique_indexes


class Catalogue:
    """Tables as the schema had them when this was made, each by the name that it was asked for by."""

    def __init__(self, connection: Connection, tables: Sequence[TableName], _columns: Sequence[str]) -> None:
        """Read it, in the caller's transaction."""
        asked = {_folded(table.name) for table in tables}
        self._places = {
            _folded(row.name): TableName(row.name)
            for row in run(
                connection,
                "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'",
            )
            if _folded(row.name) in asked
        }
        names = [place.name for place in self._places.values()]
        self._columns = columns_of(connection, names)
        self._uniques = unique_indexes(connection, names)
        self._triggers: dict[str, dict[str, str]] = defaultdict(dict)
        self._noting: dict[str, dict[str, str]] = defaultdict(dict)
        for row in run(
            connection,
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"  # noqa: S608 - quoted
            f" AND substr(name, 1, {len(PREFIX)}) = {literal(PREFIX)}",
        ):
            self._triggers[_folded(row.tbl_name)][row.name] = row.sql
            for stream in _NOTED.findall(row.sql):
                self._noting[stream.replace("''", "'")][_folded(row.tbl_name)] = row.tbl_name

    def find(self, table: TableName) -> TableName | None:
        """Give the table as it is written in the schema, or None if there is none of that name."""
        return self._places.get(_folded(table.name))

    def key_columns(self, table: TableName, names: Sequence[str]) -> list[KeyColumn]:
        """Give the named columns with their declared types; those that don't exist are left out."""
        columns = self._columns[self._places[_folded(table.name)].name]
        return [columns[name] for name in names if name in columns]

    def faults(self, table: TableName, key: Sequence[KeyColumn], stream: str) -> list[str]:
        """Say what is missing of the table's triggers, or differs from what ``install`` would write."""
        place = self._places[_folded(table.name)]
        expected = definitions(place, key, stream, self._uniques[place.name])
        found = self._triggers[_folded(table.name)]
        if missing := [name for name in expected if name not in found]:
            return [f"of its triggers {', '.join(missing)} are missing"]
        return [] if found == expected else [OUT_OF_DATE]

    def other_tables(self, table: TableName | None, stream: str) -> list[str]:
        """Name other tables whose changes are noted for the stream."""
        mine = _folded(table.name) if table is not None else None
        return sorted(name for folded, name in self._noting[stream].items() if folded != mine)

    def refusal(self, _table: TableName) -> Problem | None:
        """Say why a table can't be captured: any can."""
        return None

    def cautions(self, _table: TableName) -> list[TableProblem]:
        """Say what triggers can't have noted: what is not in ``faults`` they note."""
        return []

    def hides_rows(self, _table: TableName) -> Problem | None:
        """Say that rows are hidden: none are."""
        return None

    def captured_as(self, table: TableName) -> str | None:
        """Name the stream under which the table's changes are noted; None if they are not."""
        names = (noted_stream(body, _NOTED) for body in self._triggers[_folded(table.name)].values())
        return next((name for name in names if name is not None), None)


def fingerprint(connection: Connection, _tables: Sequence[TableName]) -> Hashable:
    """Give what differs whenever a ``Catalogue`` might. Reads in the caller's transaction.

    The number counts changes of the schema; the rest tells another file under the same name.
    """
    schema = run(connection, "SELECT count(*), total(rootpage), total(length(sql)) FROM sqlite_master").one()
    return (run(connection, "PRAGMA schema_version").scalar_one(), *schema)


def _folded(name: str) -> str:
    """Give a name as SQLite compares names: without case where the letters are of ASCII."""
    return name.translate(_LOWER)


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_NOTED = re.compile(r"WHERE stream = '((?:[^']|'')*)'\)")
