"""A chunk: rows that go to the database together, as many as are worth a savepoint, as few as memory bears."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

from exchange.format.record import Op
from exchange.tables.loader.staging import Rows

FIRST_ROWS = 500
"""It costs little to learn from so few that rows can't go straight into their table."""

GROWTH = 4
"""By so much each is larger than the one before it: the database has something to do while the next is made."""

MOST_ROWS = 10_000
MOST_BYTES = 8 * 1024 * 1024


@dataclass
class Chunk:
    """Rows of one stream and one op, nearly in the order of their lines: one that was in doubt may come sooner."""

    stream: str = ""
    most_rows: int = FIRST_ROWS
    rows: int = 0
    _bytes: int = 0
    _parts: list[Rows] = field(default_factory=list)

    def takes(self, stream: str, op: Op) -> bool:
        """Say whether such rows may join those that are in it."""
        return not self._parts or (self.stream, self._parts[0].op) == (stream, op)

    def add(self, stream: str, rows: Rows) -> None:
        """Add rows."""
        self.stream = stream
        self._parts.append(rows)
        self.rows += len(rows.rows)
        self._bytes += sum(map(len, rows.records))

    def is_full(self) -> bool:
        """Say whether it is time to write it."""
        return self.rows >= self.most_rows or self._bytes >= MOST_BYTES

    def next(self) -> Chunk:
        """Make the one after it, empty."""
        return Chunk(most_rows=min(GROWTH * self.most_rows, MOST_ROWS) if self.rows else self.most_rows)

    def joined(self) -> Rows:
        """Give all rows as one."""
        if len(self._parts) == 1:
            return self._parts[0]
        ops, *members = zip(*self._parts, strict=True)
        return Rows(ops[0], *(list(chain.from_iterable(member)) for member in members))
