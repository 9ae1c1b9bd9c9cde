"""Folders of the receiving side."""

from __future__ import annotations

from tests.crossing.conftest import link, small

__all__ = ["link", "small"]
