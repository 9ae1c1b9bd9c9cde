from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.errors import BatchError, Corrupt, Fault, Incomplete, Unsupported, Untrusted
from exchange.format.manifest import (
    MAX_MANIFEST_BYTES,
    BatchKind,
    Manifest,
    OpCounts,
    Signature,
    digest,
    join_manifest,
    split_manifest,
)
from exchange.format.names import BatchName

CLAIM: dict[str, Any] = {
    "format": "exchange-batch/1",
    "channel": "requests",
    "source": "request",
    "target": "response",
    "epoch": "4f1c0a9be2d7",
    "sequence": 42,
    "kind": "changes",
    "created_at": "2026-11-22T06:15:00.000000Z",
    "producer": "exchange 0.1.0",
    "schemas": {"request": 1},
    "records": {"request": {"upsert": 990, "delete": 10}},
    "encoding": ["zstd"],
    "sha256": "a" * 64,
    "bytes": 81233,
    "content_sha256": "b" * 64,
    "content_bytes": 350114,
    "previous": "c" * 64,
    "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}


def line(**changes: Any) -> bytes:
    return json.dumps({**CLAIM, **changes}, separators=(",", ":")).encode()


def without(member: str) -> bytes:
    return json.dumps({name: value for name, value in CLAIM.items() if name != member}).encode()


def test_a_manifest_says_what_its_line_says() -> None:
    assert Manifest.parse(line()) == Manifest(
        channel="requests",
        source="request",
        target="response",
        epoch="4f1c0a9be2d7",
        sequence=42,
        kind=BatchKind.CHANGES,
        created_at=datetime(2026, 11, 22, 6, 15, tzinfo=UTC),
        producer="exchange 0.1.0",
        schemas={"request": 1},
        records={"request": OpCounts(990, 10)},
        encoding=("zstd",),
        sha256="a" * 64,
        bytes=81233,
        content_sha256="b" * 64,
        content_bytes=350114,
        previous="c" * 64,
        trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )


def test_a_manifest_is_written_to_the_byte_as_it_was_read() -> None:
    for known in (line(), without("trace").replace(b": ", b":").replace(b", ", b",")):
        assert Manifest.parse(known).encode() == known


def test_unknown_members_are_kept() -> None:
    manifest = Manifest.parse(line(later={"a": [1, None]}, more="x"))
    assert manifest.extra == {"later": {"a": [1, None]}, "more": "x"}
    assert manifest.encode() == line(later={"a": [1, None]}, more="x")


def test_the_total_and_the_name_follow_from_the_claim() -> None:
    manifest = Manifest.parse(line(schemas={"a": 1, "b": 2}, records={"a": {"upsert": 3}, "b": {"delete": 4}}))
    assert manifest.total == 7
    assert manifest.name == BatchName("requests", "4f1c0a9be2d7", 42)


@pytest.mark.parametrize("member", sorted(CLAIM.keys() - {"trace"}))
def test_a_missing_member_is_named(member: str) -> None:
    with pytest.raises(Corrupt, match=f"{member} is missing") as refused:
        Manifest.parse(without(member))
    assert refused.value.fault is Fault.MANIFEST


WRONG: tuple[object, ...] = ([], {"a": []}, 1.5, True, -1, "\x1b[2J", "", 2**63)
RIGHT: tuple[tuple[str, object], ...] = (("encoding", []), ("producer", "\x1b[2J"))


@pytest.mark.parametrize("member", CLAIM)
def test_a_wrong_member_is_named_with_what_was_expected_and_found(member: str) -> None:
    for value in (value for value in WRONG if (member, value) not in RIGHT):
        with pytest.raises(BatchError, match=rf"{member}.*expected .*found|strict JSON") as refused:
            Manifest.parse(line(**{member: value}))
        assert refused.value.sentence.isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"channel": "Requests"},
        {"channel": "r" * 32},
        {"channel": "../x"},
        {"channel": "requests\n"},
        {"source": "response"},
        {"target": "request"},
        {"epoch": "4F1C0A9BE2D7"},
        {"epoch": "4f1c0a9be2d"},
        {"sequence": 0},
        {"sequence": 10_000_000_000},
        {"sequence": "42"},
        {"sequence": 42.0},
        {"kind": "rows"},
        {"kind": "control"},
        {"kind": "CHANGES"},
        {"kind": ["changes"]},
        {"channel": "control"},
        {"created_at": "yesterday"},
        {"created_at": "2026-11-22"},
        {"created_at": "2026-11-22T06:15:00"},
        {"created_at": "2026-02-30T06:15:00Z"},
        {"created_at": "2026-11-22 06:15:00Z"},
        {"created_at": "0001-01-01T00:00:00+01:00"},
        {"created_at": 1795328952},
        {"producer": ""},
        {"producer": "x" * 201},
        {"schemas": {"request": 0}},
        {"schemas": {"request": "1"}},
        {"schemas": {"request": True}},
        {"schemas": {"": 1, "request": 1}},
        {"schemas": {"s" * 64: 1, "request": 1}},
        {"schemas": {}},
        {"schemas": []},
        {"records": {"other": {"upsert": 1}}},
        {"records": {"request": 5}},
        {"records": {"request": {"upsert": -1}}},
        {"records": {"request": {"upsert": 1.0}}},
        {"records": {"request": {"upsert": None}}},
        {"records": {"request": {"merge": 1}}},
        {"encoding": ["gzip"]},
        {"encoding": ["age", "zstd"]},
        {"encoding": ["zstd", "zstd"]},
        {"encoding": [["zstd"]]},
        {"encoding": "zstd"},
        {"encoding": None},
        {"encoding": []},
        {"encoding": [], "content_sha256": "a" * 64},
        {"encoding": [], "content_bytes": 81233},
        {"sha256": "A" * 64},
        {"sha256": "a" * 63},
        {"content_sha256": None},
        {"bytes": -1},
        {"bytes": 1.0},
        {"bytes": False},
        {"content_bytes": "1"},
        {"previous": ""},
        {"previous": "c" * 65},
        {"trace": "spaces in it"},
        {"trace": "x" * 65},
    ],
)
def test_a_claim_that_breaks_a_rule_is_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match=r"expected .*, found"):
        Manifest.parse(line(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "snapshot"},
        {"kind": "checkpoint"},
        {"channel": "control", "kind": "control"},
        {"created_at": "2026-11-22T06:15:00Z"},
        {"created_at": "2026-11-22T06:15:00.5+01:00"},
        {"previous": None},
        {"sequence": 9_999_999_999},
        {"records": {}},
        {"records": {"request": {}}},
        {"schemas": {}, "records": {}},
        {"encoding": ["age"]},
        {"encoding": ["zstd", "age"]},
        {"encoding": [], "content_sha256": "a" * 64, "content_bytes": 81233},
        {"trace": None},
        {"schemas": {"request": 1, "_receipt": 7}},
    ],
)
def test_a_claim_within_the_rules_is_read(changes: dict[str, Any]) -> None:
    manifest = Manifest.parse(line(**changes))
    assert Manifest.parse(manifest.encode()) == manifest


