"""Consent: what a batch may do only at a person's word, found out before it is opened.

It deletes a large part of a table, by itself or together with those before it, or its snapshot's version is far ahead
of every clock. Such a batch is held: nothing is wrong with its files.
"""

from __future__ import annotations

from sqlalchemy import Connection

from exchange.format.errors import Reason, Verdict
from exchange.format.manifest import BatchKind
from exchange.format.placement import Decision
from exchange.incoming import snapshot
from exchange.incoming.delete_limit import Brake
from exchange.incoming.manifests import Arrival, part_of
from exchange.site import Site
from exchange.tables import version_limit


def lacking(site: Site, connection: Connection, arrival: Arrival) -> Decision | None:
    """Say that a batch is held for a person, and why; None if it needs nobody's word, or has it."""
    if arrival.released or arrival.manifest.kind in {BatchKind.CONTROL, BatchKind.CHECKPOINT}:
        return None
    too_new = _is_ahead(site, connection, arrival)
    if too_new is not None:
        return held(arrival, Reason.VERSIONS, too_new)
    too_many = _deletes_too_much(site, connection, arrival)
    return held(arrival, Reason.DELETES, too_many) if too_many else None


def held(arrival: Arrival, reason: Reason, why: str) -> Decision:
    """Give the verdict, with the command that lets the batch in."""
    command = f"`exchange import --release {arrival.sighting.stem}` applies it"
    return Decision(Verdict.HELD, reason, f"{why}; it is held for a person: {command}")


def _is_ahead(site: Site, connection: Connection, arrival: Arrival) -> str | None:
    part = part_of(arrival.manifest) if arrival.manifest.kind is BatchKind.SNAPSHOT else None
    if part is None:
        return None
    most = version_limit.most(site, connection, arrival.channel)
    return version_limit.fault(part.version, most, site.peer).sentence if part.version > most else None


def _deletes_too_much(site: Site, connection: Connection, arrival: Arrival) -> str | None:
    is_snapshot = arrival.manifest.kind is BatchKind.SNAPSHOT
    if is_snapshot and (sentence := snapshot.removes_too_much(site, connection, arrival)):
        return sentence
    for name, counts in arrival.manifest.records.items():
        if counts.delete:
            brake = Brake(site, connection, arrival.channel, arrival.channel.stream(name))
            if sentence := brake.refusal(counts.delete, f"it deletes {counts.delete}", upserts=counts.upsert):
                return sentence
    return None
