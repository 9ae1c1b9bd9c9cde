"""What the handler ``http`` may ask of its service: methods and paths, each with what may stand in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.format.errors import printable
from exchange.reference.handler_files import MOST_ANSWER_BYTES, Table, read_toml
from exchange.reference.handlers import Refused

METHODS = ("GET", "POST")
MOST_TRIES = 100

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,199}")
"""What may stand for a name of a path: no dot, underscore or star at its front, nothing that is encoded."""
_WRITTEN = re.compile(r"[A-Za-z0-9._~-]+")
_NAME = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")
_OURS = frozenset(
    (
        *("host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "te"),
        *(
            "authorization",
            "proxy-authorization",
            "accept",
            "accept-encoding",
            "expect",
            "upgrade",
            "trailer",
            "cookie",
        ),
    )
)
"""Headers that no file gives: the handler writes them itself, or they would change what the service reads."""


@dataclass(frozen=True)
class Allowed:
    """One method and path that may be asked: a part in braces is any name, or one of those that are listed."""

    method: str
    parts: tuple[str, ...]
    among: Mapping[str, tuple[str, ...]]
    parameters: frozenset[str]
    """What may be said behind a ``?``: GET alone has it."""

    def fits(self, method: str, parts: list[str]) -> bool:
        """Say whether this is what is asked."""
        return (
            method == self.method
            and len(parts) == len(self.parts)
            and all(self._fits(own, part) for own, part in zip(self.parts, parts, strict=True))
        )

    def _fits(self, own: str, part: str) -> bool:
        named = _NAME.fullmatch(own)
        if named is None:
            return own == part
        if not _PART.fullmatch(part):
            return False
        among = self.among.get(named[1])
        return among is None or any(part.startswith(one[:-1]) if one.endswith("*") else part == one for one in among)

    def __str__(self) -> str:
        return f"{self.method} /{'/'.join(self.parts)}"


@dataclass(frozen=True)
class Service:
    """What may be asked of the service, and how much of it."""

    paths: tuple[Allowed, ...]
    headers: Mapping[str, str]
    seconds: float
    request_bytes: int
    bytes: int
    tries: int

    def find(self, asked: str) -> tuple[Allowed, str]:
        """Give what may be asked so, and its path as it is sent. Raises Refused.

        Nothing is decoded or normalised: a path that is not in its one plain form is no path here.
        """
        method, _, path = asked.partition(" ")
        parts = path.removeprefix("/").split("/")
        plain = path.startswith("/") and all(_WRITTEN.fullmatch(one) and one.strip(".") for one in parts)
        for one in self.paths if plain else ():
            if one.fits(method, parts):
                return one, path
        allowed = ", ".join(map(str, self.paths))
        raise Refused(f"{printable(repr(asked), 120)} may not be asked of the service, only {allowed}")


def read_service(file: Path, most_seconds: float) -> Service:
    """Read what a file allows. Raises ValueError with one sentence."""
    table = Table(file.name, read_toml(file))
    listed = table.anything("allow")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{file.name}: expected a table [[allow]] for each path that may be asked, found none")
    found = Service(
        tuple(_path(f"{file.name}: [[allow]] {number}", one) for number, one in enumerate(listed, 1)),
        _headers(file.name, table.tables("headers")),
        table.seconds("seconds", min(10.0, most_seconds / 2), most_seconds),
        table.whole("request_bytes", 100_000, 1, MOST_ANSWER_BYTES),
        table.whole("bytes", 500_000, 1, MOST_ANSWER_BYTES),
        table.whole("tries", 10, 1, MOST_TRIES),
    )
    table.end()
    return found


def _path(where: str, members: object) -> Allowed:
    table = Table(where, members)
    method, path = table.one_of("method", METHODS), table.text("path")
    parts = tuple(path.removeprefix("/").split("/"))
    if not path.startswith("/") or not all(
        _NAME.fullmatch(one) or (_WRITTEN.fullmatch(one) and one.strip(".")) for one in parts
    ):
        raise ValueError(
            f"{where}: path: expected a plain one such as /readings/_search or /{{index}}/_search, found"
            f" {printable(repr(path), 120)}"
        )
    names = {named[1] for one in parts if (named := _NAME.fullmatch(one))}
    among = {name: _among(where, name, one) for name, one in table.tables("among").items()}
    if stray := among.keys() - names:
        raise ValueError(f"{where}: among: {printable(repr(min(stray)), 80)} is no part of {path} in braces")
    parameters = frozenset(table.texts("parameters"))
    if parameters and method != "GET":
        raise ValueError(f"{where}: parameters: those of a {method} are its body; only a GET has a list of them")
    table.end()
    return Allowed(method, parts, among, parameters)


def _among(where: str, name: str, listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(
        isinstance(one, str) and (_PART.fullmatch(one) or _PART.fullmatch(one.removesuffix("*"))) for one in listed
    ):
        raise ValueError(
            f"{where}: among.{printable(name)}: expected a list of names, each whole or with a * at its end, found"
            f" {printable(repr(listed), 80)}"
        )
    return tuple(listed)


def _headers(where: str, written: Mapping[str, Any]) -> Mapping[str, str]:
    for name, value in written.items():
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            raise ValueError(f"{where}: headers: {printable(repr(name), 80)} is none that a file may give")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(f"{where}: headers.{name}: expected a text of printable ASCII")
    return written
