"""Placeholder: replaced by its owner."""

from __future__ import annotations

from collections.abc import Callable

from exchange.site import Site


def run(site: Site, stopping: Callable[[], bool]) -> None:
    """Publish again what the other side misses."""
