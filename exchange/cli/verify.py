"""``exchange verify`` and ``exchange inspect``: a batch's files alone, with no database and no settings."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused
from exchange.files import keys
from exchange.files.folder import NotPlain, named
from exchange.format.batch import BatchReader
from exchange.format.errors import BatchError, Reason, RecordError, printable
from exchange.format.manifest import MAX_MANIFEST_BYTES, Manifest, split_manifest
from exchange.format.names import DATA_ENDINGS, MANIFEST_ENDING, BatchName, data_name
from exchange.format.record import decode
from exchange.format.signing import TrustedKeys
from exchange.format.verify import Check, Report, judge

CODES = {"ok": 0, "corrupt": 3, "untrusted": 4, "incomplete": 5, "unsupported": 6}
WORST_FIRST = ("untrusted", "corrupt", "incomplete", "unsupported", "ok")

_VERDICTS = {
    Reason.CORRUPT: "corrupt",
    # Files named for another place than their manifest's: what a damaged or tampered batch looks like.
    Reason.MISDIRECTED: "corrupt",
    Reason.UNTRUSTED: "untrusted",
    Reason.INCOMPLETE: "incomplete",
    Reason.UNSUPPORTED: "unsupported",
}
_HOW = {
    "manifest file": "size, two ended lines of JSON",
    "signature": "Ed25519 over the bytes of line 1, as `openssl pkeyutl -verify -rawin` does",
    "claim": "every member of line 1 has its type and range, and the format is known",
    "file name": "the name against channel, epoch and sequence of the manifest",
    "data file": "size and SHA-256 of the file as it lies there, as `sha256sum` prints it",
    "content": "decompressed within the size claimed; its SHA-256, its lines, the counts by stream and op",
    "records": "each line strict JSON and a record of a stream listed; schemas are checked on import",
}
_ENDINGS = (MANIFEST_ENDING, *DATA_ENDINGS.values())
_LONGEST_LINE = 2000

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH", help="A batch's manifest, its data file, or a folder of batches.", show_default=False
    ),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust", metavar="FILE", help="A public key to trust, named by its file's stem.", show_default=False
    ),
]


@dataclass(frozen=True)
class Files:
    """Where a batch's two files are, or would be."""

    folder: Path
    stem: str

    @property
    def manifest(self) -> Path:
        """The manifest's path."""
        return self.folder / f"{self.stem}{MANIFEST_ENDING}"

    @property
    def name(self) -> BatchName | None:
        """What the files claim by their name; None if it is no batch's name."""
        try:
            return BatchName.parse(self.stem)
        except ValueError:
            return None

    def data(self, content: bytes) -> Path | None:
        """Give the data file that the manifest means, if it is there."""
        try:
            claim = Manifest.parse(split_manifest(content)[0])
        except BatchError:
            return None
        ending = data_name(claim.name, claim.encoding).removeprefix(str(claim.name))
        path = self.folder / f"{self.stem}{ending}"
        return path if _is_plain(path) else None


def verify(paths: Paths, trust: Trust = None, as_json: Json = False) -> None:
    """Verify batches from their files alone.

    Exit codes: 0 all is well, 3 corrupt, 4 untrusted, 5 incomplete, 6 unsupported, 2 no batch there. Of several
    batches the worst counts: untrusted before corrupt, incomplete and unsupported.
    """
    trusted = trusted_from(trust)
    verdicts = set()
    for files in [one for path in paths for one in _found(path)]:
        report = _judged(files, trusted)
        verdict = _verdict(report)
        verdicts.add(verdict)
        if as_json:
            output.emit(_fields(files, report))
            continue
        output.tell(f"{files.stem}: {verdict}{f' ({report.reason})' if report.reason else ''}")
        output.table(
            ["check", "result", "what was seen", "how it was checked"],
            [(one.name, _result(one.ok), one.detail, _HOW.get(one.name)) for one in report.checks],
        )
    if trusted is None:
        output.warn("signatures were not checked: name the sender's public key with --trust FILE")
    raise typer.Exit(CODES[next(verdict for verdict in WORST_FIRST if verdict in verdicts)])


