"""What an application wants to know of rows that come: the hooks of its streams, and what each is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect

from exchange.channels.codecs import ColumnCodec

MOST_KEYS = 1000
"""So many rows one call is about, at most: as many values any database binds in one statement."""


@dataclass(frozen=True)
class HookRows:
    """Some rows of one stream. ``keys`` has each row's primary key, in its columns' order, as models have the values.

    ``connection`` is that of the transaction that applies them, which a hook neither commits nor rolls back; None after
    the commit.
    """

    op: Literal["upsert", "delete"]
    keys: Sequence[tuple[Any, ...]]
    connection: Connection | None = None


Hook = Callable[[str, HookRows], object]
"""Called with a stream's name and some of its rows."""


@dataclass(frozen=True)
class Hooks:
    """A stream's: before its rows are written, once they are, and once that is committed."""

    before_apply: Hook | None = None
    on_applied: Hook | None = None
    after_commit: Hook | None = None

    @property
    def wants_keys(self) -> bool:
        """Whether the keys of what was written are asked for."""
        return self.on_applied is not None or self.after_commit is not None

    def faults(self) -> Iterator[str]:
        """Say which of them is none."""
        for name, hook in vars(self).items():
            if hook is not None and not callable(hook):
                yield f"{name}= takes a function of a stream's name and its rows, found {type(hook).__name__}"


def key_values(codecs: Sequence[ColumnCodec]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Make the function from a key as it is on the wire to the values that a model has."""
    read = [_reader(codec) for codec in codecs]
    return lambda key: tuple(one(value) for one, value in zip(read, key, strict=True))


_SQLITE: Dialect = sqlite.dialect()
"""Of its values SQLAlchemy makes those of models in one way, whichever database has the rows."""


def _reader(codec: ColumnCodec) -> Callable[[Any], Any]:
    kind = codec.column.type
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return Decimal if kind.asdecimal else float
    decode = codec.decoder(_SQLITE, "/key")
    process = kind.dialect_impl(_SQLITE).result_processor(_SQLITE, None)
    zone = isinstance(kind, sa.DateTime) and kind.timezone

    def read(value: Any) -> Any:
        """Give a value as a model has it."""
        made = decode(value)
        made = made if process is None else process(made)
        return made.replace(tzinfo=UTC) if zone and isinstance(made, datetime) and made.tzinfo is None else made

    return read
