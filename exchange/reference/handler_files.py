"""The files that say what the handlers may do: TOML, written by whoever runs this side, each fault one sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from exchange.files.ownership import MOST_BYTES, WrongOwner, read_ours
from exchange.format.errors import printable

MOST_ANSWER_BYTES = 800_000
"""The largest answer that a file may allow: with the rest of its row it still crosses."""


def read_toml(file: Path) -> dict[str, Any]:
    """Read a file that only we or root can have written. Raises ValueError."""
    shown = printable(str(file))
    try:
        content = read_ours(file)
    except (OSError, WrongOwner) as error:
        raise ValueError(f"{shown}: {error.strerror}" if isinstance(error, OSError) else str(error)) from error
    if content is None:
        raise ValueError(f"{shown}: there is no such file")
    if len(content) >= MOST_BYTES:
        raise ValueError(f"{shown}: it has {MOST_BYTES} bytes or more")
    try:
        return tomllib.loads(content.decode())
    except UnicodeError:
        raise ValueError(f"{shown}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{shown}: it is no TOML: {printable(str(error))}") from error


class Table:
    """One table of such a file, whose members are taken one after the other; what nobody takes is a fault."""

    def __init__(self, where: str, members: object) -> None:
        """Take a table. Raises ValueError."""
        if not isinstance(members, dict):
            raise ValueError(f"{where}: expected a table, found {printable(repr(members), 80)}")  # noqa: TRY004
        self.where, self._left = where, dict(members)

    def text(self, name: str, default: str | None = None) -> str:
        """Take a text that is not empty."""
        return str(self._take(name, default, lambda found: isinstance(found, str) and found.strip() != "", "a text"))

    def whole(self, name: str, default: int | None, least: int, most: int) -> int:
        """Take a whole number within bounds."""
        words = f"a whole number from {least} to {most}"
        return int(self._take(name, default, lambda found: type(found) is int and least <= found <= most, words))

    def seconds(self, name: str, default: float, most: float) -> float:
        """Take a number of seconds above 0."""
        words = f"a number of seconds above 0 and below {most:g} (EXCHANGE_HANDLER_SECONDS)"
        return float(
            self._take(name, default, lambda found: type(found) in {int, float} and 0 < float(found) < most, words)
        )

    def truth(self, name: str) -> bool:
        """Take true or false; false where it is not there."""
        return bool(self._take(name, default=False, fits=lambda found: isinstance(found, bool), words="true or false"))

    def tables(self, name: str) -> Mapping[str, Any]:
        """Take a table of tables; none where it is not there."""
        found: Mapping[str, Any] = self._take(name, {}, lambda found: isinstance(found, dict), "a table")
        return found

    def texts(self, name: str) -> list[str]:
        """Take a list of texts; none where it is not there."""
        found: list[str] = self._take(
            name,
            [],
            lambda found: isinstance(found, list) and all(isinstance(one, str) and one for one in found),
            "a list of texts",
        )
        return found

    def anything(self, name: str) -> Any:
        """Take what is there; None where it is not."""
        return self._left.pop(name, None)

    def one_of(self, name: str, among: Collection[str]) -> str:
        """Take one of some words."""
        return str(self._take(name, None, lambda found: found in among, f"one of {', '.join(among)}"))

    def end(self) -> None:
        """See that nothing is left. Raises ValueError."""
        if self._left:
            raise ValueError(f"{self.where}: {printable(repr(min(self._left)), 80)} is nothing that is read here")

    def _take(self, name: str, default: Any, fits: Any, words: str) -> Any:
        found = self._left.pop(name, default)
        if found is None:
            raise ValueError(f"{self.where}: expected {name}, {words}, found none")
        if not fits(found):
            raise ValueError(f"{self.where}: {name}: expected {words}, found {printable(repr(found), 80)}")
        return found
