"""What a row of the API's table is made of: a method, a path, what may be said, what is called, and who may ask it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from exchange.api import Exchange, RefusedArgument
from exchange.api.asked import moment, one_of, quoted

Call = Callable[..., Any]
"""Takes this side in the name of whoever asks, and the fields by their names."""

MOST = 500
"""So many are given of a list at a time."""
LARGEST = 2**63 - 1
MOST_BODY_BYTES = 64 * 1024
"""So much is said in a body, unless a row of the table says otherwise."""


class Kind(StrEnum):
    """What a field holds, by the words that JSON schema has for it."""

    TEXT = "string"
    NUMBER = "integer"
    SHARE = "number"
    TRUTH = "boolean"
    MOMENT = "date-time"
    TEXTS = "array of string"
    NUMBERS = "array of integer"
    OBJECT = "object"


@dataclass(frozen=True)
class Field:
    """Something that may be said: in the path, in the query of what is looked at, or in the body of what is done."""

    name: str
    says: str
    kind: Kind = Kind.TEXT
    needed: bool = False
    among: type[StrEnum] | None = None
    most: int = LARGEST

    def read(self, said: Any) -> Any:
        """Read what JSON has for it. Raises RefusedArgument."""
        if self.kind is Kind.TEXT and isinstance(said, str):
            return one_of(self.name, said, self.among) if self.among else self._text(said)
        if self.kind is Kind.MOMENT and isinstance(said, str):
            return moment(self.name, said)
        if self.kind is Kind.TEXTS and isinstance(said, list) and all(isinstance(one, str) for one in said):
            return [self._text(one) for one in said]
        if self._holds(said):
            return said
        raise RefusedArgument(f"{self.name}: expected {self.expected}, found {quoted(str(said))}")

    def _holds(self, said: Any) -> bool:
        match self.kind:
            case Kind.TRUTH:
                return isinstance(said, bool)
            case Kind.NUMBER:
                return type(said) is int and 0 <= said <= self.most
            case Kind.SHARE:
                return type(said) in {int, float} and 0 < said <= self.most
            case Kind.NUMBERS:
                return isinstance(said, list) and all(type(one) is int and 0 < one <= LARGEST for one in said)
        return self.kind is Kind.OBJECT and isinstance(said, dict)

    def read_text(self, said: str) -> Any:
        """Read what an address has for it. Raises RefusedArgument."""
        match self.kind:
            case Kind.NUMBER if said.isascii() and said.isdecimal() and len(said) <= len(str(LARGEST)):
                return self.read(int(said))
            case Kind.TRUTH if said in {"true", "false"}:
                return said == "true"
            case Kind.TEXT | Kind.MOMENT:
                return self.read(said)
        raise RefusedArgument(f"{self.name}: expected {self.expected}, found {quoted(said)}")

    @property
    def expected(self) -> str:
        """Say in words what it takes."""
        if self.kind is Kind.NUMBER and self.most < LARGEST:
            return f"a whole number up to {self.most}"
        return {
            Kind.TEXT: "a text",
            Kind.NUMBER: "a whole number",
            Kind.SHARE: "a number above 0",
            Kind.TRUTH: "true or false",
            Kind.MOMENT: "a moment such as 2026-11-22T06:15 or 3h",
            Kind.TEXTS: "a list of texts",
            Kind.NUMBERS: "a list of whole numbers",
            Kind.OBJECT: "an object",
        }[self.kind]

    def _text(self, said: str) -> str:
        if "\0" in said or not said.strip():
            raise RefusedArgument(f"{self.name}: expected a text, found {quoted(said)}")
        return said


@dataclass(frozen=True)
class Endpoint:
    """One thing that may be asked. ``action`` is its name in the audit, by which roles are told; None to look.

    A path has its fields in braces. ``lines`` says that the answer is JSON lines, as long as it takes. With a ``scope``
    users of the directory and programs with a key ask it, not who looks after the side: then, and of what is asked
    ``by_anybody``, ``call`` takes an ``Asked``. ``status`` is that of what was done, ``most_bytes`` bound a body. One
    that ``receives_lines`` is answered while its body comes: it has a scope, ``streams:`` of any or of ``{stream}``.
    One that ``recognises`` finds out by itself who asks, along with what is asked; one that ``takes_password`` costs so
    much that few are answered at once.
    """

    method: str
    path: str
    says: str
    call: Call
    fields: tuple[Field, ...] = ()
    action: str | None = None
    lines: bool = False
    scope: str = ""
    by_anybody: bool = False
    recognises: bool = False
    takes_password: bool = False
    status: int = 200
    most_bytes: int = MOST_BODY_BYTES
    receives_lines: bool = False

    @property
    def asks_in_address(self) -> bool:
        """Whether its fields stand in the address: its body is none, or lines."""
        return self.method == "GET" or self.receives_lines

    @property
    def is_of_the_door(self) -> bool:
        """Whether requesters ask it."""
        return bool(self.scope) or self.by_anybody

    @property
    def name(self) -> str:
        """Name it for programs: from the method and the path."""
        words = re.findall(r"[a-z]+", self.path)
        return "_".join([{"GET": "get", "POST": "post", "DELETE": "delete"}[self.method], *words])

    @property
    def in_path(self) -> frozenset[str]:
        """Name the fields that stand in the path."""
        return frozenset(re.findall(r"{([a-z_]+)}", self.path))

    def read(self, path: Mapping[str, str], query: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, Any]:
        """Read what was said, each field once. Raises RefusedArgument."""
        known = {one.name: one for one in self.fields}
        elsewhere = query if self.asks_in_address else body
        if stray := sorted((elsewhere.keys() | (set() if self.asks_in_address else query.keys())) - known.keys()):
            listed = ", ".join(sorted(known.keys() - self.in_path)) or "nothing"
            raise RefusedArgument(f"{quoted(stray[0])}: nothing is called so, expected {listed}; nothing was done")
        found: dict[str, Any] = {}
        for name, one in known.items():
            if name in self.in_path:
                found[name] = one.read_text(path[name])
            elif name in elsewhere and elsewhere[name] is not None:
                said = elsewhere[name]
                found[name] = one.read_text(str(said)) if self.asks_in_address else one.read(said)
            elif one.needed:
                raise RefusedArgument(f"{name}: expected {one.expected}, found nothing; nothing was done")
        return found

    def ask(self, exchange: Exchange, said: dict[str, Any]) -> Any:
        """Ask it of this side."""
        return self.call(exchange, **said)


def moments(*names: str) -> tuple[Field, ...]:
    """Give the fields of a span of time."""
    says = {"since": "only from then on", "until": "only before then"}
    return tuple(Field(name, says[name], Kind.MOMENT) for name in names)


AFTER = Field("after", "where the page before ended, as it says")
AFTER_ID = Field("after", "where the page before ended, as it says", Kind.NUMBER)
LIMIT = Field("limit", f"so many at most (default: 50, at most {MOST})", Kind.NUMBER, most=MOST)
REASON = Field("reason", "why, for the audit")
WHY = Field("reason", "why, for the audit", needed=True)
