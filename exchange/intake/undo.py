"""A file taken back: the rows that were inserted of it are deleted by their keys, and its letters go.

All in one transaction, under the locks of all of its parts: a process that dies of it leaves the file to the next run.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.database.errors import transient_errors
from exchange.database.locks import join, locked
from exchange.database.tables import DeadLetterState, dead_letter, intake_part
from exchange.dead_letters import retention
from exchange.format.errors import TransientError
from exchange.format.record import Op, RecordRun
from exchange.intake import ledger
from exchange.intake.ledger import Entry, Part
from exchange.intake.target import NO_LIMIT, Read, Refused, Target, opened
from exchange.reading import FileRefused
from exchange.site import Site
from exchange.tables.gc_pause import gc_paused
from exchange.tables.loader import Loader, Writing


def undo(site: Site, number: int, read: Read) -> Entry:
    """Take back what was loaded of a file that is refused or given up; give it as it is then. May be repeated.

    What can't be taken back is told. Raises Busy if a part of it is still at work, and TransientError: then it is done
    by the next run.
    """
    with transient_errors(), locked(site.engine, ledger.part_lock(site.engine, number, 0)) as connection:
        entry = ledger.find(connection, number)
        if entry is None:
            raise TransientError(f"there is no file {number}; it was never taken in here, or is pruned")
        if entry.state not in ledger.TO_UNDO:
            return entry
        parts = ledger.parts(connection, number)
        for part in parts[1:]:
            join(connection, ledger.part_lock(connection, number, part.number), alone=True)
        try:
            stay, said = _delete_rows(site, connection, entry, parts, read)
        except (Refused, FileRefused) as refusal:
            stay, said = entry.rows_loaded, f"what was loaded of it stays, as it can't be read again: {refusal}"
        retention.remove_of_file(connection, number)
        begun = {"position": intake_part.c.start, "line": intake_part.c.start_line, "done_at": None, "attempts": 0}
        connection.execute(sa.update(intake_part).where(intake_part.c.intake == number).values(begun))
        nothing = {"rows_loaded": stay, "rows_parked": 0, "rows_waiting": 0, "next_try_at": None}
        ledger.move(connection, entry, ledger.TO_UNDO[entry.state], f"{entry.message}; {said}", **nothing)
        return ledger.find(connection, number) or entry


def _delete_rows(
    site: Site, connection: Connection, entry: Entry, parts: Sequence[Part], read: Read
) -> tuple[int, str]:
    """Delete the rows that were inserted: all that were read and have no letter. Give how many stay, and a sentence."""
    target = Target.of(site, entry)
    if target.writing is not Writing.INSERT or not target.stream.key:
        return entry.rows_loaded, f"{entry.rows_loaded:,} rows that were loaded of it before stay as they are now"
    # What waited for its parent may have been loaded since; what a person mended is theirs.
    healed = sa.and_(dead_letter.c.state == DeadLetterState.APPLIED, dead_letter.c.revision == 0)
    here = (dead_letter.c.intake == entry.id, ~healed)
    parked = {*connection.scalars(sa.select(dead_letter.c.line).where(*here))}
    name, key = target.stream.name, target.stream.key_names
    with (
        opened(entry) as file,
        gc_paused(),
        Loader(connection, target.channel, NO_LIMIT, writing=Writing.UPSERT) as loader,
    ):
        for part in parts:
            if part.place == part.start:
                continue
            stop = part.place.position
            for piece in read(file, entry.format, target.stream, part.start, stop, site.limits.read):
                there = [at for at, line in enumerate(piece.numbers) if line not in parked]
                keys = [{one: piece.bodies[at][one] for one in key} for at in there]
                if keys:
                    numbers, lines = [piece.numbers[at] for at in there], [b""] * len(there)
                    loader.add(name, loader.rows(numbers, lines, RecordRun(name, Op.DELETE, [], keys)))
        loaded = loader.load()
    deleted, held = loaded.deleted.get(name, 0), loaded.counts.parked
    said = f"{deleted:,} rows that were loaded of it were deleted again"
    return held, f"{said}, and {held:,} stay, as others refer to them" if held else said
