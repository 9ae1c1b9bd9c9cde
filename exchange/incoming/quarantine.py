"""Quarantine: batches whose files were refused, as a person looks at them, lets them in or gives them up.

Whatever is let in is judged anew from its first byte: no signature, digest or rule is skipped for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection

from exchange.database import ledger
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.ledger import Entry, Event
from exchange.database.locks import locked, reading
from exchange.database.tables import BatchState
from exchange.files.batch_files import BatchFiles, parse_label
from exchange.format.as_dict import AsDict
from exchange.format.errors import Incomplete, TransientError, printable
from exchange.format.names import BatchName
from exchange.format.verify import Report, judge
from exchange.incoming import replay
from exchange.incoming.judge import verdict_on
from exchange.incoming.manifests import Arrival, Stranger, verify_manifest
from exchange.incoming.verdicts import lock_of
from exchange.results import Imported
from exchange.site import Site


@dataclass(frozen=True)
class Quarantined(AsDict):
    """One batch in quarantine. ``label`` names its files: its stem, with ``~2`` or so for a further copy.

    ``channel``, ``epoch`` and ``sequence`` are what the manifest says, or the file's name if nobody believes it.
    """

    label: str
    batch: str
    channel: str
    epoch: str
    sequence: int
    reason: str | None
    message: str
    bytes: int
    since: datetime | None


@dataclass(frozen=True)
class QuarantinePage(AsDict):
    """Some of what lies in quarantine, and of how many; ``after`` is where the next page begins, None if at the end."""

    batches: tuple[Quarantined, ...]
    after: str | None
    total: int


@dataclass(frozen=True)
class QuarantinedDetail:
    """All about one: what every check says of its files now, and what was written down of it, oldest first."""

    found: Quarantined
    report: Report
    history: tuple[Event, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            **self.found.as_dict(),
            "reason_now": self.report.reason.value if self.report.reason else None,
            "checks": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in self.report.checks],
            "history": [event.as_dict() for event in self.history],
        }


def list_quarantined(
    site: Site, *, channel: str | None = None, limit: int = 50, after: str | None = None
) -> QuarantinePage:
    """Give what lies in quarantine, in the order of names, what nobody vouches for last, and how many there are.

    ``after`` is where the page before ended. Raises TransientError, and ValueError for what is no end of a page. Only
    reads.
    """
    wanted = None if channel is None else site.names_in_files(channel)
    lying = [one for one in site.spool.list_quarantined() if wanted is None or one.name.channel in wanted]
    place = None if after is None else _place_of(site, after)
    left = [one for one in lying if place is None or _place(site, one) > place]
    with transient_errors(), reading(site.engine) as connection:
        shown = [_described(site, seen, _entry(site, connection, seen)) for seen in _seen(site, left[:limit])]
    end = None if len(left) <= limit else f"{left[limit - 1].folder.name}/{left[limit - 1].label}"
    return QuarantinePage(tuple(shown), end, len(lying))


def _place(site: Site, one: BatchFiles) -> tuple[bool, BatchName, int]:
    return one.folder == site.spool.folders.strangers, one.name, one.copy


def _place_of(site: Site, after: str) -> tuple[bool, BatchName, int]:
    folder, _, label = after.partition("/")
    name, copy = parse_label(label)
    return folder == site.spool.folders.strangers.name, name, copy


def quarantined_detail(site: Site, label: str) -> QuarantinedDetail:
    """Look at one closely: its files are verified again. Raises TransientError if there is none of this name.

    Only reads.
    """
    seen = _find(site, label)
    with transient_errors(), reading(site.engine) as connection:
        entry = _entry(site, connection, seen)
        history = ledger.history(connection, [entry.id]) if entry else []
    return QuarantinedDetail(_described(site, seen, entry), _verified(site, seen), tuple(history))


def release_files(site: Site, label: str) -> Imported:
    """Judge one anew, as if it had just arrived. Raises TransientError if there is none of this name.

    Commits as an import does, under the channel's lock.
    """
    site.spool.prepare()
    sighting = _find(site, label).sighting
    if site.spool.has(sighting.stem):
        msg = f"a batch {sighting.stem} waits to be imported already; nothing was done; `exchange import` first"
        raise TransientError(msg)
    return replay.import_again(site, sighting, release=False)


def discard_files(site: Site, label: str, reason: str) -> Quarantined:
    """Give one up: nobody is told, its files go to the archive until their retention ends. Raises Busy, TransientError.

    Commits under the channel's lock, then moves the files.
    """
    seen = _find(site, label)
    with transient_errors(), locked(site.engine, lock_of(seen)) as connection:
        entry = _entry(site, connection, seen)
        found = _described(site, seen, entry)
        if entry is not None:
            ledger.give_up(connection, entry, BatchState.DISCARDED, reason)
    with transient_errors():
        site.spool.retire(seen.sighting)
    return found


def copies(site: Site, entry: Entry) -> Iterator[Arrival | Stranger]:
    """Find the files in quarantine that a row of the ledger speaks of. Reads the files alone."""
    lying = [one for one in site.spool.list_quarantined() if one.stem == entry.stem]
    return (seen for seen in _seen(site, lying) if seen.digest == entry.digest)


def _seen(site: Site, lying: list[BatchFiles]) -> Iterator[Arrival | Stranger]:
    for sighting in lying:
        try:
            yield verify_manifest(site, sighting, site.spool.read_manifest(sighting))
        except FileNotFoundError:
            continue  # somebody else was faster


def _find(site: Site, label: str) -> Arrival | Stranger:
    for seen in _seen(site, [site.spool.find_quarantined(label)]):
        return seen
    msg = f"no batch {printable(label)} is in quarantine; nothing was done; `exchange quarantine` lists those there are"
    raise TransientError(msg)


def _entry(site: Site, connection: Connection, seen: Arrival | Stranger) -> Entry | None:
    """Find the row that speaks of refused files; of what nobody vouched for there is none, whose line ever it has."""
    if seen.sighting.folder == site.spool.folders.strangers:
        return None
    return ledger.quarantined(connection, seen.sighting.stem, seen.digest)


def _described(site: Site, seen: Arrival | Stranger, entry: Entry | None) -> Quarantined:
    channel, epoch, sequence = seen.place
    size, since = site.spool.size_and_time(seen.sighting)
    return Quarantined(
        seen.sighting.label,
        seen.sighting.stem,
        channel,
        epoch,
        sequence,
        entry.reason if entry else seen.fault.reason if isinstance(seen, Stranger) else None,
        site.spool.reason(seen.sighting) or _said_now(seen),
        size,
        since,
    )


def _said_now(seen: Arrival | Stranger) -> str:
    """Say what is wrong with files that have no sentence beside them."""
    if isinstance(seen, Stranger):
        young = isinstance(seen.fault, Incomplete)
        return f"{seen.fault}; have it sent again" if young else verdict_on(seen.fault).sentence
    return f"a key that is trusted by now signed it: `exchange quarantine release {seen.sighting.label}` lets it in"


def _verified(site: Site, seen: Arrival | Stranger) -> Report:
    content = site.spool.read_manifest(seen.sighting)
    data = _data(site, seen)
    try:
        return judge(content, data, site.trusted, site.limits.read, seen.sighting.name, now())
    finally:
        if data is not None:
            data.close()


def _data(site: Site, seen: Arrival | Stranger) -> BinaryIO | None:
    if seen.manifest is None:
        return None
    try:
        return site.spool.open_data(seen.sighting, seen.manifest.encoding)
    except OSError:
        return None
