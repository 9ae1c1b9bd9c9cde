"""The bytes of a database's own file behind what was removed from its tables, as far as we have a say in them.

SQLite leaves them where they were unless it is told otherwise. PostgreSQL keeps them until its next VACUUM, and in its
log until that is gone: its administrator's.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from exchange.database.dialects import dialect_of


def enable_secure_delete(connection: Connection) -> None:
    """Have SQLite overwrite what this connection removes from now on."""
    if dialect_of(connection).is_sqlite:
        connection.exec_driver_sql("PRAGMA secure_delete = ON")


def write_back(engine: Engine) -> None:
    """Have SQLite write its log back into the file and empty it, if nobody reads just now: else its next one does."""
    if not dialect_of(engine).is_sqlite:
        return
    driver = engine.raw_connection()
    try:
        driver.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        driver.close()
