"""The way in: the receiving side, and somebody who writes batches by hand."""

from __future__ import annotations

from tests.crossing.conftest import forger, link, quick_forger, quick_receiver, receiver, small

__all__ = ["forger", "link", "quick_forger", "quick_receiver", "receiver", "small"]
