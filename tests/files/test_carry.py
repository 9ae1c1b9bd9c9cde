"""A carrier without keys, settings or database: what is whole goes, what was cut goes on, nothing is written over."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from exchange.cli.app import app
from exchange.files.carry import CHUNK, MARKER, MEMORY, Carried, carry
from exchange.format.errors import TransientError, Verdict
from exchange.format.names import BatchName, data_name, manifest_name
from tests.cli.test_startup import NOT_FOR_HELP, loaded
from tests.crossing import shop
from tests.crossing.sides import Link

EPOCH = "4f1c0a9be2d7"


def made(folder: Path, sequence: int, data: bytes = b"one\n") -> tuple[Path, Path]:
    """Put a batch there, as nobody signed it: its data file and its manifest."""
    name = BatchName("forth", EPOCH, sequence)
    claim = {"channel": "forth", "epoch": EPOCH, "sequence": sequence, "encoding": [], "bytes": len(data)}
    line = json.dumps({**claim, "sha256": hashlib.sha256(data).hexdigest()})
    files = (folder / data_name(name, ()), folder / manifest_name(name))
    files[0].write_bytes(data)
    files[1].write_text(f"{line}\nsigned\n")
    return files


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != MARKER and not path.name.startswith(MEMORY)}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Give an outgoing folder and a stick."""
    outgoing, stick = tmp_path / "outgoing", tmp_path / "stick"
    for folder, role in ((outgoing, "outgoing"), (stick, "carrier")):
        folder.mkdir()
        (folder / MARKER).write_text(f"{role} {'0' * 32}\n")
    return outgoing, stick


def left(done: Carried) -> dict[str, bool]:
    return {one.why: one.later for one in done.left}


def test_a_batch_crosses_by_a_stick_and_is_applied(small: Link, tmp_path: Path) -> None:
    link, stick = small, tmp_path / "stick"
    stick.mkdir()
    link.one.execute(sa.insert(shop.account).values(id=1, name="one"))
    assert link.one.export().trouble is None
    outgoing, incoming = link.one.site.spool.folders.outgoing, link.other.site.spool.folders.incoming
    with pytest.raises(TransientError, match=r"no marker .* probably not mounted.*--mark"):
        carry(outgoing, stick)
    there = carry(outgoing, stick, mark=True, move=True)
    assert (there.files, there.removed, there.code) == (2, 2, 0)
    assert names(outgoing) == set()
    assert carry(stick, incoming).code == 0
    assert [one.verdict for one in link.other.take_in().batches] == [Verdict.APPLIED]
    assert [row["name"] for row in link.other.rows(shop.account)] == ["one"]


