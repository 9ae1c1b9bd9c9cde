"""What this side asks of the other one: told until it came."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import now
from exchange.models import RepairState, repair


def request(connection: Connection, *, channel: str, want: str, prune: bool = False, reason: str, who: str) -> str:
    """Ask for a snapshot of an incoming channel; give the request's name."""
    name = f"{channel}-{secrets.token_hex(8)}"
    words = {"prune": int(prune), "reason": reason, "who": who, "state": RepairState.OPEN}
    connection.execute(sa.insert(repair).values(name=name, channel=channel, want=want, asked_at=now(), **words))
    return name
