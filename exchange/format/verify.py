"""Everything that can be said of a batch from its two files alone, check by check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, Final

from exchange.format.batch import BatchReader, LongLine, ReadLimits, check_data, too_long
from exchange.format.carriage import altered_manifest, restored
from exchange.format.errors import BatchError, Incomplete, Reason, RecordError, printable
from exchange.format.manifest import Manifest, OpCounts, digest, split_manifest
from exchange.format.names import BatchName
from exchange.format.record import Op, decode
from exchange.format.signing import TrustedKeys

_Outcome = tuple[bool | None, str]


@dataclass(frozen=True)
class FileCheck:
    """One thing that was looked at; ``ok`` is ``None`` when there was nothing to compare it with."""

    name: str
    ok: bool | None
    detail: str


@dataclass
class Report:
    """What was found. ``reason`` is ``None`` for a good batch.

    ``invalid`` counts lines that are no records: the batch is intact, its channel's policy decides on them.
    """

    reason: Reason | None = None
    manifest: Manifest | None = None
    checks: list[FileCheck] = field(default_factory=list)
    records: int = 0
    invalid: int = 0

    @property
    def ok(self) -> bool:
        """Whether the files are a batch that may be applied."""
        return self.reason is None


def judge(
    manifest_content: bytes,
    data: BinaryIO | None,
    trusted: TrustedKeys | None,
    limits: ReadLimits | None = None,
    name: BatchName | None = None,
    at: datetime | None = None,
) -> Report:
    """Verify a batch, reading all of it, in constant memory.

    In the order of FORMAT.md, "Order of writing and of reading".

    ``data`` is ``None`` when the data file is absent; otherwise it is seekable and at its beginning, as it is
    read twice. Without ``trusted`` signatures are not checked, without ``name`` the files' name is not, without ``at``,
    the moment at which it came, what its key may sign is not. A bad batch is a report, never an exception.
    """
    trial = _Trial(manifest_content, data, trusted, limits or ReadLimits(), name, at)
    for what, step in _STEPS:
        try:
            ok, detail = step(trial)
        except BatchError as error:
            fault = trial.taken_for_a_text() or error
            trial.report.reason = fault.reason
            trial.report.checks.append(FileCheck(what, ok=False, detail=fault.sentence))
            break
        trial.report.checks.append(FileCheck(what, ok, detail))
    return trial.report


class _Trial:
    """A batch under verification. A step gives how it went and what it saw, or raises what is wrong."""

    def __init__(
        self,
        manifest_content: bytes,
        data: BinaryIO | None,
        trusted: TrustedKeys | None,
        limits: ReadLimits,
        name: BatchName | None,
        at: datetime | None,
    ) -> None:
        self.report = Report()
        self._manifest_content = manifest_content
        self._data = data
        self._trusted = trusted
        self._limits = limits
        self._name = name
        self._at = at

    def taken_for_a_text(self) -> BatchError | None:
        """Say that the manifest file was signed before its carrier changed it, if a trusted key says so."""
        before = restored(self._manifest_content)
        if before is None or self._trusted is None:
            return None
        try:
            self._trusted.check(*split_manifest(before[0]))
        except BatchError:
            return None
        return altered_manifest(before[1])

    def manifest_file(self) -> _Outcome:
        self._line, self._signature = split_manifest(self._manifest_content)
        return True, f"SHA-256 of line 1 is {digest(self._line)}"

    def signature(self) -> _Outcome:
        if self._trusted is None:
            signer = printable(self._signature.key) if self._signature else "nobody"
            return None, f"not checked, no trusted key was given; signed by {signer}"
        self._trusted.check(self._line, self._signature)
        return True, f"signed by {printable(self._signature.key) if self._signature else 'nobody'}"

    def claim(self) -> _Outcome:
        claim = Manifest.parse(self._line)
        if self._trusted is not None and self._signature is not None and self._at is not None:
            self._trusted.check_terms(self._signature.key, claim, self._at)
        self._manifest = self.report.manifest = claim
        return True, f"{claim.name}: {claim.kind} from {claim.source} to {claim.target}"

    def file_name(self) -> _Outcome:
        if self._name is None:
            return None, "not checked, no file name was given"
        if self._name.place != self._manifest.name.place:
            return None, f"the files are named {self._name.place}, the manifest says {self._manifest.name}: it counts"
        return True, "the files are named as the manifest says"

    def data_file(self) -> _Outcome:
        if self._data is None:
            raise Incomplete("the data file has not arrived")
        check_data(self._data, self._manifest)
        self._data.seek(0)
        return True, f"{self._manifest.bytes} bytes with the SHA-256 that the manifest says"

    def content(self) -> _Outcome:
        """Read every line, counting what is a record of the batch and what is not. Raises BatchError."""
        assert self._data is not None
        reader = BatchReader(self._data, self._manifest, self._limits)
        counts: Counter[tuple[str, Op]] = Counter()
        self._fault = ""
        for lines in reader:
            for number, line in enumerate(lines, reader.first_line):
                try:
                    if isinstance(line, LongLine):
                        raise too_long(line, reader.max_record_bytes)
                    record = decode(line)
                    if record.stream not in self._manifest.schemas:
                        raise _unlisted(record.stream)
                except RecordError as error:
                    self.report.invalid += 1
                    self._fault = self._fault or f"line {number}: {error}"
                else:
                    counts[record.stream, record.op] += 1
        self.report.records = reader.lines
        reader.check_counts({stream: OpCounts(*(counts[stream, op] for op in Op)) for stream, _ in counts})
        return True, f"{reader.lines} lines in {self._manifest.content_bytes} bytes, as the manifest says"

    def records(self) -> _Outcome:
        if self.report.invalid:
            return (
                False,
                f"{self.report.invalid} lines are no records of this batch; the first is {self._fault}",
            )
        return True, "every line is a record of a stream that the manifest lists"


def _unlisted(stream: str) -> RecordError:
    return RecordError("record", "/stream", f'the stream "{printable(stream, 80)}" is not in the manifest\'s schemas')


_STEPS: Final[tuple[tuple[str, Callable[[_Trial], _Outcome]], ...]] = (
    ("manifest file", _Trial.manifest_file),
    ("signature", _Trial.signature),
    ("claim", _Trial.claim),
    ("file name", _Trial.file_name),
    ("data file", _Trial.data_file),
    ("content", _Trial.content),
    ("records", _Trial.records),
)
