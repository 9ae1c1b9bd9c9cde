"""Changes that no batch carries yet, made one: within whatever transaction seals them.

It must see one moment of the database, and hold its channel's lock: the export and the checkpoint bring theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.format.batch import BatchWriter
from exchange.format.manifest import Kind, Manifest
from exchange.outgoing import seal as sealing
from exchange.outgoing.compose import compose
from exchange.results import Exported
from exchange.site import Site
from exchange.tables import capture


@dataclass(frozen=True)
class Sealed:
    """What one sealing transaction did: a batch unless nothing could be written, dead letters, and is there more.

    ``before`` are batches of changes that had to be sealed first.
    """

    batch: Exported | None
    parked: int
    more: bool
    before: tuple[Exported, ...] = ()


def seal(site: Site, connection: Connection, channel: Channel) -> Sealed:
    """Take pending changes and make them a batch; the caller commits, or nothing happened.

    Raises WorldError if the disk did not take it.
    """
    with site.spool.drafting() as draft:
        taken = capture.take(connection, channel.streams, site.limits.batch_records, channel.shard)
        writer = BatchWriter(draft[0], sealing.ENCODING)
        composed = compose(site, connection, channel, taken.keys, writer)
        manifest = None
        if writer.records:
            manifest = sealing.seal(
                site,
                connection,
                writer,
                draft,
                channel=channel.name,
                kind=Kind.CHANGES,
                schemas={name: channel.stream(name).schema_version for name in writer.streams},
                shards=channel.shards,
            )
    return Sealed(exported(manifest) if manifest else None, composed.parked, taken.more_pending or composed.left)


def exported(manifest: Manifest) -> Exported:
    """Say what was sealed."""
    return Exported(
        str(manifest.name),
        manifest.channel,
        manifest.epoch,
        manifest.sequence,
        manifest.total,
        manifest.bytes,
    )
