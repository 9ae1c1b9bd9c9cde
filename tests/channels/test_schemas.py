"""A stream's schema is its model's, and what breaks it is refused with a pointer and a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator
from sqlalchemy import Column, MetaData, Table

from exchange.channels import Stream
from exchange.channels.schemas import (
    Checker,
    agreement,
    check_schema,
    schema_changes,
    schema_digest,
    schema_path,
    schema_text,
    stream_schema,
)
from exchange.format.errors import RecordError

THING = Table(
    "thing",
    MetaData(),
    Column("id", sa.Uuid, primary_key=True),
    Column("part", sa.Integer, primary_key=True),
    Column("name", sa.String(3), nullable=False),
    Column("amount", sa.Numeric(6, 2)),
    Column("day", sa.Date),
    Column("at", sa.DateTime(timezone=True)),
    Column("word", sa.Enum("a", "b", name="word")),
    Column("document", sa.JSON),
    Column("secret", sa.String(5)),
)

DATA: dict[str, Any] = {
    "id": "6513270e-0000-4000-8000-00000000abcd",
    "part": 1,
    "name": "abc",
    "amount": "1.50",
    "day": "2026-01-01",
    "at": "2026-01-01T00:00:00.000000Z",
    "word": "a",
    "document": {"any": ["thing"]},
    "secret": "x",
}

KEY = {"id": DATA["id"], "part": 1}


def stream(**options: Any) -> Stream:
    return Stream(THING, sensitive=["secret"], **options)


def test_a_schema_is_of_draft_2020_12_and_closed() -> None:
    schema = stream_schema(stream())
    check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(DATA)
    assert schema["properties"]["amount"]["type"] == ["string", "null"]
    assert schema["properties"]["word"]["enum"] == ["a", "b", None]
    assert schema["properties"]["name"] == {"type": "string", "maxLength": 3, "pattern": "^[^\\u0000]*$"}
    assert schema["$defs"]["key"]["required"] == ["id", "part"]


def test_a_right_record_passes_and_so_do_its_nulls() -> None:
    checker = Checker(stream())
    checker.check_data(DATA)
    checker.check_data({**DATA, **dict.fromkeys(("amount", "day", "at", "word", "document", "secret"))})
    checker.check_key(KEY)
    Draft202012Validator(stream_schema(stream())).validate(DATA)


@pytest.mark.parametrize(
    "change, pointer, words",
    [
        ({"name": "abcd"}, "/data/name", "name: 'abcd' is too long"),
        ({"name": None}, "/data/name", "name: None is not of type 'string'"),
        ({"name": "a\0"}, "/data/name", "does not match"),
        ({"amount": "1.234"}, "/data/amount", "does not match"),
        ({"amount": 1.5}, "/data/amount", "is not of type"),
        ({"day": "2026-02-30"}, "/data/day", "is not a 'date'"),
        ({"at": "2026-02-30T00:00:00.000000Z"}, "/data/at", "date-time"),
        ({"word": "c"}, "/data/word", "is not one of"),
        ({"part": True}, "/data/part", "is not of type 'integer'"),
        ({"part": 2**31}, "/data/part", "greater than the maximum"),
        ({"part": 10**30}, "/data/part", "greater than the maximum"),
        ({"id": DATA["id"].upper()}, "/data/id", "does not match"),
        ({"more": 1}, "/data", "'more' was unexpected"),
        ({"a/b~\x1b": 1}, "/data", "unexpected"),
    ],
)
def test_a_wrong_record_is_refused_where_it_is_wrong(change: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(RecordError) as refused:
        Checker(stream()).check_data({**DATA, **change})
    assert (refused.value.error, refused.value.pointer) == ("schema", pointer)
    assert words in refused.value.sentence
    assert refused.value.sentence.isprintable()


def test_a_missing_member_is_named() -> None:
    with pytest.raises(RecordError, match="'name' is a required property"):
        Checker(stream()).check_data({name: value for name, value in DATA.items() if name != "name"})


@pytest.mark.parametrize("key", [{"id": DATA["id"]}, {**KEY, "name": "abc"}, {**KEY, "part": "1"}, {}])
def test_a_key_is_the_key_columns_and_no_others(key: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as refused:
        Checker(stream()).check_key(key)
    assert refused.value.pointer.startswith("/key")


def test_a_refusal_is_short_however_long_the_value() -> None:
    with pytest.raises(RecordError) as refused:
        Checker(stream()).check_data({**DATA, "name": "x" * 1_000_000})
    assert len(refused.value.sentence) < 400


@pytest.mark.parametrize("change", [{"secret": "hunter2"}, {"secret": 5}])
def test_a_sensitive_value_is_in_no_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as refused:
        Checker(stream()).check_data({**DATA, **change})
    assert str(change["secret"]) not in refused.value.sentence
    assert refused.value.pointer == "/data/secret"


def test_a_fault_beside_a_sensitive_value_does_not_quote_it() -> None:
    with pytest.raises(RecordError) as refused:
        Checker(stream()).check_data({**DATA, "secret": "hunter", "more": 1})
    assert "hunter" not in refused.value.sentence


def test_what_a_written_schema_and_the_model_disagree_about_is_named(tmp_path: Path) -> None:
    path = schema_path(tmp_path, stream(), 1)
    assert path == tmp_path / "streams" / "thing" / "1.json"
    assert agreement(stream(), tmp_path) == [f"{path}: there is no such schema file"]
    path.parent.mkdir(parents=True)
    path.write_text(schema_text(stream()))
    assert agreement(stream(), tmp_path) == []
    schema = json.loads(path.read_text())
    schema["properties"]["name"]["maxLength"] = 4
    del schema["properties"]["day"]
    schema["properties"]["old"] = {}
    path.write_text(json.dumps(schema))
    found = agreement(stream(), tmp_path)
    assert f"{path}: /properties/name/maxLength is 4, the model says 3" in found
    assert f"{path}: /properties/old is not in the model" in found
    assert any("/properties/day is missing, the model says" in sentence for sentence in found)


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "it is not JSON"),
        ("[]", "a stream's schema is a JSON object"),
        ("{}", "its $schema must be"),
        ('{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "text"}', "it is no JSON Schema"),
    ],
)
def test_a_file_that_is_no_schema_is_said_to_be_none(tmp_path: Path, content: str, words: str) -> None:
    path = schema_path(tmp_path, stream(), 1)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    (found,) = agreement(stream(), tmp_path)
    assert words in found


def test_the_text_of_a_schema_is_stable_and_ends_its_last_line() -> None:
    assert schema_text(stream()) == schema_text(stream())
    assert schema_text(stream()).endswith("}\n")


def test_an_older_version_is_checked_by_its_own_schema_where_that_is_kept(tmp_path: Path) -> None:
    newer = stream(schema_version=2, upgrades={1: dict})
    old = stream_schema(stream())
    old["properties"]["name"]["maxLength"] = 1
    path = schema_path(tmp_path, newer, 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(old))
    Checker(newer).check_data({"anything": 1}, 1)
    checker = Checker(newer, tmp_path)
    checker.check_data(DATA, 2)
    checker.check_data({**DATA, "name": "a"}, 1)
    with pytest.raises(RecordError, match="too long"):
        checker.check_data(DATA, 1)


@pytest.mark.parametrize("version", [0, 2, 4])
def test_a_version_that_cannot_be_lifted_is_refused(version: int) -> None:
    checker = Checker(stream(schema_version=5, upgrades={4: dict, 1: dict}))
    if version == 4:
        checker.check_data(DATA, version)
        return
    with pytest.raises(RecordError, match=f"schema version {version}, expected 4 to 5"):
        checker.check_data(DATA, version)


def test_many_are_accepted_at_once_exactly_when_each_is() -> None:
    checker = Checker(stream())

    assert checker.accepts_all([])
    assert checker.accepts_all([DATA, DATA])
    assert not checker.accepts_all([DATA, DATA | {"part": "1"}, DATA])
    assert not checker.accepts_all([DATA, {**DATA, "more": 1}])


def test_databases_remember_of_a_schema_what_counts_in_it() -> None:
    schema = stream_schema(stream())
    # Another digest refuses every stream after an upgrade: the migration that comes with it has to forget them.
    assert schema_digest(schema) == "abc3c23cf7635e528015e64ce6907e6334cfc3a8370a2380fbd7d203e5e9454f"
    turned = schema | {"title": "x", "properties": dict(reversed(schema["properties"].items()))}
    assert schema_digest(turned) == schema_digest(schema)
    assert schema_changes(schema, turned) == []
    word = {"type": ["null", "string"], "enum": [None, "b", "a"]}
    assert schema_changes(schema, schema | {"properties": schema["properties"] | {"word": word}}) == []
    narrower = schema["properties"] | {"name": schema["properties"]["name"] | {"maxLength": 2}}
    assert schema_changes(schema, schema | {"properties": narrower}) == [
        "column name has another maxLength: it was 3 and is 2"
    ]
    keyed = schema | {"$defs": {"key": {"properties": {"id": schema["properties"]["id"]}}}}
    assert schema_changes(schema, keyed) == ["the key was id, part and is id"]
