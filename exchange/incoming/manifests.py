"""What arrived, before anything is claimed: manifests read, believed or not, and put in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeGuard

from exchange.channels.channel import Channel
from exchange.database import folded, ledger
from exchange.database.batch_fault import Crashed, is_batch_fault
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import Direction
from exchange.files.batch_files import BatchFiles
from exchange.files.folder import NotPlain
from exchange.format import control
from exchange.format.carriage import altered_manifest, only_nul, restored
from exchange.format.errors import (
    BatchError,
    Corrupt,
    Fault,
    Incomplete,
    Malformed,
    Misdirected,
    RecordError,
    Unsupported,
    Untrusted,
    printable,
)
from exchange.format.manifest import BatchKind, Manifest, Signature, digest, split_manifest
from exchange.format.names import CONTROL
from exchange.link import known_schemas
from exchange.site import Site


@dataclass(frozen=True)
class Arrival:
    """A manifest that we believe, of a channel that we know, and the files that it speaks of."""

    sighting: BatchFiles
    manifest: Manifest
    line: bytes
    digest: str
    channel: Channel
    signature: str | None = None
    """Line 2 of the manifest, as it came."""
    released: bool = False
    """A person lets it in, whatever it deletes and however new it says that it is."""

    @property
    def place(self) -> tuple[str, str, int]:
        """Channel, epoch and sequence."""
        return (self.manifest.channel, self.manifest.epoch, self.manifest.sequence)

    @property
    def trace(self) -> str:
        """The batch's trace."""
        return self.manifest.trace_id

    @property
    def counted_as(self) -> str:
        """Say under which key attempts at it are counted: whichever of its publications they were made with."""
        return str(self.manifest.name)


@dataclass(frozen=True)
class Stranger:
    """A manifest that can't be acted on, and why. ``manifest`` is None if it isn't believed at all.

    ``signed`` says that a key we trust signed it.
    """

    sighting: BatchFiles
    fault: BatchError
    digest: str | None = None
    line: bytes | None = None
    manifest: Manifest | None = None
    signed: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether it is no batch of our peer to us, as nobody vouches for it or it is for somebody else."""
        unknown = self.manifest is None and not self.signed
        return isinstance(self.fault, Misdirected) or (unknown and not isinstance(self.fault, Unsupported | Unread))

    @property
    def place(self) -> tuple[str, str, int]:
        """Channel, epoch and sequence; if it isn't believed, what the file's name says: to be shown only."""
        if self.manifest is not None:
            return (self.manifest.channel, self.manifest.epoch, self.manifest.sequence)
        name = self.sighting.name
        return (name.channel, name.epoch, name.sequence)

    @property
    def trace(self) -> str | None:
        """The batch's trace, if its manifest is believed."""
        return self.manifest.trace_id if self.manifest else None

    @property
    def counted_as(self) -> str:
        """Say under which key attempts at it are counted: never that of a batch that we believe."""
        return f"unread {self.sighting.stem}"


class Unread(Incomplete):
    """The disk, or whoever serves it, did not give a file; it may the next time."""


_NEXT_TIME = "its batch waits, and the next run reads it again"


def read_manifests(site: Site, sightings: tuple[BatchFiles, ...]) -> list[Arrival | Stranger]:
    """Read and judge the manifests, but for those that have not changed since; order them by place.

    What is foreign comes last, however it is called: no batch waits for it. Takes no lock and claims nothing.
    """

    def read(sighting: BatchFiles) -> Arrival | Stranger | None:
        try:
            return verify_manifest(site, sighting, site.spool.read_manifest(sighting))
        except (FileNotFoundError, NotPlain):
            return None  # gone since the listing, or no plain file: the next listing counts it
        except OSError as error:
            return Stranger(sighting, Unread(f"{error.filename}: {error.strerror}; {_NEXT_TIME}"))

    trusted = (site.trusted, site.trusted.in_force(now()))
    terms = (site.network, site.peer, site.channels, trusted, site.require_signature)
    seen = list(site.spool.manifest_cache.each(sightings, terms, read))
    for one in seen:
        if isinstance(one, Stranger) and isinstance(one.fault, Crashed | Unread):
            site.spool.manifest_cache.forget(one.sighting)  # whatever it was, it may not be so the next time
    return sorted(seen, key=lambda one: (is_foreign(one), *one.place, one.sighting.name.attempt))


