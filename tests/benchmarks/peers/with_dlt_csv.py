"""dlt appends the rows of a file of CSV to a table of its own. Run by the Python of dlt's own environment.

python -m tests.benchmarks.peers.with_dlt_csv URL FILE FOLDER

As its documentation says: a resource that yields pages of dicts, ``write_disposition`` append, types as hints.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import dlt

from tests.benchmarks.measuring import Clock, answer

PAGE = 5_000
TYPES = {"id": "bigint", "machine_id": "bigint", "taken_at": "timestamp", "celsius": "decimal"}


def readings(file: Path) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of a file in pages."""
    with file.open(newline="") as lines:
        rows = csv.DictReader(lines)
        while page := [*islice(rows, PAGE)]:
            yield page


def main() -> None:
    """Append the rows and say what it took."""
    url, file, folder = sys.argv[1:]
    columns = {name: {"data_type": kind} for name, kind in TYPES.items()}
    resource = dlt.resource(readings(Path(file)), name="reading", write_disposition="append", columns=columns)
    pipeline = dlt.pipeline(
        "bench", pipelines_dir=folder, destination=dlt.destinations.postgres(url), dataset_name="bench"
    )
    with Clock() as clock:
        pipeline.run(resource).raise_on_failed_jobs()
    with pipeline.sql_client() as client:
        answer(clock, client.execute_sql("SELECT count(*) FROM reading")[0][0])


if __name__ == "__main__":
    main()
