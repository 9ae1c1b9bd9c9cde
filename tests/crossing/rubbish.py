"""Rubbish, signed: every member of every schema of ours with every odd value, for a receiver who trusts its sender."""

from __future__ import annotations

import copy
import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from typer.testing import CliRunner

from exchange.channels import Channel, Stream
from exchange.cli.app import app
from exchange.database.tables import network, position
from exchange.files.folder import HOME_MODE, make_private
from exchange.format.control import BUCKETS
from exchange.format.signing import SigningKey
from tests.crossing import shop
from tests.crossing.forging import EPOCH, Forger, upsert
from tests.crossing.sides import Side
from tests.databases import At

channels = (
    Channel("forth", "one", "two", [Stream(shop.account, exclude=["password"])]),
    Channel("loose", "one", "two", [Stream(shop.place)], ordered=False, shards=1),
    Channel("clean", "one", "two", [Stream(shop.seat)]),
    Channel("back", "two", "one", [Stream(shop.note)]),
)
"""Rubbish comes in two of them, what is honest in the third; receipts speak of the last."""

ROOM_BYTES = 512 * 1024**2
"""So much memory commands may take beyond what the process has: what a file says must not size anything."""

MARK = "put the odd value here"

ODD: tuple[str, ...] = tuple(
    [str(one) for one in (0, 1, -1, 2, 2**15, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**10, 10**30)]
    + ["9" * 5_000, "-0", "0.0", "1.0", "2.0", "2.5", "1e10", "1e18", "1e300", "1e400", "5e-324", "1e-400"]
    + ["NaN", "Infinity", "-Infinity", "null", "true", "false", "[]", "{}", "[null]", '[""]', "[[1,2]]", "[[2,1]]"]
    + ["[[1,9999999999]]", "[0]", "[-1]", "[1.0]", "[9223372036854775807]", '{"":0}', '{"upsert":9223372036854775807}']
    + ["[" * 60 + "]" * 60, "[" * 70 + "]" * 70, "[" * 5_000 + "]" * 5_000, '{"a":' * 60 + "0" + "}" * 60]
    + ["[" + ",".join("0" * 100_000) + "]", "[" + ",".join(["[1,1]"] * 100_000) + "]", '["' + "x" * 60_000 + '"]']
    + ["{" + ",".join(f'"m{number}":0' for number in range(20_000)) + "}"]
    + [json.dumps(text) for text in ("", " ", "x", "0", "1", "null", "NaN", "x" * 100, "x" * 1_000, "x" * 100_000)]
    + [json.dumps(text) for text in ("\0", "\x1b[31m\x07", "\u202e\u200b", "\ud800", "\n\r\t", "é" * 300, "\U0010ffff")]
    + [json.dumps(text) for text in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2016-12-31T23:59:60Z")]
    + [json.dumps(text) for text in ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "0000-00-00T00:00:00Z")]
    + [json.dumps(text) for text in ("2026-11-27T12:00:00", "2026-11-27", "../../etc/passwd", "-rf", "%s{0}", "a" * 64)]
    + [json.dumps(text) for text in ("forth", "loose", "back", "clean", "control", "forth_0", "forth_31", "forth_4095")]
    + [json.dumps(text) for text in (EPOCH, "0" * 12, "f" * 12, "one", "two", "snapshot", "checkpoint", "changes")]
)
"""Odd values as they stand in a file: of the type that a member has, and of any other."""

Path_ = tuple[str | int, ...]


class Spoilt(NamedTuple):
    """One thing that says one absurd thing: what it is, which member of it, and what that says (... removes it)."""

    kind: str
    path: Path_
    odd: str | None


