"""Snapshots as they arrive: what is done when the last part has come."""

from __future__ import annotations

from sqlalchemy import Connection

from exchange.arrivals import Arrival
from exchange.site import Site


def conclude(site: Site, connection: Connection, arrival: Arrival) -> None:
    """Remove what the sender no longer has, once all of a snapshot has come."""
