"""Which dead letters a person means: what they have in common, as far as it was said."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.tables import DeadLetterState, Direction, dead_letter, selected


@dataclass(frozen=True)
class Filters:
    """A letter is meant if everything that is given is true of it.

    ``channels`` are names in the files, of which a channel in shards has many; ``keys`` the texts that one key may have
    been kept as (see ``key_texts``); ``since`` and ``until`` are about when it was parked, ``since`` included; ``text``
    is looked for in the message, in whichever case; ``selection`` is the name of one; ``intake`` the id of a file of
    people that they are rows of.
    """

    state: DeadLetterState | None = None
    channels: tuple[str, ...] = ()
    stream: str | None = None
    direction: Direction | None = None
    error: str | None = None
    fingerprint: str | None = None
    batch: str | None = None
    keys: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    selection: str | None = None
    intake: int | None = None

    @property
    def given(self) -> bool:
        """Say whether anything but a state is asked for."""
        return self != type(self)(state=self.state)

    @property
    def states(self) -> tuple[DeadLetterState, ...]:
        """The states that are meant."""
        return (self.state,) if self.state else tuple(DeadLetterState)

    def where(self, letters: sa.FromClause = dead_letter) -> list[sa.ColumnElement[bool]]:
        """Write all of it as conditions on the table of letters."""
        state = [] if self.state is None else [letters.c.state == self.state]
        return [*state, *self.of_group(letters), *self.of_time(letters), *self.of_letter(letters)]

    def of_group(self, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write what letters of one fingerprint have in common."""
        names = ("stream", "direction", "error", "fingerprint")
        channels = [letters.c.channel.in_(self.channels)] if self.channels else []
        return channels + [letters.c[name] == getattr(self, name) for name in names if getattr(self, name) is not None]

    def of_time(self, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write when they were parked."""
        conditions = []
        if self.since is not None:
            conditions.append(letters.c.created_at >= self.since)
        if self.until is not None:
            conditions.append(letters.c.created_at < self.until)
        return conditions

    def of_letter(self, letters: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """Write what each letter has for itself."""
        conditions = []
        if self.batch is not None:
            conditions.append(letters.c.batch == self.batch)
        if self.intake is not None:
            conditions.append(letters.c.intake == self.intake)
        if self.keys:
            conditions.append(letters.c.key.in_(self.keys))
        if self.text is not None:
            conditions.append(letters.c.message.icontains(self.text, autoescape=True))
        if self.selection is not None:
            chosen = sa.select(selected.c.letter).where(selected.c.selection == self.selection)
            conditions.append(letters.c.id.in_(chosen))
        return conditions

    def only(self, *names: str) -> Self:
        """Give the same without everything but ``names``."""
        return type(self)(**{name: getattr(self, name) for name in names})

    def as_dict(self) -> dict[str, Any]:
        """Give what is said, as JSON has it; ``parse`` reads it back."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in said.items()}

    @classmethod
    def parse(cls, said: dict[str, Any]) -> Self:
        """Read what ``as_dict`` gave. Raises ValueError, KeyError or TypeError for anything else."""
        readers: dict[str, Any] = {
            "state": DeadLetterState,
            "direction": Direction,
            "channels": tuple,
            "keys": tuple,
            "intake": int,
            "since": datetime.fromisoformat,
            "until": datetime.fromisoformat,
        }
        return cls(**{name: readers.get(name, str)(value) for name, value in said.items()})


def key_texts(text: str, channels: Iterable[Channel], streams: Collection[str] = ()) -> tuple[str, ...]:
    """Say how letters may have kept the key that a person wrote as ``text``: a JSON object, or its only value.

    Only keys of ``streams`` are considered if they are given. Records have a key in the format's way, captured
    changes in their database's.
    """
    declared = [one for channel in channels for one in channel.streams if not streams or one.name in streams]
    return tuple(
        dict.fromkeys(
            written
            for key in _keys(text, declared)
            for written in (
                json.dumps(key, separators=(",", ":"), ensure_ascii=False),
                json.dumps(key, separators=(", ", " : "), ensure_ascii=False),
            )
        )
    ) or (text,)


def _keys(text: str, streams: Iterable[Stream]) -> Iterator[dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for stream in streams:
        names = stream.key_names
        if isinstance(value, dict):
            if value.keys() == set(names):
                yield {name: value[name] for name in names}
        elif len(names) == 1:
            yield {names[0]: text}
            yield {names[0]: value}
    if isinstance(value, dict):
        yield value
