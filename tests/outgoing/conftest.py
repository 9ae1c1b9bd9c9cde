"""The way out: two sides of the shop."""

from __future__ import annotations

from tests.crossing.conftest import alike, link, postgresql_link, small

__all__ = ["alike", "link", "postgresql_link", "small"]
