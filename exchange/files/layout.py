"""Which folders a side has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Where everything lies. ``outgoing`` and ``incoming`` may be anywhere, the rest is below ``home``.

    ``group`` is the number of the carrier's group, if there is one.
    """

    home: Path
    outgoing: Path
    incoming: Path
    folder_mode: int = 0o755
    file_mode: int = 0o644
    group: int | None = None

    @property
    def private(self) -> tuple[Path, ...]:
        """The folders that are ours alone."""
        return (
            self.tmp,
            self.sealed,
            self.work,
            self.archive,
            self.quarantine,
            self.strangers,
            self.home / "keys",
            self.home / "markers",
        )

    @property
    def tmp(self) -> Path:
        """Data files being written."""
        return self.home / "tmp"

    @property
    def sealed(self) -> Path:
        """Our copy of every batch we sealed, until retention ends: what a resend publishes again."""
        return self.home / "sealed"

    @property
    def work(self) -> Path:
        """Batches claimed and not settled."""
        return self.home / "work"

    @property
    def archive(self) -> Path:
        """Batches applied, or seen again."""
        return self.home / "archive"

    @property
    def quarantine(self) -> Path:
        """Batches refused, each with a sentence beside it."""
        return self.home / "quarantine"

    @property
    def strangers(self) -> Path:
        """Files that nobody vouches for, so many of them as the settings allow."""
        return self.home / "strangers"
