"""What one side writes at most, accepts at most and waits at most, and what holds where nobody set anything else.

The settings name these limits and take their defaults from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exchange.database.tables import DeadLetterState
from exchange.format.batch import ReadLimits


class Held(StrEnum):
    """What a second person may be needed for."""

    RELEASE = "release"
    REJECT = "reject"
    DISCARD = "discard"
    ACCEPT_GAP = "accept_gap"
    LET_IN_VERSIONS = "let_in_versions"
    NEW_EPOCH = "new_epoch"
    ADOPT_EPOCH = "adopt_epoch"
    TRUST_KEY = "trust_key"


@dataclass(frozen=True)
class Limits:
    """The limits of one side. Sizes in bytes; times in the unit that the name says."""

    batch_records: int = 100_000
    batch_bytes: int = 64 * 1024 * 1024
    read: ReadLimits = field(default_factory=ReadLimits)
    invalid_records: int = 1_000
    invalid_share: float = 0.1
    deleted_rows: int = 1_000
    deleted_share: float = 0.5
    deleted_hours: float = 24.0
    ahead_days: float = 30.0
    look_ahead: int = 10_000
    strangers_at_once: int = 1_000
    stranger_files: int = 10_000
    stranger_bytes: int = 256 * 1024 * 1024
    grace_seconds: float = 3600.0
    settle_seconds: float = 10.0
    crashes: int = 3
    """So many attempts at a batch that crashed quarantine it; no setting changes this."""
    poison_after: int = 5
    group_letters: int = 5_000
    group_bytes: int = 16 * 1024 * 1024
    """So many dead letters, of so many bytes, are retried in one transaction: it costs little each, and little memory.
    No setting changes this, nor what follows up to ``control_records``."""
    orphans_at_once: int = 10_000
    """At so many letters of a channel a run looks that retries by itself: of more at some, other ones each time."""
    pruned_letters: int = 100_000
    """So many of each state one run lets go."""
    control_records: int = 10_000
    """So many records of a control batch are read: no side has so many channels."""
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
    gap_seconds: float = 300.0
    copies: int = 3
    copy_seconds: float = 3600.0
    snapshot_days: float = 7.0
    intake_at_once: int = 2
    intake_part_bytes: int = 64 * 1024 * 1024
    """By so many tasks files of people are loaded at once, and by parts of so many bytes."""
    intake_bad_rows: int = 100_000
    intake_bad_share: float = 0.1
    """So many rows of a file, and such a share of them, may be bad, or it is refused as a whole."""
    intake_http_bytes: int = 256 * 1024 * 1024
    intake_http_rows: int = 1_000_000
    intake_http_seconds: float = 600.0
    """What a program may send at once over HTTP, unpacked."""
    period_seconds: float = 300.0
    """How often this side gives a sign of life."""
    four_eyes: frozenset[Held] = frozenset()
    """What one person proposes and another one confirms."""
    four_eyes_discard_above: int = 0
    """So many dead letters one person discards alone."""
    four_eyes_hours: float = 72.0
    """So long a proposal waits for somebody."""
    session_idle_minutes: float = 30.0
    session_hours: float = 12.0
    """How long somebody stays signed in who does nothing, and at all."""
