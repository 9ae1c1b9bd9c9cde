"""What this process made of files at its last look, for as long as they are the same files.

It spares opening and checking again what has long been lying there. A hint, never a proof: whoever acts on a
batch reads its files anew once they are out of everybody else's reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from exchange.files.layout import Mark, Sighting

MAX_REMEMBERED = 20_000
"""How many files are remembered at most: memory stays bounded whatever is put into a folder."""

Made = TypeVar("Made")


class Remembered(Generic[Made]):
    """What was made of each file at the last look."""

    def __init__(self) -> None:
        self._terms: object = None
        self._made: dict[Sighting, tuple[Mark, Made]] = {}

    def each(
        self, sightings: Iterable[Sighting], terms: object, make: Callable[[Sighting], Made | None]
    ) -> Iterator[Made]:
        """Give what ``make`` makes of each file; it is not asked again for a file that is still the same one.

        ``terms`` is all else that its answer depends on: when they change, everything is made anew. Nothing is
        given for a file of which it makes None.
        """
        known = self._made if terms == self._terms else {}
        kept: dict[Sighting, tuple[Mark, Made]] = {}
        for sighting in sightings:
            mark, made = known.get(sighting, (None, None))
            if made is None or mark != sighting.mark:
                made = make(sighting)
            if made is None:
                continue
            if sighting.mark is not None and len(kept) < MAX_REMEMBERED:
                kept[sighting] = (sighting.mark, made)
            yield made
        self._terms, self._made = terms, kept

    def forget(self, sighting: Sighting) -> None:
        """Have what was made of a file made anew the next time, though it is still the same one."""
        self._made.pop(sighting, None)
