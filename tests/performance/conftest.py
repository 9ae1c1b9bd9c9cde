"""The receiving side of two networks, as the tests of crossings have it."""

from __future__ import annotations

from tests.crossing.conftest import forger, quick_forger, quick_receiver, receiver

__all__ = ["forger", "quick_forger", "quick_receiver", "receiver"]
