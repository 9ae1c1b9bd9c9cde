"""Who a request comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from exchange.people.roles import Person


@dataclass(frozen=True)
class Identity:
    """A person, and the token that each form of theirs carries: None where no browser sends what it is known by."""

    person: Person
    csrf: str | None


Identify = Callable[[Request], Identity | None]
"""Says who asks; None for whoever has not signed in. It may wait for the database."""


def nobody(_request: Request) -> Identity | None:
    """Know nobody: nothing is shown to anyone."""
    return None
