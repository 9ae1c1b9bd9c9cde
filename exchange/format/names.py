"""What things may be called, and the names of a batch and of its two files.

These names order a listing and prove nothing: the manifest does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self

from exchange.format.errors import printable

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
"""What a channel or a network may be called (FORMAT.md, "Terms")."""

NAME_RULE: Final = "a lower-case letter, then at most 30 letters, digits or _"
"""``NAME`` in words."""

CONTROL: Final = "control"
"""The channel of receipts and heartbeats: reserved."""

KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a signing key may be called."""

EPOCH: Final = re.compile(r"[0-9a-f]{12}")
MAX_SEQUENCE: Final = 9_999_999_999
MAX_ATTEMPT: Final = 999_999_999

MANIFEST_ENDING: Final = ".manifest.jsonl"

DATA_ENDINGS: Final[Mapping[tuple[str, ...], str]] = {
    (): ".jsonl",
    ("zstd",): ".jsonl.zst",
    ("age",): ".jsonl.age",
    ("zstd", "age"): ".jsonl.zst.age",
}
"""What a data file's name ends in, by its encodings, which are named in the order in which they are applied."""

_STEM: Final = re.compile(rf"({NAME.pattern})-({EPOCH.pattern})-([0-9]{{10}})(?:\.r([1-9][0-9]{{0,8}}))?")


class FileKind(StrEnum):
    """Which of a batch's two files."""

    MANIFEST = "manifest"
    DATA = "data"


@dataclass(frozen=True, order=True)
class BatchName:
    """A batch's place in its channel, and which publication of it. Sorts as batches follow each other."""

    channel: str
    epoch: str
    sequence: int
    attempt: int = 1

    def __post_init__(self) -> None:
        """Refuse, with ``ValueError``, what could not be a name."""
        if (
            not NAME.fullmatch(self.channel)
            or not EPOCH.fullmatch(self.epoch)
            or not 1 <= self.sequence <= MAX_SEQUENCE
            or not 1 <= self.attempt <= MAX_ATTEMPT
        ):
            raise ValueError(
                f"no batch can be called {printable(self.channel)} {printable(self.epoch)}"
                f" {self.sequence} {self.attempt}"
            )

    @classmethod
    def parse(cls, stem: str) -> Self:
        """Read a stem such as ``requests-4f1c0a9be2d7-0000000042.r2``; ``ValueError`` if it is none."""
        match = _STEM.fullmatch(stem)
        # Attempt 1 is written without a suffix, so ".r1" would be a second spelling of one name.
        if match is None or match[4] == "1":
            raise ValueError(f'"{printable(stem)}" names no batch; expected <channel>-<epoch>-<sequence>[.r<attempt>]')
        return cls(match[1], match[2], int(match[3]), int(match[4] or 1))

    def __str__(self) -> str:
        """Give the stem."""
        return self.place if self.attempt == 1 else f"{self.place}.r{self.attempt}"

    def again(self, attempt: int) -> Self:
        """Name another publication of the same batch."""
        return replace(self, attempt=attempt)

    @property
    def place(self) -> str:
        """The stem without the attempt: the same for each publication of the batch."""
        return f"{self.channel}-{self.epoch}-{self.sequence:010d}"


def manifest_name(name: BatchName) -> str:
    """Name the manifest file of a batch."""
    return f"{name}{MANIFEST_ENDING}"


def data_name(name: BatchName, encoding: tuple[str, ...]) -> str:
    """Name the data file of a batch; ``ValueError`` for an encoding that the format does not know."""
    if encoding not in DATA_ENDINGS:
        raise ValueError(f"no data file is encoded as {printable(repr(encoding))}")
    return f"{name}{DATA_ENDINGS[encoding]}"


def parse_file_name(name: str) -> tuple[BatchName, FileKind, tuple[str, ...]] | None:
    """Tell whose file this is; ``None`` when it is not one of ours and must be left alone.

    The third value is the data file's encoding, empty for a manifest.
    """
    for ending, (kind, encoding) in _FILES.items():
        if name.endswith(ending):
            with suppress(ValueError):
                return BatchName.parse(name.removesuffix(ending)), kind, encoding
    return None


_FILES: Final = {
    MANIFEST_ENDING: (FileKind.MANIFEST, ()),
    **{ending: (FileKind.DATA, encoding) for encoding, ending in DATA_ENDINGS.items()},
}