def inspect(
    path: Annotated[Path, typer.Argument(help="A batch's manifest or data file.", show_default=False)],
    trust: Trust = None,
    records: Annotated[int, typer.Option(min=0, max=10_000, help="Show so many records.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what a batch says, and its first records.

    Nothing that it says is believed.
    """
    found = _found(path)
    if len(found) != 1:
        raise Refused(f"{path}: expected one batch, found {len(found)}; name one of its files")
    files = found[0]
    report = _judged(files, trusted_from(trust))
    content = _content(files) or b""
    claim, signer = _claim(content)
    lines = list(_first_lines(files, content, records))
    if as_json:
        output.emit(_fields(files, report) | {"signed_by": signer, "manifest": claim, "first": lines})
        return
    signed = any(check.name == "signature" and check.ok for check in report.checks)
    if report.ok and signed:
        output.tell(f"{files.stem}: verified, signed by {signer}")
    else:
        why = report.checks[-1].detail if report.reason else "no trusted key was given"
        output.warn(f"{files.stem}: not verified, believe nothing of it: {why}")
    output.table(["member", "value"], claim.items())
    for line in lines:
        typer.echo(printable(line, _LONGEST_LINE))


def trusted_from(files: list[Path] | None) -> TrustedKeys | None:
    """Read the keys that ``--trust`` names; None if it names none. Raises Refused."""
    if not files:
        return None
    try:
        return keys.trusted_from(files)
    except keys.KeyFault as fault:
        raise Refused(f"--trust: {fault}") from fault


def _found(path: Path) -> list[Files]:
    """Find the batches that a path means. Raises Refused if there is none."""
    stem = _stem(path.name)
    if stem is None and path.is_dir():
        stems = sorted({stem for entry in path.iterdir() if (stem := _stem(entry.name)) is not None})
        if not stems:
            raise Refused(f"{path}: expected a folder of batches, found none in it")
        return [Files(path, one) for one in stems]
    files = Files(path.parent, path.name if stem is None else stem)
    beside = [files.folder / f"{files.stem}{ending}" for ending in _ENDINGS]
    if path.exists() and stem is None:
        raise Refused(f"{path}: expected a batch's manifest or data file, found a file of another name")
    if not any(_is_plain(one) for one in beside):
        raise Refused(f"{path}: expected a batch's manifest or data file, found no such file")
    return [files]


def _stem(name: str) -> str | None:
    """Take the ending off a batch's file name; None if it is no such name."""
    for ending in _ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return None


def _content(files: Files) -> bytes | None:
    """Read a manifest, at most one byte more than one may have; None if it is not there."""
    file = _opened(files.manifest)
    if file is None:
        return None
    with file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _is_plain(path: Path) -> bool:
    """Tell whether there is a file: a link is none, for a carrier may have put it there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _opened(path: Path) -> BinaryIO | None:
    """Open a file; None if there is none. Raises Refused if this user may not read it."""
    try:
        with named(path.parent) as folder:
            return folder.read(path.name, alone=False)
    except FileNotFoundError:
        return None
    except NotPlain as error:
        if error.errno == errno.EACCES:
            raise Refused(f"{path}: {error.strerror}") from error
        return None


def _judged(files: Files, trusted: TrustedKeys | None) -> Report:
    content = _content(files)
    if content is None:
        return Report(
            Reason.INCOMPLETE, checks=[Check("manifest file", ok=False, detail="the manifest has not arrived")]
        )
    with ExitStack() as opened:
        path = files.data(content)
        data = _opened(path) if path else None
        if data is not None:
            opened.enter_context(data)
        return judge(content, data, _NOBODY if trusted is None and _unsigned(content) else trusted, name=files.name)


_NOBODY = TrustedKeys({})
"""Without keys a signature can't be checked; that there is none can be seen all the same."""


def _unsigned(content: bytes) -> bool:
    try:
        return split_manifest(content)[1] is None
    except BatchError:
        return False


def _verdict(report: Report) -> str:
    return "ok" if report.reason is None else _VERDICTS[report.reason]


def _fields(files: Files, report: Report) -> dict[str, Any]:
    return {
        "batch": files.stem,
        "verdict": _verdict(report),
        "reason": report.reason.value if report.reason else None,
        "message": report.checks[-1].detail if report.reason else "",
        "records": report.records,
        "invalid": report.invalid,
        "checks": [{"check": one.name, "ok": one.ok, "detail": one.detail} for one in report.checks],
    }


def _result(ok: bool | None) -> str:
    return {True: "ok", False: "fault", None: "not checked"}[ok]


def _claim(content: bytes) -> tuple[dict[str, Any], str | None]:
    """Read what a manifest says, as far as it can be read."""
    try:
        line, signature = split_manifest(content)
        claim = Manifest.parse(line)
    except BatchError:
        return {}, None
    return {
        "channel": claim.channel,
        "source": claim.source,
        "target": claim.target,
        "epoch": claim.epoch,
        "sequence": claim.sequence,
        "kind": claim.kind.value,
        "created_at": claim.created_at.isoformat(),
        "producer": claim.producer,
        "schemas": dict(claim.schemas),
        "records": {name: counts._asdict() for name, counts in claim.records.items()},
        "encoding": list(claim.encoding),
        "sha256": claim.sha256,
        "bytes": claim.bytes,
        "content_sha256": claim.content_sha256,
        "content_bytes": claim.content_bytes,
        "previous": claim.previous,
        "trace": claim.trace,
        **({"shards": claim.shards} if claim.shards != 1 else {}),
        **({"extra": dict(claim.extra)} if claim.extra else {}),
    }, signature.key if signature else None


def _first_lines(files: Files, content: bytes, number: int) -> Iterator[str]:
    """Read the first lines in bounded memory; of a damaged file those before the damage."""
    path = files.data(content) if number else None
    data = _opened(path) if path else None
    if data is None:
        return
    claim = Manifest.parse(split_manifest(content)[0])
    with data:
        try:
            lines = (line for chunk in BatchReader(data, claim) for line in chunk)
            for line in islice(lines, number):
                yield _worded(line)
        except BatchError:
            return


def _worded(line: bytes) -> str:
    try:
        decode(line)
    except RecordError as error:
        return f"no record ({error.sentence}): {line[:_LONGEST_LINE].decode('utf-8', 'backslashreplace')}"
    return line.decode()
