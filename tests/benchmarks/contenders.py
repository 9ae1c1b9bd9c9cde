"""The peers, as contenders of the contests of imports: each set up as its documentation says, in its own tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path

from tests.benchmarks.bars import Bar, not_measured, rates
from tests.benchmarks.measuring import Measured, Series, Step
from tests.benchmarks.workshop import Workshop

Contender = Callable[[], Measured]

OURS = "exchange"
DLT, DLT_TUNED, TARGET = "dlt merge", "dlt merge, tuned", "target-postgres"
SQLITE_UTILS = "sqlite-utils upsert"

_ENVIRONMENT = {DLT: "dlt", DLT_TUNED: "dlt", TARGET: "target-postgres", SQLITE_UTILS: "sqlite-utils"}
_DLT_SETTINGS = {DLT: ("delete-insert", "insert_values"), DLT_TUNED: ("upsert", "csv")}

_COLUMN_TYPES = {"user_id": "integer", "priority": "integer", "parameters": "object"}
_DATE_TIMES = ("created_at", "updated_at")


def postgres_peers(shop: Workshop, rows: Path, *, before: Path | None = None) -> dict[str, Contender]:
    """Give the peers that load rows into PostgreSQL, into what they made of other rows before if given."""
    peers: dict[str, Contender] = {}
    for name in (DLT, DLT_TUNED, TARGET):
        if (python := shop.environments.python(_ENVIRONMENT[name])) is not None:
            load = partial(_load, shop, name, python)
            original = cache(partial(_prepared, shop, load, before))
            peers[name] = partial(_contend, shop, load, original, rows)
    return peers


def sqlite_peers(shop: Workshop, rows: Path) -> dict[str, Contender]:
    """Give the peers that load rows into SQLite: into the very table that ours go to."""
    python = shop.environments.python(_ENVIRONMENT[SQLITE_UTILS])
    if python is None:
        return {}

    def upsert(url: str) -> Measured:
        return Step(
            "tests.benchmarks.peers.with_sqlite_utils", (url.removeprefix("sqlite:///"), str(rows)), python
        ).run()

    return {SQLITE_UTILS: lambda: shop.in_copy(shop.empty("response", "sqlite"), upsert)}


def against(shop: Workshop, say: str, peers: Iterable[str], series: Mapping[str, Series]) -> tuple[Bar, ...]:
    """Compare our rate with each peer's, without a goal; one that is not there is said to be missing."""
    return tuple(
        rates(say + name, None, series[OURS], series[name])
        if name in series
        else not_measured(say + name, None, shop.environments.missing[_ENVIRONMENT[name]])
        for name in peers
    )


def _prepared(shop: Workshop, load: Callable[[str, Path], Measured], before: Path | None) -> str:
    url = shop.new_database()
    if before is not None:
        load(url, before)
    return url


def _contend(
    shop: Workshop, load: Callable[[str, Path], Measured], original: Callable[[], str], rows: Path
) -> Measured:
    return shop.in_copy(original(), lambda url: load(url, rows))


def _load(shop: Workshop, name: str, python: Path, url: str, rows: Path) -> Measured:
    if name == TARGET:
        sqlalchemy_url = url.replace("postgresql:", "postgresql+psycopg:")
        messages = str(_singer_messages(rows))
        return Step("tests.benchmarks.peers.with_target_postgres", (sqlalchemy_url, messages), python).run()
    # dlt asks for a password, though the server does not; it keeps its state in the database and below a folder.
    words = (url.replace("@", ":none@"), str(rows), str(shop.path()), *_DLT_SETTINGS[name])
    environment = os.environ | {"DLT_DATA_DIR": str(shop.path()), "RUNTIME__DLTHUB_TELEMETRY": "false"}
    return Step("tests.benchmarks.peers.with_dlt", words, python, environment).run()


@cache
def _singer_messages(rows: Path) -> Path:
    """Write rows as a Singer tap does: a schema, then a record a line."""
    file = rows.with_suffix(".singer")
    with rows.open() as lines, file.open("w") as out:
        first = lines.readline()
        columns = {name: {"type": _COLUMN_TYPES.get(name, "string")} for name in json.loads(first)}
        moments = {name: {"type": "string", "format": "date-time"} for name in _DATE_TIMES}
        schema = {"type": "object", "properties": columns | moments}
        message = {"type": "SCHEMA", "stream": "request", "key_properties": ["id"], "schema": schema}
        out.write(json.dumps(message) + "\n")
        for line in (first, *lines):
            out.write('{"type":"RECORD","stream":"request","record":' + line.rstrip("\n") + "}\n")
    return file
