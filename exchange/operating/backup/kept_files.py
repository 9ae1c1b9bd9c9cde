"""Which batches' files this side keeps beside its database, by name and digest: a list, not the files."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import among, in_parts
from exchange.database.tables import batch
from exchange.files.layout import Folders

_AT_ONCE = 1_000


def write_list(connection: Connection, folders: Folders, file: Path) -> None:
    """Write a line of JSON for each batch that has files in ``sealed/`` or ``archive/``: what the ledger says of it.

    ``sha256`` is that of the data file, ``manifest`` that of the manifest's first line; None where the ledger does not
    know the batch. Reads in the caller's transaction. Raises OSError.
    """
    kept = {folder.name: _files(folder) for folder in (folders.sealed, folders.archive)}
    stems = sorted({stem for files in kept.values() for stem in files})
    with file.open("w", encoding="utf-8") as out:
        for part in in_parts(stems, _AT_ONCE):
            known = {row.stem: row for row in _asked(connection, part)}
            for stem in part:
                for folder, files in kept.items():
                    if stem in files:
                        out.write(json.dumps(_line(folder, stem, files[stem], known.get(stem))) + "\n")


def _files(folder: Path) -> dict[str, list[tuple[str, int]]]:
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    found[entry.name.split(".")[0]].append((entry.name, entry.stat(follow_symlinks=False).st_size))
    return found


def _asked(connection: Connection, stems: Any) -> Iterator[Any]:
    columns = (batch.c.stem, batch.c.state, batch.c.digest, batch.c.manifest)
    yield from connection.execute(
        sa.select(*columns).where(among(connection, batch.c.stem, stems)).order_by(batch.c.id)
    )


def _line(folder: str, stem: str, files: list[tuple[str, int]], row: sa.Row[Any] | None) -> dict[str, Any]:
    said = json.loads(row.manifest) if row is not None and row.manifest else {}
    return {
        "folder": folder,
        "batch": stem,
        "state": row.state if row is not None else None,
        "manifest": row.digest if row is not None else None,
        "sha256": said.get("sha256"),
        "files": [{"name": name, "bytes": size} for name, size in sorted(files)],
    }
