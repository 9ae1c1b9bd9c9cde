"""What came of ugly files: their rows, their letters, and what of that is not as it must be."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from exchange.database.locks import reading
from exchange.database.tables import IntakeState, dead_letter
from exchange.intake import dropped, standing
from exchange.intake.standing import DroppedFile
from exchange.site import Site
from tests.intake import ugly
from tests.intake.ugly import Ugly


def work(site: Site) -> dict[str, DroppedFile]:
    """Take in what lies in the folders until nothing is left; give the files."""
    busy = True
    while busy:
        seen = dropped.take_in(site)
        left = dropped.work_off(site, lambda: False)
        busy = bool(seen.claimed or seen.waiting or left)
    with reading(site.engine) as connection:
        found = standing.list_files(connection, limit=1000)
    return {f"{one.intake}/{one.file}": one for one in found}


def letters(site: Site) -> dict[int, dict[int, tuple[str, str]]]:
    """Give column and class of every letter, by file and line."""
    columns = dead_letter.c
    found: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    with reading(site.engine) as connection:
        for row in connection.execute(sa.select(columns.intake, columns.line, columns.pointer, columns.error)):
            found[row.intake][row.line] = (row.pointer.removeprefix("/data").removeprefix("/"), row.error)
    return found


def rows(site: Site, table: sa.Table, below: int = 2**31) -> dict[int, dict[str, Any]]:
    """Give the rows of smaller ids as records have them, by their ids."""
    (stream,) = (one for channel in site.channels for one in channel.streams if one.name == table.name)
    encode = stream.encoder(site.engine.dialect)
    selected = [stream.codecs[column.name].selected(site.engine.dialect) for column in stream.columns]
    with reading(site.engine) as connection:
        smaller = stream.table.c.id < sa.literal(below, sa.BigInteger)
        asking = sa.select(*selected).select_from(stream.table).where(smaller)
        found = [encode(tuple(row)) for row in connection.execute(asking)]
    return {one["id"]: one for one in found}


def faults(made: Ugly, file: DroppedFile | None, found: dict[int, tuple[str, str]], loaded: Any) -> Iterator[str]:
    """Say what of a file did not come to what it must."""
    if file is None:
        yield "it was not taken in"
    elif made.refused:
        if file.state is not IntakeState.REFUSED or not re.search(made.refused, file.message or ""):
            yield f"{file.state}, {file.message!r}, expected a refusal with {made.refused!r}"
        if found:
            yield f"letters of it are left: {found}"
    elif file.state is not IntakeState.LOADED or file.rows_loaded != made.rows:
        yield f"{file.state} with {file.rows_loaded} rows, expected {made.rows}: {file.message!r}, {found}"
    for line in {*made.letters, *found}:
        column, error = found.get(line, ("", "none"))
        meant, classes = made.letters.get(line, ("", "none"))
        if column != meant or error not in classes.split("|"):
            yield f"line {line}: {error} of {column!r}, expected {classes} of {meant!r}"
    for key, values in made.holds.items():
        row = loaded.get(key, {})
        if any(row.get(name) != value for name, value in values.items()):
            yield f"row {key} is {row}, expected {values}"


def assert_as_expected(site: Site, files: Sequence[Ugly], found: dict[str, DroppedFile], below: int = 2**31) -> None:
    """See that each file came to what it must; their rows have ids ``below`` that."""
    parked, loaded = letters(site), rows(site, ugly.thing, below)
    said = []
    for one in files:
        file = found.get(f"{one.intake}/{one.name}")
        said += [f"{one.name}: {fault}" for fault in faults(one, file, parked[file.id] if file else {}, loaded)]
    assert not said, "\n".join(said)
