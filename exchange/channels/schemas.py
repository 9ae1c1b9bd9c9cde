"""The JSON Schema of a stream: written from its model, kept as a file per version, checked on every record.

``jsonschema_rs`` decides, ``jsonschema`` words what it refused. That one takes long to load and is loaded when needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from exchange.channels.codecs import DURATION_SCHEMA, MONTHS_SCHEMA, json_null_member
from exchange.channels.known_columns import known_column
from exchange.channels.stream import Stream
from exchange.format import json_pointer
from exchange.format.errors import RecordError, printable
from exchange.format.known_shape import KnownShape
from exchange.format.record import ByColumns, Op

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SENTENCE_LENGTH = 300


def stream_schema(stream: Stream) -> dict[str, Any]:
    """Write the schema of a stream's data from its model; that of its key is ``$defs.key`` in it."""
    columns, key = (
        {codec.name: dict(codec.json_schema) for codec in (stream.codecs[column.name] for column in some)}
        for some in (stream.columns, stream.key)
    )
    return {
        "$schema": DIALECT,
        "title": f"{stream.name}, schema version {stream.schema_version}",
        **_object(columns),
        "$defs": {"key": _object(key)},
    }


def schema_text(stream: Stream) -> str:
    """Write the schema as its file has it: the same text for the same model."""
    return json.dumps(stream_schema(stream), indent=2, ensure_ascii=True) + "\n"


def schema_path(folder: Path, stream: Stream, version: int) -> Path:
    """Say where the schema of a version lies below the schemas folder."""
    return folder / "streams" / stream.name / f"{version}.json"


def check_schema(schema: object) -> None:
    """Check that a schema is one, of draft 2020-12; raises ValueError with one sentence."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - see above
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415

    if not isinstance(schema, dict):
        raise ValueError("a stream's schema is a JSON object")  # noqa: TRY004 - a wrong file, not a wrong call
    if schema.get("$schema") != DIALECT:
        raise ValueError(f"its $schema must be {DIALECT}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = printable(error.json_path, 80)
        raise ValueError(f"it is no JSON Schema: {printable(error.message)} at {where}") from error


def agreement(stream: Stream, folder: Path) -> list[str]:
    """Compare the written schema of the stream's version with its model: a sentence per difference."""
    path = schema_path(folder, stream, stream.schema_version)
    try:
        written = read_schema(path)
    except ValueError as error:
        return [str(error)]
    differences = [f"{path}: {difference}" for difference in _differences("", written, stream_schema(stream))]
    if differences:
        differences.append(
            f"{path}: write it anew, or raise the stream's schema_version if records of this one have crossed"
        )
    return differences