def paths(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Give the places of a JSON value and of all that is in it."""
    yield at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield from paths(inner, (*at, name))


def spoil(base: Any, path: Path_, odd: str | None) -> bytes:
    """Write a JSON value with the odd one in one place, or without that place."""
    if not path:
        return (odd or "").encode()
    value = copy.deepcopy(base)
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    if odd is None:
        del holder[path[-1]]
        return json.dumps(value).encode()
    holder[path[-1]] = MARK
    return json.dumps(value).replace(json.dumps(MARK), odd).encode()


RANGES = [[1, 1]]
PROOF = {"manifest": "{}", "signature": None}
RECEIPT = {
    "channel": "back",
    "epoch": MARK,
    "through": 2,
    "digest": None,
    "missing": RANGES,
    "refused": [{"sequence": 1, "reason": "corrupt", "message": "bad"}],
    "given_up": RANGES,
    **dict.fromkeys(("applied", "duplicate", "stale", "parked", "parked_now"), 0),
    "letters": [{"stream": "note", "key": {"id": 1}, "error": "schema", "message": "bad"}],
    "agreement": [{"stream": "note", "sequence": 1, "sent": 1, "received": 1, "differing": 1, "since": None}],
    "proof": PROOF,
}
HEARTBEAT = {
    "epoch": EPOCH,
    "period_seconds": 300,
    "next_expected_by": "2026-11-22T06:20:00Z",
    "sent": [
        {"channel": "forth", "epoch": EPOCH, "through": 5, "lost": []},
        {"channel": "loose", "epoch": EPOCH, "through": 5, "lost": [[90, 90]]},
    ],
    "heard": {"epoch": MARK, "sequence": 1, "proof": PROOF},
}
REPAIR = {
    "name": "ask-1",
    "channel": "back",
    "want": "snapshot",
    "streams": ["note"],
    "buckets": [1],
    "of": BUCKETS,
    "prune": True,
    "reason": "differs",
}
DIGEST = {"stream": "place", "rows": 1, "counts": [1], "digests": ["0" * 32], "schema_version": 1}
PART = {
    "name": "s-1",
    "version": 9,
    "part": 1,
    "last": True,
    "streams": ["place"],
    "buckets": [1],
    "of": BUCKETS,
    "prune": ["place"],
    "answers": "no",
}
CLAIM: dict[str, Any] = {
    **dict.fromkeys(("format", "channel", "source", "target", "epoch", "sequence", "kind", "created_at"), 0),
    **dict.fromkeys(("producer", "encoding", "sha256", "bytes", "content_sha256", "content_bytes"), 0),
    **dict.fromkeys(("previous", "trace", "shards", "left_epochs"), 0),
    "schemas": {"account": 1},
    "records": {"account": {"upsert": 0, "delete": 0}},
}
"""The members of a manifest; what they say is the forger's."""
RECORD = upsert("place", 1, country="at", number=1, name="a")
SAVED = {
    "id": 1,
    "direction": "in",
    "channel": "back",
    "batch": "back-0123456789ab-0000000001",
    "line": 1,
    "stream": "note",
    "op": "upsert",
    "key": '{"id":1}',
    "version": 1,
    "schema_version": 1,
    "record": '{"stream":"note","op":"upsert","version":1,"data":{"id":1,"account":null,"text":"a"}}',
    "record_bytes": 85,
    "pointer": None,
    "error": "schema",
    "message": "bad",
    "cause": "",
    "producer": None,
    "state": "parked",
    "attempts": 1,
    "created_at": "2026-11-22T06:20:00Z",
    "updated_at": "2026-11-22T06:20:00Z",
}
ENDING = {
    "format": "exchange-dead-letters/1",
    "network": "one",
    "epoch": EPOCH,
    "created_at": "2026-11-22T06:20:00Z",
    "producer": "by hand",
    "letters": 1,
    "bytes": 0,
    "sha256": "",
}
FOUND = {
    "answers": "a",
    "sequence": 1,
    "at": "2026-11-22T06:20:00+00:00",
    "missing": 1,
    "extra": 1,
    "different": 1,
    "keys": [{"what": "missing", "key": {"id": 1}}],
}

BASES: dict[str, Any] = {
    "manifest": CLAIM,
    "snapshot": PART,
    "_receipt": RECEIPT,
    "_heartbeat": HEARTBEAT,
    "_repair": REPAIR,
    "_digest": DIGEST,
    "record": RECORD,
    "letter": SAVED,
    "ending": ENDING,
    "kept heartbeat": HEARTBEAT,
    "kept receipt": RECEIPT,
    "kept finding": FOUND,
    "kept buckets": [1],
    "kept part": PART,
}
"""What each kind says if nothing is spoilt; ``MARK`` stands for the receiver's own epoch."""

PLACES: tuple[tuple[str, Path_], ...] = tuple((kind, path) for kind, base in BASES.items() for path in paths(base))


@dataclass
class Stage:
    """A receiver that trusts its sender, in a folder, with commands as its user runs them."""

    home: Path
    url: str
    side: Side
    forger: Forger
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, home: Path, url: str) -> Stage:
        """Make it, with two batches sent, one honest one applied and one sign of life heard."""
        make_private(home, HOME_MODE)
        side = Side(
            "two", "one", At(url), url.partition(":")[0].partition("+")[0], home, channels, metadata=shop.metadata
        )
        key, sender = side.key, SigningKey.generate("by-hand")
        (home / "keys" / "trusted").mkdir(parents=True, exist_ok=True)
        (home / "keys" / "trusted" / f"{sender.name}.pem").write_bytes(sender.public_pem())
        (home / "keys" / f"{key.name}.key").write_bytes(key.to_pem())
        (home / "keys" / f"{key.name}.pem").write_bytes(key.public_pem())
        for path in (home / "keys").rglob("*.*"):
            path.chmod(0o600)
        for number in (1, 2):
            side.execute(sa.insert(shop.note).values(id=number, text="hello"))
            assert side.export().trouble is None
        stage = cls(home, url, side, Forger(side, sender))
        stage.environment = {
            "EXCHANGE_NETWORK": "two",
            "EXCHANGE_PEER": "one",
            "EXCHANGE_HOME": str(home),
            "EXCHANGE_DATABASE_URL": url,
            "EXCHANGE_APP": f"{__name__}:channels",
            "EXCHANGE_SETTLE_SECONDS": "0",
        }
        return stage

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command with little memory; a traceback fails the test."""
        with limited():
            result = CliRunner().invoke(app, list(words), env=self.environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert not {character for character in result.stdout + result.stderr if character in "\x1b\x07\u202e\u200b"}
        return result.exit_code, result.stdout, result.stderr

    def epoch(self) -> str:
        """Give the receiver's own epoch."""
        [row] = self.side.all(sa.select(network.c.epoch))
        return str(row.epoch)


