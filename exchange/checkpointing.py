"""Placeholder: replaced by its owner."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from exchange.changes import Sealed
from exchange.channels import Channel
from exchange.site import Site


def seal(site: Site, channel: Channel, row: sa.Row[Any]) -> Sealed | None:
    """Seal a checkpoint."""
    assert site.network == channel.source
    assert row.id
    return None
