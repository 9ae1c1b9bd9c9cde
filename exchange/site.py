"""One side of the exchange as the workflows see it: values only, made once by a door from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from exchange.channels import Channel
from exchange.format.batch import ReadLimits
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.models import DeadLetterState
from exchange.schemas import Checker
from exchange.spool import Spool


@dataclass(frozen=True)
class Limits:
    """What this side writes at most, accepts at most, and waits at most. Sizes in bytes, times in seconds."""

    batch_records: int = 100_000
    batch_bytes: int = 64 * 1024 * 1024
    read: ReadLimits = field(default_factory=ReadLimits)
    invalid_records: int = 1_000
    invalid_share: float = 0.1
    deleted_rows: int = 1_000
    deleted_share: float = 0.5
    look_ahead: int = 10_000
    grace_seconds: float = 3600.0
    settle_seconds: float = 10.0
    crashes: int = 3
    poison_after: int = 5
    retention_days: float = 30.0
    letter_days: Mapping[DeadLetterState, float] = field(
        default_factory=lambda: {
            DeadLetterState.APPLIED: 30.0,
            DeadLetterState.SUPERSEDED: 30.0,
            DeadLetterState.DISCARDED: 90.0,
        }
    )
    """How long dead letters are kept by the state that they came to; those of any other state stay."""
    alarm_letters: int = 1_000
    alarm_days: float = 7.0


@dataclass(frozen=True)
class Site:
    """Everything a workflow needs to know of this side."""

    network: str
    peer: str
    engine: Engine
    channels: tuple[Channel, ...]
    spool: Spool
    checkers: Mapping[str, Checker]
    signing_key: SigningKey | None
    trusted: TrustedKeys
    require_signature: bool = True
    limits: Limits = field(default_factory=Limits)
    schemas: Path | None = None
    own: TrustedKeys = field(default_factory=lambda: TrustedKeys({}))
    """This side's own public keys, old ones too: what it signed once it takes back."""

    def outgoing(self) -> tuple[Channel, ...]:
        """The channels that this network writes."""
        return tuple(channel for channel in self.channels if channel.source == self.network)

    def incoming(self) -> tuple[Channel, ...]:
        """The channels that this network reads."""
        return tuple(channel for channel in self.channels if channel.target == self.network)
