"""The audit written out to a signed file, for keeping elsewhere, and such a file checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from exchange import __version__
from exchange.database.audit_chain import each_row
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.files.durable import new_file
from exchange.format.as_dict import AsDict
from exchange.format.audit_file import AuditEnding, AuditRow, AuditWriter, check_rows
from exchange.format.signed_file import FileFault, read_tail
from exchange.format.signing import TrustedKeys
from exchange.site import Site


@dataclass(frozen=True)
class AuditExport(AsDict):
    """What was written out."""

    file: Path
    rows: int
    head: str
    signed: bool

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return super().as_dict() | {"file": str(self.file)}


def export(site: Site, file: Path) -> AuditExport:
    """Write all rows to a new file, signed with this side's key, for our eyes only; whole or not at all.

    Rows are written as they are, whether the chain holds or not. Raises FileFault if there is such a file,
    TransientError.
    """
    with transient_errors(), reading(site.engine) as connection, new_file(file) as out:
        writer = AuditWriter(out)
        for values in each_row(connection):
            writer.write(AuditRow.of(values))
        ending = writer.close(site.network, f"exchange {__version__}", now(), site.signing_key)
    return AuditExport(file, ending.rows, ending.head, site.signing_key is not None)


def check_file(content: BinaryIO, keys: TrustedKeys) -> AuditEnding:
    """Check who signed an exported file, every byte of it and its chain. Raises Untrusted or FileFault."""
    tail = read_tail(content)
    keys.check(tail.line, tail.signature, "the file")
    ending = AuditEnding.parse(tail.line)
    if ending.bytes != tail.start:
        raise FileFault(f"{tail.start} bytes lie before its ending, which speaks of {ending.bytes}")
    check_rows(content, ending)
    return ending
