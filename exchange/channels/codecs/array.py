"""Arrays and hstores: JSON's own arrays and objects, which SQLite keeps as such."""

# ruff: noqa: D102 - the base class says what each method is for

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from exchange.channels.codecs.base import Decode, Encode, Json, Refuse, TypeCodec
from exchange.channels.codecs.document import DocumentText, read_document
from exchange.channels.codecs.numeric import FloatCodec
from exchange.format import strict_json
from exchange.format.errors import RecordError

MAX_DIMENSIONS = 6
"""PostgreSQL's own bound."""

_DIMENSIONS = re.compile(r"(?:\[-?[0-9]+:-?[0-9]+\])+")


class StructuredCodec(TypeCodec):
    """A type of PostgreSQL's that is an array or an object of JSON on the wire, and in a JSON column of SQLite."""

    long = True
    keyable = False
    sqlite_type = sa.JSON

    @abstractmethod
    def taken(self, value: Json, refuse: Refuse) -> tuple[Json, str]:
        """Give a value of the wire as it is written again, and what PostgreSQL reads; raises what ``refuse`` makes."""

    def kept_encoder(self, refuse: Refuse) -> Encode:
        """From what SQLite keeps to the wire's."""

        def kept(text: Any) -> Json:
            if type(text) is not bytes:
                raise refuse(text)
            try:
                value = read_document(text)
            except ValueError as error:
                raise refuse(text, str(error)) from error
            except RecordError as error:
                raise refuse(text, error.sentence) from error
            return self.taken(value, refuse)[0]

        return kept

    def decoder(self, refuse: Refuse, *, sqlite: bool) -> Decode:
        taken = self.taken

        def document(value: Json) -> str:
            try:
                return strict_json.dumps(taken(value, refuse)[0]).decode()
            except strict_json.StrictJsonError as error:
                raise refuse(value, error.sentence) from error

        return document if sqlite else lambda value: taken(value, refuse)[1]


@dataclass(frozen=True)
class ArrayCodec(StructuredCodec):
    """Arrays of any number of dimensions up to six, each as an array of JSON; NULL is ``null``.

    Of what may be an array itself, as JSON documents, there is just one dimension. PostgreSQL counts from 1 where
    nothing else is said: an array that counts from elsewhere has no form.
    """

    element: TypeCodec

    @property
    def expected(self) -> str:
        nested = "an array" if self._is_flat else "an array, of one dimension or of up to six of even lengths,"
        return f"{nested} of which each element is null or {self.element.expected}"

    @property
    def _is_flat(self) -> bool:
        return "array" in self.element.schema().get("type", ["array"])

    def schema(self) -> dict[str, Any]:
        of = self.element.schema()
        if not of:
            return {"type": "array"}
        return {"type": "array", "items": {"anyOf": [of, {"type": "null" if self._is_flat else ["null", "array"]}]}}

    def selected(self, column: sa.Column[Any], *, sqlite: bool) -> sa.ColumnElement[Any]:
        """Select on PostgreSQL the array of its elements' texts as JSON, or its bounds if one is unusual."""
        if sqlite:
            return super().selected(column, sqlite=True)
        bounds = sa.func.array_dims(column)
        rest = sa.func.replace(bounds, sa.literal_column("'[1:'"), sa.literal_column("''"))
        texts = sa.func.array_to_json(sa.cast(column, postgresql.ARRAY(sa.Text)))
        unusual = sa.func.strpos(rest, sa.literal_column("'['")) > sa.literal_column("0")
        return sa.case((unusual, bounds), else_=sa.cast(texts, sa.Text))

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        return self.kept_encoder(refuse) if sqlite else self._from_texts(refuse)

    def _from_texts(self, refuse: Refuse) -> Encode:
        element = self.element.text_encoder(refuse)

        def leaf(text: str | None) -> Json:
            if text is None:
                return None
            value = element(text)
            if value is None or type(value) is DocumentText:
                raise refuse(text, "in an array it has no form of its own")
            return value

        def nested(values: Sequence[Any]) -> list[Json]:
            return [nested(value) if type(value) is list else leaf(value) for value in values]

        def array(text: str) -> list[Json]:
            if _DIMENSIONS.fullmatch(text):
                raise refuse(text, "it counts its elements from another number than 1")
            try:
                values = orjson.loads(text)
            except ValueError as error:
                raise refuse(text, "its bytes are not UTF-8") from error
            if self._is_flat and any(type(value) is list for value in values):
                raise refuse(text, "such an array has one dimension")
            return nested(values)

        return array

    def taken(self, value: Json, refuse: Refuse) -> tuple[Json, str]:
        if type(value) is not list:
            raise refuse(value)
        leaves, lengths = self._flattened(value, refuse)
        decode = self.element.decoder(refuse, sqlite=False)
        made = [None if leaf is None else decode(leaf) for leaf in leaves]
        # A whole number may stand for a float.
        again = made if isinstance(self.element, FloatCodec) else leaves
        texts = ["NULL" if one is None else _quoted(one) for one in made]
        for length in reversed(lengths[1:]):
            places = range(0, len(texts), length)
            texts = ["{" + ",".join(texts[at : at + length]) + "}" for at in places]
            again = [again[at : at + length] for at in places]
        return again, "{" + ",".join(texts) + "}"

    def _flattened(self, value: list[Json], refuse: Refuse) -> tuple[list[Json], list[int]]:
        """Give all elements, and how many there are in each dimension."""
        lengths = [len(value)]
        while not self._is_flat and any(type(inner) is list for inner in value):
            first = value[0]
            even = all(type(inner) is list and len(inner) == len(first) for inner in value)
            if not even or not first:
                raise refuse(value, "inner arrays are of one length, and not empty")
            lengths.append(len(first))
            if len(lengths) > MAX_DIMENSIONS:
                raise refuse(value, f"an array has at most {MAX_DIMENSIONS} dimensions")
            value = [element for inner in value for element in inner]
        return value, lengths


def _quoted(value: Any) -> str:
    """Write an element as PostgreSQL reads it within an array or an hstore."""
    text = value if type(value) is str else str(value).lower() if type(value) is bool else repr(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:NULL|"((?:[^"\\]|\\.)*)")(?:, )?', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class HstoreCodec(StructuredCodec):
    """Hstores: an object whose members are texts or null."""

    expected = "an object whose members are strings or null"

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": ["string", "null"]}}

    def encoder(self, refuse: Refuse, *, sqlite: bool) -> Encode:
        def pairs(text: str) -> Json:
            found: dict[str, Json] = {}
            at = 0
            while at < len(text):
                pair = _PAIR.match(text, at)
                if pair is None:
                    raise refuse(text)
                name, value = pair.groups()
                found[_ESCAPED.sub(r"\1", name)] = None if value is None else _ESCAPED.sub(r"\1", value)
                at = pair.end()
            return found

        return self.kept_encoder(refuse) if sqlite else pairs

    def taken(self, value: Json, refuse: Refuse) -> tuple[Json, str]:
        if type(value) is not dict:
            raise refuse(value)
        return value, ", ".join(_pairs(value, refuse))


def _pairs(value: dict[str, Json], refuse: Refuse) -> Iterable[str]:
    for name, member in value.items():
        if member is not None and type(member) is not str:
            raise refuse(value)
        for text in (name, member or ""):
            if "\0" in text or not _is_utf8(text):
                raise refuse(value, "U+0000 and lone surrogates are no characters")
        yield f"{_quoted(name)}=>{'NULL' if member is None else _quoted(member)}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
