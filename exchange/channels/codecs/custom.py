"""Codecs that an application brings for its own types."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.types import TypeEngine

from exchange.channels.codecs.base import Decode, Encode, Json, Refuse, TypeCodec
from exchange.format import strict_json
from exchange.format.errors import RecordError, printable

_REGISTERED: dict[type[TypeEngine[Any]], CustomCodec] = {}


def register_codec(
    kind: type[TypeEngine[Any]],
    *,
    encode: Callable[[Any], Json],
    decode: Callable[[Json], Any],
    json_schema: Mapping[str, Any],
) -> None:
    """Say how the values of a type of the application's own, or of an extension's, cross.

    ``kind`` is the class of the type, a ``TypeDecorator`` or ``UserDefinedType`` for instance; it counts for its
    subclasses, too. ``encode`` is given what the database keeps, never NULL, and gives what JSON can say: on PostgreSQL
    it gets the server's own text (``CAST(... AS text)``), on SQLite a ``str``, an ``int`` or a ``float``. ``decode``
    gives back a ``str``, an ``int`` or a ``float`` for the database to read. ``json_schema`` is the schema of what
    ``encode`` gives; it must have a ``type``.

    A value crosses only if each function undoes the other exactly; what one of them raises refuses that record. Such a
    column can't be part of a key. To be called once, before a stream with the type is declared; raises ValueError and
    TypeError for what can't work.
    """
    given: object = kind
    if not isinstance(given, type) or not issubclass(given, TypeEngine):
        raise TypeError(f"register_codec takes the class of a SQLAlchemy type, not {printable(repr(given), 80)}")
    functions: tuple[object, ...] = (encode, decode)
    if not all(map(callable, functions)):
        raise TypeError(f"register_codec({kind.__name__}): encode and decode must be functions")
    if "type" not in json_schema:
        raise ValueError(f"register_codec({kind.__name__}): json_schema must say the type of the values")
    if kind in _REGISTERED:
        raise ValueError(f"register_codec({kind.__name__}): it has a codec already")
    _REGISTERED[kind] = CustomCodec(kind.__name__, encode, decode, dict(json_schema))


def registered(kind: TypeEngine[Any]) -> TypeCodec | None:
    """Find the codec that was registered for a type; None if there is none."""
    return next((_REGISTERED[one] for one in type(kind).__mro__ if one in _REGISTERED), None)


@dataclass(frozen=True)
class CustomCodec(TypeCodec):
    """A type whose two functions are the application's; what they give is believed only where each undoes the other."""

    name: str
    encode: Callable[[Any], Json]
    decode: Callable[[Json], Any]
    json_schema: Mapping[str, Any] = field(hash=False)
    long = True
    keyable = False

    @property
    def expected(self) -> str:
        return f"a value of {self.name} as its codec writes it"

    def schema(self) -> dict[str, Any]:
        return dict(self.json_schema)

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:  # noqa: ARG002
        call = _calling(refuse)

        def written(value: Any) -> Json:
            kept = value.decode("utf-8", "surrogateescape") if type(value) is bytes else value
            wire = call(self.encode, kept)
            if not _same(call(self.decode, wire), kept):
                raise refuse(kept, "its codec does not give it back as it was")
            return wire

        return written

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:  # noqa: ARG002
        call = _calling(refuse)

        def read(wire: Json) -> Any:
            kept = call(self.decode, wire)
            if type(kept) not in {str, int, float}:
                raise refuse(wire, f"its codec gives a {type(kept).__name__}, which no database is given")
            if not _same(call(self.encode, kept), wire):
                raise refuse(wire, "its codec would write it differently")
            return kept

        return read


def _calling(refuse: Refuse) -> Callable[[Callable[[Any], Any], Any], Any]:
    def call(function: Callable[[Any], Any], value: Any) -> Any:
        try:
            return function(value)
        except Exception as error:  # whatever the application's function does not take
            raise refuse(value, f"{type(error).__name__}: {printable(str(error), 120)}") from error

    return call


def _same(one: Json, other: Json) -> bool:
    """Say that two values are written alike: 1, 1.0 and true are not."""
    try:
        return strict_json.dumps(one) == strict_json.dumps(other)
    except RecordError:
        return False
