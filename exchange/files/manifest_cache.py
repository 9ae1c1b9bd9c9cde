"""What this process made of files at its last look, for as long as they are the same files.

It spares opening and checking again what has long been lying there. A hint, never a proof: whoever acts on a
batch reads its files anew once they are out of everybody else's reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from exchange.files.batch_files import BatchFiles, FileIdentity

MAX_FILES = 20_000
"""How many files are remembered at most: memory stays bounded whatever is put into a folder."""

Made = TypeVar("Made")


class ManifestCache(Generic[Made]):
    """What was made of each file at the last look."""

    def __init__(self) -> None:
        self._terms: object = None
        self._made: dict[BatchFiles, tuple[FileIdentity, Made]] = {}

    def each(
        self, batches: Iterable[BatchFiles], terms: object, make: Callable[[BatchFiles], Made | None]
    ) -> Iterator[Made]:
        """Give what ``make`` makes of each file; it is not asked again for a file that is still the same one.

        ``terms`` is all else that its answer depends on: when they change, everything is made anew. Nothing is
        given for a file of which it makes None.
        """
        known = self._made if terms == self._terms else {}
        kept: dict[BatchFiles, tuple[FileIdentity, Made]] = {}
        for batch in batches:
            identity, made = known.get(batch, (None, None))
            if made is None or identity != batch.identity:
                made = make(batch)
            if made is None:
                continue
            if batch.identity is not None and len(kept) < MAX_FILES:
                kept[batch] = (batch.identity, made)
            yield made
        self._terms, self._made = terms, kept

    def forget(self, batch: BatchFiles) -> None:
        """Have what was made of a file made anew the next time, though it is still the same one."""
        self._made.pop(batch, None)
