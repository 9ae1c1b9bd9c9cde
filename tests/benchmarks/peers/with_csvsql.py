"""csvkit's ``csvsql`` loads a file of CSV into the very table that ours goes to. Run by its own environment's Python.

python -m tests.benchmarks.peers.with_csvsql URL FILE FOLDER

What ``csvsql --db URL --insert --no-create --tables reading FILE`` does, types found out as by default, without the
time that its command needs to start.
"""

from __future__ import annotations

import sys

import sqlalchemy as sa
from csvkit.utilities.csvsql import CSVSQL

from tests.benchmarks.measuring import Clock, answer


def main() -> None:
    """Load the file and say what it took."""
    url, file, _ = sys.argv[1:]
    url = url.replace("postgresql:", "postgresql+psycopg:")
    with Clock() as clock:
        CSVSQL(["--db", url, "--insert", "--no-create", "--tables", "reading", file]).run()
    with sa.create_engine(url).connect() as connection:
        answer(clock, connection.execute(sa.text("SELECT count(*) FROM reading")).scalar_one())


if __name__ == "__main__":
    main()
