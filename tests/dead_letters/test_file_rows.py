"""Rows of people's files among the dead letters: seen, mended, retried and let go as any others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.channels import Channel, Stream
from exchange.channels.intake import Intake, Written
from exchange.database.locks import reading, writing
from exchange.database.tables import DeadLetterState, change, dead_letter, intake
from exchange.dead_letters import auto_retry, edit, groups, pages, show, transitions
from exchange.dead_letters.file import export_letters
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.retry import retry_letters
from exchange.dead_letters.store import Brief
from exchange.format.errors import TransientError
from exchange.intake import dropped, folders, load, standing, take_in
from exchange.intake.ledger import NewFile
from exchange.operating import erasure
from exchange.operating.erasure.sought import seek
from exchange.reading import Place
from exchange.reading.detect import detect
from exchange.reading.read import read
from exchange.results import Retried
from tests.crossing.sides import Side
from tests.databases import Databases

metadata = sa.MetaData()
club = sa.Table("club", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
member = sa.Table(
    "member",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("club", sa.Integer, sa.ForeignKey("club.id", name="member_club"), nullable=False),
    sa.Column("name", sa.String(10), nullable=False),
    sa.Column("pin", sa.Integer),
)
CHANNELS = (Channel("forth", "one", "two", [Stream(club), Stream(member, sensitive=["pin"])]),)
HEADER = "id,club,name,pin\n"


class Letters:
    """What people do with letters."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def show(self, letter: int, *, revealed: bool = False) -> show.View:
        """Give one."""
        with reading(self._side.engine) as connection:
            found = show.view(self._side.site, connection, letter, revealed=revealed)
        assert found is not None
        return found

    def list(self, **asked: Any) -> Sequence[Brief]:
        """Give those that are meant."""
        with reading(self._side.engine) as connection:
            return pages.page(connection, Filters(**asked)).letters

    def begin(self, letter: int) -> edit.Draft:
        """Begin to mend one."""
        return edit.begin_edit(self._side.site, letter)

    def save(self, draft: edit.Draft, typed: bytes) -> edit.Edited:
        """Keep what was typed."""
        return edit.save_edit(self._side.site, draft, typed, "for a reason")

    def set(self, letter: int, *values: str) -> edit.Edited:
        """Set some columns."""
        draft = self.begin(letter)
        return self.save(draft, edit.with_changes(draft, values, ()))

    def retry(self, *letters: int) -> Sequence[Retried]:
        """Try some."""
        return retry_letters(self._side.site, letters)


class Members:
    """A side that loads files of members."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self.folder, self.letters = side, folder, Letters(side)

    def load(self, text: str, name: str = "members.csv", encoding: str = "utf-8", *, cut: int = 0, **how: Any) -> int:
        """Take a file in and load it, or what is before the byte ``cut`` alone; give its number."""
        path = self.folder / name
        path.write_bytes(text.encode(encoding))
        written = Written(encoding=None if encoding == "utf-8" else encoding)
        declared = Intake("members", stream=how.pop("stream", "member"), written=written, **how)
        stream = declared.stream_of(self.side.site.channels)
        assert stream is not None
        with path.open("rb") as file:
            found = take_in.hashed(file)
            format_ = detect(file, name, declared, stream).format
        terms = take_in.terms_of(self.side.site, declared, stream.name, format_, found)
        new = NewFile("members", stream.name, name, str(path), found.sha256, found.length, format_, terms, "ann")
        places = [
            Place(format_.start, format_.line),
            *([Place(cut, text.encode()[:cut].count(b"\n") + 1)] if cut else ()),
        ]
        stops = [*(place.position for place in places[1:]), None]
        number, _ = take_in.write_down(self.side.site, new, list(zip(places, stops, strict=True)))
        load.load_part(self.side.site, number, 0, read)
        return number

    def ids(self) -> list[int]:
        """Name the letters, in the order of their lines."""
        return [row.id for row in self.side.all(sa.select(dead_letter.c.id).order_by(dead_letter.c.line))]

    def members(self) -> list[dict[str, Any]]:
        """Give the rows of the table."""
        return self.side.rows(member)

    def became(self, number: int) -> dict[str, int]:
        """Say what became of a file's letters."""
        with reading(self.side.engine) as connection:
            return standing.find_file(connection, number).letters_by_state

    def state(self, letter: int) -> str:
        """Say how a letter stands."""
        return str(self.side.all(sa.select(dead_letter.c.state).where(dead_letter.c.id == letter))[0].state)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def members(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Members]:
    """Give a side that has club 1."""
    side = Side("one", "two", databases, request.param, tmp_path / "home", CHANNELS, metadata=metadata)
    side.execute(sa.insert(club), {"id": 1, "name": "chess"})
    yield Members(side, tmp_path)
    side.engine.dispose()