def test_it_may_be_repeated_and_writes_over_nothing(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    made(outgoing, 1)
    made(outgoing, 2, b"two\n")
    first = carry(outgoing, stick)
    assert (first.files, first.bytes, first.there) == (4, sum(path.stat().st_size for path in stick.glob("forth*")), 0)
    (stick / f"forth-{EPOCH}-0000000002.jsonl").write_bytes(b"TWO\n")
    again = carry(outgoing, stick, move=True)
    assert (again.files, again.there, again.removed, again.code) == (0, 2, 2, 1)
    assert left(again) == {
        "another file of its name is there, and differs; nothing was written over it: see which is right": False
    }
    assert names(outgoing) == {f"forth-{EPOCH}-0000000002.jsonl", f"forth-{EPOCH}-0000000002.manifest.jsonl"}
    assert (stick / f"forth-{EPOCH}-0000000002.jsonl").read_bytes() == b"TWO\n"


def test_what_was_taken_in_over_there_is_not_carried_at_each_run(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    made(outgoing, 1)
    carry(outgoing, stick)
    for name in names(stick):
        (stick / name).unlink()
    made(outgoing, 2)
    done = carry(outgoing, stick)
    assert (done.files, done.before, done.code) == (2, 1, 0)
    assert carry(outgoing, stick, again=True).files == 2
    for path in outgoing.glob("*0000000001*"):
        path.unlink()
    assert carry(outgoing, stick).before == 0
    [notes] = stick.glob(f"{MEMORY}-*")
    assert notes.read_text() == f"forth-{EPOCH}-0000000002\n"
    (back := outgoing.parent / "back").mkdir()
    (back / MARKER).write_text(f"outgoing {'2' * 32}\n")
    carry(back, stick)  # a stick goes both ways
    assert carry(outgoing, stick).files == 0


def test_what_is_not_whole_or_not_what_its_manifest_says_stays_and_is_named(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    made(outgoing, 1)[0].unlink()
    made(outgoing, 2)[1].unlink()
    made(outgoing, 3)[0].write_bytes(b"on")
    made(outgoing, 4)[0].write_bytes(b"ONE\n")
    made(outgoing, 5)[1].write_text("{}\n")
    made(outgoing, 6)[1].rename(outgoing / f"forth-{EPOCH}-0000000007.manifest.jsonl")
    made(outgoing, 8)
    (outgoing / f"FORTH-{EPOCH}-0000000009.JSONL").write_bytes(b"")
    (outgoing / f"forth-{EPOCH}-0000000010.manifest.jsonl").symlink_to("/etc/hostname")
    (outgoing / ".forth.tmp").write_bytes(b"x")
    done = carry(outgoing, stick)
    assert names(stick) == {f"forth-{EPOCH}-0000000008.jsonl", f"forth-{EPOCH}-0000000008.manifest.jsonl"}
    said = left(done)
    assert len(said) == 8
    assert {why.split(";")[0].split(":")[0] for why, later in said.items() if not later} == {
        "its digest is not what its manifest says",
        f"it is the manifest of forth-{EPOCH}-0000000006",
        "it was renamed",
        "expected a plain file, found something else",
    }
    assert done.code == 1


def test_a_file_that_was_cut_is_gone_on_with_and_one_that_is_another_is_begun_anew(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    content = os.urandom(3 * CHUNK + 17)
    for sequence in (1, 2, 3):
        made(outgoing, sequence, content)
    part = f".forth-{EPOCH}-000000000{{}}.jsonl.part"
    (stick / part.format(1)).write_bytes(content[: CHUNK + 5])
    (stick / part.format(2)).write_bytes(b"x" * (4 * CHUNK))
    done = carry(outgoing, stick)
    assert (done.files, done.continued, done.code) == (6, 1, 0)
    assert all((stick / f"forth-{EPOCH}-000000000{one}.jsonl").read_bytes() == content for one in (1, 2, 3))
    assert len(names(stick)) == 6


def test_folders_that_are_not_meant_are_refused(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    (incoming := outgoing.parent / "incoming").mkdir()
    (incoming / MARKER).write_text(f"incoming {'1' * 32}\n")
    for source, target, why in (
        (incoming, stick, "--from: .* is an incoming folder.*the wrong way round"),
        (stick, outgoing, "--to: .* is an outgoing folder.*the wrong way round"),
        (outgoing.parent, stick, "--from: .* has no marker"),
        (stick, stick, "--to: expected another folder than --from"),
        (outgoing.parent / "absent", stick, "--from: .*No such file or directory"),
    ):
        with pytest.raises(TransientError, match=why):
            carry(source, target)
    stick_descriptor = os.open(stick, os.O_RDONLY)
    import fcntl  # noqa: PLC0415 - as another carrier would

    fcntl.flock(stick_descriptor, fcntl.LOCK_EX)
    with pytest.raises(TransientError, match="another `exchange carry` writes into"):
        carry(outgoing, stick)
    os.close(stick_descriptor)


def test_the_command_says_what_it_did_and_needs_no_settings(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    made(outgoing, 1)
    words = ["carry", "--from", str(outgoing), "--to", str(stick)]
    assert not loaded(words, {}) & (NOT_FOR_HELP - {"pydantic"})
    made(outgoing, 2)[1].unlink()
    answer = CliRunner().invoke(app, [*words, "--json"])
    said: dict[str, Any] = json.loads(answer.stdout)
    assert (answer.exit_code, said["files"], said["there"], said["trouble"]) == (3, 0, 2, None)
    assert [(one["file"], one["later"]) for one in said["left"]] == [(f"forth-{EPOCH}-0000000002.jsonl", True)]
    (outgoing / f"forth-{EPOCH}-0000000002.jsonl").unlink()
    answer = CliRunner().invoke(app, words)
    assert answer.stdout.splitlines()[0] == "carried 0 files, 0 bytes; 2 were there already"


SMALL_DISK = """
mount -t tmpfs -o size=300k none "$2" || exit 77
printf 'carrier x\\n' > "$2/.exchange-folder"
"$3" -m exchange carry --from "$1" --to "$2"; echo $?
mount -o remount,ro "$2"; "$3" -m exchange carry --from "$1" --to "$2"; echo $?
"""


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_full_and_a_read_only_disk_are_said_in_a_sentence(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    made(outgoing, 1, os.urandom(200_000))
    made(outgoing, 2, os.urandom(200_000))
    words = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(outgoing), str(stick), sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing may be mounted here")
    assert "carried 2 files" in done.stdout
    assert "there is no room for it: 200000 bytes are needed" in " ".join(done.stdout.split())
    assert "read-only; mount it for writing" in " ".join(done.stderr.split())


@pytest.mark.thorough
def test_a_carrier_that_is_killed_again_and_again_gets_all_over_in_the_end(folders: tuple[Path, Path]) -> None:
    outgoing, stick = folders
    contents = {sequence: os.urandom(40 * CHUNK) for sequence in range(1, 4)}
    for sequence, content in contents.items():
        made(outgoing, sequence, content)
    words = [sys.executable, "-m", "exchange", "carry", "--from", str(outgoing), "--to", str(stick)]
    killed = 0
    while len(names(stick)) < 6 or any(name.endswith(".part") for name in names(stick)):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        before = names(stick)
        while process.poll() is None and killed < 3 and names(stick) == before:
            time.sleep(0.001)
        if killed < 3:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        for manifest in stick.glob("*.manifest.jsonl"):  # what has its manifest is whole, whenever it was cut
            number = int(manifest.name.partition(".")[0][-10:])
            assert (stick / f"forth-{EPOCH}-{number:010}.jsonl").read_bytes() == contents[number]
    assert killed == 3
