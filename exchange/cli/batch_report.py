"""A batch's two files as the command line reads them, with no database and no settings."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from exchange.cli.runtime import Refused
from exchange.files import keys
from exchange.files.folder import NotPlain, named
from exchange.format.batch import BatchReader
from exchange.format.errors import BatchError, Reason, RecordError
from exchange.format.manifest import MAX_MANIFEST_BYTES, Manifest, split_manifest
from exchange.format.names import DATA_ENDINGS, MANIFEST_ENDING, BatchName, data_name
from exchange.format.record import decode
from exchange.format.signing import TrustedKeys
from exchange.format.verify import FileCheck, Report, judge

LONGEST_LINE = 2000
"""Bytes of a line that is no record, as it is shown."""

_VERDICTS = {
    Reason.CORRUPT: "corrupt",
    Reason.LIMITS: "corrupt",
    # Files named for another place than their manifest's: what a damaged or tampered batch looks like.
    Reason.MISDIRECTED: "corrupt",
    Reason.UNTRUSTED: "untrusted",
    Reason.INCOMPLETE: "incomplete",
    Reason.UNSUPPORTED: "unsupported",
}
_ENDINGS = (MANIFEST_ENDING, *DATA_ENDINGS.values())


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


def trusted_from(files: list[Path] | None) -> TrustedKeys | None:
    """Read the keys that ``--trust`` names; None if it names none. Raises Refused."""
    if not files:
        return None
    try:
        return keys.trusted_from(files)
    except keys.KeyFault as fault:
        raise Refused(f"--trust: {fault}") from fault


def find_batches(path: Path) -> list[Files]:
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


def read_manifest(files: Files) -> bytes | None:
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


def check_batch(files: Files, trusted: TrustedKeys | None) -> Report:
    """Check all that the two files alone can tell. Raises Refused if this user may not read one."""
    content = read_manifest(files)
    if content is None:
        return Report(
            Reason.INCOMPLETE, checks=[FileCheck("manifest file", ok=False, detail="the manifest has not arrived")]
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


def verdict_of(report: Report) -> str:
    """Say in one word what came of a check: a key of ``CODES`` in ``cli/verify.py``."""
    return "ok" if report.reason is None else _VERDICTS[report.reason]


def fields_of(files: Files, report: Report) -> dict[str, Any]:
    """Give the fields of a report that scripts rely on."""
    return {
        "batch": files.stem,
        "verdict": verdict_of(report),
        "reason": report.reason.value if report.reason else None,
        "message": report.checks[-1].detail if report.reason else "",
        "records": report.records,
        "invalid": report.invalid,
        "checks": [{"check": one.name, "ok": one.ok, "detail": one.detail} for one in report.checks],
    }


def read_claim(content: bytes) -> tuple[dict[str, Any], str | None]:
    """Read what a manifest says, as far as it can be read."""
    try:
        line, signature = split_manifest(content)
        claim = Manifest.parse(line)
    except BatchError:
        return {}, None
    return claim.as_dict(), signature.key if signature else None


def first_lines(files: Files, content: bytes, number: int) -> Iterator[str]:
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
        return f"no record ({error.sentence}): {line[:LONGEST_LINE].decode('utf-8', 'backslashreplace')}"
    return line.decode()