def test_a_row_that_was_mended_as_its_file_has_it_is_loaded_and_crosses(members: Members) -> None:
    number = members.load(HEADER + '1,1,ann,\n2,1,"bob, ""b""",1.5\n3,1,carl\n')
    wrong, ragged = members.ids()
    assert [(one.error, one.line, one.intake) for one in members.letters.list(intake=number)] == [
        ("ragged", 4, number),
        ("cell", 3, number),
    ]
    with pytest.raises(TransientError, match="/data/pin: pin: expected a whole number"):
        members.letters.set(wrong, "/data/pin=x")
    done = members.letters.set(wrong, "/data/pin=15", '/data/name=bob "b"')
    assert done.difference == '/data/name: "bob, \\"b\\"" -> "bob \\"b\\""\n/data/pin: (hidden) -> (hidden)'

    draft = members.letters.begin(ragged)
    with pytest.raises(TransientError, match="has 3 cells, the header has 4"):
        members.letters.save(draft, b"3,1,carol\n")
    with pytest.raises(TransientError, match="more than one row"):
        members.letters.save(draft, b"3,1,carol,\n4,1,dora,\n")
    members.letters.save(draft, b"3,1,carol,\r\n")

    assert members.became(number) == {"parked": 2}
    assert {one.state for one in members.letters.retry(wrong)} == {DeadLetterState.APPLIED}
    assert members.became(number) == {"parked": 1, "applied": 1}
    assert {one.state for one in members.letters.retry(ragged)} == {DeadLetterState.APPLIED}
    assert [(row["id"], row["name"], row["pin"]) for row in members.members()] == [
        (1, "ann", None),
        (2, 'bob "b"', 15),
        (3, "carol", None),
    ]
    assert sorted(row.key for row in members.side.all(sa.select(change.c.key).where(change.c.stream == "member"))) == [
        f'{{"id" : {number}}}' if members.side.engine.dialect.name == "postgresql" else f'{{"id":{number}}}'
        for number in (1, 2, 3)
    ]


def test_a_row_whose_parent_was_missing_is_loaded_by_itself_when_that_has_come(members: Members) -> None:
    members.load(HEADER + "1,7,ann,\n")
    (letter,) = members.ids()
    assert members.side.all(sa.select(dead_letter.c.next_try_at))[0].next_try_at is not None

    def heal() -> None:
        site = members.side.site
        auto_retry.retry_orphans(site, auto_retry.channels_with_letters(site), lambda: False, everything=False)

    heal()
    assert members.state(letter) == "parked"
    members.load("id,name\n7,go\n", name="clubs.csv", stream="club")
    heal()
    assert members.state(letter) == "applied"
    assert [row["club"] for row in members.members()] == [7]


@pytest.mark.same_on("postgresql")
def test_of_a_file_that_is_refused_nothing_stays_even_what_healed_meanwhile(members: Members) -> None:
    first = HEADER + "1,7,ann,\n2,1,bob,\n"
    number = members.load(first + "3,1,carl,\n", cut=len(first))
    members.side.execute(sa.insert(club), {"id": 7, "name": "go"})
    assert members.letters.retry(*members.ids())[0].state is DeadLetterState.APPLIED
    assert [row["id"] for row in members.members()] == [1, 2]

    assert load.refuse(members.side.site, number, "by hand", read).state == "refused"
    assert members.members() == []


