"""A file's header beside a stream's columns: which cell means which, and what is said of the others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from exchange.channels.intake import Intake
from exchange.channels.stream import Stream
from exchange.format.errors import printable
from exchange.reading import FileRefused
from exchange.reading.model_defaults import gives, needs_a_statement

_MOST_NAMED = 20
_LIKENESS = 0.75
_IGNORED = re.compile(r"[\s_\-.]+")


@dataclass(frozen=True)
class Header:
    """Cells and the columns that they mean."""

    cells: Sequence[str]
    columns: Sequence[str | None]
    notes: Sequence[str]
    given: Sequence[str] = ()
    """Columns that are missing, and the model's own defaults give."""


class Columns:
    """The columns that a header's cells may mean, by the names that people write."""

    def __init__(self, stream: Stream, intake: Intake) -> None:
        """Gather their names in files, in the table, and those that the intake maps."""
        self._stream, self._defaults = stream, intake.defaults
        changing = intake.mode == "upsert"  # rows that are there have what a new one needs
        new = [name for c, name in zip(stream.columns, stream.names, strict=True) if not _has_value(c)]
        self._with_defaults = {} if changing else dict(zip(stream.names, stream.columns, strict=True))
        self._needed = frozenset((intake.key or stream.key_names) if changing else new)
        self._mapped = {_plain(cell): column for cell, column in intake.mapping.items()}
        self._exact = {**{table: name for table, name in stream.in_files.items() if name in stream.names}}
        self._exact |= {name: name for name in stream.names}
        loose: dict[str, set[str]] = {}
        for spelled, name in self._exact.items():
            loose.setdefault(_loose(spelled), set()).add(name)
        self._loose = {spelled: names.pop() for spelled, names in loose.items() if len(names) == 1}

    def meant(self, cell: str) -> str | None:
        """Say which column a header's cell means; None: none, or it might be several."""
        plain = _plain(cell)
        return self._mapped.get(plain) or self._exact.get(plain) or self._loose.get(_loose(cell))

    def known(self, cells: Sequence[str]) -> int:
        """Count the cells that mean a column."""
        return sum(self.meant(cell) is not None for cell in cells)

    def header(self, cells: Sequence[str], *, what: str = "column") -> Header:
        """Match a header; raises FileRefused where no cell means a column, two the same one, or one is missing."""
        columns = [self.meant(cell) for cell in cells]
        if not any(columns):
            raise FileRefused(
                f"no {what} of it is one of stream {self._stream.name}: its first row has {_listed(cells)}, the"
                f" stream has {_listed(self._stream.names)}; give the file a header, or say by mapping="
                " what its cells mean"
            )
        for name in {*filter(None, columns)}:
            of = [cell for cell, column in zip(cells, columns, strict=True) if column == name]
            if len(of) > 1:
                raise FileRefused(
                    f"column {printable(name)} is in it {len(of)} times, as {_listed(of)}; leave one, or name one"
                    " otherwise"
                )
        missing = [name for name in self._stream.names if name not in columns and name not in self._defaults]
        unknown = [cell for cell, column in zip(cells, columns, strict=True) if column is None]
        given = [name for name in missing if name in self._with_defaults and gives(self._with_defaults[name])]
        self._refuse_unknown_defaults(missing)
        missing = [name for name in missing if name not in given]
        required = [*self._required(missing)]
        if required:
            some = "; ".join(self._near(unknown, required))
            raise FileRefused(
                f"{what} {_listed(required)} is missing, and each row needs {'it' if len(required) == 1 else 'them'}"
                f"{f': {some}' if some else ''}; bring it in the file, say its value by defaults=, or what is meant by"
                " mapping="
            )
        notes = []
        if unknown:
            notes.append(f"left out, as stream {self._stream.name} has no such {what}: {_listed(unknown)}")
            notes += self._near(unknown, missing)
        if defaulted := [name for name in self._defaults if name not in columns]:
            notes.append(f"not in the file, the same in each row by defaults=: {_listed(defaulted)}")
        if given:
            notes.append(f"not in the file, by the model's own defaults: {_listed(given)}")
        if missing:
            notes.append(f"not in the file, so the table's own default or NULL: {_listed(missing)}")
        return Header(cells, columns, notes, given)

    def _refuse_unknown_defaults(self, missing: Sequence[str]) -> None:
        columns = self._with_defaults
        unknown = [name for name in missing if name in columns and needs_a_statement(columns[name])]
        if unknown:
            raise FileRefused(
                f"column {_listed(unknown)} is not in it, and the model's default asks for the statement at hand, which"
                " loading a file has not: bring the column, say its value by defaults=, or give the table a"
                " server_default"
            )

    def _required(self, missing: Sequence[str]) -> Iterator[str]:
        yield from (name for name in missing if name in self._needed)

    @staticmethod
    def _near(unknown: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
        by_spelling = {_loose(name): name for name in missing}
        for cell in unknown[:_MOST_NAMED]:
            if near := difflib.get_close_matches(_loose(cell), by_spelling, 1, _LIKENESS):
                yield f'is "{printable(cell, 80)}" meant to be column {printable(by_spelling[near[0]], 80)}?'


def _has_value(column: sa.Column[object]) -> bool:
    """Say whether a row needs no value for a column: the database knows one."""
    return bool(
        column.nullable
        or column.server_default is not None
        or column.identity is not None
        or column is column.table.autoincrement_column
    )


def _plain(cell: str) -> str:
    return cell.strip(" \t\u00a0\ufeff")


def _loose(cell: str) -> str:
    return _IGNORED.sub("", _plain(cell)).casefold()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(f'"{printable(name, 80)}"' for name in names[:_MOST_NAMED]) + more
