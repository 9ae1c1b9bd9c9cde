"""What both directions know of the peer, on two sides or the receiving one."""

from __future__ import annotations

from tests.crossing.conftest import alike, forger, link, postgresql_link, quick_forger, quick_receiver, receiver, small

__all__ = ["alike", "forger", "link", "postgresql_link", "quick_forger", "quick_receiver", "receiver", "small"]