def is_foreign(seen: Arrival | Stranger) -> TypeGuard[Stranger]:
    """Say whether it is no batch of our peer to us."""
    return isinstance(seen, Stranger) and seen.is_foreign


def verify_manifest(site: Site, sighting: BatchFiles, content: bytes) -> Arrival | Stranger:
    """Check a manifest: size, signature, addressee, format, what we know.

    In the order of FORMAT.md, "Order of writing and of reading".

    Whatever goes wrong with it makes it a stranger; where its bytes were signed before a carrier took them for a text,
    that is its fault. Reads the ledger only for a key whose time is over. Raises TransientError.
    """
    seen = _verified(site, sighting, content)
    if isinstance(seen, Arrival) or not isinstance(seen.fault, Corrupt | Incomplete | Untrusted):
        return seen
    if isinstance(seen.fault, Malformed):
        return seen  # these very bytes were signed
    if only_nul(content):
        words = "the manifest file holds nothing but NUL bytes: a machine went down before it was on its disk"
        return replace(seen, fault=Incomplete(words))
    before = restored(content)
    was = _verified(site, sighting, before[0]) if before is not None else seen
    if before is None or isinstance(was, Stranger):
        return seen
    altered = altered_manifest(before[1])
    # Whoever brings a file piece by piece may be about to bring its last byte.
    fault = Incomplete(altered.sentence) if isinstance(seen.fault, Incomplete) else altered
    return Stranger(sighting, fault, was.digest, was.line, was.manifest, signed=was.signature is not None)


def _verified(site: Site, sighting: BatchFiles, content: bytes) -> Arrival | Stranger:
    line: bytes | None = None
    manifest: Manifest | None = None
    signed = False
    try:
        line, signature = split_manifest(content)
        if signature is not None or site.require_signature:
            site.trusted.check(line, signature)
            signed = True
        with _as_signed(site, signature):
            claim = Manifest.parse(line)
        if signature is not None:
            _check_terms(site, signature.key, claim, digest(line))
        manifest = claim
        with _as_signed(site, signature, manifest):
            channel = _channel(site, manifest)
    except BatchError as fault:
        return Stranger(sighting, fault, digest(line) if line else None, line, manifest, signed)
    except Exception as error:
        if not is_batch_fault(error):
            raise
        return Stranger(sighting, Crashed.of(error), signed=signed)
    proof = signature.encode().decode() if signature else None
    return Arrival(sighting, manifest, line, digest(line), channel, proof)


@contextmanager
def _as_signed(site: Site, signature: Signature | None, claim: Manifest | None = None) -> Iterator[None]:
    """Let what is corrupt in a claim that was signed as it is be its sender's own fault: nobody else made it so.

    Of one that can't be read nobody knows its channel: a key that is for some alone does not vouch for it.
    """
    try:
        yield
    except Corrupt as fault:
        if signature is None:
            raise
        with suppress(Untrusted):
            site.trusted.check_terms(signature.key, claim, now())
            raise Malformed(fault.sentence, fault.fault) from fault
        raise


def _check_terms(site: Site, key: str, claim: Manifest, claim_digest: str) -> None:
    """Check that a key may sign this, at the moment when we first saw it. Raises Untrusted.

    By our own clock, never by what the manifest says: who stole an old key writes any date. What has been believed
    since before the key's time was over stays believed, however long it waits, and comes again as a duplicate.
    """
    try:
        site.trusted.check_terms(key, claim, now())
    except Untrusted:
        with transient_errors(), reading(site.engine) as connection:
            place = (claim.channel, claim.epoch, claim.sequence)
            known = ledger.at_place(connection, Direction.IN, *place)
            if known is None and folded.was_folded(connection, Direction.IN, place):
                return  # a duplicate, whatever it is
        if known is None or known.digest != claim_digest:
            raise
        site.trusted.check_terms(key, claim, known.created_at)


