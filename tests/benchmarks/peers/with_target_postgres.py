"""Meltano's target-postgres takes Singer messages into PostgreSQL. Run by the Python of its own environment.

python -m tests.benchmarks.peers.with_target_postgres URL MESSAGES

The target listens to a file as it would to its standard input, without the second that its command needs to
start. ``use_copy``, which its documentation calls faster, is on; everything else is as by default.
"""

from __future__ import annotations

import sys
from pathlib import Path

from target_postgres.target import TargetPostgres

from tests.benchmarks.measuring import Clock, answer


def main() -> None:
    """Load the messages and say what it took."""
    url, file = sys.argv[1:]
    config = {"sqlalchemy_url": url, "default_target_schema": "bench", "load_method": "upsert", "use_copy": True}
    with Path(file).open() as messages, Clock() as clock:
        TargetPostgres(config=config).listen(messages)
    with Path(file).open() as messages:
        answer(clock, sum(line.startswith('{"type":"RECORD"') for line in messages))


if __name__ == "__main__":
    main()
