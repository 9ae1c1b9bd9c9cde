"""What a channel shall send beside changes: asked for here, sent by the exporter."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database import now, whoami
from exchange.models import ResyncState, resync


def ask(
    connection: Connection, *, channel: str, want: str, prune: bool = False, reason: str, who: str | None = None
) -> bool:
    """Have a snapshot of a channel sent; False if it is asked for already."""
    wish = {"channel": channel, "want": want, "prune": int(prune)}
    same = [resync.c[name] == value for name, value in wish.items()]
    if connection.scalar(sa.select(sa.exists().where(resync.c.state == ResyncState.ASKED, *same))):
        return False
    row = {**wish, "reason": reason, "who": who or whoami(), "state": ResyncState.ASKED}
    connection.execute(sa.insert(resync).values(**row, created_at=now(), updated_at=now()))
    return True
