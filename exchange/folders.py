"""Folders that are ours alone."""

from __future__ import annotations

from pathlib import Path

PRIVATE_MODE = 0o700

HOME_MODE = 0o711
"""The home is ours alone too, but a carrier passes through it to the shared folders, if they lie there."""


def make_private(folder: Path, mode: int = PRIVATE_MODE) -> None:
    """Make a folder for our eyes only, and whatever it lies in as usual; what exists stays. Raises OSError."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=mode, exist_ok=True)
