"""Forgetting: every place of this side where a row's record or its key stands beside the application's own tables.

For a person's right to be erased. ``find_traces`` changes nothing. ``erase_record`` removes or rewrites what can go;
what must stay for now, or for good, says why. Our tables are changed and the ledger says which batches are erased in
one transaction, and then their files go: a run that was cut short is run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.errors import transient_errors
from exchange.database.locks import FORGET_LOCK, export_lock, import_lock, join, locked, reading
from exchange.database.tables import BatchState, Direction
from exchange.format.names import CONTROL
from exchange.operating.erasure import dropped, files, rows
from exchange.operating.erasure.dropped import FoundDrop
from exchange.operating.erasure.files import FoundFile
from exchange.operating.erasure.pages import enable_secure_delete, write_back
from exchange.operating.erasure.rows import Trace
from exchange.operating.erasure.sought import RowToErase, seek
from exchange.outgoing import resend
from exchange.site import Site
from exchange.tables import capture

__all__ = ["Forgotten", "RowToErase", "Trace", "erase_record", "find_traces", "seek"]

_SAID = "its bytes were erased by hand: a record was in them that is to be forgotten"


@dataclass(frozen=True)
class Forgotten:
    """What was found of a row. ``erased`` says that it went but for what is ``kept``; ``row`` that the row is there."""

    stream: str
    places: tuple[Trace, ...]
    erased: bool
    row: bool

    @property
    def batches(self) -> tuple[str, ...]:
        """The batches whose files have it, and went or would go."""
        return tuple(one.name for one in self.places if one.place in _FOLDERS and one.kept is None)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "stream": self.stream,
            "erased": self.erased,
            "row": self.row,
            "places": [
                {"place": one.place, "name": one.name, "found": one.what.value, "kept": one.kept} for one in self.places
            ],
        }

    def counts(self) -> dict[str, Any]:
        """Say what went and what was kept without naming the row: for the audit."""
        gone = Counter(one.place for one in self.places if one.kept is None)
        kept = Counter(one.place for one in self.places if one.kept is not None)
        return {"erased": dict(gone), "kept": dict(kept), "batches": list(self.batches)}


_FOLDERS = frozenset({"sealed", "outgoing", "work", "incoming", "quarantine", "archive", "tmp"})


def find_traces(site: Site, sought: RowToErase) -> Forgotten:
    """Find every place. Raises TransientError."""
    site.spool.prepare()
    with transient_errors(), reading(site.engine) as connection:
        lying = dropped.find(site, connection, sought)
        return _found(site, connection, sought, files.find(site, connection, sought), lying, erased=False)


def erase_record(site: Site, sought: RowToErase) -> Forgotten:
    """Find every place, and remove or rewrite what can go. May be repeated.

    Of a batch that the peer may not have yet it gets a snapshot instead. Raises Busy and TransientError.
    """
    site.spool.prepare()
    with transient_errors(), reading(site.engine) as connection:
        seen = files.find(site, connection, sought)
        lying = dropped.find(site, connection, sought)
    with transient_errors(), locked(site.engine, FORGET_LOCK) as connection:
        enable_secure_delete(connection)
        for lock in _locks(site, seen):
            join(connection, lock, alone=True)
        seen = [files.judged(site, connection, one) for one in seen]
        done = _found(site, connection, sought, seen, lying, erased=True)
        going = [one for one in seen if one.kept is None]
        _mark(site, connection, going)
        rows.erase(site, connection, sought)
    with transient_errors():
        for one in going:
            site.spool.erase(one.files)
        dropped.erase(site, lying)
        write_back(site.engine)
    return done


def _locks(site: Site, seen: Sequence[FoundFile]) -> list[str]:
    """Name the locks of the channels whose batches are erased: nobody sends them, or judges them anew, meanwhile."""
    outgoing = {one.name for one in site.outgoing()}
    channels = {one.files.channel for one in seen if one.files.channel is not None}
    return sorted(export_lock(name) if name in outgoing else import_lock(name) for name in channels)


def _found(
    site: Site,
    connection: Connection,
    sought: RowToErase,
    seen: Sequence[FoundFile],
    drops: Sequence[FoundDrop],
    *,
    erased: bool,
) -> Forgotten:
    # Folders that the settings name may be called anything.
    named = {site.spool.folders.outgoing: "outgoing", site.spool.folders.incoming: "incoming"}
    lying = [
        Trace(named.get(one.files.folder, one.files.folder.name), one.files.label, one.what, one.kept) for one in seen
    ]
    lying += [Trace("dropped file", str(one.place), one.what, one.kept) for one in drops]
    standing = rows.find(site, connection, sought)
    return Forgotten(sought.stream.name, (*lying, *standing), erased, _is_there(connection, sought))


def _is_there(connection: Connection, sought: RowToErase) -> bool:
    """Say whether the row is still in the application's table."""
    values = sought.stream.key_decoder(connection.dialect)([sought.key])
    return capture.key_text(connection, sought.stream, [column[0] for column in values]) is not None


def _mark(site: Site, connection: Connection, going: Sequence[FoundFile]) -> None:
    """Write down in the ledger which batches are erased; those that nobody can ask for again are lost."""
    batches = {one.entry.id: one for one in going if one.entry is not None}
    for number, one in sorted(batches.items()):
        entry = ledger.by_id(connection, number)
        if entry.erased_at is None:
            ledger.mark_erased(connection, entry, _SAID)
        lies_out = any(other.files.folder == site.spool.folders.outgoing for other in going if other.entry == one.entry)
        unsure = lies_out or entry.attempt < site.limits.copies
        sent = entry.direction is Direction.OUT and entry.state is BatchState.PUBLISHED and entry.channel != CONTROL
        if site.one_way and sent and unsure:
            resend.lose_erased(connection, ledger.by_id(connection, number))
