"""Changes: what the application did and no batch carries yet, taken and sealed as the next batch of its channel."""

from __future__ import annotations

from sqlalchemy import Connection

from exchange import capture, sealing
from exchange.channels import Channel
from exchange.composing import compose
from exchange.database import locked
from exchange.format.batch import BatchWriter
from exchange.format.manifest import Kind
from exchange.outcomes import Exported, Sealed
from exchange.site import Site


def seal(site: Site, channel: Channel) -> Sealed:
    """Take pending changes and make them a batch that lies on the disk and in the ledger, or change nothing.

    Raises Busy, and WorldError if the disk, the database or the signing key fails.
    """
    sealing.check_room(site)
    with locked(site.engine, f"export {channel.name}", isolation_level="REPEATABLE READ") as connection:
        return seal_within(site, connection, channel)


def seal_within(site: Site, connection: Connection, channel: Channel) -> Sealed:
    """Do that within a transaction that holds the channel's lock and sees one moment; the caller commits.

    Unless there is ``more``, nothing of the channel is pending at that moment any more.
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
    more = taken.more_pending or composed.left
    return Sealed(Exported.of(manifest) if manifest else None, composed.parked, more)
