"""sqlite-utils upserts rows into the table that ours go to. Run by the Python of its own environment.

python -m tests.benchmarks.peers.with_sqlite_utils DATABASE ROWS

What ``sqlite-utils upsert DATABASE request ROWS --nl --pk id`` does, without the time that its command needs to
start. Our durability is set here too: a write-ahead log, synced at each commit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sqlite_utils

from tests.benchmarks.measuring import Clock, answer


def main() -> None:
    """Upsert the rows and say what it took."""
    file, rows = sys.argv[1:]
    database = sqlite_utils.Database(file)
    database.execute("PRAGMA foreign_keys = ON")
    table = database.table("request")
    before = table.count
    with Path(rows).open("rb") as lines, Clock() as clock:
        table.upsert_all(map(json.loads, lines), pk="id")
    database.close()
    answer(clock, sqlite_utils.Database(file).table("request").count - before)


if __name__ == "__main__":
    main()
