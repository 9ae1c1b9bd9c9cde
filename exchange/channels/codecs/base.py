"""What the codecs of all types have in common."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.types import NullType, TypeEngine

from exchange.format.errors import RecordError

Json = Any
"""A value as JSON has it: None, bool, int, float, str, list or dict."""

Encode = Callable[[Any], Json]
EncodeColumn = Callable[[Sequence[Any]], Sequence[Json]]
WriteColumn = Callable[[Sequence[Any]], list[bytes]]
Decode = Callable[[Json], Any]


def as_is(value: Any) -> Any:
    """Give the value back: the encoder or decoder where there is nothing to do, which a caller may skip."""
    return value


def json_null_member(column: str) -> str:
    """Name the member that stands in a record's data for a column's own: for JSON's null, or a document as text."""
    return f"{column}:json"


LOOK_AT_EACH = (RecordError, LookupError, TypeError, ValueError)
"""What an ``EncodeColumn`` raises where one of the values, it need not say which, has to be looked at by itself."""


MANY_BYTES = 2 * 1024 * 1024
"""How much of one column is encoded at a time. More goes value by value: memory would hold it several times."""


class Refuse(Protocol):
    """Makes the error for one value of one column: what was expected, what was found, and perhaps why."""

    def __call__(self, value: object, why: str = "") -> RecordError:
        """Word it; the caller raises."""
        ...


class TypeCodec(ABC):
    """The codec of one type of values: its schema and its two directions, on SQLite and on PostgreSQL.

    An encoder takes what ``selected`` gives, a decoder gives what the driver binds without any conversion of
    SQLAlchemy's. Both are made once per column and called once per value, so each is one plain function.
    """

    long = False
    """Whether a value may take more than a few hundred bytes."""

    keyable = True
    """Whether the value can be part of a key: equal values have one spelling."""

    sqlite_type: type[TypeEngine[Any]] | None = None
    """What a column of it is on SQLite, by a variant: ``sa.String`` or ``sa.JSON``. None where SQLite has the type."""

    bound_as_is: frozenset[type] = frozenset()
    """Types whose values, read strictly and accepted by the schema, are what the driver binds on either database."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What the values are, in words that follow "expected"."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Give the JSON Schema of a value that is not null."""

    @abstractmethod
    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        """From a selected value that is not null to the wire's."""

    def text_encoder(self, refuse: Refuse) -> Encode:
        """From PostgreSQL's text of a value to the wire's: so an array's elements come."""
        return self.encoder(refuse, sqlite=False)

    def column_encoder(self, refuse: Refuse, *, sqlite: bool) -> EncodeColumn:
        """Make the function from many selected values, none of them NULL, to the wire's: ``encoder``, but faster.

        It raises one of LOOK_AT_EACH if it finds a value that ``encoder`` refuses. What the column's schema
        refuses it may pass on: whoever encodes many records at once has them checked.
        """
        encode = self.encoder(refuse, sqlite=sqlite)
        return as_is if encode is as_is else lambda values: [*map(encode, values)]

    def column_writer(self, refuse: Refuse, *, sqlite: bool) -> WriteColumn | None:  # noqa: ARG002
        """Make the function from many selected values, none of them NULL, to the JSON text of each on the wire.

        It raises one of LOOK_AT_EACH if it finds a value that ``encoder`` or the type's schema refuses. None where
        nothing is quicker than to ask the schema about what ``column_encoder`` gives.
        """
        return None

    @abstractmethod
    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        """From a wire value that is not null to the driver's."""

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        """Say what to select: on SQLite see ``stored``, on PostgreSQL the server's own text."""
        return stored(column) if sqlite else sa.cast(column, sa.Text)

    def checked_decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        """Make the decoder of values that the strict reader read and the schema accepted: it need not look again."""
        return self.decoder(refuse, sqlite=sqlite)

    def checked_column_decoder(self, refuse: Refuse, *, sqlite: bool) -> Callable[[list[Json]], list[Any]]:
        """Make the same for many values, none of them null."""
        decode = self.checked_decoder(refuse, sqlite=sqlite)
        return as_is if decode is as_is else lambda values: [*map(decode, values)]

    def family(self) -> Hashable:
        """Say what must be the same for a type and its variants on the two databases."""
        return type(self)


class SpelledCodec(TypeCodec):
    """A type of PostgreSQL's whose value is one text on the wire, which SQLite keeps as it is.

    ``check`` knows the one spelling of each value. PostgreSQL's own text may be another.
    """

    sqlite_type = sa.String

    @abstractmethod
    def check(self, text: str) -> str:
        """Give back a text that is a value's one spelling; raises ValueError, with a reason if there is a good one."""

    def from_postgresql(self, text: str) -> str:
        """Spell what PostgreSQL wrote as the wire has it; ``check`` sees it afterwards. May raise ValueError."""
        return text

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        """Check what SQLite keeps, or what PostgreSQL's text is spelled as."""
        check, spell = self.check, self.from_postgresql

        def kept(value: Any) -> str:
            if type(value) is not bytes:
                raise refuse(value)
            try:
                return check(value.decode())
            except UnicodeDecodeError as error:
                raise refuse(value, "its bytes are not UTF-8") from error
            except ValueError as error:
                raise refuse(value, str(error)) from error

        def written(text: str) -> str:
            try:
                return check(spell(text))
            except ValueError as error:
                raise refuse(text, str(error)) from error

        return kept if sqlite else written

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        """Check it: both databases read the wire's text."""
        check = self.check

        def spelled(value: Json) -> str:
            if type(value) is not str:
                raise refuse(value)
            try:
                return check(value)
            except ValueError as error:
                raise refuse(value, str(error)) from error

        return spelled


def all_of(kind: type) -> EncodeColumn:
    """Make the encoder of a column where there is nothing to do but to see that each value is just of this type."""

    def values_of(values: Sequence[Any]) -> Sequence[Json]:
        if {*map(type, values)} - {kind}:
            raise TypeError
        return values

    return values_of


def in_shape(words: bytes, kinds: bytes, shape: bytes) -> list[bytes]:
    """Put quotes around each of the words, which end in newlines; ValueError unless each is of a shape.

    ``kinds`` (256 bytes) says what byte stands in the shape for each byte. Nothing in a shape needs an escape in JSON.
    """
    if words.translate(kinds) != (shape + b"\n") * words.count(b"\n"):
        raise ValueError
    return (b'"' + words.replace(b"\n", b'"\n"'))[:-2].split(b"\n")


def raw(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Select a column without SQLAlchemy's conversions."""
    return sa.type_coerce(column, NullType())


@functools.lru_cache(4096)
def stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Select from SQLite what is really there, in any column: text as its bytes, a blob as the text "a blob".

    SQLite keeps what it is given, and its driver fails the whole query at text that is not UTF-8; as bytes,
    one bad value is one refused record.
    """
    kind = sa.func.typeof(column)
    is_text, is_blob = kind == sa.literal_column("'text'"), kind == sa.literal_column("'blob'")
    return sa.type_coerce(
        sa.case(
            (is_text, sa.cast(column, sa.BLOB)),
            (is_blob, sa.literal_column("'a blob'")),
            else_=raw(column),
        ),
        NullType(),
    )
