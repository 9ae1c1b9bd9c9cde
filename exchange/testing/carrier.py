"""A carrier for tests: honest, or one that delays, repeats, reorders, truncates, damages and drops.

It does what real ones do to files and nothing else: it knows no database and opens no manifest. What it
does is drawn from a seed, so that a failing run can be run again.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Faults:
    """How often, from 0 to 1 and drawn for each file, a carrier does each of these."""

    delay: float = 0.0
    repeat: float = 0.0
    truncate: float = 0.0
    damage: float = 0.0
    drop: float = 0.0
    reorder: bool = False


HONEST = Faults()
"""Carries every file once, whole, in order."""


class Carrier:
    """Moves files from one network's ``outgoing`` to the other's ``incoming``.

    ``carry`` makes one round and gives the names that arrived whole or not; ``log`` has everything it did.
    Each file stays in ``outgoing`` unless ``moves`` is set, and is not carried again, as rsync would.
    ``spoils`` names files to damage, and ``loses`` files to lose, whatever is drawn.
    """

    def __init__(
        self,
        outgoing: Path,
        incoming: Path,
        faults: Faults = HONEST,
        *,
        seed: int = 0,
        moves: bool = False,
        spoils: Callable[[str], bool] | None = None,
        loses: Callable[[str], bool] | None = None,
    ) -> None:
        self.outgoing = outgoing
        self.incoming = incoming
        self.faults = faults
        self.moves = moves
        self.spoils = spoils
        self.loses = loses
        self.log: list[tuple[str, str]] = []
        self._draw = random.Random(seed)
        self._carried: set[str] = set()

    def carry(self) -> list[str]:
        """Make one round."""
        waiting = sorted(path for path in self.outgoing.iterdir() if path.is_file() and not path.name.startswith("."))
        if self.faults.reorder:
            self._draw.shuffle(waiting)
        return [path.name for path in waiting if path.name not in self._carried and self._deliver(path)]

    @contextmanager
    def honestly(self) -> Iterator[None]:
        """Make no fault for a while."""
        faults, self.faults = self.faults, HONEST
        try:
            yield
        finally:
            self.faults = faults

    def deliver_again(self, name: str) -> None:
        """Carry a file once more, whole."""
        self._carried.discard(name)
        with self.honestly():
            self._deliver(self.outgoing / name)

    def _deliver(self, path: Path) -> bool:
        if self._happens(self.faults.delay):
            return self._noted("delayed", path)
        self._carried.add(path.name)
        if self._happens(self.faults.drop) or (self.loses and self.loses(path.name)):
            return self._noted("dropped", path)
        content = path.read_bytes()
        done = "carried"
        if content and self._happens(self.faults.truncate):
            content, done = content[: self._somewhere(content)], "truncated"
        elif content and (self._happens(self.faults.damage) or (self.spoils and self.spoils(path.name))):
            place = self._somewhere(content)
            content = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
            done = "damaged"
        draft = self.incoming / f".{path.name}.part"
        draft.write_bytes(content)
        shutil.copystat(path, draft)
        draft.rename(self.incoming / path.name)
        if self._happens(self.faults.repeat):
            self._carried.discard(path.name)
            self._noted("will repeat", path)
        elif self.moves:
            path.unlink()
        self._noted(done, path)
        return True

    def _happens(self, share: float) -> bool:
        return share > 0 and self._draw.random() < share

    def _somewhere(self, content: bytes) -> int:
        return int(self._draw.random() * len(content))  # one draw, however long: a signature may be longer next time

    def _noted(self, what: str, path: Path) -> bool:
        self.log.append((what, path.name))
        return False
