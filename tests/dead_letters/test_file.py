"""Dead letters to a file and back: nothing lost, nothing twice, nothing from strangers."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.database.engine import now
from exchange.database.locks import Busy, locked
from exchange.database.tables import DeadLetterState, change, dead_letter, event, revision
from exchange.dead_letters import file as letter_file
from exchange.dead_letters import filters, retry, store, transitions
from exchange.dead_letters.file import FileFault, read
from exchange.dead_letters.file import csv as letter_csv
from exchange.format import dead_letter_file as format_letters
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.tables import capture
from tests.crossing import shop
from tests.crossing.forging import Forger, account, delete, upsert
from tests.crossing.sides import Link, Side

# What these show the databases have no say in, but where it says so.
pytestmark = pytest.mark.same_on("postgresql")

FIRST = 1_700_000_000_000_000
COLUMNS = [column for column in dead_letter.c if column.name not in {"updated_at", "next_try_at"}]


def letters(side: Side) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in side.all(sa.select(*COLUMNS).order_by(dead_letter.c.id))]


@pytest.fixture
def parked(receiver: Side, forger: Forger) -> Side:
    """Give a receiver with letters of many kinds, on each kind of database."""
    return with_letters(receiver, forger)


@pytest.fixture
def quick_parked(quick_receiver: Side, quick_forger: Forger) -> Side:
    """Give a receiver on SQLite with letters of many kinds."""
    return with_letters(quick_receiver, quick_forger)


def with_letters(receiver: Side, forger: Forger) -> Side:
    """Let a receiver park letters of many kinds, one of them mended once and one discarded."""
    visit = upsert("visit", FIRST, id=1, country="at", number=1)
    forger.send([visit, account(1, FIRST, age=300), b"{", b"\xff\x00", account(2, FIRST, name='=1+1|"\u202e')])
    receiver.take_in()
    forger.send([account(3, FIRST, age=300), delete("place", FIRST, country="at", number=1), account(4, FIRST, age=9)])
    receiver.take_in()
    first = letters(receiver)[0]["id"]
    mended = {
        "letter": first,
        "number": 1,
        "record": b"{}",
        "difference": "d",
        "who": "me",
        "why": "because",
        "at": now(),
    }
    receiver.execute(sa.insert(revision).values(mended))
    receiver.execute(sa.update(dead_letter).where(dead_letter.c.id == first).values(revision=1))
    with receiver.engine.begin() as connection:
        assert transitions.discard(connection, letters(receiver)[1]["id"], "a test") is None
    return receiver


def saved(side: Side, tmp_path: Path, name: str = "letters.jsonl") -> Path:
    file = tmp_path / name
    done = letter_file.export_letters(side.site, file)
    assert done.letters == len(letters(side))
    return file


def rewritten(file: Path, change: Callable[[list[dict[str, Any]]], object], key: SigningKey | None) -> Path:
    """Write a file anew with other entries, sealed as if they had always been so."""
    *lines, ending, _ = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    ending["bytes"], ending["letters"] = len(content), sum("letter" in line for line in lines)
    ending["sha256"] = hashlib.sha256(content).hexdigest()
    end = json.dumps(ending).encode()
    other = file.with_name(f"other-{file.name}")
    other.write_bytes(content + end + b"\n" + (key.sign(end).encode() + b"\n" if key else b""))
    return other


def test_what_was_removed_comes_back_as_it_was_with_its_id_and_its_revisions(parked: Side, tmp_path: Path) -> None:
    before, mended = letters(parked), parked.all(sa.select(revision))
    file = saved(parked, tmp_path)
    newest = before[-1]["id"]
    parked.execute(sa.delete(dead_letter).where(dead_letter.c.id < newest))
    parked.execute(sa.delete(revision))
    done = letter_file.import_letters(parked.site, file)
    assert (done.imported, done.duplicate, done.refused) == (len(before) - 1, 1, 0)
    assert letters(parked) == before
    assert parked.all(sa.select(revision)) == mended
    with parked.engine.connect() as connection:
        last = store.history(connection, before[1]["id"])[-1]
    assert last["to_state"] == "discarded"
    assert last["cause"].startswith("brought from a file of two's of 20")


def test_a_file_brought_twice_brings_nothing_the_second_time(quick_parked: Side, tmp_path: Path) -> None:
    file = saved(quick_parked, tmp_path)
    before, events = letters(quick_parked), len(quick_parked.all(sa.select(event)))
    for _ in range(2):
        done = letter_file.import_letters(quick_parked.site, file)
        assert (done.imported, done.duplicate) == (0, len(before))
    assert letters(quick_parked) == before
    assert len(quick_parked.all(sa.select(event))) == events


def test_a_letter_whose_id_another_one_has_gets_a_new_one(parked: Side, tmp_path: Path) -> None:
    file = saved(parked, tmp_path)
    taken = letters(parked)[0]
    parked.execute(sa.update(dead_letter).where(dead_letter.c.id == taken["id"]).values(batch="another", line=77))
    assert letter_file.import_letters(parked.site, file).imported == 1
    assert letter_file.import_letters(parked.site, file).imported == 0
    again = letters(parked)[-1]
    assert again["id"] > taken["id"]
    assert {**again, "id": 0} == {**taken, "id": 0}
    assert [row.letter for row in parked.all(sa.select(revision).order_by(revision.c.letter))][-1] == again["id"]


@pytest.mark.same_on
def test_an_id_beyond_the_newest_is_not_taken_out_of_turn(parked: Side, tmp_path: Path) -> None:
    file = saved(parked, tmp_path)
    before = letters(parked)
    parked.execute(sa.delete(dead_letter))
    parked.execute(sa.delete(revision))
    assert letter_file.import_letters(parked.site, file).imported == len(before)
    ids = [letter["id"] for letter in letters(parked)]
    with parked.engine.begin() as connection:  # what PostgreSQL's sequence gives next is free
        store.park(connection, [store.Letter("in", "forth", b"x", "json", "bad")] * 10, "test")  # type: ignore[arg-type]
    assert len(set(ids)) == len(before)


def test_many_letters_are_written_in_parts(quick_parked: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(quick_parked, tmp_path)
    before = letters(quick_parked)
    quick_parked.execute(sa.delete(dead_letter).where(dead_letter.c.id < before[-1]["id"]))
    monkeypatch.setattr(read, "CHUNK_LETTERS", 2)
    quick_parked.execute(sa.delete(revision))
    assert letter_file.import_letters(quick_parked.site, file).imported == len(before) - 1
    assert letters(quick_parked) == before
    assert len(quick_parked.all(sa.select(revision))) == 1


# The other network


def refused_at_peer(alike: Link) -> Path:
    """Let the other side refuse a row of ours and one that we have deleted since; give its file of letters."""
    alike.other.execute("INSERT INTO seat (id, code) VALUES (5, 'a')")
    alike.one.execute(sa.insert(shop.seat), [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}])
    alike.one.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    alike.one.execute(sa.insert(shop.visit).values(id=1, country="at", number=1))
    alike.other.execute("INSERT INTO seat (id, code) VALUES (6, 'b')")
    alike.round()
    alike.one.execute("DELETE FROM seat WHERE id = 2")
    file = alike.one.home / "from-other.jsonl"
    assert letter_file.export_letters(alike.other.site, file).letters == 2
    return file


def test_a_sender_mends_what_its_receiver_refused(alike: Link) -> None:
    file = refused_at_peer(alike)
    done = letter_file.import_letters(alike.one.site, file)
    assert (done.network, done.imported, done.duplicate, done.refused) == ("two", 1, 0, 1)
    assert done.sentences == ["line 2: its row is no longer in table seat here; retry or discard it at two"]
    [letter] = letters(alike.one)
    assert (letter["direction"], letter["state"], letter["stream"], letter["line"]) == ("out", "parked", "seat", 3)
    assert letter["message"].startswith("two refused it: code = a is taken by the row id = 5")
    assert letter_file.import_letters(alike.one.site, file).duplicate == 1
    alike.other.execute("DELETE FROM seat WHERE id IN (5, 6)")
    assert {one.state for one in retry.retry_letters(alike.one.site, [letter["id"]])} == {DeadLetterState.APPLIED}
    alike.round()
    assert alike.one.rows(shop.seat) == alike.other.rows(shop.seat)


def test_what_the_peer_settled_or_never_sent_is_not_ours_to_mend(small: Link) -> None:
    file = refused_at_peer(small)
    file.unlink()
    settle = sa.update(dead_letter).where(dead_letter.c.line == 3).values(state="discarded")
    small.other.execute(settle)
    small.other.execute(sa.update(dead_letter).where(dead_letter.c.line == 4).values(direction="out", channel="back"))
    letter_file.export_letters(small.other.site, file)
    done = letter_file.import_letters(small.one.site, file)
    assert (done.imported, done.refused) == (0, 2)
    assert done.sentences == [
        "line 1: it is discarded at two, so there is nothing to mend here",
        "line 2: it never left two, and is mended there",
    ]
    assert letters(small.one) == []


def test_the_key_that_is_sent_again_is_the_one_that_triggers_note(alike: Link) -> None:
    alike.one.execute(sa.insert(shop.node).values(id=uuid.UUID(int=7), name="n"))
    alike.one.execute(sa.insert(shop.place).values(country="at", number=1, name="p"))
    [node, place] = [row.key for row in alike.one.all(sa.select(change.c.key).order_by(change.c.id))]
    with alike.one.engine.begin() as connection:
        dialect = connection.dialect
        for table, key, text in (
            (shop.node, {"id": str(uuid.UUID(int=7))}, node),
            (shop.place, {"country": "at", "number": 1}, place),
        ):
            stream = alike.one.site.channels[0].stream(table.name)
            values = [column[0] for column in stream.key_decoder(dialect)([key])]
            assert capture.key_text(connection, stream, values) == text
            assert capture.is_key(connection, stream, text)
            for wrong in ("{}", "[]", "{", '{"id": {}}', '{"id": "x\'y\\\\", "b": 1}'):
                assert not capture.is_key(connection, stream, wrong)
        gone = alike.one.site.channels[0].stream("place").key_decoder(dialect)([{"country": "at", "number": 2}])
        assert capture.key_text(connection, alike.one.site.channels[0].stream("place"), [c[0] for c in gone]) is None


# Bad input


def test_a_file_that_is_not_what_its_ending_says_changes_nothing(quick_parked: Side, tmp_path: Path) -> None:
    file = saved(quick_parked, tmp_path)
    quick_parked.execute(sa.delete(dead_letter))
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = {
        "one byte changed": whole.replace(b"account", b"Account", 1),
        "a letter out": b"".join(lines[1:]),
        "a letter twice": lines[0] + whole,
        "two letters in another order": b"".join([lines[2], lines[0], lines[1], *lines[3:]]),
        "cut short": whole[: len(whole) // 2],
        "cut at a line": b"".join(lines[:3]),
        "no newline": whole[:-1],
        "empty": b"",
        "no signature": b"".join(lines[:-1]),
        "another ending": b"".join([*lines[:-2], lines[-2].replace(b'"letters":', b'"letters":1'), lines[-1]]),
        "an ending alone": lines[-2],
        "a signature alone": lines[-1],
        "nonsense": b"hello\n",
        "a byte after it": whole + b"\n",
    }
    for what, content in damaged.items():
        file.write_bytes(content)
        with pytest.raises(FileFault, match="nothing was imported") as raised:
            letter_file.import_letters(quick_parked.site, file)
        assert str(raised.value).isprintable(), what
        assert letters(quick_parked) == [], what


def test_a_file_of_a_stranger_changes_nothing(quick_parked: Side, tmp_path: Path) -> None:
    file = saved(quick_parked, tmp_path)
    quick_parked.execute(sa.delete(dead_letter))
    stranger = SigningKey.generate(quick_parked.key.name)
    for key, said in (
        (stranger, "it is not what"),
        (SigningKey.generate("x"), "a key that is not trusted here"),
        (None, "not signed"),
    ):
        other = rewritten(file, len, key)
        with pytest.raises(FileFault, match=said):
            letter_file.import_letters(quick_parked.site, other)
    # Our own file is ours to take, and no key of the peer's makes it so.
    with pytest.raises(FileFault, match="not trusted here"):
        letter_file.import_letters(replace(quick_parked.site, own=TrustedKeys({}), trusted=quick_parked.site.own), file)
    assert letters(quick_parked) == []


def test_an_unsigned_file_is_taken_only_where_that_is_allowed(quick_parked: Side, tmp_path: Path) -> None:
    quick_parked.site = replace(quick_parked.site, signing_key=None)
    file = saved(quick_parked, tmp_path)
    quick_parked.execute(sa.delete(dead_letter))
    quick_parked.execute(sa.delete(revision))
    with pytest.raises(FileFault, match="it is not signed"):
        letter_file.import_letters(quick_parked.site, file)
    quick_parked.site = replace(quick_parked.site, require_signature=False)
    assert letter_file.import_letters(quick_parked.site, file).refused == 0
    assert len(letters(quick_parked)) > 3


@pytest.mark.parametrize(
    "member, value, said",
    [
        ("id", 0, "id: expected an integer from 1"),
        ("id", True, "id: expected an integer"),
        ("direction", "up", "direction: expected in or out"),
        ("channel", "No", "channel: expected a text that matches"),
        ("version", 2**64, "an integer outside 64 bits"),
        ("attempts", 2**31, "attempts: expected"),
        ("record", 5, "record: expected a text"),
        ("record", {"base64": "*"}, "record: expected a text"),
        ("created_at", "yesterday", "created_at: expected an RFC 3339 date-time"),
        ("created_at", "2026-11-22T06:15:00", "created_at: expected"),
        ("error", "x" * 32, "error: expected a text of 1 to 31"),
        ("message", "\0", "U\\+0000"),
        ("state", ..., "state is missing"),
    ],
)
def test_a_member_that_is_wrong_refuses_the_file(
    quick_receiver: Side, quick_forger: Forger, tmp_path: Path, member: str, value: Any, said: str
) -> None:
    quick_forger.send([account(1, FIRST, age=300)])
    quick_receiver.take_in()
    file = saved(quick_receiver, tmp_path)

    def spoil(lines: list[dict[str, Any]]) -> None:
        if value is ...:
            del lines[0]["letter"][member]
        else:
            lines[0]["letter"][member] = value

    other = rewritten(file, spoil, quick_receiver.key)
    with pytest.raises(FileFault, match=f"line 1: .*{said}"):
        letter_file.import_letters(quick_receiver.site, other)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"state": "lost"}, "its state lost is not known here"),
        ({"channel": "back"}, "channel back is not received here"),
        ({"channel": "nowhere"}, "channel nowhere is not received here"),
        ({"direction": "out"}, "channel forth is not sent here"),
        ({"direction": "out", "channel": "back"}, "channel back has no stream account"),
        ({"direction": "out", "channel": "back", "stream": "note", "key": "{}"}, "its key is none of table note"),
        ({"key": '{"id":9}'}, "its stream, op, key or version are not those of its record"),
        ({"version": 5}, "its stream, op, key or version are not those of its record"),
        ({"record_bytes": 7}, "bytes of its record are there, of 7"),
        ({"record": "{}", "record_bytes": 2}, "its stream, op, key or version are not those of its record"),
    ],
)
def test_a_letter_that_has_no_place_here_is_refused_and_the_others_are_taken(
    quick_receiver: Side, quick_forger: Forger, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    quick_forger.send([account(1, FIRST, age=300), account(2, FIRST, age=300)])
    quick_receiver.take_in()
    file = saved(quick_receiver, tmp_path)
    quick_receiver.execute(sa.delete(dead_letter))
    other = rewritten(file, lambda lines: lines[0]["letter"].update(changes), quick_receiver.key)
    done = letter_file.import_letters(quick_receiver.site, other)
    assert (done.imported, done.refused) == (1, 1)
    [sentence] = done.sentences
    assert sentence.startswith("line 1: ")
    assert said in sentence


def test_only_plain_files_of_bounded_size_are_read(quick_receiver: Side, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(FileFault, match="expected a plain file"):
            letter_file.import_letters(quick_receiver.site, path)
    file = saved(quick_receiver, tmp_path)
    quick_receiver.limit(read=replace(quick_receiver.site.limits.read, max_content_bytes=100))
    with pytest.raises(FileFault, match="EXCHANGE_MAX_CONTENT_BYTES"):
        letter_file.import_letters(quick_receiver.site, file)


@pytest.mark.thorough
def test_a_line_without_end_is_not_read_into_memory(quick_receiver: Side, tmp_path: Path) -> None:
    file = saved(quick_receiver, tmp_path)
    message = "x" * format_letters.MAX_LINE_BYTES
    long = rewritten(file, lambda lines: lines.append({"letter": {"message": message}}), quick_receiver.key)
    with pytest.raises(FileFault, match=f"line 1 is longer than {format_letters.MAX_LINE_BYTES} bytes"):
        letter_file.import_letters(quick_receiver.site, long)


@pytest.mark.same_on
def test_two_operators_do_not_bring_one_file_twice(parked: Side, tmp_path: Path) -> None:
    file = saved(parked, tmp_path)
    with locked(parked.engine, "letters"), pytest.raises(Busy, match="letters is busy"):
        letter_file.import_letters(parked.site, file)


# Files


def test_a_file_is_ours_alone_and_never_overwritten(quick_receiver: Side, tmp_path: Path) -> None:
    file = saved(quick_receiver, tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(FileFault, match="expected a new file, found one"):
        letter_file.export_letters(quick_receiver.site, file)
    assert file.read_bytes() == before


def test_an_export_that_fails_leaves_no_file(quick_parked: Side, tmp_path: Path) -> None:
    quick_parked.execute(sa.update(dead_letter).values(message="a\0b"))
    with pytest.raises(FileFault, match=r"the character U\+0000"):
        letter_file.export_letters(quick_parked.site, tmp_path / "letters.jsonl")
    assert not [path for path in tmp_path.iterdir() if "letters" in path.name]


def test_only_the_letters_that_were_asked_for_are_written(quick_parked: Side, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    assert (
        letter_file.export_letters(quick_parked.site, file, filters.Filters(state=DeadLetterState.DISCARDED)).letters
        == 1
    )


# Tables


def test_a_table_has_no_formula_no_control_character_and_no_secret(quick_parked: Side, tmp_path: Path) -> None:
    quick_parked.execute(sa.update(dead_letter).where(dead_letter.c.line == 1).values(message="=cmd|'/c calc'!A1"))
    file = saved(quick_parked, tmp_path, "letters.csv")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(letters(quick_parked))
    assert tuple(rows[0]) == letter_csv.COLUMNS
    assert {row["message"] for row in rows if row["line"] == "1"} == {"'=cmd|'/c calc'!A1"}
    assert all(value.isprintable() for row in rows for value in row.values())


def test_a_table_hides_what_is_sensitive_and_json_lines_keep_it(quick_parked: Side, tmp_path: Path) -> None:
    account_stream = Stream(shop.account, exclude=["password"], sensitive=["id", "age"])
    channel = Channel("forth", "one", "two", [*(Stream(one) for one in shop.FORTH[:-1]), account_stream])
    quick_parked.site = replace(quick_parked.site, channels=(channel, shop.channels[1]))
    with saved(quick_parked, tmp_path, "letters.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["stream"] in {"account", ""}]
    assert len(rows) >= 4
    assert not any("300" in value or '"id":1' in value for row in rows for value in (row["key"], row["record"]))
    assert b'\\"age\\": 300' in saved(quick_parked, tmp_path).read_bytes()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_cell_that_a_spreadsheet_would_compute_is_text(start: str) -> None:
    shown = letter_csv.cell(start + "1+1")
    assert shown.startswith("'") or not shown.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))


def test_a_cell_of_another_kind_stays_as_it_is() -> None:
    assert [letter_csv.cell(value) for value in (None, 5, "a=b", "x\x1b[31m")] == ["", "5", "a=b", "x\\x1b[31m"]


def test_what_may_heal_is_tried_again_once_it_came_back(quick_parked: Side, tmp_path: Path) -> None:
    file = saved(quick_parked, tmp_path)
    for table in (dead_letter, revision):
        quick_parked.execute(sa.delete(table))
    letter_file.import_letters(quick_parked.site, file)
    found = quick_parked.all(sa.select(dead_letter.c.error, dead_letter.c.next_try_at, dead_letter.c.direction))
    assert {row.error for row in found if row.next_try_at} == {"foreign_key"} & {row.error for row in found}