@pytest.mark.same_on("postgresql")
def test_what_is_sensitive_is_shown_to_nobody_who_may_not_see_it(members: Members, tmp_path: Path) -> None:
    members.load(HEADER + "1,1,name that is too long,1471100471\n2,1,bob\n3,1,c,1471200472,1471300473\n")
    long, short, ragged = members.ids()
    shown = {one: members.letters.show(one) for one in (long, short, ragged)}
    view = shown[long]
    assert view.record == "1,1,name that is too long,(hidden)"
    assert view.cells == {"id": "1", "club": "1", "name": "name that is too long", "pin": "(hidden)"}
    assert [line.text for line in view.pretty if line.fails] == ['    "name": "name that is too long",']
    assert view.file == "members.csv"
    assert [shown[one].record for one in (short, ragged)] == [None, None]
    assert members.letters.show(ragged, revealed=True).record == "3,1,c,1471200472,1471300473"
    draft = members.letters.begin(long)
    assert draft.text == "1,1,name that is too long,(hidden)\n"
    members.letters.save(draft, b"1,1,ann,(hidden)")
    assert members.letters.retry(long)[0].state is DeadLetterState.APPLIED
    assert [row["pin"] for row in members.members()] == [1471100471]
    with pytest.raises(TransientError, match="give the whole record anew"):
        assert members.letters.begin(short).text
    table = tmp_path / "letters.csv"
    assert export_letters(members.side.site, table).letters == 3
    said = table.read_text() + repr(members.letters.list())
    assert not any(secret in said for secret in ("1471100471", "1471200472", "1471300473"))


@pytest.mark.same_on("postgresql")
def test_json_lines_are_hidden_mended_and_loaded_as_they_are_written(members: Members) -> None:
    lines = (
        '{"ID": 1, "club": 1, "name": "far too long a name", "pin": 4711, "other": 5}\n{"ID":2,"club":1,"name":"b"}\n'
    )
    members.load(lines, name="members.jsonl")
    (letter,) = members.ids()
    view = members.letters.show(letter)
    assert view.record == '{"ID":1,"club":1,"name":"far too long a name","pin":"(hidden)","other":"(hidden)"}'
    members.letters.set(letter, "/data/name=ann")
    assert members.letters.retry(letter)[0].state is DeadLetterState.APPLIED
    assert [(row["id"], row["pin"]) for row in members.members()] == [(1, 4711), (2, None)]


@pytest.mark.same_on("postgresql")
def test_rows_of_other_encodings_and_modes_are_retried_as_their_file_was_loaded(members: Members) -> None:
    members.load("id;club;name\n1;1;Jürgen\n2;1;Käthe und noch mehr\n", encoding="windows-1252", mode="upsert")
    (letter,) = members.ids()
    draft = members.letters.begin(letter)
    assert draft.text == "2;1;Käthe und noch mehr\n"
    with pytest.raises(TransientError, match="cp1252 has no character"):
        members.letters.save(draft, "2;1;Käthe😀".encode())
    members.letters.save(draft, "1;1;Käthe".encode())
    assert members.letters.retry(letter)[0].state is DeadLetterState.APPLIED
    assert [(row["id"], row["name"]) for row in members.members()] == [(1, "Käthe")]


def test_a_row_of_a_key_that_is_there_stays_refused_and_says_why(members: Members) -> None:
    members.load(HEADER + "1,1,ann,\n1,1,bob,\n")
    (letter,) = members.ids()
    (done,) = members.letters.retry(letter)
    assert done.failed
    view = members.letters.show(letter)
    assert (view.letter.error, view.advice.fault, view.letter.attempts) == ("unique", "the file", 2)


