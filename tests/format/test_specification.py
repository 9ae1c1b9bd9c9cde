"""schemas/FORMAT.md and the two schemas beside it say what the code does."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from exchange.format.batch import ReadLimits
from exchange.format.errors import BatchError, Reason, RecordError, Verdict
from exchange.format.manifest import MAX_MANIFEST_BYTES, BatchKind, Manifest, split_manifest
from exchange.format.names import CONTROL, EPOCH, MAX_SEQUENCE, NAME, FileKind, parse_file_name
from exchange.format.record import decode
from exchange.format.signing import TrustedKeys, fingerprint
from exchange.format.strict_json import MAX_DEPTH, MAX_MEMBERS
from exchange.format.verify import judge

SCHEMAS = Path(__file__).parent.parent.parent / "schemas"
TEXT = (SCHEMAS / "FORMAT.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+) ?(\S*)\n(.*?)```", TEXT, re.DOTALL)
FILES = {name: body.encode() for kind, name, body in BLOCKS if kind == "jsonl"}
PEM = next(body.encode() for kind, _, body in BLOCKS if kind == "pem")
MANIFEST = next(body for name, body in FILES.items() if name.endswith(".manifest.jsonl"))
DATA = next(body for name, body in FILES.items() if not name.endswith(".manifest.jsonl"))


@cache
def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / name).read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def test_the_worked_example_is_a_good_batch() -> None:
    places = list(filter(None, map(parse_file_name, FILES)))
    assert {kind for _, kind, _ in places} == set(FileKind)
    for place, _, _ in places:
        trusted = TrustedKeys.from_pems({"request-2026a": PEM})
        report = judge(MANIFEST, io.BytesIO(DATA), trusted, name=place)
        assert [(check.name, check.detail) for check in report.checks if not check.ok] == []
        assert report.records == 2


@pytest.mark.skipif(
    any(shutil.which(command) is None for command in ("openssl", "sha256sum", "jq", "base64")),
    reason="openssl, sha256sum, jq or base64 is not here",
)
def test_the_commands_beside_the_example_check_it(tmp_path: Path) -> None:
    for name, body in FILES.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "key.pem").write_bytes(PEM)
    section = TEXT[TEXT.index("To check it by hand") : TEXT.index("## 12")]
    script = "set -e\n" + "".join(re.findall(r"^    (.*\n)", section, re.MULTILINE))
    shown = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    manifest = Manifest.parse(split_manifest(MANIFEST)[0])
    assert manifest.sha256 in shown
    assert f"{manifest.total} {manifest.bytes}" in re.sub(" +", " ", shown)
    assert "Verified Successfully" in shown


def test_records_shown_in_the_text_are_records() -> None:
    shown = re.findall(r'^ *(\{"stream".*\})$', TEXT, re.MULTILINE)
    assert len(shown) == 4
    for line in shown:
        decode(line.encode())
        validator("record.schema.json").validate(json.loads(line))


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    limits = ReadLimits()
    assert limits.max_record_bytes == 16 * 1024**2
    assert "16 MiB for a line" in TEXT
    assert f"{limits.max_records:,} records" in TEXT
    assert limits.max_content_bytes == 4 * 1024**3
    assert "4 GiB of content" in TEXT
    assert f"nested more than {MAX_DEPTH} deep" in TEXT
    assert f"more than {MAX_MEMBERS} members" in TEXT
    assert f"at most {MAX_MANIFEST_BYTES} bytes" in TEXT
    assert f"up to {MAX_SEQUENCE}" in TEXT


def test_what_networks_channels_and_epochs_are_called_in_the_text_is_what_the_code_reads() -> None:
    assert f"called by a name: `{NAME.pattern}`" in TEXT
    assert f"`{CONTROL}` is reserved" in TEXT
    assert f"`{EPOCH.pattern}`" in TEXT


def test_the_fingerprint_in_the_text_is_that_of_the_key_in_it() -> None:
    key = TrustedKeys.from_pems({"request-2026a": PEM}).keys["request-2026a"]
    assert re.findall(r"`(SHA256:[^`]{2,})`", TEXT) == [fingerprint(key)]


def test_every_kind_and_verdict_is_in_the_text() -> None:
    for kind in BatchKind:
        assert f"`{kind}`" in TEXT
    verdicts = TEXT[TEXT.index("## 9") : TEXT.index("## 10")]
    for word in (
        *(Verdict.INCOMPLETE, Verdict.DUPLICATE, Verdict.WAITING),
        *(Reason.UNTRUSTED, Reason.CORRUPT, Reason.UNSUPPORTED, Reason.MISDIRECTED, Reason.CONFLICT),
        *(Reason.FORK, Reason.STALE_EPOCH, Reason.UNPROVEN_EPOCH),
    ):
        assert f"| {word.replace('_', ' ')} |" in verdicts


def test_every_manifest_member_is_in_the_table_and_the_schema_in_order() -> None:
    claim = json.loads(split_manifest(MANIFEST)[0])
    section = TEXT[TEXT.index("### Line 1") : TEXT.index("### Line 2")]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    members = [*claim, "shards"]  # which the example, no shard, has not
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == members
    schema = json.loads((SCHEMAS / "manifest.schema.json").read_bytes())
    assert list(schema["properties"]) == members
    assert schema["required"] == [name for name in claim if name != "trace"]


GOOD: dict[str, Any] = json.loads(split_manifest(MANIFEST)[0])
ENCODED = {**GOOD, "encoding": ["zstd"]}


CLAIMS: list[dict[str, Any]] = [
    GOOD,
    ENCODED,
    {**GOOD, "later": 1},
    {**GOOD, "trace": None},
    {**ENCODED, "records": {"request": {}}},
    {**GOOD, "channel": "control", "kind": "control"},
    {**GOOD, "kind": "control"},
    {**GOOD, "channel": "control"},
    *({name: value for name, value in GOOD.items() if name != missing} for missing in GOOD),
    *(
        {**ENCODED, name: value}
        for name in GOOD
        for value in (None, True, -1, 0, 7, 2**63, 1.5, "", "x", "a" * 64, "a" * 201, [], ["gzip"], {}, {"a": 0})
    ),
    {**ENCODED, "records": {"request": {"merge": 1}}},
    {**ENCODED, "records": {"request": {"upsert": -1}}},
    {**ENCODED, "schemas": {"request": 0}},
    {**ENCODED, "schemas": {"": 1, "request": 1}},
]


def is_readable(claim: dict[str, Any]) -> bool:
    try:
        Manifest.parse(json.dumps(claim).encode())
    except BatchError as error:
        # Members that contradict each other are beyond a schema.
        beyond = ("as nothing is encoded", "streams that schemas lists", "another network")
        return any(words in error.sentence for words in beyond)
    return True


def test_the_manifest_schema_agrees_with_the_reader() -> None:
    schema = validator("manifest.schema.json")

    assert [claim for claim in CLAIMS if schema.is_valid(claim) is not is_readable(claim)] == []


VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    2,
    2**63 - 1,
    2**63,
    1.5,
    "",
    "x",
    "s" * 64,
    "upsert",
    "delete",
    [],
    {"a": 1},
)
UPSERT: dict[str, Any] = {"stream": "s", "op": "upsert", "version": 1, "data": {}}
DELETE: dict[str, Any] = {"stream": "s", "op": "delete", "version": 1, "key": {}}


RECORDS: list[object] = [
    UPSERT,
    DELETE,
    {**UPSERT, "later": 1},
    {**UPSERT, "key": {}},
    {**DELETE, "data": {}},
    *(
        {name: value for name, value in whole.items() if name != missing}
        for whole in (UPSERT, DELETE)
        for missing in whole
    ),
    *({**whole, name: value} for whole in (UPSERT, DELETE) for name in whole for value in VALUES),
    [],
    None,
]


def is_record(record: object) -> bool:
    try:
        decode(json.dumps(record).encode())
    except RecordError:
        return False
    return True


def test_the_record_schema_agrees_with_the_reader() -> None:
    schema = validator("record.schema.json")

    assert [record for record in RECORDS if schema.is_valid(record) is not is_record(record)] == []


def test_clauses_are_cited_by_headings_that_exist() -> None:
    headings = set(re.findall(r"^#+ (?:\d+ )?(.*)$", TEXT, re.MULTILINE))
    root = SCHEMAS.parent
    cited = set()
    for path in [*root.glob("exchange/**/*.py"), *SCHEMAS.glob("*.json"), *root.glob("tests/**/*.py")]:
        text = path.read_text()
        cited |= set(re.findall(r'FORMAT\.md, \\?"([^"\\]+)\\?"', text))
        assert not re.search(r"FORMAT\.md section \d", text), f"{path}: a number changes when a section is added"
    assert len(cited) > 5
    assert cited <= headings
