"""What arrived, before anything is claimed: manifests read, believed or not, and put in order."""

from __future__ import annotations

from dataclasses import dataclass

from exchange.channels import Channel
from exchange.format.errors import BatchError, Misdirected, Unsupported, printable
from exchange.format.manifest import Kind, Manifest, digest, split_manifest
from exchange.site import Site
from exchange.spool import Sighting


@dataclass(frozen=True)
class Arrival:
    """A manifest that we believe, of a channel that we know, and the files that it speaks of."""

    sighting: Sighting
    manifest: Manifest
    line: bytes
    digest: str
    channel: Channel

    @property
    def place(self) -> tuple[str, str, int]:
        """Channel, epoch and sequence."""
        return (self.manifest.channel, self.manifest.epoch, self.manifest.sequence)


@dataclass(frozen=True)
class Stranger:
    """A manifest that can't be acted on, and why. ``manifest`` is None if it isn't believed at all."""

    sighting: Sighting
    fault: BatchError
    digest: str | None = None
    line: bytes | None = None
    manifest: Manifest | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Channel, epoch and sequence; if it isn't believed, what the file's name says: to be shown only."""
        if self.manifest is not None:
            return (self.manifest.channel, self.manifest.epoch, self.manifest.sequence)
        name = self.sighting.name
        return (name.channel, name.epoch, name.sequence)


def look(site: Site, sightings: tuple[Sighting, ...]) -> list[Arrival | Stranger]:
    """Read and judge the manifests, but for those that have not changed since; order them by place."""

    def read(sighting: Sighting) -> Arrival | Stranger | None:
        try:
            return believe(site, sighting, site.spool.read_manifest(sighting))
        except OSError:
            return None  # gone since the listing, or no plain file: the next listing counts it

    terms = (site.network, site.peer, site.channels, site.trusted, site.require_signature)
    seen = site.spool.believed.each(sightings, terms, read)
    return sorted(seen, key=lambda one: (*one.place, one.sighting.name.attempt))


def believe(site: Site, sighting: Sighting, content: bytes) -> Arrival | Stranger:
    """Check a manifest in the order of FORMAT.md section 5: size, signature, addressee, format, what we know."""
    line: bytes | None = None
    manifest: Manifest | None = None
    try:
        line, signature = split_manifest(content)
        if signature is not None or site.require_signature:
            site.trusted.check(line, signature)
        manifest = Manifest.parse(line)
        channel = _channel(site, manifest)
    except BatchError as fault:
        return Stranger(sighting, fault, digest(line) if line else None, line, manifest)
    return Arrival(sighting, manifest, line, digest(line), channel)


def _channel(site: Site, manifest: Manifest) -> Channel:
    """Find the declared channel of a batch. Raises Misdirected, or Unsupported for what this side may come to know."""
    if (manifest.source, manifest.target) != (site.peer, site.network):
        msg = (
            f"it goes from {manifest.source} to {manifest.target}, but this side takes batches from {site.peer}"
            f" to {site.network}"
        )
        raise Misdirected(msg)
    channel = site.channel(manifest.channel, manifest.shards)
    if channel is None or channel.target != site.network:
        msg = f"this side declares no incoming channel {manifest.channel}"
        raise Unsupported(msg)
    if manifest.kind not in {Kind.CHANGES, Kind.SNAPSHOT}:
        msg = f"batches of kind {manifest.kind} are not known here"
        raise Unsupported(msg)
    if "age" in manifest.encoding:
        msg = "encrypted batches are not known here"
        raise Unsupported(msg)
    for name, version in manifest.schemas.items():
        stream = next((one for one in channel.streams if one.name == name), None)
        if stream is None:
            msg = f"channel {channel.name} has no stream {printable(name)} here"
            raise Unsupported(msg)
        if version > stream.schema_version:
            msg = f"stream {name} comes in schema version {version}, this side knows {stream.schema_version}"
            raise Unsupported(msg)
        if version < stream.oldest_version:
            msg = (
                f"stream {name} comes in schema version {version}, and this side's upgrade steps begin at"
                f" {stream.oldest_version}"
            )
            raise Unsupported(msg)
    return channel
