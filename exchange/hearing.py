"""Control batches: what the other side says of itself and of us, taken to heart."""

from __future__ import annotations

from typing import BinaryIO

from sqlalchemy import Connection

from exchange.arrivals import Arrival
from exchange.format.errors import Unsupported
from exchange.ledger import Counts
from exchange.site import Site


def hear(site: Site, connection: Connection, arrival: Arrival, data: BinaryIO) -> Counts:
    """Take what a control batch says; give how many records of it counted."""
    raise Unsupported(f"batches of kind {arrival.manifest.kind} are not known here")