def schema_digest(schema: Mapping[str, Any]) -> str:
    """Give the SHA-256 of what counts in a stream's schema: its columns, what each takes, and which are the key.

    The order of columns, and of the values of an enumeration, counts for nothing; that of the key's columns does, for
    keys are hashed as they are written.
    """
    text = json.dumps([schema_columns(schema), _key(schema)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def schema_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Word what changed between two schemas of a stream, column by column; nothing if their digests are the same."""
    old, new = schema_columns(before), schema_columns(after)
    said = [f"column {printable(name, 80)} was added" for name in new if name not in old]
    said += [f"column {printable(name, 80)} is gone" for name in old if name not in new]
    said += [
        f"column {printable(name, 80)} {change}"
        for name in old
        if name in new and old[name] != new[name]
        for change in column_changes(old[name], new[name])
    ]
    if _key(before) != _key(after):
        was, now = (printable(", ".join(_key(one)), 200) for one in (before, after))
        said.append(f"the key was {was} and is {now}")
    return said


def takes_null(column: Mapping[str, Any]) -> bool:
    """Say whether a column of a schema may be null."""
    kinds = column.get("type")
    return kinds is None or "null" in kinds


def column_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Word what changed in what a column takes."""
    if takes_null(old) != takes_null(new):
        yield "became nullable" if takes_null(new) else "may be null no longer"
    before, after = (_but_null(one) for one in (old, new))
    for rule in sorted({*before, *after}):
        if before.get(rule) != after.get(rule):
            was, now = (printable(json.dumps(one[rule]) if rule in one else "none", 80) for one in (before, after))
            yield f"has another {rule}: it was {was} and is {now}"


def _but_null(column: Mapping[str, Any]) -> dict[str, Any]:
    lists = {rule: column[rule] for rule in ("type", "enum") if rule in column}
    but = {rule: [one for one in said if one not in ("null", None)] for rule, said in lists.items()}
    return {**column, **but}


def schema_columns(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give what each column takes, with lists whose order says nothing in one order."""
    properties: dict[str, dict[str, Any]] = schema["properties"]
    return {name: {rule: _in_order(rule, said) for rule, said in of.items()} for name, of in properties.items()}


def _in_order(rule: str, said: Any) -> Any:
    if rule == "type" and isinstance(said, str):
        return [said]
    return sorted(said, key=json.dumps) if rule in {"type", "enum"} else said


def _key(schema: Mapping[str, Any]) -> list[str]:
    return list(schema["$defs"]["key"]["properties"])


class Checker:
    """Checks the records of one stream, each against the schema of its version.

    An older version is checked by its written schema below ``schemas_dir`` if there is one; what its upgrade
    makes of it is checked as current in any case, by whoever lifts it. Raises ValueError for a written schema
    that is none.
    """

    def __init__(self, stream: Stream, schemas_dir: Path | None = None) -> None:
        self.stream = stream
        self.schema = current = stream_schema(stream)
        self._data = {stream.schema_version: _Judge(current, "/data", stream.sensitive)}
        self._key = _Judge(current["$defs"]["key"], "/key", stream.sensitive)
        if schemas_dir is not None:
            self._data |= self._older(schemas_dir)

    @cached_property
    def digest(self) -> str:
        """The ``schema_digest`` of the current version."""
        return schema_digest(self.schema)

    def _older(self, folder: Path) -> dict[int, _Judge]:
        versions = range(1, self.stream.schema_version)
        paths = {version: schema_path(folder, self.stream, version) for version in versions}
        return {
            version: _Judge(read_schema(path), "/data", self.stream.sensitive)
            for version, path in paths.items()
            if path.is_file()
        }

    def check_data(self, data: dict[str, Any], schema_version: int | None = None) -> None:
        """Check an upsert's data as of ``schema_version``, the current one unless given.

        Raises RecordError of class ``schema`` that points at the member.
        """
        version = self.stream.schema_version if schema_version is None else schema_version
        judge = self._data.get(version)
        if judge is not None:
            judge.check(data)
        elif not self.stream.oldest_version <= version <= self.stream.schema_version:
            oldest, newest = self.stream.oldest_version, self.stream.schema_version
            raise RecordError(
                "schema",
                "/data",
                f"{self.stream.name}: schema version {version}, expected {oldest} to {newest}",
            )

    def accepts_all(self, data: list[dict[str, Any]]) -> bool:
        """Say whether ``check_data`` would take every one of them as of the current version: one call for many."""
        return self._data[self.stream.schema_version].accepts_all(data)

    def accepts_column(self, name: str, values: Sequence[Any]) -> bool:
        """Say whether ``check_data`` and ``check_key`` would take every one of a column's values, but a document's."""
        return self._columns[name].is_valid(values)

    def refused(self, data: Sequence[dict[str, Any]]) -> list[int]:
        """Give the places of those that ``check_data`` would not take as of the current version: one call for many."""
        return self._data[self.stream.schema_version].refused(data)

    def refused_columns(self, data: ByColumns) -> set[int]:
        """Give the places of those that ``check_data`` would not take: one call for each column of many.

        All columns of the stream are there, and no others; documents are in none of them.
        """
        return {
            int(error.instance_path[0])
            for name, values in data.columns.items()
            for error in self._columns[name].iter_errors(values)
        }

    def column_accepts(self, name: str) -> Callable[[list[Any]], bool]:
        """Give what says whether ``check_data`` would take every one of many values of a column: not of a document."""
        return self._columns[name].is_valid

    @cached_property
    def _columns(self) -> dict[str, jsonschema_rs.Draft202012Validator]:
        columns = _as_read(self.schema)["properties"].items()
        return {
            name: jsonschema_rs.Draft202012Validator({"type": "array", "items": rule}, validate_formats=True)
            for name, rule in columns
        }

    @cached_property
    def known_shapes(self) -> Mapping[Op, KnownShape]:
        """What reads records of the current version as our own writer writes them, and takes none that a check refuses.

        None where a column needs its own way.
        """
        stream = self.stream
        found = {}
        for op, columns in ((Op.UPSERT, stream.columns), (Op.DELETE, stream.key)):
            codecs = [stream.codecs[column.name] for column in columns]
            known = {codec.name: known_column(codec, partial(self.accepts_column, codec.name)) for codec in codecs}
            there = {name: column for name, column in known.items() if column is not None}
            if there and len(there) == len(known):
                found[op] = KnownShape(stream.name, op, there)
        return found

    def refused_keys(self, keys: Sequence[dict[str, Any]]) -> list[int]:
        """Give the places of those that ``check_key`` would not take: one call for many."""
        return self._key.refused(keys)

    def check_key(self, key: dict[str, Any]) -> None:
        """Check a delete's key; raises RecordError of class ``schema`` that points at the member."""
        self._key.check(key)


class _Judge:
    """One schema, compiled once."""

    def __init__(self, schema: Mapping[str, Any], under: str, sensitive: frozenset[str]) -> None:
        self._schema = schema = _as_read(schema)
        self._under = under
        self._sensitive = sensitive
        self._validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True)
        self._is_valid = self._validator.is_valid
        self._each = jsonschema_rs.Draft202012Validator({"type": "array", "items": dict(schema)}, validate_formats=True)
        self.accepts_all = self._each.is_valid

    def refused(self, values: Sequence[dict[str, Any]]) -> list[int]:
        """Give the places of those that the schema refuses."""
        # Looking for all errors takes no longer than looking for the first one.
        return sorted({int(error.instance_path[0]) for error in self._each.iter_errors([*values])})

    def check(self, value: dict[str, Any]) -> None:
        """Raise RecordError of class ``schema`` for a value that the schema refuses."""
        try:
            valid = self._is_valid(value)
        except UnicodeEncodeError as error:
            raise self._no_utf8(value) from error
        if not valid:
            raise self._refusal(value)

    def _no_utf8(self, value: dict[str, Any]) -> RecordError:
        """Word the refusal of a text with bytes of no encoding, as a database without one may hold."""
        for name, member in value.items():
            try:
                str(member).encode()
            except UnicodeEncodeError:
                pointer = self._under + json_pointer.join(name)
                return RecordError("value", printable(pointer), f"{printable(name, 80)}: its bytes are not UTF-8")
        return RecordError("value", self._under, "its bytes are not UTF-8")

    def _refusal(self, value: dict[str, Any]) -> RecordError:
        path, message, rule = self._fault(value)
        pointer = self._under + json_pointer.join(*path)
        # A fault of the whole object quotes all of it, but for the rules that name members only.
        quoted = path[:1] or (() if rule in {"required", "additionalProperties"} else value)
        if not self._sensitive.isdisjoint(quoted):
            message = f"the schema's rule {rule} is broken (the value is not shown)"
        where = f"{printable('.'.join(map(str, path)), 80)}: " if path else ""
        return RecordError("schema", printable(pointer), where + printable(message, _SENTENCE_LENGTH))

    @cached_property
    def _wording(self) -> Draft202012Validator:
        from jsonschema import Draft202012Validator, FormatChecker  # noqa: PLC0415 - see above

        return Draft202012Validator(self._schema, format_checker=FormatChecker())

    def _fault(self, value: dict[str, Any]) -> tuple[list[str | int], str, str]:
        from jsonschema.exceptions import best_match  # noqa: PLC0415 - see above

        worded = best_match(self._wording.iter_errors(value))
        if worded is not None:
            return list(worded.absolute_path), worded.message, str(worded.validator)
        # It checks fewer formats than jsonschema_rs, unless more packages are installed.
        refused = next(iter(self._validator.iter_errors(value)))
        return list(refused.instance_path), refused.message, str(refused.kind.name)


def _as_read(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let through what a written schema does not speak of: it is a rule of the format's, and older programs refuse it.

    An interval may have months; in the place of a document, which is what has no rule at all, may stand JSON's null or
    a document as text, under its own name.
    """
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return schema
    properties = {name: _with_months(rule) for name, rule in properties.items()}
    documents = [name for name in required if properties.get(name) == {}]
    if not documents:
        return {**schema, "properties": properties}
    return {
        **schema,
        "properties": {**properties, **{json_null_member(name): {"type": ["null", "string"]} for name in documents}},
        "required": [name for name in required if name not in documents],
        "allOf": [
            *schema.get("allOf", ()),
            *(
                {
                    "if": {"required": [json_null_member(name)]},
                    "then": {"properties": {name: False}},
                    "else": {"required": [name]},
                }
                for name in documents
            ),
        ],
    }


def _with_months(rule: Any) -> Any:
    is_interval = isinstance(rule, dict) and rule.get("pattern") == DURATION_SCHEMA
    return {**rule, "pattern": MONTHS_SCHEMA} if is_interval else rule


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_schema(path: Path) -> dict[str, Any]:
    """Read a written schema. Raises ValueError with one sentence."""
    try:
        schema = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such schema file") from error
    except ValueError as error:
        raise ValueError(f"{path}: it is not JSON: {printable(str(error))}") from error
    try:
        check_schema(schema)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    written: dict[str, Any] = schema
    return written


def _differences(where: str, written: Any, model: Any) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(model, dict):
        for name in dict.fromkeys((*written, *model)):
            at = f"{where}/{name}"
            if name not in model:
                yield f"{at} is not in the model"
            elif name not in written:
                yield f"{at} is missing, the model says {printable(json.dumps(model[name]))}"
            else:
                yield from _differences(at, written[name], model[name])
    elif json.dumps(written) != json.dumps(model):
        yield (f"{where} is {printable(json.dumps(written))}, the model says {printable(json.dumps(model))}")
