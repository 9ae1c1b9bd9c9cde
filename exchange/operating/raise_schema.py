"""A schema version raised: what changed, the source to write, the schema files, for a stream whose model grew.

Nothing is written before ``write``: a person sees the difference first.
"""

from __future__ import annotations

import copy
import difflib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.channels import schemas, source_edit
from exchange.channels.source_edit import Edit
from exchange.channels.stream import Stream
from exchange.files import durable


@dataclass(frozen=True)
class RaisedSchema:
    """A stream, the version that it gets, and what is to be written: ``edit`` is None where a person has to."""

    stream: str
    version: int
    changes: tuple[str, ...]
    edit: Edit | None
    by_hand: str
    """What to write, where it isn't found in the source in exactly one place."""
    files: Mapping[Path, str]
    """Schema files and what is in them."""

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "stream": self.stream,
            "version": self.version,
            "changes": list(self.changes),
            "edited": str(self.edit.path) if self.edit else None,
            "by_hand": None if self.edit else self.by_hand,
            "files": list(map(str, self.files)),
        }

    def diff(self) -> str:
        """Show what the edit changes, as a unified diff."""
        if self.edit is None:
            return ""
        before, after = (
            one.decode(errors="replace").splitlines(keepends=True) for one in (self.edit.before, self.edit.after)
        )
        name = str(self.edit.path)
        return "".join(difflib.unified_diff(before, after, name, name))

    def write(self) -> None:
        """Write the source file and the schema files. Raises OSError."""
        if self.edit is not None:
            path = self.edit.path.resolve()
            durable.write(path, self.edit.after, mode=stat.S_IMODE(path.stat().st_mode))
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")


def changes_of(stream: Stream, folder: Path | None, remembered: Mapping[int, Mapping[str, Any]]) -> list[str] | None:
    """Say what changed of a stream under its version, by the database or its file; None if neither knows it."""
    before = _before(stream, folder, remembered)
    return None if before is None else schemas.schema_changes(before, schemas.stream_schema(stream))


def plan_raise(
    spec: str, stream: Stream, folder: Path | None, remembered: Mapping[int, Mapping[str, Any]]
) -> RaisedSchema:
    """Say what raises a stream to the version behind all that were used. ``spec`` names the channels, imported already.

    Each is planned by the source as it is now: write one before the next is planned.
    """
    before, after = _before(stream, folder, remembered), schemas.stream_schema(stream)
    version = max([stream.schema_version, *remembered, *_written(stream, folder)]) + 1
    grown = copy.copy(stream)
    grown.schema_version = version
    step = source_edit.upgrade_step(stream, version - 1, before, after)
    next_one = version == stream.schema_version + 1
    files = {}
    if folder is not None:
        files[schemas.schema_path(folder, grown, version)] = schemas.schema_text(grown)
        old = schemas.schema_path(folder, stream, stream.schema_version)
        if before is not None and not old.is_file():
            files[old] = json.dumps(before, indent=2) + "\n"
    return RaisedSchema(
        stream.name,
        version,
        tuple(schemas.schema_changes(before, after)) if before is not None else (),
        source_edit.raised(spec, stream, version, step) if next_one else None,
        source_edit.instructions(stream, version, step),
        files,
    )


def _before(
    stream: Stream, folder: Path | None, remembered: Mapping[int, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    if stream.schema_version in remembered:
        return remembered[stream.schema_version]
    path = schemas.schema_path(folder, stream, stream.schema_version) if folder is not None else None
    if path is None or not path.is_file():
        return None
    try:
        written: Mapping[str, Any] = schemas.read_schema(path)
    except ValueError:
        return None
    return written


def _written(stream: Stream, folder: Path | None) -> Iterable[int]:
    if folder is None:
        return []
    files = (folder / "streams" / stream.name).glob("*.json")
    return [int(path.stem) for path in files if path.stem.isdecimal()]
