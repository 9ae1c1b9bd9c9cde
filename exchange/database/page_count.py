"""How many rows there are of which a page is shown: counted as far as that costs little."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

COUNTED = 10_000
"""How far rows are counted where no count is kept."""


class Count(NamedTuple):
    """How many there are; if not ``exact``, at least so many."""

    number: int
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return self._asdict()


def counted(connection: Connection, rows: sa.Select[Any], most: int | None = None) -> Count:
    """Count what a query gives, as far as ``most`` (default: ``COUNTED``); an index has to lead to it."""
    most = COUNTED if most is None else most
    some = rows.with_only_columns(sa.literal(1), maintain_column_froms=True).limit(most + 1).subquery()
    number = int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0)
    return Count(min(number, most), exact=number <= most)
