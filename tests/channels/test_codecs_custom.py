"""A type of the application's own crosses by two functions that undo each other, or a sentence says why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from exchange.channels import Stream, register_codec
from exchange.channels.codecs import UnsupportedColumn, codec_for, custom
from exchange.channels.schemas import Checker
from exchange.format.errors import RecordError
from exchange.tables.loader.copy import put

DIALECTS = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}  # type: ignore[no-untyped-call]
PAGE = Path(__file__).parents[2] / "CHANNELS.md"


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_REGISTERED", {})


def test_the_pages_type_crosses_whole_and_what_does_not_come_back_is_refused(engine: Engine) -> None:
    (example,) = re.findall(r"### A type of your own.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(example, made)  # noqa: S102 - it is what the page has people write
    point = made["Point"]()
    path = postgresql.ARRAY(point).with_variant(sa.JSON(), "sqlite")
    columns = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", point), sa.Column("path", path)]
    table = sa.Table("spot", sa.MetaData(), *columns)
    stream = Stream(table)
    assert not stream.faults
    names = [str(column.name) for column in stream.columns]
    data: list[dict[str, Any]] = [
        {"id": 1, "at": ["1.5", "-2"], "path": [["0", "1"], None]},
        {"id": 2, "at": None, "path": None},
    ]
    for one in data:
        Checker(stream).check_data(one)
    with engine.begin() as connection:
        table.create(connection)
        put(connection, table, names, zip(*stream.decoder(engine.dialect)(data), strict=True))
        selected = (stream.codecs[name].selected(engine.dialect) for name in names)
        rows = [tuple(row) for row in connection.execute(sa.select(*selected).order_by(table.c.id))]
    assert [stream.encoder(engine.dialect)(row) for row in rows] == data
    assert stream.rows_encoder(engine.dialect)([*zip(*rows, strict=True)]) == data
    with pytest.raises(RecordError, match="ValueError: not enough values to unpack"):
        stream.decoder(engine.dialect)([{"id": 1, "at": ["1"], "path": None}])


class Rounded(sa.TypeDecorator[Any]):
    """Keeps a text, and its codec takes more than it gives back."""

    impl = sa.Text
    cache_ok = True


def test_what_one_function_does_not_undo_of_the_other_is_refused_in_both_directions() -> None:
    register_codec(Rounded, encode=lambda text: text.strip(), decode=str, json_schema={"type": "string"})
    kept = codec_for(sa.Column("c", Rounded()))
    for dialect in DIALECTS.values():
        assert kept.encoder(dialect)("a") == kept.decoder(dialect)("a") == "a"
        with pytest.raises(RecordError, match="does not give it back as it was"):
            kept.encoder(dialect)(" a")
        with pytest.raises(RecordError, match="would write it differently"):
            kept.decoder(dialect)("a ")
    assert kept.json_schema == {"type": ["string", "null"]}
    with pytest.raises(UnsupportedColumn, match="can't be part of a key"):
        codec_for(sa.Column("c", Rounded(), primary_key=True))


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"kind": 5}, "takes the class of a SQLAlchemy type"),
        ({"encode": None}, "encode and decode must be functions"),
        ({"json_schema": {}}, "json_schema must say the type"),
    ],
)
def test_a_codec_that_can_not_work_is_refused_at_once(given: dict[str, Any], sentence: str) -> None:
    good: dict[str, Any] = {"encode": str, "decode": str, "json_schema": {"type": "string"}}
    with pytest.raises((TypeError, ValueError), match=sentence):
        register_codec(**{"kind": Rounded, **good, **given})
    register_codec(Rounded, **good)
    with pytest.raises(ValueError, match="has a codec already"):
        register_codec(Rounded, **good)
