"""The epochs that a network has left, as its manifests list them: FORMAT.md, "Gaps and epochs".

A list is in the order in which they were left, the newest first, and says of each how far the writer had come in it
in the manifest's own channel: by that a receiver sees that it is the epoch it knows. No clock orders them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from exchange.format.manifest import DIGEST, Manifest
from exchange.format.names import EPOCH, MAX_SEQUENCE

MOST_NAMED: Final = 100
"""So many epochs a manifest names, and so many a reader believes."""

MOST_KNOWN: Final = 20
"""Of so many of them it says how far the writer had come."""


class LeftEpoch(NamedTuple):
    """An epoch that was left, and the last batch that its network knows of in one channel; 0 if it knows of none."""

    epoch: str
    sequence: int = 0
    digest: str | None = None


def members(left: Sequence[LeftEpoch]) -> dict[str, Any]:
    """Give the members of a manifest that list ``left``, the newest first; none if nothing was left.

    ``left_epochs`` is for readers that know the names only.
    """
    if not left:
        return {}
    return {
        "left_epochs": [one.epoch for one in left[:MOST_NAMED]],
        "left": [one._asdict() for one in left[:MOST_KNOWN]],
    }


def left_by(manifest: Manifest) -> Mapping[str, LeftEpoch]:
    """Read which epochs a manifest says its network has left, by name; what is no epoch, or its own, is ignored."""
    found = {one.epoch: one for one in map(_left, _listed(manifest, "left", MOST_KNOWN)) if one is not None}
    for name in _listed(manifest, "left_epochs", MOST_NAMED):
        if _is_epoch(name):
            found.setdefault(name, LeftEpoch(name))
    found.pop(manifest.epoch, None)
    return found


def _listed(manifest: Manifest, member: str, most: int) -> list[Any]:
    said = manifest.extra.get(member)
    return said[:most] if isinstance(said, list) else []


def _left(said: object) -> LeftEpoch | None:
    """Read one entry: an epoch whose place in the channel makes no sense is only named."""
    if not isinstance(said, dict) or not _is_epoch(said.get("epoch")):
        return None
    epoch, sequence, digest = said["epoch"], said.get("sequence"), said.get("digest")
    if type(sequence) is int and 0 < sequence <= MAX_SEQUENCE and isinstance(digest, str) and DIGEST.fullmatch(digest):
        return LeftEpoch(epoch, sequence, digest)
    return LeftEpoch(epoch)


def _is_epoch(name: object) -> bool:
    return isinstance(name, str) and EPOCH.fullmatch(name) is not None
