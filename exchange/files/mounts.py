"""On which file system a folder lies, for people: where it is mounted, and of what kind it is."""

from __future__ import annotations

import os
from pathlib import Path

from exchange.format.errors import printable


def described(folder: Path) -> str:
    """Say where a folder's file system is mounted, and its kind; only where the folder lies if that can't be told."""
    try:
        device = folder.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return printable(str(folder))
    above = {str(one) for one in (folder.resolve(), *folder.resolve().parents)}
    found = ""
    for line in lines:
        about, _, kind = line.partition(" - ")
        fields = about.split(" ")
        place = fields[4].encode().decode("unicode_escape")
        if fields[2] == wanted and place in above and len(place) >= len(found.partition(" (")[0]):
            found = f"{place} ({kind.split(' ')[0]})"
    return printable(found or str(folder))
