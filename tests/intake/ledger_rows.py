"""Rows of the ledger of people's files, as tests need them that load none."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.engine import now
from exchange.database.tables import IntakeState, intake, intake_part


def add_file(connection: Connection, state: IntakeState, **given: Any) -> int:
    """Write a file down as it is in a state; give its number."""
    usual = {"state": state, "intake": "people", "stream": "user", "who": "ada", "format": "{}", "terms": "{}"}
    row = _filled(intake, {**usual, "created_at": now(), "updated_at": now(), **given})
    number: int = connection.execute(sa.insert(intake).returning(intake.c.id), row).scalar_one()
    return number


def add_part(connection: Connection, file: int, number: int, start: int, position: int, stop: int | None) -> None:
    """Write a part of a file down; it is done if it has come to its end."""
    done: datetime | None = now() if position == stop else None
    row = {"intake": file, "number": number, "start": start, "position": position, "stop": stop, "done_at": done}
    connection.execute(sa.insert(intake_part), _filled(intake_part, row))


def _filled(table: sa.Table, given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the table has not, and give what it must have."""
    needed = {
        one.name: "" if isinstance(one.type, (sa.Text, sa.String)) else 1
        for one in table.c
        if not one.nullable and one.server_default is None and one.name != "id"
    }
    return {name: value for name, value in {**needed, **given}.items() if name in table.c}
