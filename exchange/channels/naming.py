"""What a declaration may call the columns of its table, and what they are called in files; models that inherit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from exchange.channels.codecs import is_computed
from exchange.database.tables import VERSION_COLUMN
from exchange.format.errors import printable

MAX_NAME_BYTES = 63
"""Of what a column is called in files: as long as PostgreSQL's names."""


class Names:
    """The names of a table's columns. ``faults`` has what is wrong with those that a declaration gives."""

    def __init__(self, table: sa.Table, mapper: orm.Mapper[Any] | None, renamed: Mapping[str, str]) -> None:
        """Prepare; ``renamed`` says what some columns are called in files. The others keep their names."""
        self.faults: list[str] = []
        self._table = table
        self._columns = {str(c.name): c for c in table.columns}
        self._called: dict[str, set[str]] = defaultdict(set)
        attributes = () if mapper is None else mapper.columns.items()
        keys = ((str(c.key), c) for c in table.columns)
        for name, column in (*self._columns.items(), *keys, *attributes):
            if isinstance(column, sa.Column) and column.table is table:
                self._called[str(name)].add(str(column.name))
        self.in_files = {name: name for name in self._columns}
        """By the columns' names in the table."""
        for called, name in renamed.items():
            column = self._column("columns", called)
            if column is not None and self._is_name(column, name):
                self.in_files[column] = str(name)

    def meant(self, said: str, names: Collection[str]) -> list[str]:
        """Give the names in the table of columns that an argument names, those of ``columns`` not as in files.

        What is no column is given as it is.
        """
        if isinstance(names, str):
            self.faults.append(f"{said}= takes a list of column names, found one text")
            return []
        return [self._column(said, name) or name for name in names]

    def _column(self, said: str, called: str) -> str | None:
        found = set(self._called.get(called, ()))
        # What is left out by one of two names is seen; a secret shown by one of two is seen too late.
        if said == "sensitive" or (said == "exclude" and not found):
            found |= {column for column, name in self.in_files.items() if name == called}
        shown = f"{said}= names {printable(str(called))}, which"
        if not found:
            self.faults.append(f"{shown} is no column of table {self._table.name}")
            return None
        if len(found) > 1:
            self.faults.append(
                f"{shown} may mean the columns {printable(' and '.join(sorted(found)))}; name the one by a name that"
                " only it has, as column, as attribute of the model or in files"
            )
            return None
        (column,) = found
        if said == "columns" and is_computed(self._columns[column]):
            self.faults.append(f"{shown} each side's database computes itself")
        elif said == "columns" and column == VERSION_COLUMN:
            self.faults.append(f"{shown} is the exchange's own")
        return column

    def _is_name(self, column: str, name: object) -> bool:
        good = isinstance(name, str) and 1 <= len(name.encode(errors="replace")) <= MAX_NAME_BYTES and "\0" not in name
        if not good:
            what = f"expected a name of 1 to {MAX_NAME_BYTES} bytes"
            self.faults.append(
                f"columns= calls column {printable(column)} {printable(repr(name), 80)} in files, {what}"
            )
        return good

    def find_twins(self, crossing: Collection[str]) -> None:
        """See that no two of the columns that cross are called alike in files."""
        by_name: dict[str, list[str]] = defaultdict(list)
        for column in crossing:
            by_name[self.in_files[column]].append(column)
        self.faults += [
            f"columns {printable(' and '.join(columns))} are both called {printable(name)} in files; call one otherwise"
            for name, columns in by_name.items()
            if len(columns) > 1
        ]


def mapper_of(model: object) -> orm.Mapper[Any] | None:
    """Give the mapper of a mapped class; None of anything else."""
    found = sa.inspect(model, raiseerr=False)
    return found if isinstance(found, orm.Mapper) else None


def table_above(mapper: orm.Mapper[Any] | None) -> str | None:
    """Give the key of the table whose rows a model's own table continues, as models do that inherit by joining."""
    if mapper is None or mapper.concrete or mapper.inherits is None:
        return None
    above = mapper.inherits.local_table
    return above.key if isinstance(above, sa.Table) and above is not mapper.local_table else None


def inheritance_faults(mapper: orm.Mapper[Any] | None) -> list[str]:
    """Refuse a model that is some rows of another one's table."""
    if mapper is None or mapper.concrete or mapper.inherits is None:
        return []
    if mapper.local_table is not mapper.inherits.local_table:
        return []
    base = mapper.inherits.class_.__name__
    said = f"{mapper.class_.__name__} has no table of its own but is some rows of that of {base}"
    return [f"{said}, and a stream is all rows of a table: declare Stream({base}), or give it a table of its own"]