@pytest.mark.same_on("postgresql")
def test_letters_of_files_are_grouped_discarded_restored_and_left_out_of_letter_files(
    members: Members, tmp_path: Path
) -> None:
    members.load(HEADER + "x,1,ann,\ny,1,bob,\n")
    with reading(members.side.engine) as connection:
        (group,) = groups.grouped(connection, Filters(state=DeadLetterState.PARKED))
    assert (group.letters, group.error, group.pointer, group.advice.fault) == (2, "cell", "/data/id", "the file")
    with writing(members.side.engine) as connection:
        assert transitions.discard(connection, members.ids(), "not ours") is None
        assert transitions.restore(connection, members.ids(), "ours") is None
    assert [members.state(one) for one in members.ids()] == ["parked", "parked"]
    saved = export_letters(members.side.site, tmp_path / "letters.jsonl")
    assert (saved.letters, saved.left_out) == (0, 2)


@pytest.mark.same_on("postgresql")
def test_a_row_whose_file_is_forgotten_says_so(members: Members) -> None:
    members.load(HEADER + "x,1,ann,\n")
    (letter,) = members.ids()
    members.side.execute(sa.delete(intake))
    with pytest.raises(TransientError, match="its file is no longer known here"):
        members.letters.begin(letter)
    assert members.letters.retry(letter)[0].failed
    view = members.letters.show(letter)
    assert view.record is None


@pytest.mark.same_on("postgresql")
def test_a_row_is_found_to_be_erased_in_letters_of_files_whether_it_can_be_read_or_not(members: Members) -> None:
    members.load(HEADER + '21,1,far too long a name,\n22,1,far too long a name,\n22,"x"y,z\n3,1\n22,1\n')
    sought = seek(members.side.site, "member", "22")
    found = [one for one in erasure.find_traces(members.side.site, sought).places if one.place == "dead letter"]

    assert sorted(one.what.value for one in found) == ["broken record", "broken record", "upsert"]
    erasure.erase_record(members.side.site, sought)
    assert [bytes(row.record) for row in members.side.all(sa.select(dead_letter.c.record).order_by("line"))] == [
        b"21,1,far too long a name,",
        b"",
        b"",
        b"3,1",
        b"",
    ]


@pytest.mark.same_on("postgresql")
def test_dropped_files_that_have_a_row_to_be_erased_are_named_and_those_in_done_go(members: Members) -> None:
    side, home = members.side, members.side.site.spool.folders.home
    side.site = replace(side.site, intakes=(Intake("members", stream="member", folder="drop", bad_rows=1),))
    assert folders.make_all(side.site, None, beyond=True) == []
    loaded = {
        "has.csv": HEADER + "21,1,ann,\n22,1,bob,\n",
        "has-a-bad-one.csv": HEADER + "31,1,carl,\n22,1,far too long a name,\n",
        "others.csv": HEADER + "41,1,dora,\n",
        "refused.csv": HEADER + "x,1,a,\n22,y,b,\nz,1,c,\n",
    }
    for name, text in loaded.items():
        (home / "drop" / name).write_text(text)
    members.load(HEADER + "22,1,somebody,5\n", "by-hand.csv")
    dropped.take_in(side.site)
    while dropped.work_off(side.site, lambda: False):
        pass
    sought = seek(side.site, "member", "22")

    def named() -> dict[str, str | None]:
        found = erasure.find_traces(side.site, sought).places
        return {Path(one.name).name: one.kept for one in found if one.place == "dropped file"}

    before = named()
    assert {name: kept is None for name, kept in before.items()} == {
        "by-hand.csv": False,
        "has.csv": True,
        "has-a-bad-one.csv": True,
        "refused.csv": False,
    }
    erasure.erase_record(side.site, sought)
    assert sorted(one.name for one in (home / "drop" / "done").iterdir()) == ["others.csv"]
    assert named().keys() == {"by-hand.csv", "refused.csv"}