@pytest.mark.parametrize("value", ["exchange-batch/2", "exchange-batch/1 ", "other"])
def test_an_unknown_format_is_unsupported_whatever_else_it_says(value: str) -> None:
    with pytest.raises(Unsupported, match="format"):
        Manifest.parse(line(format=value, sequence="later this may be a text"))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}x",
        b"[]",
        b"null",
        b" " + line(),
        line() + b"\r",
        b"\xef\xbb\xbf" + line(),
        line().replace(b"{", b'{"format":"exchange-batch/1",', 1),
        line().replace(b'"bytes":81233', b'"bytes":81233,"bytes":81233'),
        line(later=2**64),
        line(later="\0"),
        line(later=float("nan")),
        line(later="\ud800"),
        line().replace(b"exchange 0.1.0", b"exchange \xff"),
        line(later=json.loads("[" * 64 + "]" * 64)),
    ],
)
def test_a_claim_that_is_not_strict_json_is_corrupt(damaged: bytes) -> None:
    with pytest.raises(Corrupt) as refused:
        Manifest.parse(damaged)
    assert refused.value.fault is Fault.MANIFEST


@given(st.data())
def test_a_damaged_claim_is_another_claim_or_a_batch_error(data: st.DataObject) -> None:
    damaged = bytearray(line())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest = Manifest.parse(bytes(damaged))
    except BatchError:
        return
    assert Manifest.parse(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, channel="No"),
        lambda m: replace(m, sequence=0),
        lambda m: replace(m, records={"unlisted": OpCounts(1)}),
        lambda m: replace(m, created_at=m.created_at.replace(tzinfo=None)),
        lambda m: replace(m, extra={"sequence": 7}),
        lambda m: replace(m, extra={"later": float("nan")}),
        lambda m: replace(m, producer="\0"),
    ],
)
def test_a_manifest_that_would_not_be_read_is_never_written(change: Callable[[Manifest], Manifest]) -> None:
    with pytest.raises(ValueError, match="this manifest"):
        change(Manifest.parse(line())).encode()


