"""Control batches as they arrive: receipts, heartbeats and requests of the other side, checked and applied.

Each record is checked by itself. One that is bad is parked as a dead letter and changes nothing; it never holds up
the others, nor the batch. The newest control batch counts: it supersedes the letters of the one before.

All of it runs in the importer's transaction, under the lock of the channel ``control``; nothing here commits.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from exchange.channels.channel import Channel
from exchange.database import ledger, network, positions
from exchange.database.dialects import upsert
from exchange.database.engine import now
from exchange.database.ledger import Counts
from exchange.database.tables import DeadLetterState, Direction, agreement, dead_letter, peer, position, receipt
from exchange.dead_letters import joining, store
from exchange.dead_letters.store import Letter
from exchange.format import control
from exchange.format import record as records
from exchange.format.batch import BatchReader
from exchange.format.control import Heard, Heartbeat, PeerRequest, Proof, Receipt
from exchange.format.errors import RecordError, printable
from exchange.format.manifest import OpCounts, digest
from exchange.format.names import CONTROL
from exchange.format.record import Op, Record
from exchange.incoming.apply import LETTER_BYTES
from exchange.incoming.manifests import Arrival
from exchange.link import acknowledge, gaps, known_schemas, peer_statements, send_requests
from exchange.link.proofs import CheckedClaim, ClaimVerdict, PeerClaim, check_claim, check_proof
from exchange.site import Site
from exchange.tables import capture

SKIPPED_PLACES = 1_000
"""So many places a restored side leaves for control batches that it wrote and does not know of any more."""

MOST_LETTERS = 100
"""So many bad records of a control batch are kept; of those beyond there is only the number."""

Value = TypeVar("Value")


def apply_control_batch(site: Site, connection: Connection, arrival: Arrival, data: BinaryIO) -> Counts:
    """Apply the records of a verified control batch; give how many of them counted.

    Raises Corrupt if the batch is not what its manifest says: then nothing of it may be committed.
    """
    _supersede_earlier(connection, arrival)
    control_reader = _ControlReader(site, connection, arrival)
    reader = BatchReader(data, arrival.manifest, site.limits.read)
    for lines in reader:
        for number, line in enumerate(lines, reader.first_line):
            control_reader.read(number, line)
    reader.check_counts({stream: OpCounts(upsert=count) for stream, count in control_reader.upserts.items()})
    control_reader.park()
    return Counts(
        applied=control_reader.applied,
        duplicate=control_reader.known,
        parked=control_reader.refused,
        settled=tuple(control_reader.settled),
        told="; ".join(control_reader.told),
    )


def _supersede_earlier(connection: Connection, arrival: Arrival) -> None:
    """Supersede what was parked of the control batch before this one: this one says it anew, or says it no more."""
    before = positions.current_position(connection, Direction.IN, CONTROL)
    if before is None:
        return
    entry = ledger.at_place(connection, Direction.IN, CONTROL, before.epoch, before.sequence)
    if entry is None:
        return
    parked = (dead_letter.c.batch == entry.stem, dead_letter.c.state == DeadLetterState.PARKED)
    ids = list(connection.scalars(sa.select(dead_letter.c.id).where(*parked).order_by(dead_letter.c.id)))
    joining.supersede(connection, ids, f"superseded: control batch {arrival.sighting.stem} says it anew")


class _ControlReader:
    """Reads and applies the records of one control batch, one after the other, and parks the bad ones."""

    def __init__(self, site: Site, connection: Connection, arrival: Arrival) -> None:
        self._site = site
        self._connection = connection
        self._arrival = arrival
        self._moment = now()
        self._said: set[tuple[str, ...]] = set()
        self.upserts: Counter[str] = Counter()
        self.settled: list[ledger.Settled] = []
        self.told: list[str] = []
        self._letters: list[Letter] = []
        self._kept = self._bytes = 0
        self.applied = self.known = self.refused = 0

    def read(self, number: int, line: bytes) -> None:
        """Read one line and apply it; one that is bad is kept to be parked."""
        record = None
        try:
            record = records.decode(line)
            if record.op is Op.UPSERT and record.stream in self._arrival.manifest.schemas:
                self.upserts[record.stream] += 1
            if self._apply(number, record):
                self.applied += 1
            else:
                self.known += 1
        except RecordError as error:
            self.refused += 1
            if self._kept < MOST_LETTERS:
                self._kept += 1
                self._bytes += len(line)
                self._letters.append(self._letter(number, line, record, error))
        if self._bytes > LETTER_BYTES:
            self.park()

    def park(self) -> None:
        """Write down the bad records that are still in memory."""
        store.park(self._connection, self._letters, "refused on import")
        self._letters.clear()
        self._bytes = 0

    def _letter(self, number: int, line: bytes, record: Record | None, error: RecordError) -> Letter:
        letter = Letter(
            Direction.IN,
            CONTROL,
            line,
            error.error,
            error.sentence,
            pointer=error.pointer,
            batch=self._arrival.sighting.stem,
            line=number,
            producer=printable(self._arrival.manifest.producer, 200),
        )
        if record is None:
            return letter
        known = record.stream in self._arrival.manifest.schemas
        return replace(
            letter,
            stream=record.stream if known else None,
            op=record.op.value,
            version=record.version,
            schema_version=control.VERSION if known else None,
        )

    def _apply(self, number: int, record: Record) -> bool:
        """Do what one record says; give whether that was news. Raises RecordError."""
        most = self._site.limits.control_records
        if number > most:
            raise RecordError("absurd", "", f"a control batch has at most {most} records; this is one more")
        if record.stream not in self._arrival.manifest.schemas:
            raise RecordError(
                "record", "/stream", f"the manifest speaks of no stream {printable(record.stream, 80)} in this batch"
            )
        if record.op is not Op.UPSERT:
            raise RecordError("record", "/op", "what the sides tell each other is said anew, never deleted")
        match record.stream:
            case control.RECEIPT:
                return self._receipt(_parsed(Receipt.parse, record.body))
            case control.HEARTBEAT:
                return self._heartbeat(_parsed(Heartbeat.parse, record.body))
            case _:
                return self._request(_parsed(PeerRequest.parse, record.body))

    def _once(self, *what: str) -> None:
        if what in self._said:
            raise RecordError("absurd", "/data", f"the batch says it twice: {' '.join(what)}; the first one counts")
        self._said.add(what)

    # Receipts

    def _receipt(self, said: Receipt) -> bool:
        self._once(control.RECEIPT, said.channel, said.epoch)
        channel = self._sent(said.channel)
        claim = PeerClaim(said.channel, said.epoch, said.through, said.digest, said.proof, "/data/through")
        verdict, why, _ = found = check_claim(self._site, self._connection, claim)
        self._record_epoch(found)
        if verdict in {ClaimVerdict.PAST, ClaimVerdict.FORGOTTEN}:
            return verdict is ClaimVerdict.FORGOTTEN
        if verdict is ClaimVerdict.AGREES:
            self._check_places(said)
        agreed = [_agreed(channel, said, one) for one in self._of_present_streams(channel, said)]
        values = {"through": said.through, "said": json.dumps(said.as_data()), "heard_at": self._moment}
        upsert(self._connection, receipt, {"channel": said.channel, "epoch": said.epoch}, values)
        if verdict is ClaimVerdict.RESTORED:
            network.halt(self._connection, why)
            return True
        self.settled += acknowledge.apply_receipt(self._connection, self._site, said)
        for values in agreed:
            key = {"direction": Direction.OUT, "channel": said.channel, "stream": values["stream"]}
            upsert(self._connection, agreement, key, values | {"compared_at": self._moment})
        return True

    def _of_present_streams(self, channel: Channel | None, said: Receipt) -> list[Mapping[str, Any]]:
        """Give how streams compared, but for those that this side once sent by the channel, and sends by it no more."""
        declared = {stream.name for stream in channel.streams} if channel else set()
        absent = {one["stream"] for one in said.agreement} - declared
        past = known_schemas.once_declared(self._connection, Direction.OUT) & absent if channel and absent else set()
        return [one for one in said.agreement if one["stream"] not in past]

    def _sent(self, name: str) -> Channel | None:
        """Find a channel that this side sends; None for one that it once sent. Raises RecordError."""
        for channel in self._site.outgoing():
            if channel.name == name:
                return channel
        once = sa.exists().where(position.c.direction == Direction.OUT, position.c.channel == name)
        if name == CONTROL or not self._connection.scalar(sa.select(once)):
            raise RecordError("absurd", "/data/channel", f"this side sends no channel {name}; it changes nothing")
        return None

    def _check_places(self, said: Receipt) -> None:
        """See that a receipt names no place where nothing was ever sent."""
        at = positions.current_position(self._connection, Direction.OUT, said.channel)
        sealed = at.sequence if at and at.epoch == said.epoch else 0
        named = {
            "missing": max((last for _, last in said.missing), default=0),
            "refused": max((one.sequence for one in said.refused), default=0),
            "given_up": max((last for _, last in said.given_up), default=0),
            "agreement": max((one["sequence"] for one in said.agreement), default=0),
        }
        for member, furthest in named.items():
            if furthest > sealed:
                sentence = (
                    f"channel {said.channel}: {member} names sequence {furthest}, but the last sealed is {sealed}"
                )
                raise RecordError("absurd", f"/data/{member}", f"{sentence}; it changes nothing")

    # Heartbeats

    def _heartbeat(self, said: Heartbeat) -> bool:
        self._once(control.HEARTBEAT)
        manifest = self._arrival.manifest
        if said.epoch != manifest.epoch:
            sentence = f"it is of epoch {said.epoch}, but came in a batch of epoch {manifest.epoch}"
            raise RecordError("absurd", "/data/epoch", f"{sentence}; it changes nothing")
        for sent in said.sent:
            if any(last > sent.through for _, last in sent.lost):
                sentence = f"channel {sent.channel}: batches beyond {sent.through}, the last sealed, can't be lost"
                raise RecordError("absurd", "/data/sent", f"{sentence}; it changes nothing")
        if said.heard is not None:
            heard = said.heard
            claim = PeerClaim(CONTROL, heard.epoch, heard.sequence, None, heard.proof, "/data/heard")
            verdict, why, _ = found = check_claim(self._site, self._connection, claim)
            self._record_epoch(found)
            if verdict is ClaimVerdict.RESTORED and not self._skip_places(heard):
                network.halt(self._connection, why)
            elif verdict is ClaimVerdict.AGREES:
                acknowledge.acknowledge_control(self._connection, self._site.peer, heard.epoch, heard.sequence)
        for proof in said.undecided:
            self._check_undecided(proof)
        values = {
            "epoch": manifest.epoch,
            "sequence": manifest.sequence,
            "sent_at": manifest.created_at,
            "heard_at": self._moment,
            "said": json.dumps(said.as_data()),
        }
        upsert(self._connection, peer, {"id": 1}, values)
        self._stay_above(said.newest_version)
        received = self._site.incoming_names()
        for sent in said.sent:
            if sent.channel in received and (lost := gaps.lost_alone(self._site, sent)):
                look_ahead = self._site.limits.look_ahead
                gaps.close_lost(self._connection, sent.channel, sent.epoch, lost, look_ahead=look_ahead)
        return True

    def _stay_above(self, version: int | None) -> None:
        """Go on above a version that the other side has of our rows, if it says one: our counter was set back since."""
        if version is not None and self._site.outgoing() and capture.raise_above(self._connection, version):
            self.told.append(
                f"{self._site.peer} has rows of version {version}, which this database forgot: versions go on above it"
            )

    def _skip_places(self, heard: Heard) -> bool:
        """Let a restored side that sends no rows go on: where only words were sent, newer ones mend all by themselves.

        The next one takes a place behind all that may still be on their way. False where that is not enough.
        """
        ours = network.known_epoch(self._connection, self._site.network)
        shown = peer_statements.manifest(heard.proof.manifest) if heard.proof else None
        if self._site.outgoing() or heard.epoch != ours or heard.proof is None or shown is None:
            return False
        # What our own signature proves counts, whatever is said beside it.
        behind = {"sequence": shown.sequence + SKIPPED_PLACES, "digest": digest(heard.proof.manifest.encode())}
        mine = (position.c.direction == Direction.OUT, position.c.channel == CONTROL, position.c.epoch == ours)
        here = (*mine, position.c.sequence < behind["sequence"])
        return self._connection.execute(sa.update(position).where(*here).values(behind)).rowcount > 0

    # Epochs of ours that this database forgot

    def _check_undecided(self, proof: Proof) -> None:
        """Check a manifest that the other side can't place: if it is of ours and past, it is told so from now on."""
        found = check_proof(self._site, self._connection, proof)
        if found is None:
            return
        self._record_epoch(found)
        if found.verdict is ClaimVerdict.RESTORED:
            network.halt(self._connection, found.why)

    def _record_epoch(self, found: CheckedClaim) -> None:
        """Enter what a manifest of ours proves of an epoch that is not the present one."""
        if found.shown is None:
            return
        manifest = found.shown.manifest
        epoch, peer_name = manifest.epoch, self._site.peer
        if epoch == network.known_epoch(self._connection, self._site.network):
            return
        because = f"{peer_name} has batch {manifest.name} of it, signed by this side, which forgot it"
        network.remember_epoch(self._connection, epoch, because, who=peer_name)
        network.remember_sealed(self._connection, manifest.channel, epoch, manifest.sequence, found.shown.digest)

    # Requests

    def _request(self, said: PeerRequest) -> bool:
        self._once(control.REPAIR, said.name)
        channel = self._sent(said.channel)
        unknown = set(said.streams or ()) - {stream.name for stream in channel.streams} if channel else set()
        if channel is None or unknown:
            what = f"no stream {printable(min(unknown), 80)}" if unknown else "nothing any more"
            raise RecordError("absurd", "/data", f"channel {said.channel} has {what} here; it changes nothing")
        return send_requests.add_request(
            self._connection,
            channel=said.channel,
            want=said.want,
            streams=said.streams,
            buckets=said.buckets,
            of=said.of,
            prune=said.prune,
            reason=f"{self._site.peer} asks: {printable(said.reason, 500)}",
            who=self._site.peer,
            answers=said.name,
        )


def _parsed(parse: Callable[[Any], Value], body: object) -> Value:
    """Read a record's data, or a member of it. Raises RecordError, whatever is wrong with it."""
    try:
        return parse(body)
    except RecordError:
        raise
    except peer_statements.UNREADABLE as error:  # a date-time that RFC 3339 knows and Python doesn't
        raise RecordError("schema", "/data", f"a value can't be read here: {printable(str(error), 200)}") from error


def _agreed(channel: Channel | None, said: Receipt, one: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a comparison came to, as a row of ours has it. Raises RecordError."""
    if channel is not None and one["stream"] not in {stream.name for stream in channel.streams}:
        sentence = f"channel {said.channel} has no stream {printable(one['stream'], 80)} to agree on"
        raise RecordError("absurd", "/data/agreement", f"{sentence}; it changes nothing")
    return {
        "stream": one["stream"],
        "epoch": said.epoch,
        "sequence": one["sequence"],
        "sent": one["sent"],
        "received": one["received"],
        "buckets": json.dumps(one["differing"]),
        "since": _parsed(_moment, one["since"]) if one["since"] else None,
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
