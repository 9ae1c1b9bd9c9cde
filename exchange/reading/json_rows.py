"""Rows of JSON lines: one object a line, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from exchange.channels.codecs.document import DocumentText, JsonCodec, read_document
from exchange.format import strict_json
from exchange.format.errors import RecordError, described
from exchange.format.record import MAX_BODY_DEPTH

_BLANKS = b" \t"


def read_objects(
    records: Sequence[bytes], bad: dict[int, RecordError]
) -> tuple[Sequence[int], list[dict[str, Any]], dict[int, RecordError]]:
    """Read rows, but those of which it is known what is wrong: their places, objects, and what is wrong with others.

    Blank ones are passed over.
    """
    bad = dict(bad)
    places: Sequence[int] = range(len(records))
    if bad or not all(records):
        places = [at for at in places if at not in bad and records[at].strip()]
    chosen = records if len(places) == len(records) else [records[at] for at in places]
    values: list[Any] = []
    for found in _read_all(chosen):
        if isinstance(found, RecordError):
            bad[places[len(values)]] = found
        values.append(found)
    if {*map(type, values)} - {dict}:
        for at, value in zip(places, values, strict=True):
            if type(value) is not dict and at not in bad:
                bad[at] = _no_object(value)
        places, values = [at for at in places if at not in bad], [one for one in values if type(one) is dict]
    return places, values, bad


def _read_all(lines: Sequence[bytes]) -> list[Any]:
    """Read many lines at once, and in smaller parts where some of them are bad, which give what is wrong with them."""
    if not lines:
        return []
    if isinstance(values := strict_json.loads_all(lines), list):
        return values
    with suppress(RecordError, ValueError):
        values = [*_with_blanks([*lines])]
        if DocumentText not in {*map(type, values)}:
            return values
    if len(lines) > _FEW:
        parts = (lines[at : at + _FEW] for at in range(0, len(lines), _FEW))
        return [value for part in parts for value in _read_all(part)]
    return [_or_error(line) for line in lines]


def _or_error(line: bytes) -> Any:
    try:
        return read_object(line)
    except RecordError as error:
        return error


def _refuse(value: object, why: str = "") -> RecordError:  # noqa: ARG001 - only that it is raised counts
    return RecordError("json", "", why)


_FEW = 32
_with_blanks = JsonCodec().column_encoder(_refuse, sqlite=True)
"""Reads many lines at once that have blanks between their members."""


def read_object(record: bytes) -> Any:
    """Read a line, blanks within it or around it or not; raises RecordError."""
    line = record.strip(_BLANKS)
    if may_be_deep(line):
        return strict_json.loads(line)
    try:
        return read_document(line, MAX_BODY_DEPTH + 1)
    except (ValueError, RecordError):
        return strict_json.loads(line)


def may_be_deep(text: bytes) -> bool:
    """Say whether a text may have objects and arrays within each other deeper than a column takes them."""
    return text.count(b"{") + text.count(b"[") > MAX_BODY_DEPTH


def is_deep(value: Any) -> bool:
    """Say whether a column's value has objects and arrays within each other deeper than a record takes them."""
    level, depth = [value], 0
    while containers := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        level = [inner for one in containers for inner in (one.values() if isinstance(one, dict) else one)]
    return depth > MAX_BODY_DEPTH


TOO_DEEP = f"objects and arrays nested deeper than {MAX_BODY_DEPTH}"


def _no_object(value: object) -> RecordError:
    return RecordError("json", "", f"a row is an object of JSON, found {described(value)[:40]}")