def test_the_moment_is_written_in_utc() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    manifest = replace(Manifest.parse(line()), created_at=datetime(2026, 11, 22, 11, 45, tzinfo=there))
    assert manifest.encode() == line()


def test_the_digest_is_that_of_the_line_without_its_newline() -> None:
    assert digest(line()) == hashlib.sha256(line()).hexdigest()


SIGNATURE = Signature("ed25519", "request-2026a", bytes(range(64)))
SIGNED = SIGNATURE.encode()


def test_a_manifest_file_is_two_lines() -> None:
    content = join_manifest(line(), SIGNATURE)
    assert content == line() + b"\n" + SIGNED + b"\n"
    assert split_manifest(content) == (line(), SIGNATURE)


def test_an_unsigned_manifest_file_is_one_line() -> None:
    assert split_manifest(join_manifest(line(), None)) == (line(), None)


def test_line_1_is_not_looked_at_before_somebody_vouches_for_it() -> None:
    assert split_manifest(b"\xff\n" + SIGNED + b"\n") == (b"\xff", SIGNATURE)


def test_a_manifest_file_cut_anywhere_within_a_line_is_incomplete() -> None:
    content = join_manifest(line(), SIGNATURE)
    for length in set(range(len(content))) - {len(line()) + 1}:
        with pytest.raises(Incomplete):
            split_manifest(content[:length])


@pytest.mark.parametrize(
    "content",
    [
        line() + b"\n" + SIGNED + b"\n\n",
        line() + b"\n" + SIGNED + b"\n{}\n",
        b"\n\n\n",
        b"x" * (MAX_MANIFEST_BYTES + 1),
    ],
)
def test_a_manifest_file_with_too_much_in_it_is_corrupt(content: bytes) -> None:
    with pytest.raises(Corrupt) as refused:
        split_manifest(content)
    assert refused.value.fault is Fault.MANIFEST


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        SIGNED + b"\r",
        b" " + SIGNED,
        SIGNED.replace(b'"key":"request-2026a"', b'"key":""'),
        SIGNED.replace(b'"key":"request-2026a"', b'"key":"../request"'),
        SIGNED.replace(b'"key":"request-2026a"', b'"key":7'),
        SIGNED.replace(b'{"algorithm":"ed25519",', b"{"),
        SIGNED.replace(b"==", b""),
        SIGNED.replace(b"==", b"="),
        SIGNED.replace(b"Pw==", b"Px=="),
        SIGNED.replace(b'"signature":"', b'"signature":"\\n'),
        SIGNED.replace(b'"signature":"', b'"signature":"_'),
        SIGNED.replace(b'{"algorithm"', b'{"algorithm":"none","algorithm"'),
        "\ufeff".encode() + SIGNED,
        SIGNED.replace(b"ed25519", "\u00e9".encode("latin-1")),
    ],
)
def test_a_line_2_that_is_no_signature_is_untrusted(signed: bytes) -> None:
    with pytest.raises(Untrusted, match="line 2"):
        split_manifest(line() + b"\n" + signed + b"\n")


def test_a_signature_may_say_more() -> None:
    signed = SIGNED[:-1] + b',"later":1}'
    assert split_manifest(line() + b"\n" + signed + b"\n") == (line(), SIGNATURE)


def test_a_manifest_file_longer_than_a_reader_takes_is_never_written() -> None:
    with pytest.raises(ValueError, match="65536"):
        join_manifest(line(later="x" * MAX_MANIFEST_BYTES), SIGNATURE)
    longest = b"x" * (MAX_MANIFEST_BYTES - len(SIGNED) - 2)
    assert split_manifest(join_manifest(longest, SIGNATURE)) == (longest, SIGNATURE)


def test_counts_whose_sum_no_database_can_keep_are_corrupt() -> None:
    most = {"upsert": 2**63 - 1, "delete": 0}
    assert Manifest.parse(line(schemas={"s": 1}, records={"s": most})).total == 2**63 - 1
    with pytest.raises(Corrupt, match="records"):
        Manifest.parse(line(schemas={"s": 1}, records={"s": most | {"delete": 1}}))
