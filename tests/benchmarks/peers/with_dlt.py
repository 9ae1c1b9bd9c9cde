"""dlt merges rows into PostgreSQL. Run by the Python of dlt's own environment.

python -m tests.benchmarks.peers.with_dlt URL ROWS FOLDER LOADER-FILE-FORMAT

As its documentation says: a resource that yields pages of dicts, ``write_disposition`` merge with the upsert
strategy, a primary key, no child tables (the JSON column stays one). The format ``insert_values`` is its default
for PostgreSQL; ``csv`` loads by COPY. One normalize worker: with two it was slower, as the rows are one file.
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


@dlt.resource(
    name="request",
    primary_key="id",
    write_disposition={"disposition": "merge", "strategy": "upsert"},
    columns={"parameters": {"data_type": "json"}},
    max_table_nesting=0,
)
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
    url, rows, folder, file_format = sys.argv[1:]
    pipeline = dlt.pipeline(
        "bench", pipelines_dir=folder, destination=dlt.destinations.postgres(url), dataset_name="bench"
    )
    with Clock() as clock:
        pipeline.run(requests(Path(rows)), loader_file_format=file_format).raise_on_failed_jobs()
    answer(clock, pipeline.last_trace.last_normalize_info.row_counts["request"])


if __name__ == "__main__":
    main()
