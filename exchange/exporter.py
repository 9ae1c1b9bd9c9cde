"""Export: from committed rows to published files, each batch sealed in one transaction.

The order of steps is what loses nothing: under the channel's lock take the changes, write and sync the
files, enter the batch in the ledger, commit; only then publish. A crash before the commit leaves the changes
where they were, one after it a sealed batch that the next run publishes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from exchange import __version__, capture, ledger
from exchange.channels import Channel
from exchange.composing import compose
from exchange.database import Busy, locked, now, reading, world_errors
from exchange.format.batch import BatchWriter, SealedData
from exchange.format.errors import WorldError, printable
from exchange.format.manifest import Kind, Manifest, digest, join_manifest
from exchange.models import BatchState, Direction
from exchange.outcomes import Exported, ExportRun
from exchange.site import Site

ENCODING = ("zstd",)


@dataclass(frozen=True)
class Sealed:
    """What one sealing transaction did: a batch unless nothing could be written, dead letters, and is there more."""

    batch: Exported | None
    parked: int
    more: bool


def run(
    site: Site,
    *,
    channel: str | None = None,
    stopping: Callable[[], bool],
    hand_over: Callable[[str], None] | None = None,
) -> ExportRun:
    """Export what is pending, of one channel or all, and publish what a crash left sealed.

    May be repeated at any time. ``stopping`` is asked between batches. Where more than one channel has
    something pending, ``hand_over`` is given their names to have each exported beside the others; SQLite has
    one writer, so there they go one after the other, here.
    """
    site.spool.prepare()
    batches: list[Exported] = []
    busy: list[Busy] = []
    done: list[str] = []
    handed: list[str] = []
    parked = 0
    trouble = None
    try:
        _check_network(site)
        busy += _publish_left(site, channel)
        channels = [one for one in site.outgoing() if one.called(channel)]
        pending = [one for one in channels if _anything_pending(site, one)]
        done += [one.name for one in channels if one not in pending]
        if hand_over is not None and site.many_writers and len(pending) > 1:
            handed, pending = [one.name for one in pending], []
            for name in handed:
                hand_over(name)
        for one in pending:
            try:
                for sealed in _export_channel(site, one, stopping):
                    parked += sealed.parked
                    batches += [sealed.batch] if sealed.batch else []
                done.append(one.name)
            except Busy as held:
                busy.append(held)
        ledger.note_success(site.engine, Direction.OUT, done)
    except WorldError as error:
        trouble = error.sentence
    return ExportRun(tuple(batches), parked, tuple({one.lock: one for one in busy}.values()), trouble, tuple(handed))


def _check_network(site: Site) -> None:
    with world_errors(), reading(site.engine) as connection:
        ledger.known_epoch(connection, site.network)


def _publish_left(site: Site, wanted: str | None) -> list[Busy]:
    """Publish what lies sealed, also of a channel or shard that is declared no more; say who holds which."""
    with world_errors(), reading(site.engine) as connection:
        left = {entry.channel for entry in ledger.in_state(connection, Direction.OUT, [BatchState.SEALED])}
    busy = []
    for name in sorted(left):
        channel = site.channel(name)
        if wanted == name or (channel.called(wanted) if channel else wanted is None):
            try:
                with world_errors():
                    publish_sealed(site, name)
            except Busy as held:
                busy.append(held)
    return busy


def _export_channel(site: Site, channel: Channel, stopping: Callable[[], bool]) -> Iterator[Sealed]:
    with world_errors():
        more = True
        while more and not stopping():
            sealed = seal(site, channel)
            publish_sealed(site, channel.name)
            more = sealed.more
            yield sealed


def _anything_pending(site: Site, channel: Channel) -> bool:
    with world_errors(), reading(site.engine) as connection:
        return capture.pending(connection, channel.streams, 1, channel.shard) > 0


# Seal: one transaction


def seal(site: Site, channel: Channel) -> Sealed:
    """Take pending changes and make them a batch that lies on the disk and in the ledger, or change nothing.

    Raises Busy, and WorldError if the disk, the database or the signing key fails.
    """
    _check_room(site)
    with (
        locked(site.engine, f"export {channel.name}", isolation_level="REPEATABLE READ") as connection,
        site.spool.drafting() as (file, draft),
    ):
        taken = capture.take(connection, channel.streams, site.limits.batch_records, channel.shard)
        writer = BatchWriter(file, ENCODING)
        composed = compose(site, connection, channel, taken.keys, writer)
        written = writer.close()
        file.flush()
        sealed = _enter(site, connection, channel, written) if writer.records else None
        if sealed is not None:
            manifest, content = sealed
            site.spool.seal(manifest.name, ENCODING, draft, written.bytes, content)
    return Sealed(_exported(sealed[0]) if sealed else None, composed.parked, taken.more_pending or composed.left)


def _check_room(site: Site) -> None:
    if site.signing_key is None and site.require_signature:
        msg = "there is no signing key; nothing is exported; `exchange keys new` makes one"
        raise WorldError(msg)
    free, needed = site.spool.free_bytes(), 2 * site.limits.batch_bytes
    if free < needed:
        msg = f"{site.spool.folders.home}: {free} bytes are free, a batch may need {needed}; nothing is exported"
        raise WorldError(msg)


def _enter(site: Site, connection: Connection, channel: Channel, data: SealedData) -> tuple[Manifest, bytes]:
    """Give the batch the next place of its channel, sign it, and enter it in the ledger."""
    epoch = ledger.open_network(connection, site.network)
    before = ledger.current_position(connection, Direction.OUT, channel.name)
    if before is not None and before.epoch != epoch:
        before = None
    manifest = Manifest(
        channel=channel.name,
        source=site.network,
        target=site.peer,
        epoch=epoch,
        sequence=before.sequence + 1 if before else 1,
        kind=Kind.CHANGES,
        created_at=now(),
        producer=f"exchange {__version__}",
        schemas={name: channel.stream(name).schema_version for name in data.records},
        records=data.records,
        encoding=ENCODING,
        sha256=data.sha256,
        bytes=data.bytes,
        content_sha256=data.content_sha256,
        content_bytes=data.content_bytes,
        previous=before.digest if before else None,
        trace=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        shards=channel.shards,
    )
    line = manifest.encode()
    place = (manifest.channel, manifest.epoch, manifest.sequence)
    ledger.record(
        connection,
        Direction.OUT,
        BatchState.SEALED,
        stem=str(manifest.name),
        place=place,
        cause="sealed",
        manifest=manifest,
        line=line,
        digest=digest(line),
    )
    ledger.advance(connection, Direction.OUT, *place, digest(line))
    return manifest, join_manifest(line, site.signing_key.sign(line) if site.signing_key else None)


def _exported(manifest: Manifest) -> Exported:
    return Exported(
        str(manifest.name),
        manifest.channel,
        manifest.epoch,
        manifest.sequence,
        manifest.total,
        manifest.bytes,
    )


# Publish: files move only after the commit, and each move may be repeated


def publish_sealed(site: Site, channel: str) -> None:
    """Publish every sealed batch of a channel, in order. Raises Busy and WorldError; what is left stays sealed."""
    with reading(site.engine) as connection:
        if not ledger.in_state(connection, Direction.OUT, [BatchState.SEALED], channel):
            return
    with locked(site.engine, f"export {channel}") as connection:
        for entry in ledger.in_state(connection, Direction.OUT, [BatchState.SEALED], channel):
            manifest = Manifest.parse((entry.manifest or "").encode())
            site.spool.publish(manifest.name, manifest.encoding)
            ledger.move(connection, entry, BatchState.PUBLISHED, f"published as {printable(entry.stem)}")
