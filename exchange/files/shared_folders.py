"""The two folders that a carrier serves, each known by its marker for the one that this side marked.

An unmounted folder looks empty, and whoever may write where a folder lies can put another one, or a link to one, in
its place. The marker says which one it is: its role, and a token that the home remembers; a mount changes the numbers
of devices and inodes. The token is no secret. Who can't write in a folder can't put a marker there, and a copy of it
leads nobody but to where its carrier may write himself: never to a folder that is ours alone, or another one we marked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exchange.files import carrier_group, durable
from exchange.files.folder import Folder, held, make_private, named
from exchange.format.errors import TransientError

MARKER = ".exchange-folder"

_MARK = re.compile(r"(outgoing|incoming) ([0-9a-f]{32})\n")
_TOKEN_FILE = "token"  # noqa: S105 - the name of a file, and what it holds is no secret
_MOST_BYTES = 256
_NOTHING_DONE = "nothing was read or written"


class MarkerMissing(TransientError):  # noqa: N818 - reads as what it is
    """There is no marker, and this side never put one there."""


@dataclass(frozen=True)
class Shared:
    """One of the two, ``outgoing`` or ``incoming`` by its role. ``private`` are the folders that are ours alone."""

    role: str
    path: Path
    home: Path
    private: tuple[Path, ...]
    folder_mode: int
    file_mode: int
    group: int | None = None
    """The carrier's group, where one is set."""

    @contextlib.contextmanager
    def held(self) -> Iterator[Folder]:
        """Hold the folder open, known to be the one that was marked. Raises TransientError, MarkerMissing."""
        with contextlib.ExitStack() as open_folder:
            try:
                folder = open_folder.enter_context(held(self.path))
            except FileNotFoundError:
                raise self._without_marker() from None
            except OSError as error:
                raise self._no_folder(error) from error
            said = self._said(folder)
            if not self._is_meant(said):
                msg = (
                    f"{self.path} is not the {self.role} folder that was marked: its marker {MARKER} is that of another"
                    f" one; {_NOTHING_DONE}; put the right one there, or `exchange init` marks this one anew"
                )
                raise TransientError(msg)
            yield folder

    def see(self) -> None:
        """See that the folder is the one that was marked, and let an empty marker say so from now on.

        Raises TransientError, MarkerMissing.
        """
        with self.held() as folder:
            said = self._said(folder)
            mark = _MARK.fullmatch(said)
            if not said:
                with contextlib.suppress(OSError):  # as it is, it will do
                    self._write_marker(folder)
            elif mark is not None and mark[1] == self.role and self._token() is None:
                self._remember(_TOKEN_FILE, mark[2])  # our memory is older than the marker: it was restored

    def fault(self) -> str | None:
        """Say what is wrong with it, in a sentence; None if it is there and the one that was marked."""
        try:
            with self.held():
                return None
        except TransientError as error:
            return error.sentence

    def mark(self) -> None:
        """Make the folder if need be, mark it, and remember that we did: a person says that it is the right one.

        May be repeated. Raises OSError, and TransientError if it can't be the right one.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as open_folders:
            parent = open_folders.enter_context(named(self.path.parent))
            self._refuse_our_own(_above(parent), self.private)
            parent.make(self.path.name, self.folder_mode)
            try:
                folder = open_folders.enter_context(parent.inner(self.path.name))
            except OSError as error:
                raise self._no_folder(error) from error
            self._refuse_our_own([os.fstat(folder.descriptor)], (self.home, *self.private))
            if self.group is not None:
                # The group takes from ``outgoing`` and brings to ``incoming``.
                brings = stat.S_IWGRP if self.role == "incoming" else 0
                carrier_group.share(folder.descriptor, self.group, self.folder_mode | brings, self.path)
            self._write_marker(folder)
        self._remember(self.role, str(self.path))

    # The marker

    def _said(self, folder: Folder) -> str:
        """Read the marker. It is empty where an earlier version made it, here or where a carrier copied it from."""
        try:
            with folder.read(MARKER) as file:
                return file.read(_MOST_BYTES).decode(errors="replace")
        except FileNotFoundError:
            raise self._without_marker() from None
        except OSError as error:
            msg = (
                f"{self.path}, the {self.role} folder, its marker {MARKER}: {error.strerror}; {_NOTHING_DONE};"
                " `exchange init` puts a new one there"
            )
            raise TransientError(msg) from error

    def _is_meant(self, said: str) -> bool:
        mark = _MARK.fullmatch(said)
        if mark is None:
            return not said
        token = self._token()
        if token is None:
            return True
        if mark[1] == self.role:
            return mark[2] == token
        # A carrier that copies whole folders brings along the marker of the one at the other end, and where both sides
        # mount one folder it is that one's: of the other role, and not ours.
        return mark[2] != token

    def _write_marker(self, folder: Folder) -> None:
        token = self._token()
        if token is None:
            self._remember(_TOKEN_FILE, secrets.token_hex(16))
            token = self._token()
        said = f"{self.role} {token}\n"
        with contextlib.suppress(TransientError):
            if self._said(folder) == said:
                return
        with folder.write(MARKER, mode=self.file_mode) as file:
            file.write(said.encode())
            carrier_group.give(file.fileno(), self.group, self.path / MARKER, _NOTHING_DONE)
        folder.sync()

    # What this side remembers

    def _token(self) -> str | None:
        said = self._remembered(_TOKEN_FILE)
        return said if said and re.fullmatch(r"[0-9a-f]{32}", said) else None

    def _remembered(self, name: str) -> str | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.fsdecode((self._memory / name).read_bytes())
        return None

    def _remember(self, name: str, said: str) -> None:
        make_private(self._memory)
        # Of two that make a token at the same moment one wins; of paths the latest counts.
        replace = name != _TOKEN_FILE or self._remembered(name) is not None
        with contextlib.suppress(FileExistsError):
            durable.write(self._memory / name, os.fsencode(said), mode=0o600, replace=replace)

    @property
    def _memory(self) -> Path:
        return self.home / "markers"

    # What can be wrong

    def _without_marker(self) -> TransientError:
        if self._remembered(self.role) == str(self.path):
            return TransientError(
                f"{self.path} has lost its marker: there is no marker {MARKER}, so it is probably not mounted; nothing"
                " advances until it is back, or until `exchange init` marks this folder anew"
            )
        return MarkerMissing(
            f"{self.path}, the {self.role} folder, has no marker {MARKER}: it was never set up, or is not mounted;"
            f" {_NOTHING_DONE}; `exchange init` makes and marks it"
        )

    def _no_folder(self, error: OSError) -> TransientError:
        where = f"{self.path}, the {self.role} folder:"
        if self.path.is_symlink():
            leads = f"set EXCHANGE_{self.role.upper()} to where it leads"
            return TransientError(f"{where} expected a folder, found a link; {_NOTHING_DONE}; {leads}")
        if isinstance(error, NotADirectoryError):
            return TransientError(f"{where} expected a folder, found something else; {_NOTHING_DONE}; move it away")
        return TransientError(f"{where} {error.strerror}; {_NOTHING_DONE}; mend it and run again")

    def _refuse_our_own(self, found: list[os.stat_result], ours: tuple[Path, ...]) -> None:
        """Refuse a folder that nobody else may ever use."""
        for path in ours:
            if path.exists() and any(os.path.samestat(path.stat(), one) for one in found):
                raise TransientError(
                    f"{self.path}, the {self.role} folder: expected one of its own, found {path}, which nobody else may"
                    f" use; nothing was marked; set EXCHANGE_{self.role.upper()} to another folder"
                )


def _above(folder: Folder) -> list[os.stat_result]:
    """Give a folder and all that it lies in, by whatever path it was reached."""
    found = [os.fstat(folder.descriptor)]
    for steps in itertools.count(1):
        above = os.stat("/".join([".."] * steps), dir_fd=folder.descriptor)
        if os.path.samestat(above, found[-1]):
            break
        found.append(above)
    return found
