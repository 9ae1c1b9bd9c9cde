"""What a trusted key may sign: from when on, until when, and for which channels.

The receiver sets it and keeps it beside the key. No file that arrives has a say in it, nor has any moment that such a
file names: who stole a key writes whatever date he likes. What counts is when the receiver itself first saw a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from exchange.format import strict_json
from exchange.format.errors import RecordError, described, printable
from exchange.format.manifest import Manifest
from exchange.format.moments import from_rfc3339, in_words
from exchange.format.names import NAME

MAX_TERMS_BYTES: Final = 65_536
_MEMBERS: Final = ("not_before", "not_after", "channels")


@dataclass(frozen=True)
class Terms:
    """The limits of one key; None is no limit. Both moments belong to its time.

    ``channels`` are named as they are declared, which means all shards, or one shard by its own name.
    """

    not_before: datetime | None = None
    not_after: datetime | None = None
    channels: frozenset[str] | None = None

    def __post_init__(self) -> None:
        """Refuse, with ``ValueError``, limits that no batch could keep, and a moment without a zone."""
        for name, moment in (("not_before", self.not_before), ("not_after", self.not_after)):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name}: expected a moment with its zone, found one without")
        if self.not_before and self.not_after and self.not_after < self.not_before:
            raise ValueError(
                f"not_after: expected a moment after {in_words(self.not_before)}, found {in_words(self.not_after)}"
            )
        if self.channels is not None and not (self.channels and all(map(NAME.fullmatch, self.channels))):
            raise ValueError(
                f"channels: expected names of channels, found {printable(repr(sorted(self.channels)), 80)}"
            )

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read what ``encode`` writes. ``ValueError`` names what is wrong; a limit that is not known is, too."""
        try:
            members = strict_json.loads(content.removesuffix(b"\n"))
        except RecordError as error:
            raise ValueError(error.sentence) from error
        if not isinstance(members, dict):
            raise ValueError(f"expected an object, found {described(members)}")  # noqa: TRY004 - a wrong file, not a wrong type
        for name in members.keys() - set(_MEMBERS):
            raise ValueError(f"expected {', '.join(_MEMBERS)} and no other limits, found {printable(name, 80)}")
        return cls(
            _moment("not_before", members.get("not_before")),
            _moment("not_after", members.get("not_after")),
            _channels(members.get("channels")),
        )

    def encode(self) -> bytes:
        """Write the limits as the file beside a key holds them."""
        return strict_json.dumps(self.as_dict()) + b"\n"

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "not_before": self.not_before.astimezone(UTC).isoformat() if self.not_before else None,
            "not_after": self.not_after.astimezone(UTC).isoformat() if self.not_after else None,
            "channels": sorted(self.channels) if self.channels is not None else None,
        }

    def __str__(self) -> str:
        """Say the limits to people; nothing if there are none."""
        said = [f"from {in_words(self.not_before)}"] if self.not_before else []
        said += [f"until {in_words(self.not_after)}"] if self.not_after else []
        said += [f"for {', '.join(sorted(self.channels))}"] if self.channels is not None else []
        return " ".join(said)

    def in_force(self, at: datetime) -> bool:
        """Tell whether a moment is within the key's time."""
        return not (self.not_before and at < self.not_before) and not (self.not_after and at > self.not_after)

    def allow(self, manifest: Manifest) -> bool:
        """Tell whether a batch is of a channel that the key may sign for."""
        if self.channels is None:
            return True
        declared = manifest.channel.rpartition("_")[0] if manifest.shards > 1 else manifest.channel
        return not self.channels.isdisjoint({manifest.channel, declared})


NO_LIMITS: Final = Terms()


def _moment(name: str, value: object) -> datetime | None:
    try:
        return None if value is None else from_rfc3339(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected a moment as 2027-01-31T12:00:00+00:00, found {described(value)}") from error


def _channels(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"channels: expected an array of names, found {described(value)}")
    return frozenset(value)
