"""dlt merges rows into PostgreSQL. Run by the Python of dlt's own environment.

python -m tests.benchmarks.peers.with_dlt URL ROWS FOLDER MERGE-STRATEGY LOADER-FILE-FORMAT

As its documentation says: a resource that yields pages of dicts, ``write_disposition`` merge, a primary key, and a
JSON column that stays one (no child tables). By default dlt merges on PostgreSQL by ``delete-insert`` what it loads
as ``insert_values``; of what else it offers, ``upsert`` of ``csv``, loaded by COPY, was the fastest. One normalize
worker, its default: two were slower.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt

from tests.benchmarks.measuring import Clock, answer

PAGE = 5_000


def requests(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file in pages."""
    page: list[dict[str, Any]] = []
    with file.open("rb") as lines:
        for line in lines:
            page.append(json.loads(line))
            if len(page) == PAGE:
                yield page
                page = []
    yield page


def main() -> None:
    """Merge the rows and say what it took."""
    url, rows, folder, strategy, file_format = sys.argv[1:]
    resource = dlt.resource(
        requests(Path(rows)),
        name="request",
        primary_key="id",
        write_disposition={"disposition": "merge", "strategy": strategy},
        columns={"parameters": {"data_type": "json"}},
        max_table_nesting=0,
    )
    pipeline = dlt.pipeline(
        "bench", pipelines_dir=folder, destination=dlt.destinations.postgres(url), dataset_name="bench"
    )
    with Clock() as clock:
        pipeline.run(resource, loader_file_format=file_format).raise_on_failed_jobs()
    with pipeline.sql_client() as client:
        answer(clock, client.execute_sql("SELECT count(*) FROM request")[0][0])


if __name__ == "__main__":
    main()
