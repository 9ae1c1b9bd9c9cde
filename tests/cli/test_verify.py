import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exchange.format.batch import BatchWriter
from exchange.format.manifest import BatchKind, Manifest, join_manifest
from exchange.format.record import Op, Record, encode
from exchange.format.signing import SigningKey
from tests.cli.conftest import Done, Side
from tests.crossing.forging import last_byte_changed
from tests.crossing.planting import SHAPES, Outside

KEY = SigningKey.generate("sender")
STEM = "requests-0123456789ab-0000000001"
ROOT = Path(__file__).parents[2]


class Batch:
    """The two files of one good batch."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.manifest = folder / f"{STEM}.manifest.jsonl"
        self.data = folder / f"{STEM}.jsonl.zst"
        self.public = folder / "sender.pem"
        self.public.write_bytes(KEY.public_pem())
        with self.data.open("wb") as out:
            writer = BatchWriter(out)
            for number in range(10):
                line = encode(Record("request", Op.UPSERT, number + 1, {"id": number, "text": "\x1b[2J\u202e"}))
                writer.write(line, "request", Op.UPSERT)
            sealed = writer.close()
        self.claim = Manifest(
            channel="requests",
            source="request",
            target="response",
            epoch="0123456789ab",
            sequence=1,
            kind=BatchKind.CHANGES,
            created_at=datetime(2026, 11, 22, tzinfo=UTC),
            producer="a test",
            schemas={"request": 1},
            encoding=("zstd",),
            previous=None,
            sha256=sealed.sha256,
            bytes=sealed.bytes,
            content_sha256=sealed.content_sha256,
            content_bytes=sealed.content_bytes,
            records=sealed.records,
        )
        self.sign(self.claim)

    def sign(self, claim: Manifest, key: SigningKey = KEY) -> None:
        line = claim.encode()
        self.manifest.write_bytes(join_manifest(line, key.sign(line)))


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path / "batch")


def verify(side: Side, batch: Batch, *words: str) -> Done:
    side.environment.clear()
    return side.run("verify", str(batch.manifest), "--trust", str(batch.public), *words)


def test_a_good_batch_is_verified_without_settings_and_people_see_how(side: Side, batch: Batch) -> None:
    assert verify(side, batch, "--json").line == verify(side, batch, "--json").line | {
        "batch": STEM,
        "verdict": "ok",
        "reason": None,
        "records": 10,
    }
    shown = verify(side, batch)
    assert shown.code == 0
    assert "Ed25519" in shown.out
    assert "sha256sum" in shown.out
    assert not list(Path().iterdir())


@pytest.mark.parametrize("path", ["manifest", "data", "folder"])
def test_a_batch_is_named_by_either_file_or_its_folder(side: Side, batch: Batch, path: str) -> None:
    done = side.do("verify", str(getattr(batch, path)), "--json")
    assert done.line["batch"] == STEM
    assert "signatures were not checked" in done.err


@pytest.mark.parametrize("which", ["manifest", "data"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "hard link"])  # backups may be made of those
def test_verify_and_inspect_read_plain_files_alone(
    side: Side, batch: Batch, tmp_path: Path, shape: str, which: str
) -> None:
    outside = Outside(tmp_path / "outside")
    with outside.untouched():
        outside.plant(getattr(batch, which), shape)
        assert verify(side, batch).code == 5
        assert side.run("verify", str(batch.folder)).code == 5
        side.do("inspect", str(batch.data if which == "manifest" else batch.manifest))


def _corrupt(batch: Batch) -> None:
    batch.data.write_bytes(last_byte_changed(batch.data.read_bytes()))


def _untrusted(batch: Batch) -> None:
    batch.sign(batch.claim, SigningKey.generate("sender"))


def _unsigned(batch: Batch) -> None:
    batch.manifest.write_bytes(batch.claim.encode() + b"\n")


def _cut(batch: Batch) -> None:
    batch.data.write_bytes(batch.data.read_bytes()[:-1])


def _without_data(batch: Batch) -> None:
    batch.data.unlink()


def _without_manifest(batch: Batch) -> None:
    batch.manifest.rename(batch.folder / "elsewhere")
    batch.manifest = batch.data


def _newer(batch: Batch) -> None:
    line = batch.claim.encode().replace(b"exchange-batch/1", b"exchange-batch/2")
    batch.manifest.write_bytes(join_manifest(line, KEY.sign(line)))


@pytest.mark.parametrize(
    "spoil, code, verdict, reason",
    [
        (_corrupt, 3, "corrupt", "corrupt"),
        (_untrusted, 4, "untrusted", "untrusted"),
        (_unsigned, 4, "untrusted", "untrusted"),
        (_cut, 5, "incomplete", "incomplete"),
        (_without_data, 5, "incomplete", "incomplete"),
        (_without_manifest, 5, "incomplete", "incomplete"),
        (_newer, 6, "unsupported", "unsupported"),
    ],
)
def test_each_way_of_being_bad_has_its_verdict_and_code(
    side: Side, batch: Batch, spoil: "object", code: int, verdict: str, reason: str
) -> None:
    assert callable(spoil)
    spoil(batch)
    done = verify(side, batch, "--json")
    assert (done.code, done.line["verdict"], done.line["reason"]) == (code, verdict, reason)
    assert done.line["message"]
    assert verify(side, batch).code == code


def test_of_several_batches_the_worst_counts(side: Side, tmp_path: Path) -> None:
    batches = [Batch(tmp_path / name) for name in ("good", "cut", "corrupt", "untrusted")]
    _cut(batches[1])
    _corrupt(batches[2])
    _untrusted(batches[3])
    words = ["verify", "--json", "--trust", str(batches[0].public)]
    for number, code in ((1, 0), (2, 5), (3, 3), (4, 4)):
        done = side.run(*words, *(str(batch.manifest) for batch in batches[:number]))
        assert done.code == code
        assert len(done.lines) == number


@pytest.mark.parametrize("path", ["nothing.manifest.jsonl", "sender.pem", "."])
def test_what_is_no_batch_is_one_sentence_and_code_2(side: Side, batch: Batch, path: str) -> None:
    batch.manifest.unlink()
    batch.data.unlink()
    assert "expected a" in side.refused("verify", str(batch.folder / path), code=2)


@pytest.mark.parametrize("content", [b"", b"not a key"])
def test_a_file_to_trust_that_is_no_key_is_one_sentence(side: Side, batch: Batch, content: bytes) -> None:
    batch.public.write_bytes(content)
    assert "--trust" in side.refused("verify", str(batch.manifest), "--trust", str(batch.public), code=2)


def test_inspect_shows_manifest_and_records_with_nothing_a_terminal_acts_on(side: Side, batch: Batch) -> None:
    done = side.do("inspect", str(batch.data), "--trust", str(batch.public), "--records", "3")
    assert f"{STEM}: verified, signed by sender" in done.out
    assert done.out.count('"stream":"request"') == 3
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out


def test_inspect_says_of_an_unverified_batch_that_it_is_not_to_be_believed(side: Side, batch: Batch) -> None:
    assert "not verified" in side.do("inspect", str(batch.manifest)).err
    _corrupt(batch)
    done = side.do("inspect", str(batch.manifest), "--trust", str(batch.public), "--json")
    assert done.line["verdict"] == "corrupt"
    assert done.line["manifest"]["sequence"] == 1
    assert done.line["signed_by"] == "sender"


def test_inspect_shows_no_more_than_there_is_of_a_manifest_that_is_none(side: Side, batch: Batch) -> None:
    batch.manifest.write_bytes(b"\x00\xff nonsense\n")
    done = side.do("inspect", str(batch.manifest), "--json")
    assert (done.line["verdict"], done.line["manifest"], done.line["first"]) == ("untrusted", {}, [])


def test_help_and_verify_start_without_a_database_layer() -> None:
    heavy = "{'sqlalchemy', 'celery', 'pydantic', 'jsonschema', 'rich'} & set(sys.modules)"
    code = f"import sys, exchange.cli; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_runs_the_command(batch: Batch) -> None:
    words = ["verify", str(batch.manifest), "--trust", str(batch.public), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "exchange", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"verdict": "ok"' in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command, code", [("inspect", 0), ("verify", 5)])
def test_a_data_file_without_its_manifest_is_incomplete_and_people_see_why(
    side: Side, batch: Batch, command: str, code: int
) -> None:
    batch.manifest.unlink()
    done = side.run(command, str(batch.data))
    assert done.code == code
    assert "the manifest has not arrived" in done.out + done.err
