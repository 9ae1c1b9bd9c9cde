"""A batch on its way out, whatever is in it: its place, its ledger row, its signature, and its files' last move.

The order is that of the export: data file, then manifest and ledger row in the transaction that takes what the batch
carries, **commit**, and only then publish.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import Connection

from exchange import __version__, tracing
from exchange.database import ledger, network, positions
from exchange.database.engine import now
from exchange.database.locks import export_lock, locked, reading
from exchange.database.tables import BatchState, Direction
from exchange.files.spool import SealedGone
from exchange.format import lineage
from exchange.format.batch import BatchWriter
from exchange.format.errors import TransientError, printable
from exchange.format.manifest import BatchKind, Manifest, digest, join_manifest
from exchange.outgoing.lost import lose
from exchange.results import Exported
from exchange.site import Site

ENCODING = ("zstd",)


@dataclass(frozen=True)
class Sealed:
    """What one sealing transaction did: a batch unless nothing could be written, dead letters, and is there more.

    ``before`` are batches of changes that had to be sealed first.
    """

    batch: Exported | None
    parked: int
    more: bool
    before: tuple[Exported, ...] = ()


def check_room(site: Site, batch_bytes: int | None = None) -> None:
    """See that a batch, of so many bytes or as large as one may be, could be signed and would find room on the disk.

    Raises TransientError.
    """
    if site.signing_key is None and site.require_signature:
        msg = "there is no signing key; nothing is exported; `exchange keys new` makes one"
        raise TransientError(msg)
    site.spool.check_room(batch_bytes or site.limits.batch_bytes)


def seal_batch(
    site: Site,
    connection: Connection,
    writer: BatchWriter,
    draft: tuple[BinaryIO, Path],
    *,
    channel: str,
    kind: BatchKind,
    schemas: Mapping[str, int],
    shards: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Give what was written the next place of its channel, sign it, enter it in the ledger and make its files durable.

    ``draft`` is the file that ``writer`` writes to and its path, as ``Spool.drafting`` gives them; ``schemas`` has the
    schema version of every stream in it, ``extra`` further members of the manifest. The caller holds the channel's
    lock and commits. Raises TransientError if the disk did not take all of it.
    """
    with tracing.span("seal", alone=True, channel=channel) as sealing:
        trace = sealing.traceparent or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        manifest = _seal(
            site,
            connection,
            writer,
            draft,
            trace,
            channel=channel,
            kind=kind,
            schemas=schemas,
            shards=shards,
            extra=extra,
        )
        sealing.note(sequence=manifest.sequence, records=manifest.total, bytes=manifest.bytes, outcome="sealed")
    return manifest


def _seal(
    site: Site,
    connection: Connection,
    writer: BatchWriter,
    draft: tuple[BinaryIO, Path],
    trace: str,
    *,
    channel: str,
    kind: BatchKind,
    schemas: Mapping[str, int],
    shards: int,
    extra: Mapping[str, Any] | None,
) -> Manifest:
    data = writer.close()
    file, path = draft
    file.flush()
    epoch = network.open_network(connection, site.network)
    before = positions.current_position(connection, Direction.OUT, channel)
    if before is not None and before.epoch != epoch:
        before = None
    manifest = Manifest(
        channel=channel,
        source=site.network,
        target=site.peer,
        epoch=epoch,
        sequence=before.sequence + 1 if before else 1,
        kind=kind,
        created_at=now(),
        producer=f"exchange {__version__}",
        schemas=schemas,
        records=data.records,
        encoding=ENCODING,
        sha256=data.sha256,
        bytes=data.bytes,
        content_sha256=data.content_sha256,
        content_bytes=data.content_bytes,
        previous=before.digest if before else None,
        trace=trace,
        shards=shards,
        extra={**(extra or {}), **lineage.members(network.left_behind(connection, channel, epoch))},
    )
    with tracing.on_lines(**manifest.named):
        _keep(site, connection, manifest, path)
    return manifest


def _keep(site: Site, connection: Connection, manifest: Manifest, path: Path) -> None:
    line = manifest.encode()
    place = (manifest.channel, manifest.epoch, manifest.sequence)
    # First: it is what tells a transaction that began before another one's end that its place is taken.
    positions.advance(connection, Direction.OUT, *place, digest(line))
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
    content = join_manifest(line, site.signing_key.sign(line) if site.signing_key else None)
    site.spool.seal(manifest.name, ENCODING, path, manifest.bytes, content)


def exported(manifest: Manifest) -> Exported:
    """Say what was sealed."""
    return Exported(
        str(manifest.name),
        manifest.channel,
        manifest.epoch,
        manifest.sequence,
        manifest.total,
        manifest.bytes,
        manifest.trace_id,
    )


# Publish: files move only after the commit, and each move may be repeated


class Published(NamedTuple):
    """What was published of what lay sealed, and a sentence for each whose files are gone."""

    batches: list[Exported]
    lost: list[str]


def publish_sealed(site: Site, channel: str) -> Published:
    """Publish every sealed batch of a channel, in order. Raises Busy and TransientError; what is left stays sealed.

    One whose files are gone nobody can publish, so a snapshot goes in its place. Commits them together, under the
    channel's lock.
    """
    done = Published([], [])
    with reading(site.engine) as connection:
        if not ledger.in_state(connection, Direction.OUT, [BatchState.SEALED], channel):
            return done
    with (
        site.tally.timing("publish", Direction.OUT, channel),
        locked(site.engine, export_lock(channel)) as connection,
    ):
        for entry in ledger.in_state(connection, Direction.OUT, [BatchState.SEALED], channel):
            manifest = Manifest.parse((entry.manifest or "").encode())
            try:
                with tracing.on_lines(**manifest.named), tracing.span("publish", **manifest.measures):
                    site.spool.publish(manifest.name, manifest.encoding)
            except SealedGone as gone:
                lose(connection, entry, gone.sentence)
                done.lost.append(gone.sentence)
                continue
            cause = f"published as {printable(entry.stem)}"
            again = next_copy(site, manifest, 1)
            ledger.move(connection, entry, BatchState.PUBLISHED, cause, published_at=now(), again_at=again)
            done.batches.append(exported(manifest))
    return done


def next_copy(site: Site, manifest: Manifest, attempt: int) -> datetime | None:
    """Say when a batch that is published for the ``attempt``-th time is due once more, as nobody answers.

    Of control batches the newest says it all, so they have no copies. Reads the settings and the clock alone.
    """
    if not site.one_way or manifest.kind is BatchKind.CONTROL or attempt >= site.limits.copies:
        return None
    return now() + timedelta(seconds=site.limits.copy_seconds)
