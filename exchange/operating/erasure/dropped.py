"""Files that people dropped and that are kept: whether a row's values stand in them, and which of them may go.

Such a file goes as a whole: what was loaded of it is in the table, and its bad rows are dead letters of their own. One
that was not loaded, or lies elsewhere, is somebody's, who is told of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.tables import IntakeState, intake
from exchange.dead_letters import file_rows
from exchange.dead_letters.file_rows import PeoplesFile
from exchange.format.errors import RecordError
from exchange.intake import folders, ledger
from exchange.operating.erasure.sought import RowToErase, What
from exchange.reading import FileRefused
from exchange.reading.read import read
from exchange.site import Site


@dataclass(frozen=True)
class FoundDrop:
    """A file that has the row, or may have it. ``kept`` says why it stays."""

    place: Path
    what: What
    kept: str | None = None


def find(site: Site, connection: Connection, sought: RowToErase) -> list[FoundDrop]:
    """Look through the kept files whose rows are of the stream. Asks the ledger which those are."""
    asking = sa.select(intake.c.id, intake.c.place, intake.c.state).where(intake.c.stream == sought.stream.name)
    rows = connection.execute(asking.order_by(intake.c.id)).all()
    lying = [row for row in rows if Path(row.place).is_file()]
    files = file_rows.files_of(connection, [row.id for row in lying])
    done = {one.path / folders.DONE for one in folders.drops(site)}
    found: dict[Path, FoundDrop] = {}
    for row in lying:
        place = Path(row.place)
        what = None if place in found else _look(site, place, files[row.id], sought)
        if what is not None:
            found[place] = FoundDrop(place, what, _kept(IntakeState(row.state), ours=place.parent in done))
    return [*found.values()]


def _kept(state: IntakeState, *, ours: bool) -> str | None:
    if state in {*ledger.TO_LOAD, *ledger.TO_UNDO}:
        return "it is still to be loaded: run this again after that"
    if not ours:
        return "it is whoever's who brought it, and not in done/: take the row out of it there, or remove the file"
    return None


def _look(site: Site, place: Path, file: PeoplesFile, sought: RowToErase) -> What | None:
    """Read a file as it was read when it was taken in; what can't be read to its end may have the row."""
    stream = sought.stream
    try:
        partial = stream.only(file.written.names, file.key)
        with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as content:
            for piece in read(content, file.written, partial, limits=site.limits.read):
                if any(sought.is_key(stream.name, body) for body in piece.bodies):
                    return What.UPSERT
                if any(stands_in(file, bytes(bad.record), sought) for bad in piece.bad):
                    return What.BROKEN
    except FileNotFoundError:
        return None  # it went meanwhile
    except (OSError, FileRefused, RecordError, KeyError, ValueError):
        return What.UNREADABLE
    return None if file.written.names else What.UNREADABLE


def stands_in(file: PeoplesFile | None, record: bytes, sought: RowToErase) -> bool:
    """Say whether a key's values stand in a row that can't be read."""
    texts = [str(one) for one in sought.key.values()]
    parts = file_rows.parts_of(file, record)
    if parts is not None:
        cells = {str(one).strip() for one in parts.values()}
        return all(text in cells for text in texts)
    return all(text.encode() in record.replace(b"\0", b"") for text in texts)


def erase(site: Site, going: list[FoundDrop]) -> None:
    """Remove files that nothing keeps, each with what lies beside it. May be repeated. Raises TransientError."""
    by_folder = {one.path / folders.DONE: one for one in folders.drops(site)}
    for place in (one.place for one in going if one.kept is None):
        folders.remove_done(by_folder[place.parent], place.name)
