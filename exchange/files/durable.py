"""Files that appear whole, under their name and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from exchange.files.folder import named
from exchange.format.errors import printable
from exchange.format.signed_file import FileFault


@contextlib.contextmanager
def writing(path: Path, *, mode: int, replace: bool = True) -> Iterator[BinaryIO]:
    """Write a new file: a draft beside it is synced and renamed at the end of the block, and then the folder is synced.

    What has the name is replaced and never written to; without ``replace`` FileExistsError is raised. If the block
    raises, nothing has changed. The folder has to be there. Raises OSError.
    """
    with named(path.parent) as folder:
        with folder.write(path.name, mode=mode, replace=replace) as file:
            yield file
        with contextlib.suppress(PermissionError), folder.inner(".") as readable:  # one we may not read can't be synced
            readable.sync()


def write(path: Path, content: bytes, *, mode: int, replace: bool = True) -> None:
    """Write a whole file as ``writing`` does."""
    with writing(path, mode=mode, replace=replace) as file:
        file.write(content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that a person named, for our eyes only, as ``writing`` does. Raises FileFault if there is one."""
    taken = FileFault(f"{printable(str(path))}: expected a new file, found one")
    if os.path.lexists(path):  # said before all the work
        raise taken
    try:
        with writing(path, mode=0o600, replace=False) as file:
            yield file
    except FileExistsError:
        raise taken from None
