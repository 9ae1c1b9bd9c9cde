"""The rows themselves: read and encoded as an export would, so that what can't cross is known before anything is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.codecs import LOOK_AT_EACH
from exchange.channels.schemas import Checker
from exchange.channels.stream import Stream
from exchange.format import record as records
from exchange.format.batch import too_long
from exchange.format.errors import RecordError, printable
from exchange.format.record import Op, Record
from exchange.limits import Limits
from exchange.operating.adopt.plan import Candidate
from exchange.operating.adopt.remark import Remark, Severity
from exchange.tables.capture import streamed

SAMPLED = 1_000
"""So many rows are looked at from either end of a table's key, unless all are."""

_AT_ONCE = 500


@dataclass
class Looked:
    """What came of a look at a table's rows: how many, how long it took, and what would be refused, by its sentence."""

    rows: int = 0
    seconds: float = 0.0
    bytes: int = 0
    whole: bool = False
    refused: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By column and sentence, the keys of the rows: all are counted, the first is shown."""


def look(connection: Connection, stream: Stream, *, whole: bool) -> Looked:
    """Encode the first and the last rows by their key, or all, as an export does.

    Reads in the caller's transaction. Raises DBAPIError where the database can't read them.
    """
    looked = Looked(whole=whole)
    select = sa.select(*(stream.codecs[column.name].selected(connection.dialect) for column in stream.columns))
    select = select.select_from(stream.table)
    if whole:
        _encode(connection, stream, select, looked)
    else:
        _encode(connection, stream, select.order_by(*stream.key).limit(SAMPLED), looked)
        if looked.rows == SAMPLED:
            last = select.order_by(*(column.desc() for column in stream.key)).limit(SAMPLED)
            _encode(connection, stream, last, looked)
        else:
            looked.whole = True
    return looked


def _encode(connection: Connection, stream: Stream, select: sa.Select[Any], looked: Looked) -> None:
    checker, most = Checker(stream), Limits().read.max_record_bytes
    many, one = stream.rows_encoder(connection.dialect), stream.encoder(connection.dialect)
    begun = time.monotonic()
    for rows in streamed(connection, select, _AT_ONCE):
        looked.rows += len(rows)
        try:
            data = many([*zip(*rows, strict=True)])
            lines = (
                records.encode_all(stream.name, Op.UPSERT, range(len(data)), data)
                if checker.accepts_all(data)
                else None
            )
        except LOOK_AT_EACH:
            lines = None
        if lines is not None and max(map(len, lines), default=0) <= most:
            looked.bytes += sum(map(len, lines))
            continue
        for row in rows:
            _encode_one(stream, checker, one, row, looked, most)
    looked.seconds += time.monotonic() - begun


def _encode_one(stream: Stream, checker: Checker, encode: Any, row: Sequence[Any], looked: Looked, most: int) -> None:
    try:
        data = encode(row)
        checker.check_data(data)
        line = records.encode(Record(stream.name, Op.UPSERT, 1, data))
        looked.bytes += len(line)
        if len(line) > most:
            raise too_long(line, most)
    except RecordError as error:
        column = error.pointer.removeprefix("/data/").partition("/")[0] if error.pointer.startswith("/data/") else ""
        sentence = error.sentence if column else error.sentence.partition(" long")[0]
        looked.refused.setdefault((column, _rule(error, sentence)), []).append(_key(stream, row))


def _rule(error: RecordError, sentence: str) -> str:
    """Word a refusal so that values alike are told of once."""
    return sentence.partition(", found ")[0] if error.error == "value" else error.sentence


def _key(stream: Stream, row: Sequence[Any]) -> str:
    names = [column.name for column in stream.columns]
    values = (row[names.index(column.name)] for column in stream.key)
    return ", ".join(
        printable(value.decode(errors="replace") if isinstance(value, bytes) else str(value), 60) for value in values
    )


def remarks_on_rows(one: Candidate, looked: Looked) -> Iterator[Remark]:
    """Say what of the rows that were looked at can't cross."""
    of = f"{looked.rows:,} rows" if looked.whole else f"{looked.rows:,} rows that were looked at"
    for (column, sentence), keys in looked.refused.items():
        said = f"{len(keys):,} of {of} can't cross: {sentence}; the first has the key {keys[0]}"
        yield Remark(
            Severity.LOSES, one.model.key, said, "they will be parked with this sentence; mend them here", column
        )


def rate(looked: Mapping[str, Looked]) -> float:
    """Give the rows a second that were read and encoded here; 0 where there were too few to tell."""
    rows, seconds = sum(one.rows for one in looked.values()), sum(one.seconds for one in looked.values())
    return rows / seconds if rows >= SAMPLED and seconds else 0.0
