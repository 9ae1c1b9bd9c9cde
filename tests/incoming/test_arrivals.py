"""What carriers do to files: each is named with what happened to it and the remedy, stays, and holds nobody up."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from exchange.database import tables
from exchange.format.errors import Reason, Verdict
from exchange.incoming import quarantine
from exchange.operating.doctor.leavings import check_arrivals
from exchange.operating.status import read_status
from exchange.results import ImportRun
from tests.crossing import shop
from tests.crossing.forging import Batch, Forger, account
from tests.crossing.sides import Side
from tests.crossing.unprivileged import as_a_user

FIRST = 1_700_000_000_000_000


def ids(side: Side) -> list[int]:
    return [row["id"] for row in side.rows(shop.account)]


def later(forger: Forger, count: int) -> list[Batch]:
    """Make batches that come behind a good one, and whose place nobody waits for."""
    return [forger.make([account(100 + number, FIRST + 100 + number)]) for number in range(count)]


def said_of(run: ImportRun, words: str) -> str:
    (sentence,) = (str(one.problem) for one in run.left_alone if words in one.message)
    return sentence


def test_what_a_carrier_made_of_names_and_kinds_is_named_and_left_where_it_is(
    quick_receiver: Side, quick_forger: Forger, tmp_path: Path
) -> None:
    incoming = quick_receiver.site.spool.folders.incoming
    good = quick_forger.send([account(1, FIRST)])
    batches = iter(later(quick_forger, 10))
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")

    def names(batch: Batch) -> tuple[str, str]:
        return f"{batch.stem}{batch.ending}", f"{batch.stem}.manifest.jsonl"

    upper, copied, conflicting, linked, symbolic, folder, pipe, nested, packed, alone = (names(one) for one in batches)
    for name in (*(one.upper() for one in upper), copied[1].replace(".jsonl", " (1).jsonl")):
        quick_forger.put(name, b"x")
    quick_forger.put(conflicting[1].replace(".jsonl", ".sync-conflict-20261122-101010-ABCDEFG.jsonl"), b"x")
    (incoming / linked[1]).hardlink_to(outside)
    (incoming / symbolic[1]).symlink_to(outside)
    (incoming / folder[1]).mkdir()
    os.mkfifo(incoming / pipe[0])
    (incoming / "outgoing").mkdir()
    (incoming / "outgoing" / "today").mkdir()
    for name, inner in zip(nested, ("outgoing", "outgoing/today"), strict=True):
        (incoming / inner / name).write_bytes(b"x")
    (incoming / "photos").mkdir()
    quick_forger.put(f"{packed[0]}.gz", b"x")
    quick_forger.put(alone[0], b"x")
    quick_forger.put(f".{alone[1]}.Xy12Ab", b"x")
    before = sorted(incoming.rglob("*"))

    run = quick_receiver.take_in()
    assert ([one.batch for one in run.batches], ids(quick_receiver), run.trouble) == ([good], [1], None)
    for words, name, remedy in (
        ("upper-case", upper[1].upper(), upper[0]),
        ("further copy", copied[1].replace(".jsonl", " (1).jsonl"), copied[1]),
        ("conflict copy", "sync-conflict", conflicting[1]),
        ("has 2 names (hard links)", linked[1], "remove the other names"),
        ("a symbolic link", symbolic[1], "bring the file itself"),
        ("is a folder and no file", folder[1], "bring the file itself"),
        ("is a FIFO", pipe[0], "bring the file itself"),
        ("a folder with 2 files of batches", "outgoing", "move those files up"),
        ("packed or encrypted", f"{packed[0]}.gz", packed[0]),
    ):
        sentence = said_of(run, words)
        assert name in sentence
        assert remedy in sentence
    assert "2 files in incoming" in said_of(run, "upper-case")
    assert not any(alone[0] in one.message or "photos" in one.message for one in run.left_alone)

    quick_receiver.limit(grace_seconds=0)  # long enough for a carrier to end what it began
    run = quick_receiver.take_in()
    (told,) = run.strangers.first  # it is nobody's: put aside, counted, and let go of with its time
    assert f"{alone[0]} came without its manifest, expected {alone[1]}" in told.message
    assert [path.name for path in quick_receiver.site.spool.folders.strangers.iterdir()] == [alone[0]]
    assert not any("without its manifest" in one.message for one in run.left_alone)
    assert alone[1] in said_of(run, "has not ended")
    status = read_status(quick_receiver.site)
    assert status.arrivals is not None
    assert status.arrivals.left_alone == run.left_alone
    doctor = list(check_arrivals(None, quick_receiver.site))  # type: ignore[arg-type]
    assert [one.message for one in doctor] == [one.message for one in run.left_alone]
    assert sorted(incoming.rglob("*")) == [one for one in before if good not in one.name and one.name != alone[0]]


def test_no_time_of_a_file_and_no_name_of_another_one_changes_anything(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    incoming = quick_receiver.site.spool.folders.incoming
    first, second = (quick_forger.send([account(number, FIRST + number)]) for number in (1, 2))
    for stem, moment in ((first, 4_102_444_800), (second, 0)):
        for ending in (".jsonl.zst", ".manifest.jsonl"):
            os.utime(incoming / f"{stem}{ending}", (moment, moment))
    for name in (b"\xff" * 255, os.fsencode(first) + b"\xff\x1b[31m.manifest.jsonl", b"a" * 210 + os.fsencode(second)):
        Path(os.fsdecode(os.fsencode(incoming) + b"/" + name)).write_bytes(b"x")
    run = quick_receiver.take_in()
    assert [one.verdict for one in run.batches] == [Verdict.APPLIED] * 2
    assert run.trouble is None
    (one,) = run.left_alone
    assert one.files == 2
    assert str(one.problem).isprintable()


def test_what_this_user_may_not_read_is_named_waits_and_holds_up_nobody_else(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    incoming = quick_receiver.site.spool.folders.incoming
    quick_receiver.limit(grace_seconds=0)
    unreadable = quick_forger.make([account(1, FIRST)])
    quick_forger.deliver(unreadable)
    other = Forger(quick_receiver, quick_forger.key, channel="sideways", epoch="ffffffffffff")
    unread = other.make([])
    other.deliver(unread)
    data, manifest = incoming / f"{unreadable.stem}{unreadable.ending}", incoming / f"{unread.stem}.manifest.jsonl"
    for path in (data, manifest):
        path.chmod(0)

    def work() -> None:
        for _ in range(3):  # however long it stays so
            run = quick_receiver.take_in()
            assert run.trouble is None
            (one,) = run.batches
            assert (one.batch, one.verdict, one.reason) == (unreadable.stem, Verdict.WAITING, Reason.INCOMPLETE)
            assert "can't be read by this user: it is 0000" in one.message
            assert "umask 022" in one.message
            assert manifest.name in said_of(run, "can't be read by this user")
            assert data.name in said_of(run, "can't be read by this user")

    as_a_user(work, quick_receiver)
    assert data.exists()
    assert manifest.exists()
    (message,) = quick_receiver.all(sa.select(tables.batch.c.message))[0]
    assert "can't be read by this user" in message
    data.chmod(0o600)
    quick_receiver.take_in()
    assert ids(quick_receiver) == [1]


def test_a_manifest_or_data_file_taken_for_a_text_is_told_from_one_that_nobody_signed(
    quick_receiver: Side, quick_forger: Forger
) -> None:
    def crlf(content: bytes) -> bytes:
        return content.replace(b"\n", b"\r\n")

    first = quick_forger.make([account(1, FIRST)], compress=False)
    quick_forger.deliver(first, manifest=crlf(first.manifest))
    (one,) = quick_receiver.take_in().batches
    assert (one.verdict, one.reason) == (Verdict.QUARANTINED, Reason.CORRUPT)
    assert "its line ends were changed, as a transfer in text mode does" in one.message
    assert "keys trust" not in one.message
    report = quarantine.quarantined_detail(quick_receiver.site, first.stem).report
    assert report.reason is Reason.CORRUPT
    assert "text mode" in report.checks[-1].detail

    quick_forger.deliver(first, data=crlf(first.data))
    (one,) = quick_receiver.take_in().batches
    assert (one.verdict, one.reason) == (Verdict.QUARANTINED, Reason.CORRUPT)
    assert "text mode" in one.message

    quick_forger.deliver(first, manifest=first.manifest[:-1])
    (one,) = quick_receiver.take_in().batches
    assert (one.verdict, one.reason) == (Verdict.INCOMPLETE, Reason.INCOMPLETE)
    assert "the newline at its end was cut off" in one.message

    quick_forger.deliver(first)
    (one,) = quick_receiver.take_in().batches
    assert (one.verdict, ids(quick_receiver)) == (Verdict.APPLIED, [1])

    quick_forger.deliver(first, manifest=b"\xef\xbb\xbf" + first.manifest)  # brought once more
    (one,) = quick_receiver.take_in().batches
    assert one.verdict is Verdict.DUPLICATE

    second = quick_forger.make([account(2, FIRST + 1)])
    quick_forger.put(f"{second.stem}.manifest.jsonl", second.manifest)
    quick_forger.put(f"{second.stem}.jsonl", b"unpacked")
    (one,) = quick_receiver.take_in().batches
    assert f"came as {second.stem}.jsonl, expected {second.stem}.jsonl.zst" in one.message
    quick_forger.put(f"{second.stem}.jsonl.zst", bytes(len(second.data)))
    (one,) = quick_receiver.take_in().batches
    assert one.reason is Reason.CORRUPT
    assert "nothing but NUL bytes" in one.message
    quick_forger.put(f"{second.stem}.manifest.jsonl", bytes(700))
    (one,) = quick_receiver.take_in().batches
    assert "nothing but NUL bytes" in one.message
    assert "untrusted" not in one.message
