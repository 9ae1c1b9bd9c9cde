"""Where an extract goes: a new file by its name's ends, whole or not at all, or standard output."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from exchange.files import durable
from exchange.files.folder import OUR_MODE
from exchange.format.errors import printable
from exchange.intake.extract.refused import ExtractRefused

FORMATS: Final = ("csv", "jsonl", "parquet")
_COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
_GZIP_LEVEL: Final = 6


@dataclass(frozen=True)
class Target:
    """A file, or standard output where there is none, with what its name says."""

    file: Path | None
    format: str
    compression: str = ""

    @classmethod
    def of(cls, file: Path | None, wanted: str | None) -> Target:
        """Find out from a file's name, or from what is ``wanted``, how it is to be written. Raises ExtractRefused."""
        if wanted is not None and wanted not in FORMATS:
            raise ExtractRefused(f"format: expected one of {', '.join(FORMATS)}, found {printable(repr(wanted), 80)}")
        if file is None:
            if wanted is None:
                raise ExtractRefused(f"format: expected one of {', '.join(FORMATS)} beside standard output, found none")
            return cls(None, wanted)
        compression = _COMPRESSIONS.get(file.suffix, "")
        ending = Path(file.stem if compression else file.name).suffix.removeprefix(".")
        if wanted is None and ending not in FORMATS:
            raise ExtractRefused(
                f"{printable(str(file))}: expected a name that ends in .csv, .jsonl or .parquet (the first two with .gz"
                " or .zst behind it, too), or --format"
            )
        if wanted is not None and ending in FORMATS and ending != wanted:
            raise ExtractRefused(f"format: expected {ending}, as the file's name says, found {wanted}")
        target = cls(file, wanted or ending, compression)
        if target.format == "parquet" and compression:
            raise ExtractRefused(f"{printable(str(file))}: Parquet is compressed within: leave {file.suffix} away")
        return target

    @contextlib.contextmanager
    def open(self, *, replace: bool, out: BinaryIO | None = None) -> Iterator[BinaryIO]:
        """Open it; ``out`` is standard output. Raises ExtractRefused for what is there already, OSError."""
        if self.file is None:
            assert out is not None
            yield out
            out.flush()
            return
        name = printable(str(self.file))
        taken = ExtractRefused(f"{name}: expected a new file, found one; --force replaces it")
        if os.path.lexists(self.file):  # said before all the work
            if not stat.S_ISREG(self.file.lstat().st_mode):
                raise ExtractRefused(f"{name}: expected a new file or a plain one, found something else; name another")
            if not replace:
                raise taken
        try:
            with durable.writing(self.file, mode=OUR_MODE, replace=replace) as file, self._compressed(file) as packed:
                yield packed
        except FileExistsError:
            raise taken from None
        except OSError as error:
            if error.filename is None:  # of a write the system does not say where
                error.filename = str(self.file)
            raise

    @contextlib.contextmanager
    def _compressed(self, file: BinaryIO) -> Iterator[BinaryIO]:
        if self.compression == "gzip":
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                yield cast("BinaryIO", packed)
        elif self.compression == "zstd":
            import zstandard  # noqa: PLC0415 - commands that pack nothing start sooner

            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as frame:
                yield cast("BinaryIO", frame)
        else:
            yield file