@contextmanager
def limited(room: int = ROOM_BYTES) -> Iterator[None]:
    """Let this process have only so much more memory meanwhile."""
    if not Path("/proc/self/statm").exists():
        yield  # nobody says how much it has
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Rubbish:
    """A sender who signs what it likes: puts one spoilt thing after the other where the receiver finds it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._own_epoch = stage.epoch()
        self._sequences = {"control": 0, "loose": 0}
        self.letter_files: list[Path] = []
        self._numbers = iter(range(1, 1_000_000))

    def send(self, spoilt: Spoilt) -> None:
        """Send one."""
        base = json.loads(json.dumps(BASES[spoilt.kind]).replace(MARK, self._own_epoch))
        match spoilt.kind:
            case "manifest":
                self._manifest(spoilt)
            case "snapshot":
                self._snapshot(spoil(base, spoilt.path, spoilt.odd))
            case "_receipt" | "_heartbeat" | "_repair":
                self._control(spoilt.kind, spoil(base, spoilt.path, spoilt.odd))
            case "_digest":
                line = _line("_digest", spoil(base, spoilt.path, spoilt.odd))
                self._batch("loose", [line], kind="checkpoint", schemas={"_digest": 1}, records=_one("_digest"))
            case "record":
                line = spoil(base, spoilt.path, spoilt.odd)
                self._batch("loose", [line], schemas={"place": 1}, records=_one("place"))
            case "letter" | "ending":
                self._letters(spoilt.kind, spoil(base, spoilt.path, spoilt.odd))
            case _:
                self._keep(spoilt.kind, spoil(base, spoilt.path, spoilt.odd))

    def _manifest(self, spoilt: Spoilt) -> None:
        """Send a manifest with one member spoilt: in a file of a name of its own, whatever it claims to be."""
        batch = self._stage.forger.make([], claims={name: CLAIM[name] for name in ("schemas", "records")}, follow=False)
        claim = json.loads(batch.line) | {"trace": None, "shards": 1, "left_epochs": []}
        self._deliver(spoil(claim, spoilt.path, spoilt.odd), batch.data, "forth", next(self._numbers))

    def _snapshot(self, part: bytes) -> None:
        forger = Forger(self._stage.side, self._stage.forger.key, channel="loose", sequence=self._next("loose"))
        claims = {"kind": "snapshot", "schemas": {"place": 1}, "records": {}, "snapshot": MARK, "previous": None}
        batch = forger.make([], claims=claims)
        line = batch.line.replace(json.dumps(MARK).encode(), part or b"null")
        self._deliver(line, batch.data, "loose", forger.sequence)

    def _control(self, stream: str, data: bytes) -> None:
        self._batch("control", [_line(stream, data)], kind="control", schemas={stream: 1}, records=_one(stream))

    def _batch(self, channel: str, lines: list[bytes], **claims: Any) -> None:
        forger = Forger(self._stage.side, self._stage.forger.key, channel=channel, sequence=self._next(channel))
        batch = forger.make(lines, claims={"previous": None, **claims})
        self._deliver(batch.line, batch.data, channel, forger.sequence)

    def _next(self, channel: str) -> int:
        self._sequences[channel] += 1
        return self._sequences[channel] - 1

    def _deliver(self, line: bytes, data: bytes, channel: str, sequence: int) -> None:
        stem = f"{channel}-{EPOCH}-{sequence:010d}"
        put = self._stage.forger.put
        put(f"{stem}.jsonl.zst", data)
        signature = self._stage.forger.key.sign(line).encode()
        put(f"{stem}.manifest.jsonl", line + b"\n" + signature + b"\n")

    def _letters(self, kind: str, spoilt: bytes) -> None:
        """Write a file of dead letters, signed by the sender, one thing in it spoilt."""
        letter = spoilt if kind == "letter" else json.dumps(SAVED).encode()
        content = b'{"letter":%b}\n' % letter
        sealed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        ending = json.dumps({**ENDING, **sealed}).encode()
        if kind == "ending":
            ending = spoilt
        file = self._stage.home.parent / f"letters-{next(self._numbers)}.jsonl"
        signature = self._stage.forger.key.sign(ending).encode()
        file.write_bytes(content + ending + b"\n" + signature + b"\n")
        self.letter_files.append(file)

    def _keep(self, kind: str, text: bytes) -> None:
        """Put what an older version may have let through where this one reads it."""
        moment = "2026-11-22 06:15:00+00:00"
        said = text.decode("utf-8", "replace").replace("\0", "")
        values = {"epoch": self._own_epoch, "at": moment, "said": said}
        statements = {
            "kept heartbeat": "INSERT INTO exchange_peer (id, epoch, sequence, sent_at, heard_at, said)"
            " VALUES (1, :epoch, 1, :at, :at, :said) ON CONFLICT (id) DO UPDATE SET said = excluded.said",
            "kept receipt": "INSERT INTO exchange_receipt (channel, epoch, through, said, heard_at)"
            " VALUES ('back', :epoch, 2, :said, :at)"
            " ON CONFLICT (channel, epoch) DO UPDATE SET said = excluded.said",
            "kept finding": _AGREEMENT.format(buckets="'[1]'", found=":said"),
            "kept buckets": _AGREEMENT.format(buckets=":said", found="NULL"),
            "kept part": "UPDATE exchange_batch SET manifest = :said WHERE direction = 'in' AND channel = 'clean'",
        }
        if kind == "kept part":
            claim = json.loads(self._stage.forger.make([], claims={"kind": "snapshot"}, follow=False).line)
            values["said"] = json.dumps({**claim, "snapshot": MARK}).replace(json.dumps(MARK), said or "null")
        self._stage.side.execute(sa.text(statements[kind]), values)


_AGREEMENT = (
    "INSERT INTO exchange_agreement (direction, channel, stream, epoch, sequence, compared_at, sent, received, buckets,"
    " found) VALUES ('in', 'loose', 'place', :epoch, 0, :at, 1, 1, {buckets}, {found})"
    " ON CONFLICT (direction, channel, stream) DO UPDATE SET buckets = excluded.buckets, found = excluded.found"
)


def _one(stream: str) -> dict[str, Any]:
    return {stream: {"upsert": 1, "delete": 0}}


def _line(stream: str, data: bytes) -> bytes:
    return b'{"stream":"%b","op":"upsert","version":1,"data":%b}' % (stream.encode(), data or b"null")


def honest(stage: Stage, number: int) -> None:
    """Send the next honest batch in the channel where nobody sends rubbish."""
    forger = stage.forger
    honest_one = Forger(stage.side, forger.key, channel="clean", sequence=number - 1)
    honest_one.previous = _digest_before(stage)
    honest_one.send([upsert("seat", number, id=number, code=f"c{number}", rank=None, row=None)])


def _digest_before(stage: Stage) -> str | None:
    here = (position.c.direction == "in", position.c.channel == "clean")
    found = stage.side.all(sa.select(position.c.digest).where(*here))
    return found[0].digest if found else None
