"""A right to be erased: every place beside the application's tables, at the one that sent and at the other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard

from exchange.database import audit_chain
from exchange.database.engine import now
from exchange.database.locks import reading, writing
from exchange.database.tables import (
    BatchState,
    DeadLetterState,
    Direction,
    agreement,
    audit,
    batch,
    dead_letter,
    event,
    metadata,
    receipt,
    resync,
    revision,
    selection,
    tombstone,
)
from exchange.dead_letters import edit, retry, selections
from exchange.dead_letters.filters import Filters
from exchange.format.control import Receipt
from exchange.format.errors import Reason, TransientError, Verdict
from exchange.incoming.importer import never
from exchange.operating import erasure, prune
from exchange.operating.check.ledger import check_ledger
from exchange.operating.erasure import Forgotten
from exchange.outgoing import resend
from tests.crossing.shop import seat
from tests.crossing.sides import Link, Side
from tests.crossing.talking import cross, states, tell

ID = 7654321
CODE = "FORGET-ME!"


def look(side: Side, stream: str = "seat", key: str = str(ID)) -> Forgotten:
    return erasure.find_traces(side.site, erasure.seek(side.site, stream, key))


def erase(side: Side, stream: str = "seat", key: str = str(ID)) -> Forgotten:
    return erasure.erase_record(side.site, erasure.seek(side.site, stream, key))


def places(found: Forgotten) -> dict[str, str | None]:
    """Give the places where something was found, each with why it stays."""
    return {one.place: one.kept for one in found.places}


def send(link: Link, *rows: dict[str, Any]) -> None:
    link.one.execute(sa.insert(seat), list(rows))
    assert link.one.export().trouble is None


def left_in_files(side: Side, *words: str) -> list[str]:
    """Name the files in a side's folders in which one of these words still stands, compressed or not."""
    found = []
    for path in sorted(path for path in side.home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content += zstandard.ZstdDecompressor().decompressobj().decompress(content)
        found += [path.name for word in words if word.encode() in content]
    return found


def left_in_tables(side: Side, *words: str) -> list[str]:
    """Name the tables of ours in which one of these words still stands."""
    found = []
    for table in metadata.sorted_tables:
        text = "".join(str(tuple(row)) for row in side.all(sa.select(table)))
        found += [table.name for word in words if word in text]
    return found


def of_batch(side: Side, direction: Direction, sequence: int) -> Any:
    here = (batch.c.direction == direction, batch.c.sequence == sequence, batch.c.channel == "forth")
    return side.all(sa.select(batch).where(*here).order_by(batch.c.id.desc()))[0]


def misses(side: Side, sequence: int) -> None:
    """Let the other side have said, long after all was published, that it misses a batch."""
    epoch = of_batch(side, Direction.OUT, sequence).epoch
    said = Receipt("forth", epoch, sequence - 1, missing=((sequence, sequence),))
    side.execute(sa.delete(receipt))
    side.execute(
        sa.insert(receipt).values(
            channel="forth", epoch=epoch, through=said.through, said=json.dumps(said.as_data()), heard_at=now()
        )
    )
    side.execute(sa.update(batch).values(published_at=now().replace(year=2020)))


# Both sides, to the end


@pytest.mark.same_on("postgresql")
def test_nothing_of_a_forgotten_row_is_left_on_either_side(alike: Link) -> None:
    one, other = alike.one, alike.other
    # It is parked, so that letters, events and receipts speak of it; then applied; then another one names its row.
    other.execute(sa.insert(seat).values(id=1, code=CODE))
    send(alike, {"id": ID, "code": CODE}, {"id": 2, "code": "two"})
    cross(alike)
    other.execute(sa.delete(seat).where(seat.c.id == 1))
    [letter] = other.all(sa.select(dead_letter.c.id))
    assert retry.retry_letters(other.site, [letter.id])[0].state is DeadLetterState.APPLIED
    other.execute(sa.update(seat).where(seat.c.id == ID).values(code="taken"))
    send(alike, {"id": 5, "code": "taken"})
    cross(alike)
    [letter] = other.all(sa.select(dead_letter.c.id).where(dead_letter.c.state == "parked"))
    assert retry.retry_letters(other.site, [letter.id])[0].state is DeadLetterState.PARKED
    one.execute(sa.delete(seat).where(seat.c.id == ID))
    assert one.export().trouble is None
    cross(alike)
    assert set(states(one).values()) == {BatchState.ACKNOWLEDGED}
    assert other.all(sa.select(tombstone.c.version))

    sent, received = places(look(one)), places(look(other))
    assert {"sealed", "outgoing", "archive"} <= sent.keys()
    assert {"archive", "dead letter", "tombstone", "event", "sentence of a dead letter"} <= received.keys()
    assert set(sent.values()) == set(received.values()) == {None}
    for side in (one, other):
        assert erase(side).erased
        assert look(side).places == ()
        assert left_in_tables(side, str(ID), CODE) == []
    # On PostgreSQL its file is its own; the carrier's folder is not ours to empty.
    assert left_in_files(one, str(ID), CODE) == []
    assert left_in_files(other, str(ID), CODE) == []

    assert of_batch(one, Direction.OUT, 1).erased_at
    assert of_batch(other, Direction.IN, 1).erased_at
    assert not of_batch(one, Direction.OUT, 2).erased_at  # of another row, whose bytes stay
    send(alike, {"id": 6, "code": "six"})
    alike.there.carry()
    assert {seen.verdict for seen in other.take_in().batches} == {Verdict.APPLIED}
    assert [*check_ledger(one.site), *check_ledger(other.site)] == []  # that bytes went is no second time


def test_an_erased_batch_that_is_asked_for_again_is_answered_with_a_snapshot(small: Link) -> None:
    one, other = small.one, small.other
    send(small, {"id": ID, "code": CODE}, {"id": 2, "code": "two"})
    one.execute(sa.delete(seat).where(seat.c.id == ID))
    assert one.export().trouble is None
    found = erase(one)
    assert places(found) == {
        "sealed": "it has two delete the row, and is not acknowledged: run this again after that",
        "outgoing": "it has two delete the row, and is not acknowledged: run this again after that",
    }
    assert {one.name for one in found.places if one.kept is None} == {of_batch(one, Direction.OUT, 1).stem}
    small.there.carry()
    assert {seen.verdict for seen in other.take_in().batches} == {Verdict.WAITING}
    misses(one, 1)
    [lost] = resend.resend_due(one.site, never)
    assert lost.attempt is None
    assert "was to be forgotten and it was erased; a snapshot of the channel goes in its place" in lost.message
    assert (of_batch(one, Direction.OUT, 1).state, of_batch(one, Direction.OUT, 1).reason) == ("rejected", "lost")
    assert [row.want for row in one.all(sa.select(resync.c.want))] == ["snapshot"]
    for _ in range(3):
        one.export()
        tell(one)
        cross(small)
    assert [row["id"] for row in other.rows(seat)] == [2]
    assert left_in_files(other, CODE) == []


# What must stay for now


def test_what_is_not_sent_yet_or_not_imported_yet_stays_and_says_so(small: Link) -> None:
    send(small, {"id": ID, "code": CODE})
    small.there.carry()
    before = sorted(path.name for path in small.other.home.rglob("*"))
    assert places(erase(small.other)) == {"incoming": "it waits to be imported: run this again after that"}
    assert sorted(path.name for path in small.other.home.rglob("*")) == before
    small.one.execute(sa.update(seat).where(seat.c.id == ID).values(rank=3))
    found = erase(small.one)
    assert places(found)["pending change"] == "it goes with the next export: run this again when that is acknowledged"
    assert found.row
    assert places(look(small.one)).keys() == {"pending change"}


def test_a_batch_that_is_sealed_and_not_published_stays(small: Link) -> None:
    send(small, {"id": ID, "code": CODE})
    small.one.execute(sa.update(batch).values(state="sealed"))
    assert set(places(erase(small.one)).values()) == {"it is not published yet: run `exchange export`, then this again"}
    assert left_in_files(small.one, CODE)


def test_a_tombstone_stays_while_a_batch_may_bring_the_row_back(small: Link) -> None:
    send(small, {"id": ID, "code": CODE})
    small.one.execute(sa.delete(seat))
    assert small.one.export().trouble is None
    cross(small)
    send(small, {"id": 2, "code": "two"})
    send(small, {"id": 3, "code": "three"})
    for path in small.one.site.spool.folders.outgoing.glob("forth-*-0000000003.*"):
        path.unlink()
    small.there.carry()
    assert {seen.verdict for seen in small.other.take_in().batches} == {Verdict.WAITING}
    why = places(erase(small.other))["tombstone"]
    assert why is not None
    assert "batches are missing or wait" in why
    assert len(small.other.all(sa.select(tombstone))) == 1


# Refused, damaged, mended


def test_a_damaged_batch_in_quarantine_is_erased_with_what_was_said_of_it_and_others_stay(small: Link) -> None:
    send(small, {"id": ID, "code": CODE})
    send(small, {"id": 2, "code": "two"})
    small.there.carry()
    incoming = small.other.site.spool.folders.incoming
    for path in sorted(incoming.glob("*.jsonl.zst")):
        path.write_bytes(path.read_bytes() + b"!")
    small.other.take_in()
    quarantine = small.other.site.spool.folders.quarantine
    assert len(list(quarantine.glob("*.reason.txt"))) >= 1
    found = erase(small.other)
    assert {one.place for one in found.places if one.kept is None} == {"quarantine"}
    assert left_in_files(small.other, CODE) == []
    row = of_batch(small.other, Direction.IN, 1)
    assert (row.state, row.message) == (
        "quarantined",
        "its bytes were erased by hand: a record was in them that is to be forgotten",
    )
    assert not list(quarantine.glob("*-0000000001*"))


def test_a_file_that_can_not_be_read_to_its_end_may_have_the_row_and_goes(small: Link) -> None:
    quarantine = small.one.site.spool.folders.quarantine
    (quarantine / "forth-0123456789ab-0000000001.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\x00")
    (quarantine / "forth-0123456789ab-0000000002.jsonl.zst").write_bytes(b"!\xb5\x2f\xfd\x00\x00")
    (quarantine / "strange-0123456789ab-0000000001.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\x00")
    (quarantine / "strange-0123456789ab-0000000002.jsonl").write_text(
        f'{{"stream":"seat","op":"upsert","version":1,"data":{{"id": {ID}, "code":'
    )
    found = erase(small.one)
    assert [(one.name, one.what) for one in found.places] == [
        ("forth-0123456789ab-0000000001", "can't be read to its end, and may have it"),
        ("forth-0123456789ab-0000000002", "can't be read to its end, and may have it"),
        ("strange-0123456789ab-0000000002", "broken record"),
    ]
    assert [path.name for path in quarantine.iterdir()] == ["strange-0123456789ab-0000000001.jsonl.zst"]


def parked(link: Link) -> int:
    """Leave a dead letter of the row on the other side."""
    link.other.execute(sa.insert(seat).values(id=1, code=CODE))
    send(link, {"id": ID, "code": CODE})
    link.there.carry()
    link.other.take_in()
    [row] = link.other.all(sa.select(dead_letter.c.id))
    return int(row.id)


def test_a_dead_letter_keeps_its_history_and_loses_record_key_and_revisions(small: Link) -> None:
    letter = parked(small)
    draft = edit.begin_edit(small.other.site, letter)
    edit.save_edit(small.other.site, draft, edit.with_changes(draft, ["/data/code=FORGET-2"], []), "why")
    with writing(small.other.engine) as connection:
        selections.create_selection(connection, "mine", Filters(stream="seat", keys=(f'{{"id":{ID}}}',)))
    assert {"dead letter", "selection", "archive"} <= places(look(small.other)).keys()
    erase(small.other)
    [row] = small.other.all(sa.select(dead_letter))
    assert (row.state, bytes(row.record), row.key, row.message) == ("discarded", b"", None, "erased by hand")
    assert (row.stream, row.op, row.error, row.batch is not None) == ("seat", "upsert", "unique", True)
    assert small.other.all(sa.select(revision)) == []
    told = small.other.all(sa.select(event.c.to_state, event.c.cause).where(event.c.subject == "dead_letter"))
    assert [(one.to_state, one.cause) for one in told] == [
        ("parked", "erased by hand"),
        ("parked", "erased by hand"),
        ("discarded", "erased by hand"),
    ]
    assert json.loads(small.other.all(sa.select(selection.c.filters))[0].filters)["keys"] == ["erased by hand"]
    assert left_in_tables(small.other, str(ID), CODE, "FORGET-2") == []
    # What stood in a revision alone is no longer in the database's own file either.
    file = Path(str(small.other.engine.url.database))
    assert not [one for one in file.parent.glob(f"{file.name}*") if b"FORGET-2" in one.read_bytes()]


def test_a_letter_that_nobody_could_read_is_known_by_what_stands_in_it(small: Link) -> None:
    parked(small)
    small.other.execute(sa.update(dead_letter).values(key=None, record=f'{{"data":{{"id":{ID},'.encode()))
    assert places(look(small.other))["dead letter"] is None
    assert "dead letter" not in places(look(small.other, key="765432"))


def test_what_a_comparison_found_and_what_the_other_side_told_lose_the_key_alone(small: Link) -> None:
    send(small, {"id": ID, "code": CODE})
    epoch = of_batch(small.one, Direction.OUT, 1).epoch
    mine, another = {"id": ID}, {"id": 2}
    letters = [
        {"stream": "seat", "key": key, "error": "unique", "message": "unique at /data/code"} for key in (mine, another)
    ]
    said = Receipt("forth", epoch, 0).as_data() | {"letters": letters}
    small.one.execute(
        sa.insert(receipt).values(channel="forth", epoch=epoch, through=0, said=json.dumps(said), heard_at=now())
    )
    found = {"keys": [{"what": "extra", "key": mine}, {"what": "missing", "key": another}]}
    compared = {"direction": "in", "channel": "forth", "stream": "seat", "epoch": epoch, "sequence": 1, "sent": 1}
    small.one.execute(
        sa.insert(agreement).values(**compared, received=1, compared_at=now(), buckets="[]", found=json.dumps(found))
    )
    assert {"receipt", "comparison"} <= places(erase(small.one)).keys()
    [row] = small.one.all(sa.select(receipt.c.said))
    assert Receipt.parse(json.loads(row.said)).letters[0].key == another
    [compared_now] = small.one.all(sa.select(agreement.c.found))
    assert json.loads(compared_now.found)["keys"] == [{"what": "missing", "key": another}]


def test_what_was_done_by_hand_stays_written_and_is_named(small: Link) -> None:
    values = {"who": "ada", "origin": "here", "action": "select_dead_letters"}
    arguments = json.dumps({"name": "mine", "filters": {"keys": [f'{{"id":{ID}}}']}})
    with audit_chain.adding(small.one.engine, 5) as connection:
        audit_chain.add(connection, {**values, "arguments": arguments})
    assert places(erase(small.one)) == {"audit": "what was done by hand is only ever added to: it stays"}
    assert small.one.all(sa.select(audit.c.arguments))[0].arguments == arguments


# Elsewhere


def test_on_a_one_way_link_what_may_not_have_come_is_lost_at_once(small: Link) -> None:
    small.one.site = replace(small.one.site, one_way=True)
    send(small, {"id": ID, "code": CODE})
    small.one.execute(sa.delete(seat))
    erase(small.one)
    row = of_batch(small.one, Direction.OUT, 1)
    assert (row.state, row.reason, row.again_at) == ("rejected", Reason.LOST, None)
    with reading(small.one.engine) as connection:
        assert resend.lost_places(connection, "forth", row.epoch) == ((1, 1),)
    assert len(small.one.all(sa.select(resync).where(resync.c.prune == 1))) == 1


def test_drafts_that_a_crash_left_go_wherever_they_are_and_the_retention_is_not_asked(small: Link) -> None:
    line = json.dumps({"stream": "seat", "op": "upsert", "version": 1, "data": {"id": ID, "code": CODE}}) + "\n"
    folders = small.one.site.spool.folders
    other_line = line.replace(str(ID), "1").replace(CODE, "other")
    drafts = {
        folders.tmp / "1-0123456789ab.data": zstandard.compress(line.encode()),
        folders.tmp / "2-0123456789ab.data": zstandard.compress(line.encode())[:-4],  # cut short
        folders.outgoing / ".forth-0123456789ab-0000000001.jsonl.zst.tmp": zstandard.compress(line.encode()),
        folders.archive / ".anything.tmp": line.encode(),
    }
    others = {
        folders.incoming / ".of-the-carrier.tmp": line.encode(),
        folders.archive / ".another.tmp": other_line.encode(),
    }
    for path, content in (drafts | others).items():
        path.write_bytes(content)
    assert places(erase(small.one)) == {"tmp": None, "outgoing": None, "archive": None}
    assert [path for path in drafts if path.exists()] == []
    assert [path for path in others if not path.exists()] == []
    assert prune.prune_expired(small.one.site).stray == 0


def test_a_run_that_was_cut_short_behind_its_commit_is_run_again(small: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    send(small, {"id": ID, "code": CODE})

    def cut(_file: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(small.one.site.spool, "erase", cut)
        with pytest.raises(KeyboardInterrupt):
            erase(small.one)
    assert of_batch(small.one, Direction.OUT, 1).erased_at
    assert left_in_files(small.one, CODE)
    misses(small.one, 1)
    assert [one.attempt for one in resend.resend_due(small.one.site, never)] == [None]  # it is not sent as it was
    erase(small.one)
    assert left_in_files(small.one, CODE) == []


@pytest.mark.parametrize(
    "stream, key, said",
    [
        ("seats", "1", "stream: expected one of account, .*, found seats; nothing was looked for"),
        ("seat", "one", "key: expected the key of seat, a JSON object of id or its only value, found 'one'; nothing"),
        ("place", "3", "key: expected the key of place, a JSON object of country, number or its only value"),
    ],
)
def test_a_row_that_can_not_be_is_one_sentence(small: Link, stream: str, key: str, said: str) -> None:
    with pytest.raises(TransientError, match=said):
        look(small.one, stream, key)


def test_keys_of_several_columns_and_of_other_types_are_known_again(small: Link) -> None:
    place = '{"number": 7, "country": "ch"}'
    node = "6513270e-0000-4000-8000-00000000abcd"
    small.one.execute("INSERT INTO place (country, number, name) VALUES ('ch', 7, 'here'), ('ch', 8, 'there')")
    small.one.execute("INSERT INTO node (id, name) VALUES ('6513270e00004000800000000000abcd', 'n')")
    pending = places(look(small.one, "place", place)), places(look(small.one, "node", node))
    assert ["pending change" in found for found in pending] == [True, True]
    assert small.one.export().trouble is None
    for stream, key in (("place", place), ("node", node)):
        assert {one.what for one in look(small.one, stream, key).places} == {"upsert"}
    assert look(small.one, "place", '{"number": 9, "country": "ch"}').places == ()
