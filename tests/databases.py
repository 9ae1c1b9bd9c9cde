"""Fresh databases of either kind, each in a shape that was made once in this process."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path

from tests.postgresql import Cluster

Prepare = Callable[[str], None]
"""What brings an empty database into its shape. It gets the URL."""

_numbers = itertools.count(1)


class Templates:
    """SQLite databases to copy, one of each shape."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Hashable, Path] = {}

    def copy(self, shape: Hashable, prepare: Prepare, target: Path) -> None:
        """Make ``target`` a database of a shape."""
        if shape not in self._made:
            path = self._folder / f"{len(self._made)}.db"
            prepare(f"sqlite:///{path}")
            self._made[shape] = path
        shutil.copyfile(self._made[shape], target)


class At:
    """A place of one's own for a database, where it is brought into its shape."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fresh(self, kind: str, _shape: Hashable = None, prepare: Prepare | None = None) -> str:
        """Give its URL once ``prepare`` has been there."""
        assert self._url.startswith(kind)
        if prepare is not None:
            prepare(self._url)
        return self._url


class Databases:
    """What one test borrows; all of it is given back when the test ends."""

    def __init__(self, folder: Path, templates: Templates, cluster: Callable[[], Cluster]) -> None:
        self._folder = folder
        self._templates = templates
        self._cluster = cluster
        self._borrowed: list[str] = []

    def fresh(self, kind: str, shape: Hashable = None, prepare: Prepare | None = None) -> str:
        """Give the URL of a database as ``prepare`` leaves an empty one; without it, of an empty one.

        Databases of one shape are alike, and ``prepare`` is called once for all of them.
        """
        if kind == "postgresql":
            self._borrowed.append(self._cluster().lend(shape, prepare))
            return self._borrowed[-1]
        path = self._folder / f"fresh-{next(_numbers)}.db"
        if prepare is not None:
            self._templates.copy(shape, prepare, path)
        return f"sqlite:///{path}"

    def give_back(self) -> None:
        """End the loans."""
        while self._borrowed:
            self._cluster().give_back(self._borrowed.pop())
