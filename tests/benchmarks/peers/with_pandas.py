"""pandas loads a file of CSV into the very table that ours goes to. Run by the Python of its own environment.

python -m tests.benchmarks.peers.with_pandas URL FILE FOLDER

As its documentation says: ``read_csv`` in pieces, so that memory is bounded, and ``to_sql`` that appends, with
``method="multi"`` left out, which was slower.
"""

from __future__ import annotations

import sys

import pandas as pd
import sqlalchemy as sa

from tests.benchmarks.measuring import Clock, answer

PIECE = 50_000


def main() -> None:
    """Load the file and say what it took."""
    url, file, _ = sys.argv[1:]
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect():
        pass
    with Clock() as clock, engine.begin() as connection:
        for piece in pd.read_csv(file, chunksize=PIECE, parse_dates=["taken_at"]):
            piece.to_sql("reading", connection, if_exists="append", index=False)
    with engine.connect() as connection:
        answer(clock, connection.execute(sa.text("SELECT count(*) FROM reading")).scalar_one())


if __name__ == "__main__":
    main()
