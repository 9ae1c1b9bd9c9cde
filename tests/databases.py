"""Fresh databases of either kind, each in a shape that was made once in this process; and folders to copy."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol

from tests.postgresql import Base, Cluster, Prepare

_numbers = itertools.count(1)


class Templates:
    """SQLite databases to copy, one of each shape, and folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Hashable, Path] = {}
        self._folders: dict[Hashable, Path] = {}

    def copy(self, shape: Hashable, prepare: Prepare, target: Path, base: Base | None = None) -> None:
        """Make ``target`` a database of a shape."""
        if shape not in self._made:
            path = self._folder / f"{next(_numbers)}.db"
            if base is not None:
                self.copy(*base, path)
            prepare(f"sqlite:///{path}")
            self._made[shape] = path
        shutil.copyfile(self._made[shape], target)

    def copy_folder(self, shape: Hashable, make: Callable[[Path], None], target: Path) -> Path:
        """Copy into ``target`` what ``make`` puts into an empty folder, and give that folder."""
        if shape not in self._folders:
            path = self._folder / f"folder-{len(self._folders)}"
            path.mkdir()
            make(path)
            self._folders[shape] = path
        shutil.copytree(self._folders[shape], target, symlinks=True, dirs_exist_ok=True)
        return self._folders[shape]


class Lender(Protocol):
    """Whoever makes databases in a shape."""

    def fresh(
        self, kind: str, shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None, /
    ) -> str:
        """Give the URL of a database as ``prepare`` leaves an empty one, or one of the shape ``base``."""
        ...


class At:
    """A place of one's own for a database, where it is brought into its shape."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fresh(
        self, kind: str, _shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None
    ) -> str:
        """Give its URL once ``base`` and ``prepare`` have been there."""
        assert self._url.startswith(kind)
        for step in (base[1] if base else None, prepare):
            if step is not None:
                step(self._url)
        return self._url


class Databases:
    """What one test borrows; all of it is given back when the test ends."""

    def __init__(self, folder: Path, templates: Templates, cluster: Callable[[], Cluster]) -> None:
        self._folder = folder
        self.templates = templates
        self._cluster = cluster
        self._borrowed: list[str] = []
        self._made: list[str] = []

    def fresh(self, kind: str, shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None) -> str:
        """Give the URL of a database as ``prepare`` leaves one of ``base``, or an empty one; without it, an empty one.

        Databases of one shape are alike, and ``prepare`` is called once for all of them.
        """
        if kind == "postgresql":
            self._borrowed.append(self._cluster().lend(shape, prepare, base))
            return self._borrowed[-1]
        path = self._folder / f"fresh-{next(_numbers)}.db"
        if prepare is not None:
            self.templates.copy(shape, prepare, path, base)
        return f"sqlite:///{path}"

    def copy(self, kind: str, shape: Hashable, prepare: Prepare, base: Base | None = None) -> str:
        """Give the URL of one as ``fresh`` does, for shapes with so many rows that a new copy is the quickest way."""
        if kind != "postgresql":
            return self.fresh(kind, shape, prepare, base)
        cluster = self._cluster()
        self._made.append(cluster.create(cluster.template(shape, prepare, base)))
        return self._made[-1]

    def give_back(self) -> None:
        """End the loans."""
        while self._made:
            self._cluster().drop(self._made.pop())
        while self._borrowed:
            self._cluster().give_back(self._borrowed.pop())


class Filled:
    """Databases that are filled beyond their shape, once for all of one ``name``, and copied."""

    def __init__(self, databases: Databases, name: str, fill: Prepare) -> None:
        self._databases = databases
        self._name = name
        self._fill = fill

    def fresh(self, kind: str, shape: Hashable = None, prepare: Prepare | None = None, base: Base | None = None) -> str:
        """Give the URL of one that ``prepare`` and then ``fill`` made."""

        def made(url: str) -> None:
            if prepare is not None:
                prepare(url)
            self._fill(url)

        return self._databases.copy(kind, (shape, self._name), made, base)
