from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.names import DATA_ENDINGS, BatchName, FileKind, data_name, manifest_name, parse_file_name

NAME = BatchName("requests", "4f1c0a9be2d7", 42)

names = st.builds(
    BatchName,
    st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    st.integers(1, 9_999_999_999),
    st.integers(1, 999_999_999),
)


def test_names_read_as_the_format_says() -> None:
    assert str(NAME) == "requests-4f1c0a9be2d7-0000000042"
    assert manifest_name(NAME) == "requests-4f1c0a9be2d7-0000000042.manifest.jsonl"
    assert data_name(NAME, ("zstd", "age")) == "requests-4f1c0a9be2d7-0000000042.jsonl.zst.age"
    again = BatchName("requests", "4f1c0a9be2d7", 42, 2)
    assert str(again) == "requests-4f1c0a9be2d7-0000000042.r2"
    assert again.place == str(NAME)


@given(names, st.sampled_from(sorted(DATA_ENDINGS)))
def test_every_name_reads_back(name: BatchName, encoding: tuple[str, ...]) -> None:
    assert BatchName.parse(str(name)) == name
    assert parse_file_name(manifest_name(name)) == (name, FileKind.MANIFEST, ())
    assert parse_file_name(data_name(name, encoding)) == (name, FileKind.DATA, encoding)


@pytest.mark.parametrize(
    "stem",
    [
        "",
        "requests",
        "Requests-4f1c0a9be2d7-0000000042",
        "1requests-4f1c0a9be2d7-0000000042",
        "_control-4f1c0a9be2d7-0000000042",
        "r" * 32 + "-4f1c0a9be2d7-0000000042",
        "requests-4F1C0A9BE2D7-0000000042",
        "requests-4f1c0a9be2d-0000000042",
        "requests-4f1c0a9be2d7-42",
        "requests-4f1c0a9be2d7-00000000042",
        "requests-4f1c0a9be2d7-0000000000",
        "requests-4f1c0a9be2d7-000000004²",
        "requests-4f1c0a9be2d7-000000004\u0662",
        "requests-4f1c0a9be2d7-0000000042.r1",
        "requests-4f1c0a9be2d7-0000000042.r0",
        "requests-4f1c0a9be2d7-0000000042.r02",
        "requests-4f1c0a9be2d7-0000000042.r1000000000",
        "requests-4f1c0a9be2d7-0000000042\n",
        "../requests-4f1c0a9be2d7-0000000042",
    ],
)
def test_what_is_no_stem_is_refused(stem: str) -> None:
    with pytest.raises(ValueError, match=r"names no batch|no batch can be called"):
        BatchName.parse(stem)
    assert parse_file_name(f"{stem}.jsonl") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".jsonl",
        "notes.txt",
        "requests-4f1c0a9be2d7-0000000042",
        "requests-4f1c0a9be2d7-0000000042.jsonl.tmp",
        "requests-4f1c0a9be2d7-0000000042.jsonl.zst.part",
        "requests-4f1c0a9be2d7-0000000042.jsonl.zst.filepart",
        ".requests-4f1c0a9be2d7-0000000042.jsonl.zst.a8Xk2p",
        "requests-4f1c0a9be2d7-0000000042.jsonl.gz",
        "requests-4f1c0a9be2d7-0000000042.jsonl.age.zst",
        "requests-4f1c0a9be2d7-0000000042.JSONL",
        "requests-4f1c0a9be2d7-0000000042.manifest.jsonl.zst",
        "requests-4f1c0a9be2d7-0000000042.manifest.jsonl.error.txt",
        "requests-4f1c0a9be2d7-0000000042.jsonl\n",
        "requests-4f1c0a9be2d7-0000000042.r2.r3.jsonl",
        "requests-4f1c0a9be2d7-0000000042 (1).jsonl",
    ],
)
def test_other_files_are_not_ours(name: str) -> None:
    assert parse_file_name(name) is None


@given(st.text())
def test_any_text_is_a_name_or_not_ours(text: str) -> None:
    assert parse_file_name(text) is None


def test_an_unknown_encoding_has_no_file_name() -> None:
    with pytest.raises(ValueError, match="encoded"):
        data_name(NAME, ("gzip",))


def test_names_sort_in_the_order_of_batches() -> None:
    epoch = "4f1c0a9be2d7"
    ordered = [BatchName("a", epoch, 2), BatchName("a", epoch, 10), BatchName("a", epoch, 10, 2)]
    assert sorted({*ordered}) == ordered
    assert sorted(map(str, ordered)) == list(map(str, ordered))


@pytest.mark.parametrize(
    "parts",
    [
        ("bad name", "4f1c0a9be2d7", 1, 1),
        ("requests", "\x1b", 1, 1),
        ("requests", "4f1c0a9be2d7", 0, 1),
        ("requests", "4f1c0a9be2d7", 10_000_000_000, 1),
        ("requests", "4f1c0a9be2d7", 1, 0),
    ],
)
def test_a_name_that_could_not_be_read_is_never_made(parts: tuple[str, str, int, int]) -> None:
    with pytest.raises(ValueError, match="no batch can be called") as refused:
        BatchName(*parts)
    assert str(refused.value).isprintable()
