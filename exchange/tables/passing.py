"""Triggers of the application's made to pass what the exchange writes, so that received rows stay as they were sent."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.dialects import dialect_of
from exchange.tables.capture.sql import TableName, identifier, run

_ON_POSTGRESQL = "coalesce(current_setting('exchange.importing', true), '') = ''"
_AS_KEPT = "(COALESCE(current_setting('exchange.importing'::text, true), ''::text) = ''::text)"
"""The same as PostgreSQL gives it back."""

_ON_SQLITE = "WHEN NOT EXISTS (SELECT 1 FROM exchange_importing)"


def let_pass(connection: Connection, table: str, trigger: str, schema: str | None = None) -> bool:
    """Have a trigger not fire for what the exchange writes; say whether it was changed. One that is not there is left.

    Runs in the caller's transaction, and locks the table until it ends.
    """
    definition = _definition(connection, TableName(table, schema), trigger)
    return _replace(connection, trigger, passing(definition) if definition else "")


def fire_again(connection: Connection, table: str, trigger: str, schema: str | None = None) -> bool:
    """Undo ``let_pass``; say whether anything was changed."""
    definition = _definition(connection, TableName(table, schema), trigger)
    return _replace(connection, trigger, _as_before(definition) if definition else "")


def passing(definition: str) -> str:
    """Write a trigger's definition so that it does not fire for what the exchange writes; empty where it can't be.

    Nor where it does so already. On SQLite one that has a condition of its own is left to a person.
    """
    if "exchange.importing" in definition or "exchange_importing" in definition:
        return ""
    at = re.search(r" EXECUTE (?:FUNCTION|PROCEDURE) ", definition)
    if at is not None:
        head, tail = definition[: at.start()], definition[at.start() :]
        when = re.search(r" WHEN \((.*)\)$", head, re.DOTALL)
        head = f"{head[: when.start()]} WHEN (({when[1]}) AND " if when else f"{head} WHEN ("
        return f"{head}{_ON_POSTGRESQL}){tail}"
    at = re.search(r"\sBEGIN\b", definition, re.IGNORECASE)
    if at is None or re.search(r"\sWHEN\s", definition[: at.start()], re.IGNORECASE):
        return ""
    return f"{definition[: at.start()]} {_ON_SQLITE}{definition[at.start() :]}"


def _as_before(definition: str) -> str:
    for added in (f" AND {_AS_KEPT}", f" WHEN ({_AS_KEPT})", f" {_ON_SQLITE}"):
        if added in definition:
            return definition.replace(added, "", 1)
    return ""


_TRIGGER = sa.text(
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE tgrelid = to_regclass(:name) AND tgname = :trigger AND NOT tgisinternal"
)
_OF_SQLITE = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND lower(name) = lower(:trigger)")


def _definition(connection: Connection, table: TableName, trigger: str) -> str | None:
    if dialect_of(connection).is_postgresql:
        found = connection.scalar(_TRIGGER, {"name": str(table), "trigger": trigger})
    else:
        found = connection.scalar(_OF_SQLITE, {"trigger": trigger})
    return None if found is None else str(found)


def _replace(connection: Connection, trigger: str, definition: str) -> bool:
    if not definition:
        return False
    if dialect_of(connection).is_postgresql:
        run(connection, definition.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1))
    else:
        run(connection, f"DROP TRIGGER {identifier(trigger)}")
        run(connection, definition)
    return True
