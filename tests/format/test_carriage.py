"""What carriers do to names and bytes is told from what is left of them."""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import replace

import pytest
import zstandard

from exchange.format.carriage import changed_data, only_nul, renamed, restored
from exchange.format.manifest import Manifest
from tests.format.test_manifest import line

STEM = "forth-0123456789ab-0000000001"
MANIFEST, DATA = f"{STEM}.manifest.jsonl", f"{STEM}.jsonl.zst"


@pytest.mark.parametrize(
    "name, expected, how",
    [
        (MANIFEST.upper(), MANIFEST, "upper-case"),
        (f"{STEM}.Manifest.JSONL", MANIFEST, "upper-case"),
        (f"{STEM} (1).manifest.jsonl", MANIFEST, "copy"),
        (f"{STEM}.manifest (2).jsonl", MANIFEST, "copy"),
        (f"{STEM}.manifest.jsonl.1", MANIFEST, "copy"),
        (f"{DATA}~", DATA, "copy"),
        (f"Copy of {DATA}", DATA, "renamed"),
        (f"{STEM}.jsonl - Kopie.zst", DATA, "copy"),
        (f"{DATA};1", DATA, "copy"),
        (f"{STEM}.jsonl.sync-conflict-20261122-101010-ABCDEFG.zst", DATA, "conflict"),
        (f"{STEM}.r3.manifest (conflicted copy 2026-11-22).jsonl", f"{STEM}.r3.manifest.jsonl", "conflict"),
        (f"{DATA}.gz", DATA, "packed"),
        (f"{MANIFEST}.txt", MANIFEST, "another ending"),
        (f"outgoing\\{DATA}", DATA, "whole path"),
        (MANIFEST.replace("f", "\uff46", 1), MANIFEST, "other characters"),
        (f"{MANIFEST} ", MANIFEST, "renamed"),
        (f".{DATA}.aB3xYz", DATA, "not ended"),
        (f"{DATA}.filepart", DATA, "not ended"),
    ],
)
def test_a_name_that_a_carrier_gave_says_which_it_was(name: str, expected: str, how: str) -> None:
    was = renamed(name)
    assert was is not None
    assert was.expected == expected
    assert how in was.how
    assert was.under_way == (how == "not ended")


@pytest.mark.parametrize(
    "name",
    ["readme.txt", "forth-0123456789ab-1.jsonl", ".hidden", f"._{DATA}", f"{DATA}:Zone.Identifier", f"{DATA}.sha256"],
)
def test_a_name_of_something_else_says_nothing(name: str) -> None:
    assert renamed(name) is None


SIGNED = b'{"a":"\xc3\xa4"}\n{"signature":"x"}\n'


@pytest.mark.parametrize(
    "content, what",
    [
        (SIGNED.replace(b"\n", b"\r\n"), "text mode"),
        (SIGNED.replace(b"\n", b"\r"), "text mode"),
        (b"\xef\xbb\xbf" + SIGNED, "byte order mark"),
        (SIGNED.decode().encode("utf-16"), "UTF-16"),
        (SIGNED + b"\n", "1 byte more came behind"),
        (SIGNED + b"\x1a", "1 byte more came behind"),
        (SIGNED + bytes(512), "512 bytes more came behind"),
        (SIGNED[:-1], "cut off"),
        (b"\xef\xbb\xbf" + SIGNED.replace(b"\n", b"\r\n")[:-2], "mark was put before it; its line ends"),
    ],
)
def test_a_manifest_that_was_taken_for_a_text_can_be_told(content: bytes, what: str) -> None:
    before = restored(content)
    assert before is not None
    assert before[0] == SIGNED
    assert what in before[1]
    assert restored(SIGNED) is None


def test_a_file_that_is_there_in_length_alone_is_told() -> None:
    assert only_nul(bytes(9))
    assert not only_nul(b"")
    assert not only_nul(SIGNED)


CONTENT = b'{"a":1}\n{"a":2}\n' * 200


@pytest.mark.parametrize(
    "done, what",
    [
        (lambda data: zstandard.ZstdDecompressor().decompress(data), "unpacked"),
        (lambda data: data.replace(b"\n", b"\r\n"), "text mode"),
        (lambda data: b"\xef\xbb\xbf" + data, "byte order mark"),
        (lambda data: data + b"\n", "1 byte more came behind"),
        (lambda data: data[:-1], "cut off"),
        (gzip.compress, "packed as gzip"),
        (lambda data: bytes(len(data)), "nothing but NUL"),
        (lambda data: data[:20] + bytes(len(data) - 20), "bytes are NUL"),
        (lambda _: b"", "empty"),
        (lambda data: data[:-2] + b"xy", None),
        (lambda data: data * 9_999, None),
    ],
)
def test_what_was_done_to_a_data_file_can_be_told(done: object, what: str | None) -> None:
    sealed = zstandard.ZstdCompressor().compress(CONTENT) + b"\r\nbehind a bare \r and in \n"
    manifest = replace(
        Manifest.parse(line()),
        sha256=hashlib.sha256(sealed).hexdigest(),
        bytes=len(sealed),
        content_sha256=hashlib.sha256(CONTENT).hexdigest(),
        content_bytes=len(CONTENT),
    )
    came = done(sealed)  # type: ignore[operator]
    said = changed_data(io.BytesIO(came), len(came), manifest)
    assert (said is None) if what is None else what in (said or ""), said