def _channel(site: Site, manifest: Manifest) -> Channel:
    """Find the declared channel of a batch. Raises Misdirected, or Unsupported for what this side may come to know."""
    if (manifest.source, manifest.target) != (site.peer, site.network):
        msg = (
            f"it goes from {manifest.source} to {manifest.target}, but this side takes batches from {site.peer}"
            f" to {site.network}"
        )
        raise Misdirected(msg)
    if manifest.kind is BatchKind.CONTROL:
        return _control(site, manifest)
    channel = site.channel(manifest.channel, manifest.shards)
    if channel is None or channel.target != site.network:
        raise Unsupported(_no_channel(site, manifest.channel))
    _check_encoding(manifest)
    if manifest.kind is BatchKind.CHECKPOINT:
        _check_schemas(manifest, {control.DIGEST})
        return channel
    part = _part(manifest) if manifest.kind is BatchKind.SNAPSHOT else None
    named = {*manifest.schemas, *(part.streams if part else ()), *(part.prune if part else ())}
    channel = site.with_moved(channel, named)
    streams = {one.name: one for one in channel.streams}
    _check_declared(site, channel, named - streams.keys())
    for name in manifest.schemas.keys() & streams.keys():
        stream, version = streams[name], manifest.schemas[name]
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


def _check_declared(site: Site, channel: Channel, missing: set[str]) -> None:
    """See that streams which this side does not declare were read here once: their records are parked, one by one.

    Raises Unsupported for one that was not: it may come to be known, and its batch waits for that.
    """
    if not missing:
        return
    with transient_errors(), reading(site.engine) as connection:
        once = known_schemas.once_declared(connection, Direction.IN)
    for name in sorted(missing - once):
        msg = f"channel {channel.name} has no stream {printable(name)} here"
        raise Unsupported(msg)


def _no_channel(site: Site, name: str) -> str:
    sentence = f"this side declares no incoming channel {name}"
    with transient_errors(), reading(site.engine) as connection:
        once = known_schemas.channels_once_read(connection)
    if not any(name in site.names_in_files(one) or name.rpartition("_")[0] == one for one in once):
        return sentence
    return f"{sentence} any more: if it was taken out for good, `exchange batches reject` gives its batches up"


def _control(site: Site, manifest: Manifest) -> Channel:
    _check_encoding(manifest)
    _check_schemas(manifest, {control.RECEIPT, control.HEARTBEAT, control.REPAIR})
    return Channel(CONTROL, site.peer, site.network, (), ordered=False)


def _check_encoding(manifest: Manifest) -> None:
    if "age" in manifest.encoding:
        msg = "encrypted batches are not known here"
        raise Unsupported(msg)


def _check_schemas(manifest: Manifest, known: set[str]) -> None:
    for name, version in manifest.schemas.items():
        if name not in known or version > control.VERSION:
            msg = f"a {manifest.kind} batch with stream {printable(name)} in schema version {version} is not known here"
            raise Unsupported(msg)


def _part(manifest: Manifest) -> control.Part | None:
    """Read what a snapshot's manifest says of it. Raises Corrupt."""
    try:
        return part_of(manifest)
    except RecordError as error:
        raise Corrupt(error.sentence, Fault.MANIFEST) from error


def part_of(manifest: Manifest) -> control.Part | None:
    """Read which part of a snapshot a manifest of that kind says to be; None if it says nothing of it.

    Raises RecordError.
    """
    said = manifest.extra.get("snapshot")
    return None if said is None else control.Part.parse(said)
