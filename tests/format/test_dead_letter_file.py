"""A file of dead letters, byte by byte: what is written is read again, and what was touched is refused."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.format.dead_letter_file import (
    Entry,
    LetterFileEnding,
    LetterWriter,
    SavedLetter,
    SavedRevision,
    read_entries,
)
from exchange.format.signed_file import FileFault, read_tail
from exchange.format.signing import SigningKey

MOMENT = datetime(2026, 11, 22, 6, 15, tzinfo=UTC)
KEY = SigningKey.generate("by-hand")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def letter(record: bytes = b'{"a":1}', message: str = "bad", number: int = 1) -> SavedLetter:
    return SavedLetter(
        id=number,
        direction="in",
        channel="forth",
        batch="forth-0123456789ab-0000000001",
        line=7,
        stream="account",
        op="upsert",
        key='{"id":1}',
        version=5,
        schema_version=1,
        record=record,
        record_bytes=len(record),
        pointer="/data/a",
        error="value",
        message=message,
        cause="",
        producer=None,
        state="parked",
        attempts=1,
        created_at=MOMENT,
        updated_at=MOMENT,
    )


def written(*entries: Entry, key: SigningKey | None = KEY) -> io.BytesIO:
    out = io.BytesIO()
    writer = LetterWriter(out)
    for entry in entries:
        writer.write(entry)
    writer.close("one", "0123456789ab", "by hand", MOMENT, key)
    return out


def read(file: io.BytesIO) -> list[Entry]:
    tail = read_tail(file)
    ending = LetterFileEnding.parse(tail.line)
    assert ending.bytes == tail.start
    return [entry for _, entry in read_entries(file, ending)]


@given(record=st.binary(max_size=60), message=TEXT)
def test_what_is_written_is_read_again(record: bytes, message: str) -> None:
    mended = SavedRevision(1, 1, record, message, MOMENT, "me", "why")
    entries: list[Entry] = [letter(record, message), mended, letter(number=2)]
    assert read(written(*entries)) == entries


def test_a_record_that_people_can_read_is_text() -> None:
    def shown(record: bytes) -> object:
        return json.loads(written(letter(record)).getvalue().splitlines()[0])["letter"]["record"]

    assert shown('{"a":"ü"}'.encode()) == '{"a":"ü"}'
    assert shown(b"\xff") == {"base64": "/w=="}
    assert shown(b"a\x1b[31m") == {"base64": "YRtbMzFt"}


def test_the_ending_vouches_for_every_byte_before_it_and_the_signature_for_the_ending() -> None:
    content = written(letter()).getvalue()
    line, ending, signature = content.splitlines()
    told = json.loads(ending)
    assert (told["sha256"], told["bytes"]) == (sha256(line + b"\n").hexdigest(), len(line) + 1)
    assert json.loads(signature) == json.loads(KEY.sign(ending).encode())
    for place in range(len(line)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(FileFault):
            read(io.BytesIO(bytes(changed)))


def test_a_file_without_letters_is_whole() -> None:
    assert read(written()) == []
    tail = read_tail(written(key=None))
    assert (tail.start, tail.signature) == (0, None)


def test_a_revision_follows_its_letter() -> None:
    mended = SavedRevision(9, 1, b"", "", MOMENT, "me", "why")
    cases: list[list[Entry]] = [[mended], [letter(), mended]]
    for entries in cases:
        with pytest.raises(FileFault, match="does not follow that letter"):
            read(written(*entries))


def test_a_later_format_is_refused_and_later_members_are_not() -> None:
    line, ending, _ = written(letter()).getvalue().splitlines()
    told = json.loads(ending)
    with pytest.raises(FileFault, match='expected format "exchange-dead-letters/1", found "exchange-dead-letters/2"'):
        LetterFileEnding.parse(json.dumps(told | {"format": "exchange-dead-letters/2"}).encode())
    more = json.loads(line)
    more["letter"]["later"] = True
    content = json.dumps(more).encode() + b"\n"
    told |= {"sha256": sha256(content).hexdigest(), "bytes": len(content), "later": 1}
    assert read(io.BytesIO(content + json.dumps(told).encode() + b"\n")) == [letter()]


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"letter":[]}', b'{"other":{}}', b"hello", b'{"letter":{}}', b""])
def test_a_line_that_is_no_entry_is_refused_by_its_number(line: bytes) -> None:
    out = io.BytesIO()
    content = line + b"\n"
    out.write(content)
    ending = LetterFileEnding("one", "0123456789ab", MOMENT, "by hand", 1, len(content), sha256(content).hexdigest())
    with pytest.raises(FileFault, match=r"^line 1: "):
        list(read_entries(out, ending))
