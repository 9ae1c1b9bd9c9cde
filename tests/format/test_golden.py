"""The files of each released format, as they were sealed once. They never change: old batches stay readable."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from exchange.format.batch import BatchReader
from exchange.format.manifest import BatchKind, Manifest, OpCounts, digest, split_manifest
from exchange.format.names import BatchName, data_name, manifest_name, parse_file_name
from exchange.format.record import Op, decode, encode
from exchange.format.signing import TrustedKeys
from exchange.format.verify import judge

GOLDEN = Path(__file__).parent.parent / "golden" / "1"
EPOCH = "4f1c0a9be2d7"
FIRST_VERSION = 1795328952461793

DIGESTS = {
    "control-4f1c0a9be2d7-0000000001.jsonl.zst": ("9c0cd7fa29e209490efc45df65a03c37b3ac8877eefc4ae9b420c2198d532205"),
    "control-4f1c0a9be2d7-0000000001.manifest.jsonl": (
        "9cc50919676b1b65ac65511ee90e87abf14d3d591732dc6d1055fd2cbcac812c"
    ),
    "golden-2026a.pem": ("2d4896ad2dd0e1321fb72ebe04c475afb81c8601f18e02614205f0d8640c5f2c"),
    "requests-4f1c0a9be2d7-0000000001.jsonl.zst": ("a107b3d2526458d4d16ae39345e70f9da9d97f7e5dd1efc4077310ab489c2bd2"),
    "requests-4f1c0a9be2d7-0000000001.manifest.jsonl": (
        "52f8a45bfb7348a4c39be4d941c4b15e23c982040b701efa839c921277a6a33f"
    ),
    "requests-4f1c0a9be2d7-0000000002.jsonl": ("79c7923d80d733573647b4d7e2ebf3a2daeb7e0b212c5f0ccab3f31130d285b3"),
    "requests-4f1c0a9be2d7-0000000002.manifest.jsonl": (
        "d5b5bc49d4ad46956065e4972fe554fa94be7af7c7f648085ec960b34ea322bd"
    ),
    "requests-4f1c0a9be2d7-0000000003.r2.jsonl.zst": (
        "f96deff1816083fdff8bc3e46c3fe6ca46a6bb49f4d5a00627616c13237a512c"
    ),
    "requests-4f1c0a9be2d7-0000000003.r2.manifest.jsonl": (
        "4ffdbdb39d534b002e293a6cd1d4ed39c754d568bc900cdbf9580de28ae07df6"
    ),
    "requests-4f1c0a9be2d7-0000000004.jsonl": ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    "requests-4f1c0a9be2d7-0000000004.manifest.jsonl": (
        "0603524738a74734e3500fe3c73b84988398caf2237163c82bae1ace049bf006"
    ),
}


def names() -> list[BatchName]:
    found = (parse_file_name(path.name) for path in GOLDEN.iterdir())
    return sorted({batch for batch, _, _ in filter(None, found)})


def manifest_content(name: BatchName) -> bytes:
    return (GOLDEN / manifest_name(name)).read_bytes()


def manifest_of(name: BatchName) -> Manifest:
    return Manifest.parse(split_manifest(manifest_content(name))[0])


def data_of(name: BatchName) -> io.BytesIO:
    return io.BytesIO((GOLDEN / data_name(name, manifest_of(name).encoding)).read_bytes())


def lines_of(name: BatchName) -> list[bytes]:
    return [line for lines in BatchReader(data_of(name), manifest_of(name)) for line in lines]


def request(number: int, attempt: int = 1) -> BatchName:
    return BatchName("requests", EPOCH, number, attempt)


def test_the_files_are_those_that_were_sealed() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDEN.iterdir()} == DIGESTS


@pytest.mark.parametrize("name", names(), ids=str)
def test_a_sealed_batch_is_still_good(name: BatchName) -> None:
    trusted = TrustedKeys.from_pems({"golden-2026a": (GOLDEN / "golden-2026a.pem").read_bytes()})
    report = judge(manifest_content(name), data_of(name), trusted, name=name)
    assert [(check.name, check.detail) for check in report.checks if not check.ok] == []
    assert (report.reason, report.invalid, report.records) == (None, 0, manifest_of(name).total)


@pytest.mark.parametrize("name", names(), ids=str)
def test_what_was_sealed_is_what_would_be_written_today(name: BatchName) -> None:
    line, _ = split_manifest(manifest_content(name))
    assert Manifest.parse(line).encode() == line
    for record in lines_of(name):
        assert encode(decode(record)) == record + b"\n"


def test_the_batches_follow_each_other() -> None:
    chain = [request(1), request(2), request(3, 2), request(4)]
    previous = None
    for name in chain:
        assert manifest_of(name).previous == previous
        previous = digest(split_manifest(manifest_content(name))[0])
    assert [manifest_of(name).kind for name in chain] == [
        BatchKind.SNAPSHOT,
        BatchKind.CHANGES,
        BatchKind.CHANGES,
        BatchKind.CHECKPOINT,
    ]
    assert [manifest_of(name).total for name in chain] == [201, 3, 0, 0]
    assert manifest_of(chain[2]).extra == {"later": {"member": [1, 2.5, None]}}


def test_values_come_back_as_they_were() -> None:
    record = decode(lines_of(request(1))[0])
    expected: dict[str, Any] = {
        "id": 1,
        "name": 'Grüße 𝄞 \u2028 "quoted" \\ \t\n',
        "limit": None,
        "ratio": 0.1,
        "amount": "12.50",
        "active": True,
        "secret": "3q2+7w==",
        "since": "2026-11-22",
        "at": "06:15:00.000000",
        "lasts": "-P1DT2H3M4.000005S",
        "bounds": [-(2**63), 2**63 - 1, 1e308, -0.0, 5e-324],
    }
    assert record == ("profile", Op.UPSERT, FIRST_VERSION, expected)
    assert repr(record.body) == repr(expected)


def test_deletes_come_back_as_they_were() -> None:
    assert manifest_of(request(2)).records == {"request": OpCounts(1, 1), "profile": OpCounts(0, 1)}
    assert decode(lines_of(request(2))[-1]) == ("profile", Op.DELETE, FIRST_VERSION + 302, {"id": 1})


def test_a_control_batch_is_a_batch() -> None:
    manifest = manifest_of(BatchName("control", EPOCH, 1))
    assert (manifest.kind, manifest.schemas) == (BatchKind.CONTROL, {"_heartbeat": 1})
