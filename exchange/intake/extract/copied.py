"""Rows as PostgreSQL's COPY writes them, made lines of CSV column by column: where all of a block's cells are usual.

Each way here gives the very bytes that ``lines.Csv`` makes of the same rows, or raises one of LOOK_AT_EACH: then
``rows_of`` gives the block's rows as the driver would, to be looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Dialect

from exchange.channels.codecs import ColumnCodec
from exchange.channels.codecs.base import TypeCodec
from exchange.channels.codecs.numeric import DecimalCodec, FloatCodec, IntegerCodec
from exchange.channels.codecs.temporal import DateCodec, DateTimeCodec
from exchange.channels.codecs.text import TextCodec, UuidCodec
from exchange.channels.schemas import Checker
from exchange.channels.stream import Stream
from exchange.intake.extract.kinds import Kind, kind_of
from exchange.intake.extract.lines import Csv

Texts = list[str]
Make = Callable[[Texts], Sequence[str]]
"""From PostgreSQL's texts of a column, none of them NULL, to cells of CSV."""

_BOOL, _BYTEA, _TEXTS = 16, 17, frozenset({25, 1042, 1043})
_WHOLE = {21: 16, 23: 32, 20: 64}
_REAL = frozenset({700, 701})

_LOADERS: dict[int, Callable[[str], Any]] = {
    _BOOL: "t".__eq__,
    _BYTEA: lambda text: bytes.fromhex(text[2:]),
    **dict.fromkeys(_WHOLE, int),
    **dict.fromkeys(_REAL, float),
    **dict.fromkeys(_TEXTS, str),
}
"""What the driver makes of texts, by their types (oids)."""

_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NULL = "\\N"


class CopiedCsv:
    """Makes CSV of copied lines."""

    def __init__(self, stream: Stream, checker: Checker, dialect: Dialect, types: Sequence[int], csv: Csv) -> None:
        """Take the types of all columns that are read, the stream's first."""
        self._types, self._csv = types, csv
        self._columns = [
            (codec.nullable, self._maker(codec, checker, dialect, type_))
            for codec, type_ in zip((stream.codecs[c.name] for c in stream.columns), types, strict=False)
        ]

    @staticmethod
    def takes(stream: Stream, types: Sequence[int]) -> bool:
        """Say whether all columns can be had so."""
        kinds = {kind_of(stream.codecs[column.name]) for column in stream.columns}
        return Kind.DOCUMENT not in kinds and _LOADERS.keys() >= {*types}

    def lines(self, copied: Sequence[bytes]) -> bytes:
        """Give lines of CSV. Raises one of LOOK_AT_EACH, and has counted nothing then."""
        width, before = len(self._types), self._csv.defused
        texts = b"".join(copied).decode()
        cells = texts.removesuffix("\n").replace("\n", "\t").split("\t")
        if len(cells) != width * len(copied):
            raise ValueError
        try:
            made = [_cells(cells[at::width], *how) for at, how in enumerate(self._columns)]
        except BaseException:
            self._csv.defused = before
            raise
        return ("\n".join(map(",".join, zip(*made, strict=True))) + "\n").encode()

    def rows_of(self, copied: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Give rows as the driver does."""
        loaders = [_LOADERS[one] for one in self._types]
        return [
            tuple(
                None if cell == _NULL else load(_unescaped(cell))
                for load, cell in zip(loaders, line.decode().removesuffix("\n").split("\t"), strict=True)
            )
            for line in copied
        ]

    def _maker(self, codec: ColumnCodec, checker: Checker, dialect: Dialect, type_: int) -> Make:
        own = codec.type_codec
        if isinstance(own, TextCodec) and type_ in _TEXTS and not own.fixed:
            return _bounded(own.length, self._csv.words)
        usual = _usual(own, type_)
        if usual is not None:
            return usual
        encode, accepts = codec.column_encoder(dialect), checker.column_accepts(codec.name)
        load, cell = _LOADERS[type_], self._csv.cell_of(kind_of(codec))

        def checked(texts: Texts) -> Sequence[str]:
            """Take the way of all others: encoded, checked, written."""
            values = [*encode([*map(load, texts)])]
            if not accepts(values):
                raise ValueError
            return cell(values)

        return checked


def _usual(own: TypeCodec, type_: int) -> Make | None:
    """Give the short way of a type whose texts the server writes as the wire has them, or nearly so."""
    if isinstance(own, IntegerCodec) and _WHOLE.get(type_, 65) <= own.bits:
        return _as_they_are
    if isinstance(own, FloatCodec) and type_ in _REAL and not own.single:
        return _reals
    if isinstance(own, DateTimeCodec) and own.digits == _DIGITS:
        return _moments(own)
    if isinstance(own, DateCodec):
        return _like("[0-9]{4}-[0-9]{2}-[0-9]{2}")
    if isinstance(own, UuidCodec) or (isinstance(own, DecimalCodec) and own.precision is not None):
        return _like(str(own.schema()["pattern"])[1:-1].replace("$)", r"\n)"))
    return None


def _cells(texts: Texts, nullable: bool, make: Make) -> Sequence[str]:
    some = texts
    if _NULL in texts:
        if not nullable:
            raise ValueError
        some = [text for text in texts if text != _NULL]
    if "\\" in "".join(some):
        some = [_unescaped(text) for text in some]
    if len(some) == len(texts):
        return make(some)
    made = iter(make(some))
    return ["" if text == _NULL else next(made) for text in texts]


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text) if "\\" in text else text


def _as_they_are(texts: Texts) -> Texts:
    return texts


def _like(pattern: str) -> Make:
    """Take texts that are all like a pattern, and are written as they are."""
    usual = re.compile(rf"(?>(?:{pattern})\n)*+")

    def make(texts: Texts) -> Sequence[str]:
        if not usual.fullmatch("\n".join([*texts, ""])):
            raise ValueError
        return texts

    return make


def _reals(texts: Texts) -> Texts:
    joined = "".join(texts)
    if "n" in joined or "N" in joined:  # NaN, Infinity
        raise ValueError
    return [*map(repr, map(float, texts))]


def _bounded(length: int | None, words: Make) -> Make:
    def make(texts: Texts) -> Sequence[str]:
        if length is not None and texts and max(map(len, texts)) > length:
            raise ValueError
        return words(texts)

    return make


_DIGITS = 6
_SECONDS = len("2026-11-28 06:15:00")


def _moments(kind: DateTimeCodec) -> Make:
    zone, mark = ("+00", "Z") if kind.aware else ("", "")
    moment = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"
    usual = re.compile(rf"(?>{moment}(?:\.[0-9]{{1,6}})?{re.escape(zone)}\n)*+")
    cut = -len(zone) or None

    def make(texts: Texts) -> Sequence[str]:
        """Take moments from 0001 to 9999, in UTC if they have a zone: the server writes only days that there are."""
        joined = "\n".join([*texts, ""])
        if not usual.fullmatch(joined):
            raise ValueError
        if "." not in joined:
            return joined.replace(" ", "T").replace(f"{zone}\n", f".000000{mark}\n").split("\n")[:-1]
        return [f"{text[:10]}T{text[11:_SECONDS]}{text[_SECONDS:cut] or '.':0<7}{mark}" for text in texts]

    return make
